/**
 * What is learned of a signature before it is clustered: its standardisation, and of `joint` the weight of
 * its two parts, that whose clusters are the most stable between seeds.
 */
import {
  learnStandardisation,
  type Signature,
  type Standardisation,
  standardisedPoints,
  weighed,
} from '../bundle/signature.ts'
import { permutation, seededRandom } from '../math/random.ts'
import { type Points, rowsOf } from '../math/vectors.ts'
import { meanAgreement } from './agreement.ts'
import { kmeans } from './kmeans.ts'

/** A share of the variance for the embedding, and the mean adjusted Rand index of clusters between seeds. */
export type Share = { share: number; stability: number }

export type Learned = {
  /** Undefined for `sum`. */
  standardisation: Standardisation | undefined
  /** Of `joint`: what was tried, the chosen one first. */
  shares?: Share[] | undefined
}

type LearnOptions = { signature: Signature; clusters: number; seed: number }

/** The even one first: it stays where no other is more stable. */
const SHARES = [0.5, 0.25, 0.75]
const SEEDS = 3
/** A sample of this size weighs the parts in bounded time. */
const EXAMPLES_MAX = 5_000

/** The same points, seed and number of clusters give the same. */
export function learnSignature(points: Points, options: LearnOptions): Learned {
  const { signature, clusters, seed } = options
  const standardisation = learnStandardisation(signature, points)
  if (signature !== 'joint' || standardisation === undefined) return { standardisation }
  const { first } = points
  if (first === undefined) throw new RangeError('points of a joint signature have two parts')
  const order = permutation(seededRandom(seed), points.count).slice(0, EXAMPLES_MAX)
  const sample = rowsOf(
    points,
    order.sort((a, b) => a - b),
  )
  const fewer = Math.max(1, Math.round((clusters * sample.count) / points.count))
  const shares = SHARES.map(share => {
    const seen = standardisedPoints(sample, weighed(standardisation, first, share))
    const runs = Array.from({ length: SEEDS }, (_, i) => {
      return kmeans(seen, { clusters: fewer, seed: seed + i }).assignment
    })
    return { share, stability: meanAgreement(runs) }
  }).sort((a, b) => b.stability - a.stability)
  return { standardisation: weighed(standardisation, first, shares[0]!.share), shares }
}
