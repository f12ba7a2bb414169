/**
 * Directions: vectors of which only where they point means something, in one signed byte a component.
 * Components go within 1/254 of the largest, which is what they are written in.
 */
const LARGEST = 127

/** Base64 of D signed bytes, the largest component as ±127. Zeros stay zeros. */
export function encodeDirection(values: ArrayLike<number>): string {
  let largest = 0
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]!))
  const factor = largest > 0 ? LARGEST / largest : 0
  const bytes = Int8Array.from(values, value => Math.round(value * factor))
  return Buffer.from(bytes.buffer).toString('base64')
}

/** The unit vector [D] that stands in base64; zeros where all bytes are 0. */
export function decodeDirection(text: string): Float64Array {
  return unitOf(Float64Array.from(Buffer.from(text, 'base64'), byte => (byte << 24) >> 24))
}

/** The vector at length 1; zeros as they are. */
export function unitOf(values: Float64Array): Float64Array {
  const norm = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
  return norm > 0 ? values.map(value => value / norm) : values
}

export function sum(values: Iterable<number>): number {
  let total = 0
  for (const value of values) total += value
  return total
}

/** 0 of nothing. */
export function shareOf(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}

/** A typed array of numbers. */
export type Numbers =
  | Float64Array
  | Float32Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Int8Array
  | Uint8Array

/** The values in an array of the same kind that has room for `length`, zeros after them. */
export function grown<Kind extends Numbers>(values: Kind, length: number): Kind {
  const longer = new (values.constructor as new (length: number) => Kind)(length)
  longer.set(values)
  return longer
}

/** Points in rows: `data` is [N, T]. `first`: where they have two parts, the dimensions of the first. */
export type Points = {
  data: Float64Array
  count: number
  dimensions: number
  first?: number | undefined
}

/** The given rows, in the given order. */
export function rowsOf(points: Points, rows: readonly number[]): Points {
  const { data, dimensions } = points
  const compact = new Float64Array(rows.length * dimensions)
  for (const [i, row] of rows.entries()) {
    compact.set(data.subarray(row * dimensions, (row + 1) * dimensions), i * dimensions)
  }
  return { ...points, data: compact, count: rows.length }
}

/** Squared Euclidean distance between a row of `a` and a row of `b`, each given by its start. */
export function squaredDistance(
  a: ArrayLike<number>,
  fromA: number,
  b: ArrayLike<number>,
  fromB: number,
  dimensions: number,
): number {
  let sum = 0
  for (let d = 0; d < dimensions; d++) {
    const difference = a[fromA + d]! - b[fromB + d]!
    sum += difference * difference
  }
  return sum
}

/** One behind the other; where there is one alone, that one itself. */
export function joinedFloats(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0]!
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}
