/**
 * How near is a near-duplicate: what `fit` learns of a history, and the space that nearness is measured in.
 *
 * - *layout*: the colour layouts of two pictures, as unit vectors; 0 is equal, 2 opposite.
 * - *state*: trajectory and embedding together, every dimension standardised, either part with the
 *   weight of one dimension: 1 is how far apart an example lies from the mean in each part.
 *
 * Legend: N examples, T checkpoints, E values of an embedding, D = T + E.
 */
import { z } from 'zod'
import { decodeDirection } from '../direction.ts'
import { LAYOUT_VALUES } from '../ingest/layout.ts'
import { squaredDistance } from './kmeans.ts'

/** Part of a bundle's manifest. */
export const Nearness = z.strictObject({
  /** Pictures whose layouts are no farther apart are one picture. */
  layoutRadius: z.number().min(0).max(2),
  /** Examples whose states are no farther apart, and whose pictures are one, are one example. */
  stateRadius: z.number().min(0),
  /** T of the state's D dimensions are scores. */
  scores: z.int().min(1),
  /** [D] */
  mean: z.array(z.number()),
  deviation: z.array(z.number()),
  /** [A, LAYOUT_VALUES] orthonormal: the directions in which pictures differ most, and the middle along each [A]. */
  layoutAxes: z.array(z.array(z.number())),
  layoutMiddles: z.array(z.number()),
})
export type Nearness = z.infer<typeof Nearness>

/** The layouts of an example's pictures: bytes [pictures, LAYOUT_VALUES] and their squared lengths. */
export type Layouts = { count: number; bytes: Int8Array; squares: Uint32Array }

/** Reads `layout` of an assignment; of none where it is null, undefined where it holds no whole layouts. */
export function readLayouts(text: string | null): Layouts | undefined {
  const bytes = new Int8Array(Buffer.from(text ?? '', 'base64'))
  const count = bytes.length / LAYOUT_VALUES
  if (!Number.isInteger(count)) return undefined
  const squares = new Uint32Array(count)
  for (const [i, byte] of bytes.entries()) squares[Math.floor(i / LAYOUT_VALUES)]! += byte * byte
  return { count, bytes, squares }
}

/**
 * Distance of two pictures, whose bytes begin at `fromA` and `fromB`, of these squared lengths. A blank one
 * is near to blank ones alone.
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

/** Of the picture that differs most; two examples of other numbers of pictures have none in common. */
export function farthestPicture(a: Layouts, b: Layouts): number {
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

/** So many sides that a picture is almost on are tried both ways. */
const UNSURE_SIDES = 5

type Sides = Pick<Nearness, 'layoutAxes' | 'layoutMiddles'>
type Picture = { bytes: Int8Array; squares: ArrayLike<number> }

/**
 * On which side of the middle the first picture is along every axis, a bit each: pictures that look alike have the
 * same code, or differ in bits of axes whose middle they are close to.
 */
export function pictureCode(sides: Sides, picture: Picture): number {
  return codeOf(marginsOf(sides, picture))
}

/**
 * The code, and those with some of its `UNSURE_SIDES` least certain bits turned, after Lv et al., *Multi-probe
 * LSH* (VLDB 2007).
 */
export function pictureCodes(sides: Sides, picture: Picture): Uint32Array {
  const margins = marginsOf(sides, picture)
  const code = codeOf(margins)
  const unsure = Array.from(margins, (margin, a) => ({ bit: 1 << a, margin: Math.abs(margin) }))
    .sort((a, b) => a.margin - b.margin)
    .slice(0, UNSURE_SIDES)
  const codes = new Uint32Array(1 << unsure.length)
  for (let turned = 0; turned < codes.length; turned++) {
    codes[turned] = unsure.reduce(
      (bits, { bit }, i) => (turned & (1 << i) ? bits ^ bit : bits),
      code,
    )
  }
  return codes
}

function marginsOf({ layoutAxes, layoutMiddles }: Sides, picture: Picture): Float64Array {
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

/** States are kept in steps of 1 / 8192. */
export const STATE_UNIT = 8192
const INT16_MAX = 32767

/** The state [D] in steps, of a trajectory [T] and an embedding; undefined where they are of other lengths. */
export function stateOf(
  { scores, mean, deviation }: Pick<Nearness, 'scores' | 'mean' | 'deviation'>,
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

/** Distance of the states at `from` of `a` and `b`, given by their starts. */
export function stateDistance(
  a: Int16Array,
  fromA: number,
  b: Int16Array,
  fromB: number,
  dimensions: number,
): number {
  return Math.sqrt(squaredDistance(a, fromA, b, fromB, dimensions)) / STATE_UNIT
}
