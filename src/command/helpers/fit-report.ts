/** What `fit` reports: cluster sizes, near-duplicate radii, and with --report how signatures compare. */
import type { Signature } from '../../bundle/signature.ts'
import type { SimilarityModel } from '../../bundle/similarity.ts'
import {
  type Compared,
  type Comparison,
  compareSignatures,
  judgeSignatures,
  type Verdict,
} from '../../cluster/compare.ts'
import type { Share } from '../../cluster/joint.ts'
import { learnSimilarity } from '../../cluster/learn-similarity.ts'
import {
  DEPENDENCE_MAX,
  SIZE_NAMES,
  type SizeDependence,
  sizeDependence,
} from '../../cluster/size-dependence.ts'
import type { Trajectories } from '../../cluster/trajectories.ts'
import { permutation, seededRandom } from '../../math/random.ts'
import { type Points, rowsOf } from '../../math/vectors.ts'
import { startProgress } from '../../observe/progress.ts'
import type { Size } from '../../record.ts'
import { SMALL_CLUSTER_SIZE_MAX, smallClustersWarning } from '../../select/rule/quotas.ts'

/** A sample of this size gives the same figures in bounded time. */
const EXAMPLES_MAX = 50_000
const SEEDS = 3

/** `small` counts clusters of at most two examples, which give none to a subset. */
export function sizeQuantiles(sizes: readonly number[]) {
  const sorted = [...sizes].sort((a, b) => a - b)
  const at = (share: number): number => sorted[Math.round(share * (sorted.length - 1))]!
  const small = sizes.filter(size => size <= SMALL_CLUSTER_SIZE_MAX).length
  return { min: at(0), p25: at(0.25), median: at(0.5), p75: at(0.75), max: at(1), small }
}

export type SignatureReport = Omit<Comparison, 'signatures'> & {
  examples: number
  /** Signatures whose values at least one line lacks. */
  lacking: Signature[]
  signatures: (Omit<Compared, 'sizes'> & {
    clusters: number
    sizes: ReturnType<typeof sizeQuantiles>
  })[]
  verdict: Verdict
}

/**
 * Clusters a sample of the examples by every signature that all of them have, under three seeds. `sizes`: one
 * an example; undefined where they are not known.
 */
export function signatureReport(
  signatures: ReadonlyMap<Signature, Points>,
  lacking: Iterable<Signature>,
  { clusters, seed, sizes }: { clusters: number; seed: number; sizes: readonly Size[] | undefined },
): SignatureReport {
  const [first] = signatures.values()
  const order = permutation(seededRandom(seed), first?.count ?? 0)
  const rows = order.slice(0, EXAMPLES_MAX).sort((a, b) => a - b)
  const sampled = new Map([...signatures].map(([name, points]) => [name, rowsOf(points, rows)]))
  const seeds = Array.from({ length: SEEDS }, (_, i) => seed + i)
  const progress = startProgress('compared', signatures.size * SEEDS)
  const onFitted = (done: number): void => progress.update(done)
  const found = compareSignatures(sampled, {
    ...{ clusters, seeds, onFitted },
    sizes: sizes && rows.map(row => sizes[row]!),
  })
  progress.stop()
  const isSmall = (sizes: readonly number[]) => smallClustersWarning(sizes) !== undefined
  return {
    ...found,
    examples: rows.length,
    lacking: [...lacking],
    signatures: found.signatures.map(({ sizes, ...one }) => ({
      ...{ ...one, clusters: sizes.length },
      sizes: sizeQuantiles(sizes),
    })),
    verdict: judgeSignatures(found.signatures, isSmall),
  }
}

export function describeComparison(report: SignatureReport): string[] {
  const { examples, signatures, agreement, lacking, seeds } = report
  const cell = (value: number | string, width: number): string => String(value).padStart(width)
  const lines = signatures.map(({ signature, clusters, stability, explained, sizes }) => {
    const { min, p25, median, p75, max, small } = sizes
    const columns = [clusters, min, p25, median, p75, max].map(value => cell(value, 9))
    const measures = [stability.toFixed(2), explained?.share.toFixed(2) ?? '-']
    return `  ${signature.padEnd(10)}${columns.join('')}${cell(small, 11)}${measures.map(value => cell(value, 8)).join('')}`
  })
  const shares = signatures.flatMap(({ shares }) => shares ?? [])
  const pairs = agreement.map(
    ({ a, b, adjustedRand }) => `  ${`${a} and ${b}`.padEnd(24)}${adjustedRand.toFixed(2)}`,
  )
  return [
    `signatures of ${examples} examples, seeds ${seeds.join(', ')}`,
    `            ${['clusters', 'smallest', '25 %', 'median', '75 %', 'largest'].map(name => cell(name, 9)).join('')}  too small  stable    size`,
    ...lines,
    ...lacking.map(name => `  ${name}: some lines of the file lack it`),
    ...(shares.length > 0 ? [`  ${describeShares(shares)}`] : []),
    ...(pairs.length > 0 ? ['agreement of two signatures', ...pairs] : []),
    '  stable (between seeds) and agreement: adjusted Rand index, 1 = equal clusters, 0 = chance',
    '  size: share of the ranks of image tokens, text rows or picture size that the clusters explain, the largest',
    '  too small: clusters of at most 2 examples, which give none to a subset',
  ]
}

/** The weights of `joint` that were tried, the chosen one first. */
export function describeShares(shares: readonly Share[]): string {
  const [chosen, ...others] = shares.map(
    ({ share, stability }) => `${100 * share} % (stable ${stability.toFixed(2)})`,
  )
  return `joint: the embedding has ${chosen} of the variance, not ${others.join(' or ')}`
}

/** Which signature to take, and why. */
export function describeVerdict({ take, reasons }: Verdict): string[] {
  return [`verdict: take --signature ${take}`, ...reasons.map(reason => `  ${reason}`)]
}

/* Sizes. */

/** Of `examples`, which are counted and scored; undefined where a line lacks its size. */
export function sizesOf({ sizes }: Trajectories, examples: readonly number[]): Size[] | undefined {
  const known = examples.flatMap(index => sizes[index] ?? [])
  return known.length < examples.length ? undefined : known
}

/** `known`: the sizes of `examples`. */
export function sizeReport(
  { points, rows, instability }: Trajectories,
  examples: readonly number[],
  known: readonly Size[],
): SizeDependence[] {
  const { data, dimensions } = points
  const sumOf = (row: number): number =>
    data.subarray(row * dimensions, (row + 1) * dimensions).reduce((sum, score) => sum + score, 0)
  return sizeDependence(known, {
    score: examples.map(index => sumOf(rows[index]!)),
    instability: examples.map(index => instability[index]!),
  })
}

export function describeSizes(found: readonly SizeDependence[] | null): string[] {
  if (found === null) return ['sizes: some lines of the file lack them']
  const cell = (value: number | null): string => (value?.toFixed(2) ?? 'equal').padStart(12)
  return [
    'rank correlation        score instability',
    ...found.map(
      ({ size, score, instability }) =>
        `  ${SIZE_NAMES[size].padEnd(15)}${cell(score)}${cell(instability)}`,
    ),
  ]
}

/** A sentence for each size that scores or instabilities mostly follow. */
export function warningsOfSizes(found: readonly SizeDependence[] | null): string[] {
  return (found ?? []).flatMap(({ size, ...values }) =>
    (['score', 'instability'] as const).flatMap(name => {
      const value = values[name]
      if (value === null || Math.abs(value) <= DEPENDENCE_MAX) return []
      const fix = size === 'textRows' ? '' : ': score without --image-pixels, or with a smaller one'
      const what = `the rank correlation of ${name} and ${SIZE_NAMES[size]} is ${value.toFixed(2)}`
      return `${what}, so clusters are mostly clusters of that size${fix}`
    }),
  )
}

/* Near-duplicates. */

/** Learned from `examples`, which are counted and scored; undefined where one of them lacks the features. */
export function nearnessOf(
  { points, rows, compared }: Trajectories,
  examples: readonly number[],
  { nearPercent, seed }: { nearPercent: number; seed: number },
): SimilarityModel | undefined {
  const known = examples.flatMap(index => compared[index] ?? [])
  if (known.length < examples.length) return undefined
  const trajectories = rowsOf(
    points,
    examples.map(index => rows[index]!),
  )
  return learnSimilarity({ trajectories, compared: known }, { share: nearPercent / 100, seed })
}

export type NearReport = Pick<SimilarityModel, 'layoutRadius' | 'stateRadius'>

export function nearReport(nearness: SimilarityModel | undefined): NearReport | null {
  if (nearness === undefined) return null
  const { layoutRadius, stateRadius } = nearness
  return { layoutRadius, stateRadius }
}

export function describeNear(near: NearReport | null): string {
  if (near === null) return 'no radii: the trajectories lack the features of near-duplicates'
  const { layoutRadius, stateRadius } = near
  return `pictures within ${layoutRadius.toPrecision(3)}, states within ${stateRadius.toPrecision(3)}`
}
