/** A decoded image, and the limits that one example's images are held to. */
import { XmasdError } from '../../errors.ts'

/** Decoded pixels: rows from the top, `data` has width × height × 3 bytes. */
export type Rgb = { width: number; height: number; data: Uint8Array }

/** Memory for decoded pixels, which others may hold. */
export type PixelRoom = {
  /** Waits until there is room for an image of so many decoded bytes. */
  enter(bytes: number): Promise<void>
  /** The pixels are dropped. */
  leave(): void
  /** Called now and then while an image waits for its turn at a host. */
  onWait?(): void
}

export const UNLIMITED_ROOM: PixelRoom = { enter: async () => {}, leave: () => {} }

/** What to do with a file that ends early: `fill` decodes what is there, as Pillow's
 * LOAD_TRUNCATED_IMAGES does. */
export const TRUNCATED = ['refuse', 'fill'] as const

export type ImageLimits = {
  /** Images of one example. */
  countMax: number
  /** Bytes of one image file. */
  bytesMax: number
  /** Width × height of one image, before and after it is resized. */
  pixelsMax: number
  /** Width × height of all images of one example together. */
  examplePixelsMax: number
  /** Milliseconds to fetch one image, and again to decode it. */
  timeMsMax: number
  truncated: (typeof TRUNCATED)[number]
}

/** The defaults: 64 million pixels are 192 MB of RGB. */
export const IMAGE_LIMITS: ImageLimits = {
  countMax: 16,
  bytesMax: 20 * 1024 * 1024,
  pixelsMax: 64_000_000,
  examplePixelsMax: 256_000_000,
  timeMsMax: 10_000,
  truncated: 'refuse',
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

/** Throws IMAGE_TOO_MANY_PIXELS where an example's images have too many pixels together. */
export function checkExamplePixels(
  pixels: number,
  { examplePixelsMax }: Pick<ImageLimits, 'examplePixelsMax'>,
): void {
  if (pixels <= examplePixelsMax) return
  throw new XmasdError(
    'IMAGE_TOO_MANY_PIXELS',
    `the images of the example have ${pixels} pixels or more, over the limit of ${examplePixelsMax}`,
    'shrink the images, split the example, or raise images.examplePixelsMax',
  )
}
