/** `fit`: trajectories -> clusters -> a bundle. */
import { Command, Option } from 'commander'
import { readCentroids, writeBundle } from '../cluster/bundle.ts'
import type { Centroids } from '../cluster/hnsw.ts'
import { assignAll, kmeans, type Points } from '../cluster/kmeans.ts'
import {
  readTrajectories,
  readTrajectoriesMeta,
  type Trajectories,
  type TrajectoriesMeta,
} from '../cluster/trajectories.ts'
import { XmasdError } from '../errors.ts'
import { startProgress } from '../observe/progress.ts'
import { countOnce } from '../select/duplicates.ts'
import { SMALL_CLUSTER_SIZE_MAX } from '../select/quotas.ts'
import { integer, positiveInteger } from './options.ts'

type Options = {
  trajectories: string
  out: string
  clusters: number
  seed: number
  centroids?: string
  json?: boolean
}

export function fitCommand(): Command {
  return new Command('fit')
    .description('Cluster trajectories by k-means, or take given centroids, and write a bundle.')
    .requiredOption('--trajectories <file>', 'JSON lines that `xmasd score` wrote')
    .requiredOption('--out <dir>', 'folder of the bundle')
    .option('--clusters <k>', 'how many clusters', positiveInteger, 1000)
    .option('--seed <seed>', 'of the seeding; the same seed gives the same bundle', integer, 0)
    .addOption(
      new Option(
        '--centroids <file>',
        'safetensors with a tensor centroids [K, T]: no k-means',
      ).conflicts(['clusters', 'seed']),
    )
    .option('--json', 'report as one JSON document on stdout')
    .action(fit)
}

/** What the clusters are and how they came about. */
type Fitted = { centroids: Centroids; iterations: number; isConverged: boolean }

async function fit(options: Options): Promise<void> {
  const progress = startProgress('read', undefined)
  const read = await readTrajectories(options.trajectories, lines => progress.update(lines))
  progress.stop()
  const meta = await readTrajectoriesMeta(options.trajectories)
  checkInput(options, read, meta)
  const { counted, duplicates, redelivered } = countOnce(read.ids, read.keys)
  const points = pointsOf(read, counted)
  const { centroids, iterations, isConverged } =
    options.centroids === undefined ? fitKmeans(points, options) : given(options.centroids, points)
  const { assignment, objective } = assignAll(points, Float64Array.from(centroids.data))
  const sizes = new Array<number>(centroids.count).fill(0)
  for (const cluster of assignment) sizes[cluster]!++
  const { fingerprint = null, steps = null } = meta?.schedule ?? {}
  const textOnly = counted.length - points.count
  const manifest = await writeBundle(options.out, {
    centroids,
    schedule: { fingerprint, steps, T: points.dimensions },
    mode: meta?.mode ?? null,
    baseline: { examples: counted.length, textOnly, sizes },
  })
  const left = { textOnly, failed: read.failed, duplicates, redelivered }
  report(options, {
    v: 1,
    bundle: manifest.id,
    out: options.out,
    clusters: centroids.count,
    points: points.count,
    ...left,
    iterations,
    isConverged,
    objective,
    sizes: sizeQuantiles(sizes),
  })
}

function checkInput(options: Options, read: Trajectories, meta?: TrajectoriesMeta): void {
  const { count, dimensions } = read.points
  if (count === 0) {
    throw new XmasdError(
      'DATA_INVALID',
      `${options.trajectories} holds no trajectory (${read.ids.length} text-only, ${read.failed} failed)`,
      'Score examples with images first: xmasd score.',
    )
  }
  if (meta === undefined || meta.schedule.steps.length === dimensions) return
  throw new XmasdError(
    'DATA_INVALID',
    `${options.trajectories} has ${dimensions} scores a line, its .meta.json ${meta.schedule.steps.length} checkpoints`,
    'Score again, or remove the .meta.json that belongs to another file.',
  )
}

/** The points of the examples that count, each once, in order. */
function pointsOf({ points, rows }: Trajectories, counted: readonly number[]): Points {
  const { data, dimensions } = points
  const wanted = counted.map(index => rows[index]!).filter(row => row >= 0)
  const compact = new Float64Array(wanted.length * dimensions)
  wanted.forEach((row, index) => {
    compact.set(data.subarray(row * dimensions, (row + 1) * dimensions), index * dimensions)
  })
  return { data: compact, count: wanted.length, dimensions }
}

function fitKmeans(points: Points, { clusters, seed }: Options): Fitted {
  let phase = ''
  let progress: ReturnType<typeof startProgress> | undefined
  const found = kmeans(points, {
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
  const count = found.centroids.length / points.dimensions
  if (count < clusters) {
    process.stderr.write(
      `xmasd: only ${count} clusters, not ${clusters}: there are no more distinct trajectories\n`,
    )
  }
  const data = Float32Array.from(found.centroids)
  const centroids = { data, count, dimensions: points.dimensions }
  return { centroids, iterations: found.objectives.length, isConverged: found.isConverged }
}

function given(file: string, { dimensions }: Points): Fitted {
  const centroids = readCentroids(file)
  if (centroids.dimensions !== dimensions) {
    throw new XmasdError(
      'DATA_INVALID',
      `${file} has centroids of ${centroids.dimensions} scores, the trajectories have ${dimensions}`,
      'Centroids and trajectories must be of the same schedule.',
    )
  }
  return { centroids, iterations: 0, isConverged: true }
}

type Sizes = { min: number; p25: number; median: number; p75: number; max: number; small: number }

/** `small`: clusters of at most two examples, which give nothing to a subset. */
function sizeQuantiles(sizes: readonly number[]): Sizes {
  const sorted = [...sizes].sort((a, b) => a - b)
  const at = (share: number): number => sorted[Math.round(share * (sorted.length - 1))]!
  const small = sizes.filter(size => size <= SMALL_CLUSTER_SIZE_MAX).length
  return { min: at(0), p25: at(0.25), median: at(0.5), p75: at(0.75), max: at(1), small }
}

type Report = {
  v: 1
  bundle: string
  out: string
  clusters: number
  points: number
  textOnly: number
  failed: number
  duplicates: number
  redelivered: number
  iterations: number
  isConverged: boolean
  objective: number
  sizes: Sizes
}

function report(options: Options, found: Report): void {
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify(found)}\n`)
    return
  }
  const { sizes } = found
  const how = found.isConverged ? '' : ', not yet at rest'
  process.stdout.write(
    `bundle ${found.bundle}: ${found.clusters} clusters of ${found.points} trajectories\n` +
      `  left out    ${found.textOnly} text-only, ${found.failed} failed, ${found.duplicates} duplicates, ${found.redelivered} repeated\n` +
      `  iterations  ${found.iterations}${how}; sum of squared distances ${found.objective.toPrecision(6)}\n` +
      `  sizes       ${sizes.min} smallest, ${sizes.p25} ${sizes.median} ${sizes.p75} quartiles, ${sizes.max} largest; ${sizes.small} too small to give any\n` +
      `written to ${found.out}\n` +
      `next: xmasd select --trajectories ${options.trajectories} --bundle ${found.out} --percent 20 --out subset.json\n`,
  )
}
