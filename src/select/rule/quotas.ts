/**
 * The batch rule: the balanced subset of a whole history. It is the reference's `cluster_data_selection`,
 * to the id, with a deterministic order of text-only examples. `select` runs it, and it is the oracle of
 * the revisable policy (`revisable.ts`), which keeps the same subset event by event.
 */
import { sum } from '../../math/vectors.ts'
import type { Cluster } from '../../record.ts'

/** Clusters of at most this many examples give nothing; they count in N. */
export const SMALL_CLUSTER_SIZE_MAX = 2

export type ClusterSize = { cluster: Cluster; size: number }
export type ClusterQuota = ClusterSize & { quota: number; taken: number }

/** An example. `id` orders the text cluster, `instability` (or what `orderOf` gives) all others. */
export type Ranked = { cluster: Cluster; instability: number | null; id: string }

export type BatchSelection = {
  /** n. Small clusters may leave some of it unused. */
  budget: number
  /** In the order in which the rule visits the clusters; skipped ones are absent. */
  clusters: ClusterQuota[]
  /** Indices of the examples taken, in the rule's order: cluster by cluster, steadiest first. */
  selected: number[]
}

/**
 * n = floor(percent * N / 100), for percent in 0..100. Percents of up to 9 decimals are taken as the
 * decimals they were written as, so that 1.15 % of 2000 is 23 and not 22.
 */
export function budgetRule(percent: number): (total: number) => number {
  if (!(percent >= 0 && percent <= 100)) throw new RangeError(`percent ${percent} is not in 0..100`)
  for (let scale = 1; scale <= 1e9; scale *= 10) {
    const numerator = Math.round(percent * scale)
    if (numerator / scale !== percent) continue
    return total => floorOfRatio(numerator, total, 100 * scale)
  }
  return total => Math.floor((percent * total) / 100)
}

/** floor(a * b / divisor) without a rounding error. */
function floorOfRatio(a: number, b: number, divisor: number): number {
  const product = a * b
  if (product <= Number.MAX_SAFE_INTEGER) return (product - (product % divisor)) / divisor
  return Number((BigInt(a) * BigInt(b)) / BigInt(divisor))
}

export type Budget = {
  /** n as a percent of the history: 0..100, fractions allowed. */
  percent: number
  /** n as a number, in place of the percent. */
  budgetExamples?: number | undefined
  /**
   * Online policies meet the budget at multiples of it; undefined: nearly meet it at all times. A fixed
   * budget is spent over the first so many examples.
   */
  horizonExamples?: number | undefined
}

/** n of a whole history by its size. Throws RangeError as `budgetRule`. */
export function budgetOf({ percent, budgetExamples }: Budget): (total: number) => number {
  return budgetExamples === undefined ? budgetRule(percent) : () => budgetExamples
}

/** The share of examples above which small clusters are worth a warning. */
const SMALL_SHARE_MAX = 0.1

/** A warning where more than a tenth of the examples lie in clusters too small to give any. */
export function smallClustersWarning(sizes: readonly number[]): string | undefined {
  const small = sizes.filter(size => size > 0 && size <= SMALL_CLUSTER_SIZE_MAX)
  const share = sum(small) / sum(sizes)
  if (!(share > SMALL_SHARE_MAX)) return undefined
  return (
    `${(100 * share).toFixed(0)} % of the examples lie in clusters of at most ` +
    `${SMALL_CLUSTER_SIZE_MAX}, which give none to a subset (${small.length} of ${sizes.length} clusters)`
  )
}

/** n of a growing history, of which `arrived` examples came from the stream. */
export function budgetSoFar(budget: Budget, total: number, arrived: number): number {
  const { budgetExamples, horizonExamples } = budget
  if (budgetExamples === undefined) return budgetRule(budget.percent)(total)
  if (horizonExamples === undefined) return budgetExamples
  return Math.floor((budgetExamples * Math.min(arrived, horizonExamples)) / horizonExamples)
}

/** The order of clusters of one size: the text cluster is last. */
export function clusterRank(cluster: Cluster): number {
  return cluster === 'text' ? Number.MAX_SAFE_INTEGER : cluster
}

/**
 * What each cluster gives of a budget: clusters of more than two examples in ascending order of
 * (size, number), each its equal share of what is left, floor(left / clusters left), at most all it has.
 */
export function batchQuotas(sizes: readonly ClusterSize[], budget: number): ClusterQuota[] {
  const visited = sizes
    .filter(({ size }) => size > SMALL_CLUSTER_SIZE_MAX)
    .sort((a, b) => a.size - b.size || clusterRank(a.cluster) - clusterRank(b.cluster))
  let left = budget
  return visited.map(({ cluster, size }, index) => {
    const quota = Math.floor(left / (visited.length - index))
    const taken = Math.min(size, quota)
    left -= taken
    return { cluster, size, quota, taken }
  })
}

/**
 * The batch rule over examples in log order. Within a cluster the lowest instability goes first, ties
 * in log order; the text cluster goes by ascending id in code points, ties in log order. `misaligned` more
 * count in N and join no cluster. Throws RangeError where percent is outside 0..100.
 */
export function selectBatch(
  examples: readonly Ranked[],
  percent: number,
  misaligned = 0,
): BatchSelection {
  const members = new Map<Cluster, number[]>()
  examples.forEach(({ cluster }, index) => {
    const group = members.get(cluster)
    if (group === undefined) members.set(cluster, [index])
    else group.push(index)
  })
  const budget = budgetRule(percent)(examples.length + misaligned)
  const sizes = [...members].map(([cluster, group]) => ({ cluster, size: group.length }))
  const clusters = batchQuotas(sizes, budget)
  const selected = clusters.flatMap(({ cluster, taken }) =>
    inOrder(examples, members.get(cluster)!, cluster === 'text').slice(0, taken),
  )
  return { budget, clusters, selected }
}

/** Array.sort is stable, so ties keep the log's order. */
function inOrder(examples: readonly Ranked[], group: number[], byId: boolean): number[] {
  if (!byId) return group.sort((a, b) => examples[a]!.instability! - examples[b]!.instability!)
  const bytes = new Map(group.map(index => [index, Buffer.from(examples[index]!.id)]))
  return group.sort((a, b) => Buffer.compare(bytes.get(a)!, bytes.get(b)!))
}

/** Shannon entropy of counts, in nats; 0 where there are none. */
export function entropyOf(counts: readonly number[]): number {
  const total = sum(counts)
  let entropy = 0
  for (const count of counts) {
    if (count > 0) entropy -= (count / total) * Math.log(count / total)
  }
  return entropy
}

/** The entropy of `counts` over that of `ideal`; 1 where the ideal is all in one place. */
export function balanceOf(counts: readonly number[], ideal: readonly number[]): number {
  const best = entropyOf(ideal)
  return best === 0 ? 1 : entropyOf(counts) / best
}

/** The entropy of `counts` over that of equal counts; 1 where there is at most one. */
export function evennessOf(counts: readonly number[]): number {
  return counts.length <= 1 ? 1 : entropyOf(counts) / Math.log(counts.length)
}
