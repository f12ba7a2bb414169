/**
 * What an image file says of itself, read from its bytes before any decoder sees them: its format, and
 * where a truncated file ends.
 */
import { createInflate } from 'node:zlib'
import sharp from 'sharp'

/** Formats whose decoding equals Pillow's, bit for bit. */
export const FORMATS = ['jpeg', 'png', 'webp', 'gif'] as const
export type Format = (typeof FORMATS)[number]

const PNG = Buffer.from('89504e470d0a1a0a', 'hex')

/** The format by its magic bytes; undefined for every other. */
export function formatOf(bytes: Uint8Array): Format | undefined {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 16))
  if (head.length >= 3 && head.readUIntBE(0, 3) === 0xffd8ff) return 'jpeg'
  if (head.subarray(0, 8).equals(PNG)) return 'png'
  const text = head.toString('latin1')
  if (text.startsWith('GIF87a') || text.startsWith('GIF89a')) return 'gif'
  return text.startsWith('RIFF') && text.slice(8, 12) === 'WEBP' ? 'webp' : undefined
}

/** The names of formats that are recognised only to be refused by name. */
const OTHER_MAGIC: readonly [RegExp, string][] = [
  [/^(?:II\*|MM.\*)/s, 'TIFF'],
  [/^BM/, 'BMP'],
  [/^....ftyp(?:avif|avis)/s, 'AVIF'],
  [/^....ftyp(?:heic|heix|mif1|msf1|hevc)/s, 'HEIF'],
  [/^....ftyp/s, 'MP4'],
  [/^(?:\xff\n|....JXL )/s, 'JPEG XL'],
  [/^%PDF/, 'PDF'],
  [/^\s*<(?:\?xml|svg|!DOCTYPE svg)/i, 'SVG or XML'],
  [/^\s*<(?:!doctype html|html)/i, 'HTML'],
]

/** Says what `bytes` are instead of an image of a supported format. */
export function unsupportedFormat(bytes: Uint8Array): string {
  if (bytes.length === 0) return 'it is empty'
  const head = Buffer.from(bytes.subarray(0, 64)).toString('latin1')
  const known = OTHER_MAGIC.find(([magic]) => magic.test(head))?.[1]
  if (known !== undefined) return `its format is ${known}`
  return `its first bytes are ${Buffer.from(bytes.subarray(0, 8)).toString('hex')}`
}

/** libvips' loaders of everything else that may be compiled in, by their base classes. */
const OTHER_LOADERS = [
  'Analyze Csv Dcraw Fits Heif Jp2k Jxl Magick Magick7 Mat Matrix Nifti OpenExr Openslide Pdf Ppm',
  'Rad Raw Svg Tiff Uhdr Vips',
]
  .join(' ')
  .split(' ')
  .map(name => `VipsForeignLoad${name}`)

let isSharpReady = false

/**
 * sharp with the loaders of other formats blocked in the whole process, without its cache (no image
 * comes twice soon) and with one thread an image (threads are spent on examples).
 */
export function decoder(): typeof sharp {
  if (!isSharpReady) {
    // Blocking all and unblocking four would leave a moment in which other threads can't decode.
    sharp.block({ operation: OTHER_LOADERS })
    sharp.concurrency(1)
    sharp.cache(false)
    isSharpReady = true
  }
  return sharp
}

/** Where a file ends early; undefined where its outer structure is whole. */
export function truncation(bytes: Uint8Array, format: Format): string | undefined {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const end = `it ends at byte ${view.length}`
  if (format === 'jpeg') {
    return view.includes(Buffer.from([0xff, 0xd9]), 2) ? undefined : `${end} without an end marker`
  }
  if (format === 'gif') return view.at(-1) === 0x3b ? undefined : `${end} without a trailer`
  if (format === 'webp') {
    const wanted = 8 + view.readUInt32LE(4)
    return view.length >= wanted ? undefined : `${end} of ${wanted}`
  }
  for (const { type, from, to } of pngChunks(view)) {
    if (to + 4 > view.length) return `${end}, within chunk ${type} of bytes ${from} to ${to + 4}`
    if (type === 'IEND') return undefined
  }
  return `${end} without an IEND chunk`
}

/** How often a JPEG's pixels are passed over: a progressive one has about ten scans. */
export function jpegScans(bytes: Uint8Array): number {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const startOfScan = Buffer.from([0xff, 0xda])
  let scans = 0
  for (let at = view.indexOf(startOfScan); at >= 0; at = view.indexOf(startOfScan, at + 2)) scans++
  return scans
}

/** The chunks of a PNG: type, and where the content lies. The last may reach beyond the file. */
export function* pngChunks(
  view: Buffer,
): Generator<{ type: string; from: number; to: number }, void> {
  for (let at = 8; at + 8 <= view.length; ) {
    const [from, to] = [at + 8, at + 8 + view.readUInt32BE(at)]
    yield { type: view.toString('latin1', at + 4, at + 8), from, to }
    at = to + 4
  }
}

/**
 * Is a PNG short of rows although its data stream is whole: Pillow reads such a file and leaves the
 * missing rows black.
 */
export async function isShortPng(bytes: Uint8Array, bytesMax: number): Promise<boolean> {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  if (truncation(bytes, 'png') !== undefined) return false
  const inflate = createInflate()
  for (const { type, from, to } of pngChunks(view)) {
    if (type === 'IDAT') inflate.write(view.subarray(from, to))
  }
  inflate.end()
  let inflated = 0
  try {
    for await (const part of inflate as AsyncIterable<Buffer>) {
      inflated += part.length
      if (inflated > bytesMax) return false
    }
    return true
  } catch {
    return false
  } finally {
    inflate.destroy()
  }
}
