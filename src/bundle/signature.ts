/**
 * The signature of an example is the vector that is clustered. `sum`, the paper's, is the trajectory;
 * `spectrum` is all T × 5 singular values and `embedding` the pooled hidden state, both standardised by
 * mean and standard deviation of each dimension in the fitted data.
 *
 * Legend: N points, T checkpoints, D dimensions of the signature.
 */

import { VALUES } from '../math/singular-values.ts'
import type { Points } from '../math/vectors.ts'
import { decodeDirection } from '../math/vectors.ts'

export const SIGNATURES = ['sum', 'spectrum', 'embedding'] as const
export type Signature = (typeof SIGNATURES)[number]

/** Per dimension [D]: mean and standard deviation, 1 where all values are equal but for rounding. */
export type Standardisation = { mean: number[]; deviation: number[] }

const ROUNDING = 1e-9

/** The values of an example, each null or absent where it has none. */
export type SignatureSource = {
  trajectory?: readonly number[] | null | undefined
  singularValues?: readonly (readonly number[])[] | null | undefined
  embedding?: string | null | undefined
}

/** The raw values [D] of a signature; undefined where the example lacks them. */
export function rawSignature(
  signature: Signature,
  { trajectory, singularValues, embedding }: SignatureSource,
): ArrayLike<number> | undefined {
  if (signature === 'sum') return trajectory ?? undefined
  if (signature === 'spectrum') return singularValues?.flat()
  return embedding == null ? undefined : decodeDirection(embedding)
}

/** D for T checkpoints; undefined for an embedding, whose length is the scorer's. */
export function signatureDimensions(signature: Signature, T: number): number | undefined {
  return { sum: T, spectrum: T * VALUES, embedding: undefined }[signature]
}

/** Undefined for `sum`, which is not standardised. */
export function learnStandardisation(
  signature: Signature,
  { data, count, dimensions }: Points,
): Standardisation | undefined {
  if (signature === 'sum') return undefined
  const mean = new Array<number>(dimensions).fill(0)
  const deviation = new Array<number>(dimensions).fill(0)
  for (let i = 0; i < data.length; i++) mean[i % dimensions]! += data[i]! / count
  for (let i = 0; i < data.length; i++) {
    const d = i % dimensions
    deviation[d]! += (data[i]! - mean[d]!) ** 2 / count
  }
  const isConstant = (d: number): boolean =>
    Math.sqrt(deviation[d]!) <= ROUNDING * Math.abs(mean[d]!)
  return { mean, deviation: deviation.map((square, d) => (isConstant(d) ? 1 : Math.sqrt(square))) }
}

/** Standardises one signature [D]. */
export function standardised(
  values: ArrayLike<number>,
  by: Standardisation | undefined,
): ArrayLike<number> {
  if (by === undefined) return values
  return Float64Array.from(values, (value, d) => (value - by.mean[d]!) / by.deviation[d]!)
}

/** Standardises all points [N, D]. */
export function standardisedPoints(points: Points, by: Standardisation | undefined): Points {
  if (by === undefined) return points
  const { dimensions } = points
  const { mean, deviation } = by
  const data = points.data.map((value, i) => {
    const d = i % dimensions
    return (value - mean[d]!) / deviation[d]!
  })
  return { ...points, data }
}

/** From an example to its signature [D]. */
export type SignatureOf = (source: SignatureSource) => ArrayLike<number>

export function signatureOf({
  signature,
  standardisation,
}: {
  signature: Signature
  standardisation?: Standardisation | undefined
}): SignatureOf {
  return source => {
    const raw = rawSignature(signature, source)
    if (raw === undefined) throw new RangeError(`the example has no ${signature}`)
    return standardised(raw, standardisation)
  }
}
