/** `fit`: trajectories -> clusters -> a bundle. */
import { Command, Option } from 'commander'
import { readCentroids, writeBundle } from '../cluster/bundle.ts'
import { type Fitted, fitClusters, fitGiven, fitLabelled } from '../cluster/fit.ts'
import type { Points } from '../cluster/kmeans.ts'
import { readClusterIndices } from '../cluster/metric-files.ts'
import { SIGNATURES, type Signature } from '../cluster/signature.ts'
import { XmasdError } from '../errors.ts'
import { startProgress } from '../observe/progress.ts'
import { SMALL_CLUSTER_SIZE_MAX } from '../select/quotas.ts'
import { shellWord } from '../shell.ts'
import { describeNear, type NearReport, nearnessOf, nearReport } from './fit-nearness.ts'
import {
  describeComparison,
  type SignatureReport,
  type Sizes,
  signatureReport,
  sizeQuantiles,
} from './fit-report.ts'
import { type History, historyOf, readSource, type Source } from './fit-source.ts'
import { configFlag, integer, percent, positiveInteger } from './options.ts'
import { namesIn, notEmpty } from './out-folder.ts'

/** Of the number of clusters that is proposed where all were too small. */
const EXAMPLES_A_CLUSTER = 20

type Options = {
  trajectories?: string
  assignments?: boolean
  config?: string
  out?: string
  clusters: number
  seed: number
  signature: Signature
  centroids?: string
  clusterIdxs?: string
  nearPercent: number
  report?: boolean
  force?: boolean
  json?: boolean
}

export function fitCommand(): Command {
  return new Command('fit')
    .description('Cluster trajectories by k-means, or take given centroids, and write a bundle.')
    .option('--trajectories <file>', 'JSON lines that `xmasd score` wrote')
    .option('--assignments', 'instead of a file: all that the log of --config has assigned')
    .option('--config <file>', 'configuration file, with --assignments')
    .option('--out <dir>', 'folder of the bundle; with --report it may be left out')
    .option('--clusters <k>', 'how many clusters', positiveInteger, 1000)
    .option('--seed <seed>', 'of the seeding; the same seed gives the same bundle', integer, 0)
    .addOption(
      new Option(
        '--signature <name>',
        'cluster trajectories (sum), all singular values (spectrum) or pooled hidden states (embedding)',
      )
        .choices(SIGNATURES)
        .default('sum'),
    )
    .addOption(
      new Option(
        '--centroids <file>',
        'safetensors with a tensor centroids [K, T]: no k-means',
      ).conflicts(['clusters', 'seed', 'signature', 'report']),
    )
    .addOption(
      new Option(
        '--cluster-idxs <file>',
        "the published code's …_cluster_idxs.json: their means are the centroids, no k-means",
      ).conflicts(['centroids', 'clusters', 'seed', 'signature', 'report']),
    )
    .option(
      '--near-percent <p>',
      'near-duplicates: how many examples of the history may have another one within a radius',
      percent,
      1,
    )
    .option('--force', 'replace the bundle that is in --out')
    .option('--report', 'say how the clusters of the signatures differ and how stable they are')
    .option('--json', 'report as one JSON document on stdout')
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

async function fit(options: Options): Promise<void> {
  checkOut(options)
  const signatures = options.report === true ? SIGNATURES : [options.signature]
  const progress = startProgress('read', undefined)
  const source = await readSource(options, signatures, lines => progress.update(lines))
  progress.stop()
  const history = historyOf(source, options.signature)
  const { out } = options
  const bundle = out === undefined ? undefined : await makeBundle(out, options, source, history)
  const comparison =
    options.report === true
      ? signatureReport(history.signatures, source.read.lacking.keys(), options)
      : undefined
  if (bundle !== undefined) warnOfSmall(bundle)
  report(options, bundle, comparison)
}

/** Clusters without which there is no subset: the batch rule passes over the small ones. */
function warnOfSmall({ points, clusters, sizes }: BundleReport): void {
  if (sizes.small < clusters) return
  const fix =
    points > SMALL_CLUSTER_SIZE_MAX
      ? `fit fewer clusters, such as --clusters ${Math.max(1, Math.floor(points / EXAMPLES_A_CLUSTER))}`
      : 'score more examples'
  process.stderr.write(
    `xmasd: all ${clusters} clusters are of at most ${SMALL_CLUSTER_SIZE_MAX} examples and give none to a subset: ${fix}\n`,
  )
}

function checkOut({ out, force }: Options): void {
  if (out === undefined || force === true) return
  const names = namesIn(out)
  if (names.length === 0) return
  const hint = 'Name another folder, or --force to replace the bundle that is there.'
  throw notEmpty(out, names, hint)
}

async function makeBundle(
  out: string,
  options: Options,
  { name, read, meta }: Source,
  { signatures, keys, scored, instability, counts }: History,
): Promise<BundleReport> {
  const { signature } = options
  const points = signatures.get(signature)!
  const { fitted, agreement } = fitAsAsked(points, keys, options)
  const { centroids, standardisation, assignment, sizes, radii } = fitted
  const nearness = nearnessOf(read, scored, options)
  const { fingerprint = null, steps = null } = meta?.schedule ?? {}
  const examples = counts.counted.length
  const textOnly = examples - points.count
  const manifest = await writeBundle(out, {
    centroids,
    schedule: { fingerprint, steps, T: read.points.dimensions },
    mode: meta?.mode ?? null,
    ...(meta?.metric === 'loss' ? { metric: meta.metric } : {}),
    ...(meta === undefined || meta.precision === 'float32' ? {} : { precision: meta.precision }),
    signature,
    ...(standardisation === undefined ? {} : { standardisation }),
    baseline: { examples, textOnly, sizes },
    radii,
    members: { cluster: assignment, instability },
    ...(nearness === undefined ? {} : { nearness }),
  })
  const { duplicates, redelivered } = counts
  const { iterations, isConverged, objective } = fitted
  return {
    bundle: manifest.id,
    from: name,
    out,
    signature,
    clusters: centroids.count,
    points: points.count,
    ...{ textOnly, failed: read.failed, duplicates, redelivered },
    ...{ iterations, isConverged, objective },
    ...(agreement === undefined ? {} : { agreement }),
    sizes: sizeQuantiles(sizes),
    near: nearReport(nearness),
  }
}

function fitAsAsked(
  points: Points,
  keys: readonly string[],
  options: Options,
): { fitted: Fitted; agreement?: number } {
  const { centroids, clusterIdxs } = options
  if (centroids !== undefined) return { fitted: fitGiven(points, given(centroids, points)) }
  if (clusterIdxs === undefined) return { fitted: fitWithProgress(points, options) }
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
      'Give the trajectories that `xmasd import-metrics` made of the same data.',
    )
  })
}

/** `fitClusters`, showing how it goes. */
export function fitWithProgress(
  points: Points,
  { signature, clusters, seed }: Pick<Options, 'signature' | 'clusters' | 'seed'>,
): Fitted {
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
    process.stderr.write(
      `xmasd: only ${count} clusters, not ${clusters}: there are no more distinct trajectories\n`,
    )
  }
  return fitted
}

function given(file: string, { dimensions }: Points): Fitted['centroids'] {
  const centroids = readCentroids(file)
  if (centroids.dimensions === dimensions) return centroids
  throw new XmasdError(
    'DATA_INVALID',
    `${file} has centroids of ${centroids.dimensions} scores, the trajectories have ${dimensions}`,
    'Centroids and trajectories must be of the same schedule.',
  )
}

type BundleReport = {
  bundle: string
  /** What it was fitted to. */
  from: string
  out: string
  signature: Signature
  clusters: number
  points: number
  textOnly: number
  failed: number
  duplicates: number
  redelivered: number
  iterations: number
  isConverged: boolean
  objective: number
  /** With --cluster-idxs: the share of examples that are nearest to the centroid of their own. */
  agreement?: number
  sizes: Sizes
  /** Radii of near-duplicates; null where nothing was learned of them. */
  near: NearReport | null
}

function report(
  options: Options,
  bundle: BundleReport | undefined,
  comparison: SignatureReport | undefined,
): void {
  if (options.json === true) {
    const document = { v: 1, ...bundle, ...(comparison && { report: comparison }) }
    process.stdout.write(`${JSON.stringify(document)}\n`)
    return
  }
  if (comparison !== undefined) process.stdout.write(describeComparison(comparison))
  if (bundle !== undefined) process.stdout.write(describeBundle(options, bundle))
}

function describeBundle(options: Options, found: BundleReport): string {
  const { sizes } = found
  const how = found.isConverged ? '' : ', not yet at rest'
  const [out, flag] = [shellWord(found.out), configFlag(options)]
  return (
    `bundle ${found.bundle}: ${found.clusters} clusters of ${found.points} trajectories\n` +
    `  signature   ${found.signature}\n` +
    `  left out    ${found.textOnly} text-only, ${found.failed} failed, ${found.duplicates} duplicates, ${found.redelivered} repeated\n` +
    `  iterations  ${found.iterations}${how}; sum of squared distances ${found.objective.toPrecision(6)}\n` +
    (found.agreement === undefined
      ? ''
      : `  agreement   ${(100 * found.agreement).toFixed(2)} % are nearest to their own cluster's mean\n`) +
    `  sizes       ${sizes.min} smallest, ${sizes.p25} ${sizes.median} ${sizes.p75} quartiles, ${sizes.max} largest; ${sizes.small} too small to give any\n` +
    `  near        ${describeNear(found.near)}\n` +
    `written to ${found.out}\n` +
    (options.assignments === true
      ? `next: xmasd replay --bundle ${out}${flag}; xmasd bundle shadow --bundle ${out}${flag}\n`
      : `next: xmasd select --trajectories ${shellWord(found.from)} --bundle ${out} --percent 20 --out subset.json\n`)
  )
}
