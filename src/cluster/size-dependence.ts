/** Do scores follow how large examples are: rank correlations of score and instability with their sizes. */
import type { Size } from '../record.ts'

export const SIZES = ['imageTokens', 'textRows', 'pixels'] as const satisfies (keyof Size)[]

export const SIZE_NAMES = {
  imageTokens: 'image tokens',
  textRows: 'text rows',
  pixels: 'picture size',
}

/** Above it clusters of trajectories are mostly clusters of one size. */
export const DEPENDENCE_MAX = 0.8

export type SizeDependence = {
  size: (typeof SIZES)[number]
  /** Spearman's, of the mean score and of the instability; null where all sizes or all values are equal. */
  score: number | null
  instability: number | null
}

/** One example at each index of the three. */
export function sizeDependence(
  sizes: readonly Size[],
  { score, instability }: { score: ArrayLike<number>; instability: ArrayLike<number> },
): SizeDependence[] {
  const [scores, instabilities] = [ranksOf(score), ranksOf(instability)]
  return SIZES.map(size => {
    const ranks = ranksOf(sizes.map(one => one[size]))
    const among = (others: Float64Array) => correlation(ranks, others)
    return { size, score: among(scores), instability: among(instabilities) }
  })
}

/** How much of a size's variance, by rank, the clusters explain: 1 all of it, about 0 by chance. */
export type ExplainedSize = { size: (typeof SIZES)[number]; share: number }

/**
 * Of the size that clusters explain most of; null where no size differs. The correlation ratio, corrected
 * for the number of clusters (Kelley 1935).
 */
export function explainedSize(
  sizes: readonly Size[],
  assignment: ArrayLike<number>,
): ExplainedSize | null {
  const shares = SIZES.map(size => ({
    size,
    share: correlationRatio(ranksOf(sizes.map(one => one[size])), assignment),
  }))
  const [most] = shares
    .filter((one): one is ExplainedSize => one.share !== null)
    .sort((a, b) => b.share - a.share)
  return most ?? null
}

/** Null where no value differs, or where there are as many clusters as values. */
function correlationRatio(values: Float64Array, assignment: ArrayLike<number>): number | null {
  const mean = (values.length - 1) / 2 // of ranks
  const clusters = new Map<number, { count: number; sum: number }>()
  let total = 0
  for (const [i, value] of values.entries()) {
    const own = clusters.get(assignment[i]!) ?? { count: 0, sum: 0 }
    clusters.set(assignment[i]!, { count: own.count + 1, sum: own.sum + value - mean })
    total += (value - mean) ** 2
  }
  const freedom = values.length - clusters.size
  if (total === 0 || freedom === 0) return null
  let between = 0
  for (const { count, sum } of clusters.values()) between += sum ** 2 / count
  return 1 - ((total - between) / total) * ((values.length - 1) / freedom)
}

/** From 0; equal values share the mean of their ranks. */
function ranksOf(values: ArrayLike<number>): Float64Array {
  const order = Array.from(values, (_, i) => i).sort((a, b) => values[a]! - values[b]!)
  const ranks = new Float64Array(values.length)
  for (let from = 0; from < order.length; ) {
    let to = from + 1
    while (to < order.length && values[order[to]!] === values[order[from]!]) to++
    for (let i = from; i < to; i++) ranks[order[i]!] = (from + to - 1) / 2
    from = to
  }
  return ranks
}

/** Spearman's; null where the values of either do not differ. */
export function rankCorrelation(a: ArrayLike<number>, b: ArrayLike<number>): number | null {
  return correlation(ranksOf(a), ranksOf(b))
}

/** Pearson's, of ranks; null where the values of either do not differ. */
function correlation(a: Float64Array, b: Float64Array): number | null {
  const mean = (a.length - 1) / 2 // of ranks
  let [ab, aa, bb] = [0, 0, 0]
  for (let i = 0; i < a.length; i++) {
    ab += (a[i]! - mean) * (b[i]! - mean)
    aa += (a[i]! - mean) ** 2
    bb += (b[i]! - mean) ** 2
  }
  return aa === 0 || bb === 0 ? null : ab / Math.sqrt(aa * bb)
}
