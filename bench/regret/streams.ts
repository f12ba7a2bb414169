/**
 * Synthetic streams of assignments for `bench:regret`: Zipf (1.1) cluster sizes, log-normal instability
 * (sigma 0.6), in random order or in an order that is hard for irrevocable decisions.
 */
import { normalDeviates, permutation, seededRandom, seedOf } from '../../src/math/random.ts'

export type Stream = {
  clusters: number
  /** Of each example, in log order. */
  cluster: Int32Array
  instability: Float64Array
  /** Of each cluster: the median of the logarithm of its instability, and that logarithm's deviation. */
  medians: Float64Array
  deviations: Float64Array
}

export const ORDERS = [
  'stationary',
  'own_scales',
  'popularity_swaps',
  'popularity_drifts',
  'new_clusters',
  'one_cluster_first',
  'cluster_by_cluster',
  'ascending',
  'descending',
] as const
/** Orders by instability, in which no known distribution helps. */
export const SORTED = ['ascending', 'descending'] as const satisfies readonly Order[]
export type Order = (typeof ORDERS)[number]

const EXPONENT = 1.1
const SIGMA = 0.6

/** `examples` of `clusters` clusters. */
export function streamOf(
  order: Order,
  { clusters, examples, seed }: { clusters: number; examples: number; seed: number },
): Stream {
  const random = seededRandom(seedOf(seed, order))
  const deviates = normalDeviates(
    seededRandom(seedOf(seed, 'instability')),
    2 * Math.ceil(examples / 2),
  )
  const shares = zipfShares(clusters)
  const draw = drawFrom(shares, random)
  const renamed = permutation(random, clusters)
  const cluster = Int32Array.from({ length: examples }, draw)
  const half = examples >> 1
  if (order === 'popularity_swaps') {
    for (let i = half; i < examples; i++) cluster[i] = renamed[cluster[i]!]!
  } else if (order === 'popularity_drifts') {
    for (let i = 0; i < examples; i++) {
      if (random() < i / examples) cluster[i] = renamed[cluster[i]!]!
    }
  } else if (order === 'new_clusters') {
    const old = shares.map((share, c) => (renamed[c]! % 2 === 0 ? 0 : share))
    cluster.set(Int32Array.from({ length: half }, drawFrom(old, random)))
  }
  const scales = ownScales(order, clusters, random)
  const instability = Float64Array.from(cluster, (c, i) =>
    Math.exp(scales.medians[c]! + scales.deviations[c]! * deviates[i]!),
  )
  return inOrder(order, { clusters, cluster, instability, ...scales }, renamed)
}

/** One median and spread for all clusters, or one for each. */
function ownScales(
  order: Order,
  clusters: number,
  random: () => number,
): Pick<Stream, 'medians' | 'deviations'> {
  const medians = new Float64Array(clusters)
  const deviations = new Float64Array(clusters).fill(SIGMA)
  if (order !== 'own_scales') return { medians, deviations }
  const drawn = normalDeviates(random, 2 * clusters)
  return {
    medians: medians.map((_, c) => 0.5 * drawn[c]!),
    deviations: deviations.map((scale, c) => scale * Math.exp(0.25 * drawn[clusters + c]!)),
  }
}

function inOrder(order: Order, stream: Stream, renamed: readonly number[]): Stream {
  const { cluster, instability } = stream
  const by = {
    one_cluster_first: (i: number) => (cluster[i] === 0 ? 0 : 1),
    cluster_by_cluster: (i: number) => renamed[cluster[i]!]!,
    ascending: (i: number) => instability[i]!,
    descending: (i: number) => -instability[i]!,
  }[order as string]
  if (by === undefined) return stream
  const sorted = Array.from(cluster.keys()).sort((a, b) => by(a) - by(b) || a - b)
  return {
    ...stream,
    cluster: Int32Array.from(sorted, i => cluster[i]!),
    instability: Float64Array.from(sorted, i => instability[i]!),
  }
}

/** Shares of the clusters, the largest first. */
export function zipfShares(clusters: number): Float64Array {
  return Float64Array.from({ length: clusters }, (_, rank) => (rank + 1) ** -EXPONENT)
}

/** Draws an index with probability in proportion to its share. */
export function drawFrom(shares: Float64Array, random: () => number): () => number {
  const cumulative = new Float64Array(shares.length)
  let sum = 0
  shares.forEach((share, index) => {
    sum += share
    cumulative[index] = sum
  })
  return () => {
    const value = random() * sum
    let [low, high] = [0, shares.length - 1]
    while (low < high) {
      const middle = (low + high) >> 1
      if (cumulative[middle]! > value) high = middle
      else low = middle + 1
    }
    return low
  }
}
