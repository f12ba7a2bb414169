/** What `fit --report` says: how the clusterings of one history differ. */
import { type Comparison, compareSignatures } from '../cluster/agreement.ts'
import type { Points } from '../cluster/kmeans.ts'
import type { Signature } from '../cluster/signature.ts'
import { startProgress } from '../observe/progress.ts'
import { permutation, seededRandom } from '../random.ts'
import { SMALL_CLUSTER_SIZE_MAX } from '../select/quotas.ts'

/** More say nothing else, and K-means of three seeds and signatures takes its time. */
const EXAMPLES_MAX = 50_000
const SEEDS = 3

export type Sizes = {
  min: number
  p25: number
  median: number
  p75: number
  max: number
  small: number
}

/** `small`: clusters of at most two examples, which give nothing to a subset. */
export function sizeQuantiles(sizes: readonly number[]): Sizes {
  const sorted = [...sizes].sort((a, b) => a - b)
  const at = (share: number): number => sorted[Math.round(share * (sorted.length - 1))]!
  const small = sizes.filter(size => size <= SMALL_CLUSTER_SIZE_MAX).length
  return { min: at(0), p25: at(0.25), median: at(0.5), p75: at(0.75), max: at(1), small }
}

export type SignatureReport = Omit<Comparison, 'signatures'> & {
  examples: number
  /** Signatures that the file does not hold for every example. */
  lacking: Signature[]
  signatures: { signature: Signature; clusters: number; stability: number; sizes: Sizes }[]
}

/** Clusters a sample of the examples by every signature that they all have, under three seeds. */
export function signatureReport(
  signatures: ReadonlyMap<Signature, Points>,
  lacking: Iterable<Signature>,
  { clusters, seed }: { clusters: number; seed: number },
): SignatureReport {
  const [first] = signatures.values()
  const order = permutation(seededRandom(seed), first?.count ?? 0)
  const rows = order.slice(0, EXAMPLES_MAX).sort((a, b) => a - b)
  const sampled = new Map([...signatures].map(([name, points]) => [name, rowsOf(points, rows)]))
  const seeds = Array.from({ length: SEEDS }, (_, i) => seed + i)
  const progress = startProgress('compared', signatures.size * SEEDS)
  const onFitted = (done: number): void => progress.update(done)
  const found = compareSignatures(sampled, { clusters, seeds, onFitted })
  progress.stop()
  return {
    ...found,
    examples: rows.length,
    lacking: [...lacking],
    signatures: found.signatures.map(({ signature, sizes, stability }) => ({
      signature,
      clusters: sizes.length,
      stability,
      sizes: sizeQuantiles(sizes),
    })),
  }
}

/** Some rows, in that order. */
export function rowsOf({ data, dimensions }: Points, rows: readonly number[]): Points {
  const compact = new Float64Array(rows.length * dimensions)
  for (const [i, row] of rows.entries()) {
    compact.set(data.subarray(row * dimensions, (row + 1) * dimensions), i * dimensions)
  }
  return { data: compact, count: rows.length, dimensions }
}

export function describeComparison(report: SignatureReport): string {
  const { examples, signatures, agreement, lacking, seeds } = report
  const cell = (value: number | string, width: number): string => String(value).padStart(width)
  const lines = signatures.map(({ signature, clusters, stability, sizes }) => {
    const { min, p25, median, p75, max, small } = sizes
    const columns = [clusters, min, p25, median, p75, max].map(value => cell(value, 9))
    return `  ${signature.padEnd(10)}${columns.join('')}${cell(small, 11)}${cell(stability.toFixed(2), 8)}`
  })
  const pairs = agreement.map(
    ({ a, b, adjustedRand }) => `  ${`${a} and ${b}`.padEnd(24)}${adjustedRand.toFixed(2)}`,
  )
  return [
    `signatures of ${examples} examples, seeds ${seeds.join(', ')}`,
    `            ${['clusters', 'smallest', '25 %', 'median', '75 %', 'largest'].map(name => cell(name, 9)).join('')}  too small  stable`,
    ...lines,
    ...lacking.map(name => `  ${name}: not every line of the file has it`),
    ...(pairs.length > 0 ? ['agreement of two signatures', ...pairs] : []),
    '  stable and agreement: adjusted Rand index, 1 the same clusters, 0 no more alike than by chance;',
    '  stable: between seeds; too small: clusters of at most 2, which give nothing to a subset',
    '',
  ].join('\n')
}
