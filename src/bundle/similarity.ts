/**
 * The similarity of examples: the model that `fit` learns from a history, and two distances.
 *
 * - *layout*: between the colour layouts of two pictures, as unit vectors; 0 is equal, 2 opposite.
 * - *state*: between trajectory and embedding, every dimension standardised, each of the two with the
 *   weight of one dimension.
 *
 * Legend: N examples, T checkpoints, E values of an embedding, D = T + E.
 */
import { z } from 'zod'
import { LAYOUT_VALUES } from '../ingest/image/layout.ts'
import { decodeDirection, squaredDistance } from '../math/vectors.ts'

/** Part of a bundle's manifest. */
export const SimilarityModel = z.strictObject({
  /** Pictures whose layouts are no farther apart count as one picture. */
  layoutRadius: z.number().min(0).max(2),
  /** Examples with one picture whose states are no farther apart count as one example. */
  stateRadius: z.number().min(0),
  /** T: how many of the state's D dimensions are scores. */
  scores: z.int().min(1),
  /** [D] */
  mean: z.array(z.number()),
  deviation: z.array(z.number()),
  /** The principal axes of pictures [A, LAYOUT_VALUES], orthonormal, and the median along each [A]. */
  layoutAxes: z.array(z.array(z.number())),
  layoutMiddles: z.array(z.number()),
})
export type SimilarityModel = z.infer<typeof SimilarityModel>

/** The layouts of an example's pictures: bytes [pictures, LAYOUT_VALUES] and their squared lengths. */
export type Layouts = { count: number; bytes: Int8Array; squares: Uint32Array }

/** Decodes `layout` of an assignment; undefined where it is not a whole number of layouts. */
export function readLayouts(text: string | null): Layouts | undefined {
  const bytes = new Int8Array(Buffer.from(text ?? '', 'base64'))
  const count = bytes.length / LAYOUT_VALUES
  if (!Number.isInteger(count)) return undefined
  const squares = new Uint32Array(count)
  for (const [i, byte] of bytes.entries()) squares[Math.floor(i / LAYOUT_VALUES)]! += byte * byte
  return { count, bytes, squares }
}

/**
 * Distance of two layouts that begin at `fromA` and `fromB` and have these squared lengths. A blank picture
 * is close to blank pictures alone.
 */
export function layoutDistance(
  a: Int8Array,
  fromA: number,
  squareA: number,
  b: Int8Array,
  fromB: number,
  squareB: number,
): number {
  if (squareA === 0 || squareB === 0) return squareA === squareB ? 0 : FARTHEST
  let product = 0
  for (let at = 0; at < LAYOUT_VALUES; at++) product += a[fromA + at]! * b[fromB + at]!
  return Math.sqrt(Math.max(0, 2 - (2 * product) / Math.sqrt(squareA * squareB)))
}

/** The distance of the pictures that differ most; `FARTHEST` where their counts differ. */
export function layoutsDistance(a: Layouts, b: Layouts): number {
  if (a.count !== b.count) return FARTHEST
  let farthest = 0
  for (let i = 0; i < a.count; i++) {
    const from = i * LAYOUT_VALUES
    const [squareA, squareB] = [a.squares[i]!, b.squares[i]!]
    farthest = Math.max(farthest, layoutDistance(a.bytes, from, squareA, b.bytes, from, squareB))
  }
  return farthest
}

const FARTHEST = 2

/** The axes that a picture lies closest to the middle of are tried both ways. */
const UNSURE_BITS = 5

type Axes = Pick<SimilarityModel, 'layoutAxes' | 'layoutMiddles'>
type Picture = { bytes: Int8Array; squares: ArrayLike<number> }

/**
 * One bit an axis: the side of the middle on which the first picture lies. Similar pictures have the same
 * code, or differ in bits of axes whose middle they are close to.
 */
export function pictureCode(axes: Axes, picture: Picture): number {
  return codeOf(marginsOf(axes, picture))
}

/** The code with every combination of its least certain bits (multi-probe LSH, Lv et al., VLDB 2007). */
export function pictureCodes(axes: Axes, picture: Picture): Uint32Array {
  const margins = marginsOf(axes, picture)
  const code = codeOf(margins)
  const unsure = Array.from(margins, (margin, a) => ({ bit: 1 << a, margin: Math.abs(margin) }))
    .sort((a, b) => a.margin - b.margin)
    .slice(0, UNSURE_BITS)
  const codes = new Uint32Array(1 << unsure.length)
  for (let turned = 0; turned < codes.length; turned++) {
    codes[turned] = unsure.reduce(
      (bits, { bit }, i) => (turned & (1 << i) ? bits ^ bit : bits),
      code,
    )
  }
  return codes
}

function marginsOf({ layoutAxes, layoutMiddles }: Axes, picture: Picture): Float64Array {
  const length = Math.sqrt(picture.squares[0]!) || 1
  return Float64Array.from(layoutAxes, (axis, a) => {
    let along = 0
    for (let at = 0; at < LAYOUT_VALUES; at++) along += axis[at]! * picture.bytes[at]!
    return along / length - layoutMiddles[a]!
  })
}

function codeOf(margins: Float64Array): number {
  return margins.reduce((bits, margin, a) => (margin > 0 ? bits | (1 << a) : bits), 0)
}

/** Steps a unit of a stored state. */
export const STATE_UNIT = 8192
const INT16_MAX = 32767

/** The state [D] of a trajectory [T] and an embedding, in steps; undefined where lengths differ. */
export function stateOf(
  { scores, mean, deviation }: Pick<SimilarityModel, 'scores' | 'mean' | 'deviation'>,
  trajectory: ArrayLike<number>,
  embedding: string,
): Int16Array | undefined {
  const values = decodeDirection(embedding)
  if (trajectory.length !== scores || scores + values.length !== mean.length) return undefined
  const [ofScores, ofValues] = [
    STATE_UNIT / Math.sqrt(scores),
    STATE_UNIT / Math.sqrt(values.length),
  ]
  const state = new Int16Array(mean.length)
  for (let d = 0; d < state.length; d++) {
    const value = d < scores ? trajectory[d]! : values[d - scores]!
    const step = ((value - mean[d]!) / deviation[d]!) * (d < scores ? ofScores : ofValues)
    state[d] = Math.round(Math.min(INT16_MAX, Math.max(-INT16_MAX, step)))
  }
  return state
}

/** Distance of the states that begin at `fromA` and `fromB`. */
export function stateDistance(
  a: Int16Array,
  fromA: number,
  b: Int16Array,
  fromB: number,
  dimensions: number,
): number {
  return Math.sqrt(squaredDistance(a, fromA, b, fromB, dimensions)) / STATE_UNIT
}
