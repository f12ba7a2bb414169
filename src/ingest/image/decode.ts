/**
 * Image bytes to 8-bit RGB as Pillow's `Image.open(f).convert('RGB')` gives it: alpha is dropped and not
 * blended; EXIF orientation, ICC profiles and gamma are ignored; CMYK goes by Pillow's formula.
 */
import type { Metadata, Sharp } from 'sharp'
import { messageOf, XmasdError } from '../../errors.ts'
import { withDeadline } from '../deadline.ts'
import {
  decoder,
  FORMATS,
  type Format,
  formatOf,
  isShortPng,
  jpegScans,
  pngChunks,
  truncation,
  unsupportedFormat,
} from './format.ts'
import { onCanvas, readGif } from './gif.ts'
import {
  checkBytes,
  checkExamplePixels,
  checkPixels,
  type ImageLimits,
  type Rgb,
  UNLIMITED_ROOM,
} from './pixels.ts'

/** Corrupt but complete pixel data decodes, as in Pillow; truncated files don't. */
const FAIL_ON = 'truncated'

/**
 * Decodes an image under `limits`; `pixelsBefore` of the example are decoded already. Throws
 * IMAGE_TOO_MANY_BYTES, IMAGE_TOO_MANY_PIXELS (by the header, before anything is decoded),
 * IMAGE_ANIMATED, IMAGE_TIMEOUT or IMAGE_UNDECODABLE.
 */
export async function decodeImage(
  bytes: Uint8Array,
  limits: ImageLimits,
  pixelsBefore = 0,
  room = UNLIMITED_ROOM,
): Promise<Rgb> {
  const inTime = <T>(work: () => Promise<T>): Promise<T> =>
    withDeadline(limits.timeMsMax, () => timedOut(limits), work)
  const { format, metadata } = await inTime(() => readHeader(bytes, limits))
  const gif = format === 'gif' ? readGif(bytes) : undefined
  if (gif !== undefined) checkPixels(gif, limits, 'image')
  const { width, height } = gif ?? metadata
  checkExamplePixels(pixelsBefore + width * height, limits)
  await room.enter(3 * width * height)
  const file = gif?.opaque ?? bytes
  const rgb = await inTime(() => decodePixels(file, { format, metadata, limits }))
  return gif === undefined ? rgb : onCanvas(rgb, gif)
}

/**
 * A picture of at most `side` × `side` pixels, WebP. Throws as `decodeImage`.
 */
export async function thumbnail(
  bytes: Uint8Array,
  side: number,
  limits: ImageLimits,
): Promise<Buffer> {
  return await withDeadline(
    limits.timeMsMax,
    () => timedOut(limits),
    async () => {
      await readHeader(bytes, limits)
      return await decoder()(bytes, { limitInputPixels: limits.pixelsMax })
        .resize(side, side, { fit: 'inside', withoutEnlargement: true })
        .webp({ quality: 75 })
        .toBuffer()
        .catch(error => {
          throw undecodable(messageOf(error), error)
        })
    },
  )
}

/** Checks what can be checked before any pixel is decoded. */
async function readHeader(
  bytes: Uint8Array,
  limits: ImageLimits,
): Promise<{ format: Format; metadata: Metadata }> {
  checkBytes(bytes.length, limits)
  const format = formatOf(bytes)
  if (format === undefined) throw undecodable(unsupportedFormat(bytes))
  const metadata = await decoder()(bytes, { failOn: FAIL_ON, limitInputPixels: false })
    .metadata()
    .catch(error => {
      throw brokenFile(bytes, format, error)
    })
  if (metadata.format !== format) throw undecodable(`its format is ${metadata.format}`)
  checkPixels(metadata, limits, 'image')
  checkSides(metadata)
  if (format === 'jpeg') checkScans(bytes, metadata, limits)
  if ((metadata.pages ?? 1) > 1 || (format === 'png' && isAnimatedPng(bytes))) {
    throw new XmasdError(
      'IMAGE_ANIMATED',
      `the image is an animated ${format}`,
      'extract the one frame that the conversation is about',
    )
  }
  return { format, metadata }
}

/** That of a JPEG. A row costs the decoder half a microsecond however short it is. */
const SIDE_MAX = 65_535

function checkSides({ width, height }: Metadata): void {
  if (Math.max(width, height) <= SIDE_MAX) return
  throw new XmasdError(
    'IMAGE_TOO_MANY_PIXELS',
    `the image has ${width}×${height} pixels, over the limit of ${SIDE_MAX} a side`,
    'crop the image',
  )
}

/** Scans of an image of `pixelsMax` pixels, more for a smaller one; about ten are usual. */
const SCANS_MAX = 20

function checkScans(
  bytes: Uint8Array,
  { width, height }: Metadata,
  { pixelsMax }: ImageLimits,
): void {
  const scans = jpegScans(bytes)
  if (scans * width * height <= SCANS_MAX * pixelsMax) return
  throw new XmasdError(
    'IMAGE_TOO_MANY_PIXELS',
    `the image has ${width}×${height} pixels in ${scans} scans, over ${SCANS_MAX} times the limit of ${pixelsMax}`,
    'save the image as a baseline JPEG, or raise images.pixelsMax',
  )
}

async function decodePixels(
  bytes: Uint8Array,
  { format, metadata, limits }: { format: Format; metadata: Metadata; limits: ImageLimits },
): Promise<Rgb> {
  const decodeWith = (failOn: 'none' | 'truncated'): Promise<Rgb> => {
    const pipeline = decoder()(bytes, {
      failOn,
      ignoreIcc: true,
      limitInputPixels: limits.pixelsMax,
      sequentialRead: true,
    })
    // A bound on native work whose result nobody waits for any more.
    return toRgb(pipeline.timeout({ seconds: secondsMax(limits) }), bytes, metadata)
  }
  try {
    return await decodeWith(limits.truncated === 'fill' ? 'none' : FAIL_ON)
  } catch (error) {
    if (/timeout/i.test(messageOf(error))) throw timedOut(limits)
    const { width, height } = metadata
    // 8 bytes a pixel at most, a filter byte a row, and as many again for interlacing.
    const isShort = format === 'png' && (await isShortPng(bytes, (width * 8 + 2) * height * 2))
    if (isShort) return await decodeWith('none')
    throw brokenFile(bytes, format, error)
  }
}

/** sharp counts whole seconds, at most 3600, and only while it computes pixels. */
function secondsMax({ timeMsMax }: ImageLimits): number {
  return Math.min(3600, 8 * Math.ceil(timeMsMax / 1000))
}

async function toRgb(pipeline: Sharp, bytes: Uint8Array, metadata: Metadata): Promise<Rgb> {
  let convert = (data: Buffer): Uint8Array => data
  if (metadata.space === 'cmyk') {
    pipeline.pipelineColourspace('cmyk').toColourspace('cmyk').raw()
    convert = cmykToRgb
  } else if (isDeepGreyPng(bytes, metadata)) {
    pipeline.removeAlpha().toColourspace('grey16').raw({ depth: 'ushort' })
    convert = deepGreyToRgb
  } else pipeline.removeAlpha().toColourspace('srgb').raw()
  const { data, info } = await pipeline.toBuffer({ resolveWithObject: true })
  return { width: info.width, height: info.height, data: convert(data) }
}

/** Pillow's CMYK to RGB (src/libImaging/Convert.c, cmyk2rgb), 4 bytes to 3 a pixel. */
function cmykToRgb(cmyk: Uint8Array): Uint8Array {
  const rgb = new Uint8Array((cmyk.length / 4) * 3)
  for (let at = 0, out = 0; at < cmyk.length; at += 4) {
    const light = 255 - cmyk[at + 3]!
    for (let c = 0; c < 3; c++) rgb[out++] = light - multiplied255(cmyk[at + c]!, light)
  }
  return rgb
}

/** a × b / 255, rounded, as Pillow's MULDIV255. */
function multiplied255(a: number, b: number): number {
  const product = a * b + 128
  return ((product >> 8) + product) >> 8
}

/** Pillow opens 16-bit grey as `I;16`, whose conversion to RGB clips at 255 and scales nothing. */
function deepGreyToRgb(data: Buffer): Uint8Array {
  const grey = new Uint16Array(data.buffer, data.byteOffset, data.length / 2)
  const rgb = new Uint8Array(grey.length * 3)
  for (let i = 0; i < grey.length; i++) rgb.fill(Math.min(255, grey[i]!), i * 3, i * 3 + 3)
  return rgb
}

/** Colour type 0 stands at byte 25 of a PNG; 16-bit grey with alpha (4) takes the common way. */
function isDeepGreyPng(bytes: Uint8Array, metadata: Metadata): boolean {
  return metadata.format === 'png' && metadata.depth === 'ushort' && bytes[25] === 0
}

/** Is there an `acTL` chunk before the pixels: libpng reads the first frame and says nothing. */
function isAnimatedPng(bytes: Uint8Array): boolean {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  for (const { type } of pngChunks(view)) {
    if (type === 'acTL') return true
    if (type === 'IDAT') return false
  }
  return false
}

function timedOut({ timeMsMax }: ImageLimits): XmasdError {
  return new XmasdError(
    'IMAGE_TIMEOUT',
    `the image was not decoded within ${timeMsMax} ms`,
    'shrink the image or raise images.timeMsMax',
    { retryable: true },
  )
}

function brokenFile(bytes: Uint8Array, format: Format, cause: unknown): XmasdError {
  const where = truncation(bytes, format)
  if (where === undefined) return undecodable(messageOf(cause), cause)
  return new XmasdError(
    'IMAGE_UNDECODABLE',
    `the image cannot be decoded: the ${format} is truncated: ${where}`,
    'use the whole file, or set images.truncated to fill to decode what is there',
    { cause },
  )
}

function undecodable(why: string, cause?: unknown): XmasdError {
  return new XmasdError(
    'IMAGE_UNDECODABLE',
    `the image cannot be decoded: ${why.trim()}`,
    `use a whole ${FORMATS.join(', ')} file`,
    { cause },
  )
}
