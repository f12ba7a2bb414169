/** `fit`: trajectories -> clusters -> a bundle. */
import { Command, Option } from 'commander'
import { type NewBundle, readCentroids, writeBundle } from '../bundle/bundle.ts'
import { SIGNATURES, type Signature } from '../bundle/signature.ts'
import {
  CLUSTERS_MAX,
  type Clustering,
  EXAMPLES_A_CLUSTER,
  fitClusters,
  fitGiven,
  fitLabelled,
  usualClusters,
} from '../cluster/fit.ts'
import { readClusterIndices } from '../cluster/interchange.ts'
import type { Share } from '../cluster/joint.ts'
import { XmasdError } from '../errors.ts'
import { type History, historyOf, type Source } from '../history/trajectories.ts'
import type { Points } from '../math/vectors.ts'
import { startProgress } from '../observe/progress.ts'
import { shellWord } from '../observe/text.ts'
import { protectionOf } from '../select/dedup/protected.ts'
import { smallClustersWarning } from '../select/rule/quotas.ts'
import { drawOf } from '../select/rule/rank.ts'
import {
  describeComparison,
  describeNear,
  describeShares,
  describeSizes,
  describeVerdict,
  type NearReport,
  nearnessOf,
  nearReport,
  type SignatureReport,
  signatureReport,
  sizeQuantiles,
  sizeReport,
  sizesOf,
  warningsOfSizes,
} from './helpers/fit-report.ts'
import { readProtected, readSource } from './helpers/fit-source.ts'
import { configFlag, integer, percent, positiveInteger, print, warn } from './helpers/options.ts'
import { namesIn, notEmpty } from './helpers/output.ts'

type Options = {
  trajectories?: string
  assignments?: boolean
  config?: string
  out?: string
  clusters?: number
  seed: number
  signature: Signature
  centroids?: string
  clusterIdxs?: string
  nearPercent: number
  protect: string[]
  report?: boolean
  force?: boolean
  json?: boolean
}

export function command(): Command {
  return new Command('fit')
    .description('Cluster trajectories by k-means, or take given centroids, and write a bundle.')
    .option('--trajectories <file>', 'JSON lines that `xmasd score` wrote')
    .option('--assignments', 'all assignments of the log of --config, instead of a file')
    .option('--config <file>', 'configuration file, with --assignments')
    .option('--out <dir>', 'folder of the bundle; optional with --report')
    .option(
      '--clusters <k>',
      `number of clusters (default: one for ${EXAMPLES_A_CLUSTER} trajectories, at most ${CLUSTERS_MAX})`,
      positiveInteger,
    )
    .option('--seed <seed>', 'the same seed gives the same bundle', integer, 0)
    .addOption(
      new Option(
        '--signature <name>',
        'what is clustered: trajectories, all singular values, hidden states of the text or of the question, or singular values and hidden states in one',
      )
        .choices(SIGNATURES)
        .default('sum'),
    )
    .addOption(
      new Option(
        '--centroids <file>',
        'safetensors with a tensor centroids [K, T]; no k-means',
      ).conflicts(['clusters', 'seed', 'signature', 'report']),
    )
    .addOption(
      new Option(
        '--cluster-idxs <file>',
        'cluster_idxs.json of the published code; no k-means',
      ).conflicts(['centroids', 'clusters', 'seed', 'signature', 'report']),
    )
    .option('--near-percent <p>', 'share of examples with a near-duplicate', percent, 1)
    .option(
      '--protect <file...>',
      'evaluation data that `xmasd score` wrote: its copies are dropped, never kept',
      [],
    )
    .option('--force', 'replace the bundle in --out')
    .option('--report', 'compare the signatures, and say which to take and why')
    .option('--json', 'one JSON document on stdout')
    .action(async (options: Options, command: Command) => {
      if (options.out === undefined && options.report !== true) {
        command.error("error: give '--out <dir>', '--report' or both")
      }
      if ((options.trajectories === undefined) === (options.assignments !== true)) {
        command.error("error: give one of '--trajectories <file>' and '--assignments'")
      }
      await fit(options)
    })
}

const EXACT_ONLY =
  'the trajectories lack the features of near-duplicates: only exact copies of protected examples will be dropped'

async function fit(options: Options): Promise<void> {
  checkOut(options)
  const signatures = options.report === true ? SIGNATURES : [options.signature]
  const progress = startProgress('read', undefined)
  const source = await readSource(options, signatures, lines => progress.update(lines))
  progress.stop()
  const everything = historyOf(source, options.signature)
  const nearness = nearnessOf(source.read, everything.scored, options)
  const protectedSet = await readProtected(options.protect, source)
  if (protectedSet.length > 0 && nearness === undefined) warn(EXACT_ONLY)
  const findProtected = protectionOf({ protectedSet, manifest: { nearness } })
  const history = historyOf(source, options.signature, findProtected)
  const learned = { ...(nearness === undefined ? {} : { nearness }), protectedSet }
  const { out } = options
  const bundle =
    out === undefined ? undefined : await makeBundle(out, options, source, history, learned)
  const comparison = options.report === true ? compared(options, source, history) : undefined
  report(options, bundle, comparison)
}

function compared(options: Options, { read }: Source, { signatures, scored }: History): Compared {
  const known = sizesOf(read, scored)
  const sizes = known === undefined ? null : sizeReport(read, scored, known)
  for (const warning of warningsOfSizes(sizes)) warn(warning)
  const clusters = clustersFor(options, scored.length)
  const { seed } = options
  const found = signatureReport(signatures, read.lacking.keys(), { clusters, seed, sizes: known })
  return { ...found, sizes }
}

function clustersFor({ clusters }: Pick<Options, 'clusters'>, trajectories: number): number {
  return clusters ?? usualClusters(trajectories)
}

/** The batch rule skips small clusters: where all are small the subset is empty. */
function warnOfSmall(sizes: readonly number[]): void {
  const warning = smallClustersWarning(sizes)
  if (warning === undefined) return
  const points = sizes.reduce((sum, size) => sum + size, 0)
  const proposed = clustersFor({}, points)
  const fix =
    proposed < sizes.length
      ? `fit fewer clusters, such as --clusters ${proposed}`
      : 'score more examples'
  warn(`${warning}: ${fix}`)
}

function checkOut({ out, force }: Options): void {
  if (out === undefined || force === true) return
  const names = namesIn(out)
  if (names.length === 0) return
  const hint = 'name another folder, or --force to replace the bundle'
  throw notEmpty(out, names, hint)
}

async function makeBundle(
  out: string,
  options: Options,
  { name, read, meta }: Source,
  { signatures, keys, instability, gain, counts, copies }: History,
  learned: Pick<NewBundle, 'nearness' | 'protectedSet'>,
): Promise<BundleReport> {
  const { signature } = options
  const points = signatures.get(signature)!
  const { fitted, agreement } = fitAsAsked(points, keys, options)
  const { centroids, standardisation, assignment, sizes, radii } = fitted
  warnOfSmall(sizes)
  const { fingerprint = null, steps = null } = meta?.schedule ?? {}
  const examples = counts.counted.length
  const textOnly = examples - points.count
  const manifest = await writeBundle(out, {
    centroids,
    schedule: { fingerprint, steps, T: read.points.dimensions },
    mode: meta?.mode ?? null,
    ...(meta?.metric === 'loss' ? { metric: meta.metric } : {}),
    ...(meta === undefined || meta.precision === 'float32' ? {} : { precision: meta.precision }),
    ...(meta?.gain === true ? { gain: true } : {}),
    ...(meta?.head === undefined ? {} : { head: meta.head }),
    ...(meta?.preparation === undefined ? {} : { preparation: meta.preparation }),
    signature,
    ...(standardisation === undefined ? {} : { standardisation }),
    baseline: { examples, textOnly, sizes },
    radii,
    members: {
      ...{ cluster: assignment, instability, draw: Float32Array.from(keys, drawOf) },
      ...(meta?.gain === true ? { gain } : {}),
    },
    ...learned,
  })
  const { duplicates, redelivered } = counts
  const { iterations, isConverged, objective } = fitted
  return {
    bundle: manifest.id,
    from: name,
    out,
    signature,
    ...(fitted.shares === undefined ? {} : { shares: fitted.shares }),
    clusters: centroids.count,
    points: points.count,
    ...{ textOnly, failed: read.failed, duplicates, redelivered },
    protected: { examples: learned.protectedSet?.length ?? 0, copies },
    ...{ iterations, isConverged, objective },
    ...(agreement === undefined ? {} : { agreement }),
    sizes: sizeQuantiles(sizes),
    near: nearReport(learned.nearness),
  }
}

function fitAsAsked(
  points: Points,
  keys: readonly string[],
  options: Options,
): { fitted: Clustering; agreement?: number } {
  const { centroids, clusterIdxs } = options
  if (centroids !== undefined) return { fitted: fitGiven(points, given(centroids, points)) }
  if (clusterIdxs === undefined) {
    const clusters = clustersFor(options, points.count)
    return { fitted: fitWithProgress(points, { ...options, clusters }) }
  }
  const fitted = fitLabelled(points, labelsOf(clusterIdxs, keys))
  return { fitted, agreement: fitted.agreement }
}

function labelsOf(file: string, keys: readonly string[]): number[] {
  const labels = readClusterIndices(file)
  return keys.map(key => {
    const label = labels.get(key)
    if (label !== undefined) return label
    throw new XmasdError(
      'DATA_INVALID',
      `${file} has no cluster for ${key}`,
      'give the trajectories that `xmasd import-metrics` made of the same data',
    )
  })
}

/** `fitClusters` with a progress bar. */
export function fitWithProgress(
  points: Points,
  { signature, clusters, seed }: { signature: Signature; clusters: number; seed: number },
): Clustering {
  let phase = ''
  let progress: ReturnType<typeof startProgress> | undefined
  const fitted = fitClusters(points, {
    signature,
    clusters,
    seed,
    onProgress: step => {
      if (step.phase !== phase) {
        progress?.stop()
        progress = startProgress(step.phase, step.total)
        phase = step.phase
      }
      progress?.update(step.done)
    },
  })
  progress?.stop()
  const { count } = fitted.centroids
  if (count < clusters) {
    warn(`only ${count} clusters, not ${clusters}: there are no more distinct trajectories`)
  }
  return fitted
}

function given(file: string, { dimensions }: Points): Clustering['centroids'] {
  const centroids = readCentroids(file)
  if (centroids.dimensions === dimensions) return centroids
  throw new XmasdError(
    'DATA_INVALID',
    `${file} has centroids of ${centroids.dimensions} scores, the trajectories have ${dimensions}`,
    'give centroids and trajectories of the same schedule',
  )
}

type BundleReport = {
  bundle: string
  /** The file or topic of the trajectories. */
  from: string
  out: string
  signature: Signature
  /** Of `joint`: the weights that were tried, the chosen one first. */
  shares?: Share[]
  clusters: number
  points: number
  textOnly: number
  failed: number
  duplicates: number
  redelivered: number
  /** Protected examples, and their copies in the history, which are left out. */
  protected: { examples: number; copies: number }
  iterations: number
  isConverged: boolean
  objective: number
  /** With --cluster-idxs: share of examples nearest to the centroid of their own cluster. */
  agreement?: number
  sizes: ReturnType<typeof sizeQuantiles>
  /** Radii of near-duplicates; null where the trajectories lack the features. */
  near: NearReport | null
}

type Compared = SignatureReport & { sizes: ReturnType<typeof sizeReport> | null }

function report(
  options: Options,
  bundle: BundleReport | undefined,
  comparison: Compared | undefined,
): void {
  print(options, { ...bundle, ...(comparison && { report: comparison }) }, [
    ...(comparison === undefined
      ? []
      : [
          ...describeComparison(comparison),
          ...describeSizes(comparison.sizes),
          ...describeVerdict(comparison.verdict),
        ]),
    ...(bundle === undefined ? [] : describeBundle(options, bundle)),
  ])
}

function describeBundle(options: Options, found: BundleReport): string[] {
  const { sizes, agreement } = found
  const how = found.isConverged ? '' : ', not converged'
  const [out, flag] = [shellWord(found.out), configFlag(options)]
  return [
    `bundle ${found.bundle}: ${found.clusters} clusters of ${found.points} trajectories`,
    `  signature   ${found.signature}`,
    ...(found.shares === undefined ? [] : [`              ${describeShares(found.shares)}`]),
    `  left out    ${found.textOnly} text-only, ${found.failed} failed, ${found.duplicates} duplicates, ${found.redelivered} repeated`,
    `  iterations  ${found.iterations}${how}; sum of squared distances ${found.objective.toPrecision(6)}`,
    ...(agreement === undefined
      ? []
      : [
          `  agreement   ${(100 * agreement).toFixed(2)} % are nearest to their own cluster's mean`,
        ]),
    `  sizes       ${sizes.min} smallest, ${sizes.p25} ${sizes.median} ${sizes.p75} quartiles, ${sizes.max} largest; ${sizes.small} too small to give any`,
    `  near        ${describeNear(found.near)}`,
    ...(found.protected.examples === 0
      ? []
      : [
          `  protected   ${found.protected.examples} examples; ${found.protected.copies} copies in the history left out`,
        ]),
    `written to ${found.out}`,
    options.assignments === true
      ? `next: xmasd replay --bundle ${out}${flag}; xmasd bundle shadow --bundle ${out}${flag}`
      : `next: xmasd select --trajectories ${shellWord(found.from)} --bundle ${out} --percent 20 --out subset.json`,
  ]
}
