/**
 * Image bytes to 8-bit RGB as Pillow's `Image.open(f).convert('RGB')` gives it: alpha dropped and not
 * blended, EXIF orientation, ICC profiles and gamma ignored, CMYK by Pillow's formula.
 */
import sharp, { type Metadata, type Sharp } from 'sharp'
import { messageOf, XmasdError } from '../errors.ts'
import { onCanvas, readGif } from './gif.ts'

/** Decoded pixels: rows from the top, `data` has width × height × 3 bytes. */
export type Rgb = { width: number; height: number; data: Uint8Array }

/** Bounds on one image: file bytes, width × height, milliseconds for fetching and again for decoding. */
export type ImageLimits = {
  /** Images of one example. */
  countMax: number
  bytesMax: number
  pixelsMax: number
  timeMsMax: number
}

/** Most images of one example. */
export const IMAGE_COUNT_MAX = 16

/** Largest image file: 20 MiB. */
export const IMAGE_BYTES_MAX = 20 * 1024 * 1024
/** Most pixels of an image, before and after it is resized: 64 million, 192 MB of RGB. */
export const IMAGE_PIXELS_MAX = 64_000_000
/** Longest time for fetching, and again for decoding, one image. */
export const IMAGE_TIME_MS_MAX = 10_000

export const IMAGE_LIMITS: ImageLimits = {
  countMax: IMAGE_COUNT_MAX,
  bytesMax: IMAGE_BYTES_MAX,
  pixelsMax: IMAGE_PIXELS_MAX,
  timeMsMax: IMAGE_TIME_MS_MAX,
}

/** Formats whose decoding was measured to equal Pillow's, bit for bit. */
const FORMATS: readonly string[] = ['jpeg', 'png', 'webp', 'gif']

/** Corrupt but complete pixel data decodes, as in Pillow; truncated files don't. */
const FAIL_ON = 'truncated'

/**
 * Decodes an image under `limits`. Throws IMAGE_TOO_MANY_BYTES, IMAGE_TOO_MANY_PIXELS (by the header,
 * before anything is decoded), IMAGE_ANIMATED, IMAGE_TIMEOUT or IMAGE_UNDECODABLE.
 */
export async function decodeImage(bytes: Uint8Array, limits: ImageLimits): Promise<Rgb> {
  checkBytes(bytes.length, limits)
  const metadata = await readHeader(bytes)
  const gif = metadata.format === 'gif' ? readGif(bytes) : undefined
  checkHeader(bytes, metadata, limits)
  if (gif !== undefined) checkPixels(gif, limits, 'image')
  const pipeline = sharp(gif?.opaque ?? bytes, {
    failOn: FAIL_ON,
    ignoreIcc: true,
    limitInputPixels: limits.pixelsMax,
    sequentialRead: true,
  }).timeout({ seconds: Math.ceil(limits.timeMsMax / 1000) })
  const decoding = toRgb(pipeline, bytes, metadata).catch(error => {
    const late = /timeout/i.test(messageOf(error))
    throw late ? timedOut(limits) : undecodable(messageOf(error), error)
  })
  const rgb = await withinTime(decoding, limits)
  return gif === undefined ? rgb : onCanvas(rgb, gif)
}

/** Throws IMAGE_TOO_MANY_BYTES where `bytes` is over the limit. */
export function checkBytes(bytes: number, { bytesMax }: ImageLimits): void {
  if (bytes <= bytesMax) return
  throw new XmasdError(
    'IMAGE_TOO_MANY_BYTES',
    `the image has ${bytes} bytes, over the limit of ${bytesMax}`,
    'shrink the image or raise images.bytesMax',
  )
}

/** Throws IMAGE_TOO_MANY_PIXELS where width × height is over the limit. `what`: which of its sizes. */
export function checkPixels(
  { width, height }: { width: number; height: number },
  { pixelsMax }: Pick<ImageLimits, 'pixelsMax'>,
  what: string,
): void {
  if (width * height <= pixelsMax) return
  throw new XmasdError(
    'IMAGE_TOO_MANY_PIXELS',
    `the ${what} has ${width}×${height} pixels, over the limit of ${pixelsMax}`,
    'shrink or crop the image, or raise images.pixelsMax',
  )
}

async function readHeader(bytes: Uint8Array): Promise<Metadata> {
  try {
    return await sharp(bytes, { failOn: FAIL_ON, limitInputPixels: false }).metadata()
  } catch (error) {
    throw undecodable(messageOf(error), error)
  }
}

function checkHeader(bytes: Uint8Array, metadata: Metadata, limits: ImageLimits): void {
  if (!FORMATS.includes(metadata.format)) throw undecodable(`its format is ${metadata.format}`)
  checkPixels(metadata, limits, 'image')
  if ((metadata.pages ?? 1) > 1 || (metadata.format === 'png' && isAnimatedPng(bytes))) {
    throw new XmasdError(
      'IMAGE_ANIMATED',
      `the image is an animated ${metadata.format}`,
      'extract the one frame that the conversation is about',
    )
  }
}

async function toRgb(pipeline: Sharp, bytes: Uint8Array, metadata: Metadata): Promise<Rgb> {
  if (metadata.space === 'cmyk') {
    const { data, info } = await pipeline
      .pipelineColourspace('cmyk')
      .toColourspace('cmyk')
      .raw()
      .toBuffer({ resolveWithObject: true })
    return { width: info.width, height: info.height, data: cmykToRgb(data) }
  }
  if (isDeepGreyPng(bytes, metadata)) {
    const { data, info } = await pipeline
      .removeAlpha()
      .toColourspace('grey16')
      .raw({ depth: 'ushort' })
      .toBuffer({ resolveWithObject: true })
    return { width: info.width, height: info.height, data: deepGreyToRgb(data) }
  }
  const { data, info } = await pipeline
    .removeAlpha()
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true })
  return { width: info.width, height: info.height, data }
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
  for (let at = 8; at + 8 <= view.length; at += 12 + view.readUInt32BE(at)) {
    const type = view.toString('latin1', at + 4, at + 8)
    if (type === 'acTL') return true
    if (type === 'IDAT') return false
  }
  return false
}

/** sharp counts whole seconds and only while it makes pixels; this bounds the wait itself. */
async function withinTime(decoding: Promise<Rgb>, limits: ImageLimits): Promise<Rgb> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(timedOut(limits)), limits.timeMsMax)
  })
  try {
    return await Promise.race([decoding, late])
  } finally {
    clearTimeout(timer)
  }
}

function timedOut({ timeMsMax }: ImageLimits): XmasdError {
  return new XmasdError(
    'IMAGE_TIMEOUT',
    `the image was not decoded within ${timeMsMax} ms`,
    'shrink the image or raise images.timeMsMax',
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
