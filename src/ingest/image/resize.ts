/**
 * Pillow's 8-bit `Image.resize`, bit for bit: two passes with coefficients in 22-bit fixed point, rounded
 * and clipped to 8 bits in between (Pillow, src/libImaging/Resample.c, Geometry.c for nearest).
 */
import type { Rgb } from './pixels.ts'

/** Pillow's numbers of the filters, as `resample` in preprocessor_config.json. */
export const RESAMPLE = { nearest: 0, lanczos: 1, bilinear: 2, bicubic: 3 } as const

export type Resample = (typeof RESAMPLE)[keyof typeof RESAMPLE]

/** A rectangle of the resized image. */
export type Crop = { left: number; top: number; width: number; height: number }

export type ResizeOptions = { width: number; height: number; resample: Resample; crop?: Crop }

const PRECISION_BITS = 22
const ROUNDING = 1 << (PRECISION_BITS - 1)
const UNIT = 1 << PRECISION_BITS
const CHANNELS = 3

type Filter = { support: number; weight: (x: number) => number }

/** Weights of some outputs of one pass: output i sums `sizes[i]` inputs from `starts[i]` on. */
type Weights = { starts: Int32Array; sizes: Int32Array; kernel: Int32Array; stride: number }

/**
 * Resizes to `width` × `height` and returns the `crop` of the result (all of it by default), as if
 * the whole had been resized and then cropped; only what the crop needs is computed.
 */
export function resize(image: Rgb, { width, height, resample, crop }: ResizeOptions): Rgb {
  const part = crop ?? { left: 0, top: 0, width, height }
  if (part.left < 0 || part.top < 0 || part.width < 1 || part.height < 1) {
    throw new RangeError('the crop is outside the resized image')
  }
  if (part.left + part.width > width || part.top + part.height > height) {
    throw new RangeError('the crop is outside the resized image')
  }
  if (width === image.width && height === image.height) return cropped(image, part)
  if (resample === RESAMPLE.nearest) return nearest(image, width, height, part)
  return twoPasses(image, width, height, FILTERS[resample], part)
}

/** Copies a rectangle of an image. */
export function cropped(image: Rgb, { left, top, width, height }: Crop): Rgb {
  if (width === image.width) {
    // Row by row a narrow picture of a million rows takes half a second.
    const row = width * CHANNELS
    return { width, height, data: image.data.slice(top * row, (top + height) * row) }
  }
  const data = new Uint8Array(width * height * CHANNELS)
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * image.width + left) * CHANNELS
    data.set(image.data.subarray(from, from + width * CHANNELS), y * width * CHANNELS)
  }
  return { width, height, data }
}

/**
 * Pillow skips the pass of a side whose length stays. Of two passes the horizontal one comes first
 * unless the height shrinks by more than twice what the width does: Pillow 13's rule, measured (up to
 * Pillow 12 horizontal came first for all but very tall images). Rounding in between makes it matter.
 */
function twoPasses(image: Rgb, width: number, height: number, filter: Filter, part: Crop): Rgb {
  const columns =
    width === image.width ? null : weights(image.width, width, filter, part.left, part.width)
  const rows =
    height === image.height ? null : weights(image.height, height, filter, part.top, part.height)
  const [left, right] = columns === null ? [part.left, part.left + part.width] : reach(columns)
  const [top, bottom] = rows === null ? [part.top, part.top + part.height] : reach(rows)
  const source = cropped(image, { left, top, width: right - left, height: bottom - top })
  const across = (from: Rgb) => (columns === null ? from : horizontalPass(from, columns, left))
  const down = (from: Rgb) => (rows === null ? from : verticalPass(from, rows, top))
  const shrinksMoreDown = image.height - height > 2 * (image.width - width)
  return height < image.height && shrinksMoreDown ? across(down(source)) : down(across(source))
}

/** The inputs that some outputs need: from, to. */
function reach({ starts, sizes }: Weights): [number, number] {
  const ends = starts.map((start, i) => start + sizes[i]!)
  return [starts.reduce((a, b) => Math.min(a, b)), ends.reduce((a, b) => Math.max(a, b))]
}

/** The weights of outputs `from` … `from + count` of a side resized from `sizeIn` to `sizeOut`. */
function weights(
  sizeIn: number,
  sizeOut: number,
  filter: Filter,
  from: number,
  count: number,
): Weights {
  const scale = sizeIn / sizeOut
  const filterScale = Math.max(scale, 1)
  const support = filter.support * filterScale
  const stride = Math.ceil(support) * 2 + 1
  const inverse = 1 / filterScale
  const starts = new Int32Array(count)
  const sizes = new Int32Array(count)
  const kernel = new Int32Array(count * stride)
  const exact = new Float64Array(stride)
  for (let i = 0; i < count; i++) {
    const centre = (from + i + 0.5) * scale
    const start = Math.max(0, Math.trunc(centre - support + 0.5))
    const size = Math.min(sizeIn, Math.trunc(centre + support + 0.5)) - start
    let sum = 0
    for (let x = 0; x < size; x++) {
      exact[x] = filter.weight((x + start - centre + 0.5) * inverse)
      sum += exact[x]!
    }
    for (let x = 0; x < size; x++) {
      const share = (sum === 0 ? exact[x]! : exact[x]! / sum) * UNIT
      kernel[i * stride + x] = Math.trunc(share < 0 ? share - 0.5 : share + 0.5)
    }
    starts[i] = start
    sizes[i] = size
  }
  return { starts, sizes, kernel, stride }
}

/** `origin`: which column of the whole image the first of `image` is. */
function horizontalPass(
  image: Rgb,
  { starts, sizes, kernel, stride }: Weights,
  origin: number,
): Rgb {
  const width = starts.length
  const pixels = image.data
  const data = new Uint8Array(width * image.height * CHANNELS)
  let out = 0
  for (let y = 0; y < image.height; y++) {
    const row = y * image.width * CHANNELS
    for (let i = 0; i < width; i++) {
      let red = ROUNDING
      let green = ROUNDING
      let blue = ROUNDING
      let at = row + (starts[i]! - origin) * CHANNELS
      const end = i * stride + sizes[i]!
      for (let k = i * stride; k < end; k++, at += CHANNELS) {
        const weight = kernel[k]!
        red = (red + Math.imul(pixels[at]!, weight)) | 0
        green = (green + Math.imul(pixels[at + 1]!, weight)) | 0
        blue = (blue + Math.imul(pixels[at + 2]!, weight)) | 0
      }
      data[out++] = clip8(red)
      data[out++] = clip8(green)
      data[out++] = clip8(blue)
    }
  }
  return { width, height: image.height, data }
}

/** `origin`: which row of the whole image the first of `image` is. */
function verticalPass(image: Rgb, { starts, sizes, kernel, stride }: Weights, origin: number): Rgb {
  const height = starts.length
  const pixels = image.data
  const rowBytes = image.width * CHANNELS
  const data = new Uint8Array(height * rowBytes)
  const sums = new Int32Array(rowBytes)
  for (let i = 0; i < height; i++) {
    sums.fill(ROUNDING)
    for (let k = 0; k < sizes[i]!; k++) {
      const weight = kernel[i * stride + k]!
      const from = (starts[i]! - origin + k) * rowBytes
      for (let x = 0; x < rowBytes; x++) sums[x]! += Math.imul(pixels[from + x]!, weight)
    }
    const to = i * rowBytes
    for (let x = 0; x < rowBytes; x++) data[to + x] = clip8(sums[x]!)
  }
  return { width: image.width, height, data }
}

function clip8(sum: number): number {
  const value = sum >> PRECISION_BITS
  return Math.min(255, Math.max(0, value))
}

/** Pillow's affine nearest: source positions are added up, not multiplied. */
function nearest(image: Rgb, width: number, height: number, part: Crop): Rgb {
  const columns = nearestPositions(image.width, width)
  const rows = nearestPositions(image.height, height)
  const data = new Uint8Array(part.width * part.height * CHANNELS)
  let out = 0
  for (let y = part.top; y < part.top + part.height; y++) {
    for (let x = part.left; x < part.left + part.width; x++) {
      const at = (rows[y]! * image.width + columns[x]!) * CHANNELS
      data[out++] = image.data[at]!
      data[out++] = image.data[at + 1]!
      data[out++] = image.data[at + 2]!
    }
  }
  return { width: part.width, height: part.height, data }
}

function nearestPositions(sizeIn: number, sizeOut: number): Int32Array {
  const step = sizeIn / sizeOut
  const positions = new Int32Array(sizeOut)
  let at = step * 0.5
  for (let i = 0; i < sizeOut; i++, at += step) positions[i] = Math.min(sizeIn - 1, Math.trunc(at))
  return positions
}

const FILTERS: Readonly<Record<1 | 2 | 3, Filter>> = {
  1: { support: 3, weight: x => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
  2: { support: 1, weight: x => Math.max(0, 1 - Math.abs(x)) },
  3: { support: 2, weight: cubic },
}

/** Keys' cubic with a = -0.5. */
function cubic(signed: number): number {
  const a = -0.5
  const x = Math.abs(signed)
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a
  return 0
}

function sinc(x: number): number {
  if (x === 0) return 1
  const angle = x * Math.PI
  return Math.sin(angle) / angle
}
