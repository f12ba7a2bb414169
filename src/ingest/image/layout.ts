/**
 * The colour layout of a picture: what is left of it under re-encoding, resizing and slight cropping.
 * After the Color Layout Descriptor of MPEG-7 (ISO/IEC 15938-3): the lowest frequencies of the cosine
 * transform of luma and chroma over a small grid of mean colours. Their direction alone is kept, so that
 * contrast does not matter, and neither does brightness, which is frequency 0.
 */
import type { Rgb } from './pixels.ts'

/** Cells along a side of the grid. */
const CELLS = 32
/** Sampled points along a side of a cell: what an image costs does not depend on its size. */
const POINTS = 8
/** Lowest frequencies along a side, of luma and of each chroma. */
const FREQUENCIES = [5, 4, 4] as const

/** Luma varies several times as much as chroma in most pictures: at half its size both count. */
const WEIGHTS = [0.5, 1, 1] as const

/** Values of a layout: all frequencies but the constant ones. As bytes, whole quartets of base64. */
export const LAYOUT_VALUES = FREQUENCIES.reduce((sum, count) => sum + count * count - 1, 0)

/** [LAYOUT_VALUES]: luma, then blue and red difference, each by rows of growing vertical frequency. */
export function colourLayout(image: Rgb): Float64Array {
  const planes = meanColours(image)
  const values = new Float64Array(LAYOUT_VALUES)
  let at = 0
  for (const [p, count] of FREQUENCIES.entries()) {
    const transformed = lowFrequencies(planes[p]!, count)
    const weight = WEIGHTS[p]!
    values.set(
      transformed.subarray(1).map(value => weight * value),
      at,
    )
    at += transformed.length - 1
  }
  return values
}

/** Y, Cb and Cr (ITU-R BT.601) of the grid's cells, [3] of [CELLS, CELLS]. */
function meanColours({ width, height, data }: Rgb): Float64Array[] {
  const columns = sampled(width)
  const rows = sampled(height)
  const luma = new Float64Array(CELLS * CELLS)
  const blue = new Float64Array(CELLS * CELLS)
  const red = new Float64Array(CELLS * CELLS)
  for (let cell = 0; cell < CELLS * CELLS; cell++) {
    const cellY = Math.floor(cell / CELLS)
    const cellX = cell % CELLS
    let r = 0
    let g = 0
    let b = 0
    for (let y = rows.starts[cellY]!; y < rows.starts[cellY + 1]!; y++) {
      for (let x = columns.starts[cellX]!; x < columns.starts[cellX + 1]!; x++) {
        const at = (rows.positions[y]! * width + columns.positions[x]!) * 3
        const points = rows.points[y]! * columns.points[x]!
        r += points * data[at]!
        g += points * data[at + 1]!
        b += points * data[at + 2]!
      }
    }
    luma[cell] = (0.299 * r + 0.587 * g + 0.114 * b) / POINTS ** 2
    blue[cell] = (-0.168736 * r + -0.331264 * g + 0.5 * b) / POINTS ** 2
    red[cell] = (0.5 * r + -0.418688 * g + -0.081312 * b) / POINTS ** 2
  }
  return [luma, blue, red]
}

/**
 * What is sampled along a side: each cell's pixels, those of cell c from `starts[c]` on, and how many of
 * its points fall on each. In a small image that are few.
 */
type Sampled = { starts: Int32Array; positions: Int32Array; points: Int32Array }

function sampled(length: number): Sampled {
  const side = CELLS * POINTS
  const starts = new Int32Array(CELLS + 1)
  const [positions, points] = [new Int32Array(side), new Int32Array(side)]
  let used = 0
  for (let i = 0; i < side; i++) {
    const isFirst = i % POINTS === 0
    if (isFirst) starts[i / POINTS] = used
    const position = Math.floor(((i + 0.5) * length) / side)
    if (isFirst || positions[used - 1] !== position) positions[used++] = position
    points[used - 1]!++
  }
  starts[CELLS] = used
  return { starts, positions, points }
}

/** The cosine of each frequency at each cell, [frequencies, CELLS]. */
const WAVES = Float64Array.from({ length: Math.max(...FREQUENCIES) * CELLS }, (_, i) => {
  const [frequency, cell] = [Math.floor(i / CELLS), i % CELLS]
  const scale = frequency === 0 ? Math.SQRT1_2 : 1
  return scale * Math.cos(((2 * cell + 1) * frequency * Math.PI) / (2 * CELLS))
})

/** The `count` × `count` lowest frequencies of the cosine transform (DCT-II) of a grid. */
function lowFrequencies(grid: Float64Array, count: number): Float64Array {
  const rows = new Float64Array(CELLS * count) // [y, u]
  for (let y = 0; y < CELLS; y++) {
    for (let u = 0; u < count; u++) {
      let sum = 0
      for (let x = 0; x < CELLS; x++) sum += grid[y * CELLS + x]! * WAVES[u * CELLS + x]!
      rows[y * count + u] = sum
    }
  }
  const values = new Float64Array(count * count) // [v, u]
  for (let v = 0; v < count; v++) {
    for (let u = 0; u < count; u++) {
      let sum = 0
      for (let y = 0; y < CELLS; y++) sum += rows[y * count + u]! * WAVES[v * CELLS + y]!
      values[v * count + u] = sum
    }
  }
  return values
}
