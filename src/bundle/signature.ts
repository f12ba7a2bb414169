/**
 * The signature of an example is the vector that is clustered. `sum`, the paper's, is the trajectory. The
 * others are standardised by mean and standard deviation of each dimension in the fitted data: `spectrum` is
 * all T × 5 singular values, `embedding` the pooled hidden state of the text, `question` that of the user
 * turns, and `joint` spectrum and embedding in one vector, weighed against each other.
 *
 * Legend: N points, T checkpoints, D dimensions of the signature.
 */

import { VALUES } from '../math/singular-values.ts'
import type { Points } from '../math/vectors.ts'
import { decodeDirection } from '../math/vectors.ts'

export const SIGNATURES = ['sum', 'spectrum', 'embedding', 'question', 'joint'] as const
export type Signature = (typeof SIGNATURES)[number]

/**
 * Per dimension [D]: mean and standard deviation, 1 where all values are equal but for rounding. The deviations
 * of `joint` hold its weights, too.
 */
export type Standardisation = { mean: number[]; deviation: number[] }

const ROUNDING = 1e-9

/** The values of an example, each null or absent where it has none. */
export type SignatureSource = {
  trajectory?: readonly number[] | null | undefined
  singularValues?: readonly (readonly number[])[] | null | undefined
  embedding?: string | null | undefined
  question?: string | null | undefined
}

/** The raw values [D] of a signature; undefined where the example lacks them. */
export function rawSignature(
  signature: Signature,
  source: SignatureSource,
): ArrayLike<number> | undefined {
  if (signature === 'sum') return source.trajectory ?? undefined
  if (signature === 'spectrum') return source.singularValues?.flat()
  if (signature !== 'joint') {
    const text = source[signature]
    return text == null ? undefined : decodeDirection(text)
  }
  const parts = (['spectrum', 'embedding'] as const).map(part => rawSignature(part, source))
  return parts.includes(undefined) ? undefined : parts.flatMap(part => Array.from(part!))
}

/** D for T checkpoints; undefined where states are in it, whose length is the scorer's. */
export function signatureDimensions(signature: Signature, T: number): number | undefined {
  if (signature === 'sum') return T
  return signature === 'spectrum' ? T * VALUES : undefined
}

/** How many of the dimensions of `joint` are its spectrum's; undefined for the others. */
export function spectrumOf(signature: Signature, T: number): number | undefined {
  return signature === 'joint' ? signatureDimensions('spectrum', T) : undefined
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

/**
 * Gives the dimensions from `first` on `share` of the variance of all, and those before it the rest. A squared
 * distance is then the weighted mean of the squared distances in the two parts, each by its dimensions.
 */
export function weighed(
  { mean, deviation }: Standardisation,
  first: number,
  share: number,
): Standardisation {
  const before = Math.sqrt(first / (1 - share))
  const after = Math.sqrt((mean.length - first) / share)
  return { mean, deviation: deviation.map((one, d) => one * (d < first ? before : after)) }
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
export function signatureOf({
  signature,
  standardisation,
}: {
  signature: Signature
  standardisation?: Standardisation | undefined
}): (source: SignatureSource) => ArrayLike<number> {
  return source => {
    const raw = rawSignature(signature, source)
    if (raw === undefined) throw new RangeError(`the example has no ${signature}`)
    return standardised(raw, standardisation)
  }
}
