/** `export-metrics`: trajectories and a bundle -> the files that the published code works on. */
import { rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { Command } from 'commander'
import { nearestClusters } from '../cluster/assign.ts'
import { openBundle } from '../cluster/bundle.ts'
import { writeById } from '../cluster/metric-files.ts'
import type { Signature } from '../cluster/signature.ts'
import {
  readTrajectories,
  readTrajectoriesMeta,
  type Trajectories,
  type TrajectoriesMeta,
} from '../cluster/trajectories.ts'
import { XmasdError } from '../errors.ts'
import { readExamples } from '../ingest/data.ts'
import { type Named, namesOf, uniqueIds } from '../ingest/unique-id.ts'
import type { Metric } from '../score/metric.ts'
import { VALUES } from '../score/singular.ts'
import { namesIn, notEmpty } from './out-folder.ts'
import { checkBundleFits } from './select.ts'

type Options = {
  trajectories: string
  data?: string
  bundle?: string
  out: string
  force?: boolean
  json?: boolean
}

export function exportMetricsCommand(): Command {
  return new Command('export-metrics')
    .description('Write trajectories, and clusters, as the files of the published code.')
    .requiredOption('--trajectories <file>', 'JSON lines that `xmasd score` wrote')
    .requiredOption(
      '--out <dir>',
      'folder for attn_svd_files/ or loss_files/ and what goes with it',
    )
    .option('--data <file>', 'the LLaVA file that was scored: unique ids, and unique2orig.json')
    .option('--bundle <dir>', 'folder that `xmasd fit` wrote: …_cluster_idxs.json')
    .option('--force', 'replace what an earlier export left in --out')
    .option('--json', 'report as one JSON document on stdout')
    .action(exportMetrics)
}

/** What the published code calls its metrics. */
const NAMES = { attention: 'attn_svd', loss: 'loss' } as const

async function exportMetrics(options: Options): Promise<void> {
  const { out, trajectories } = options
  const bundle = options.bundle === undefined ? undefined : await openBundle(options.bundle)
  const meta = await metaOf(trajectories)
  const earlier = earlierFiles(options, meta.metric)
  const own = meta.metric === 'loss' ? 'sum' : 'spectrum'
  const signatures = [own, bundle?.manifest.signature ?? own] as const
  const read = await readTrajectories(trajectories, { signatures })
  checkInput(options, read, meta, signatures)
  if (bundle !== undefined) {
    await checkBundleFits({ trajectories, bundle: bundle.dir }, bundle, read)
  }
  const ids =
    options.data === undefined ? read.keys : await uniqueIdsOf(options.data, options, read)
  for (const file of earlier) rmSync(file, { force: true })
  const scored = [...ids.keys()].filter(index => read.rows[index]! >= 0)
  const byId = <T>(from: (index: number) => T): [string, T][] =>
    scored.map(index => [ids[index]!, from(index)])
  const files: string[] = []
  const write = (name: string, entries: [string, unknown][]): void => {
    writeById(join(out, name), entries)
    files.push(name)
  }
  for (const [t, step] of meta.schedule.steps.entries()) {
    write(
      metricFile(meta.metric, step),
      byId(index => valueAt(read, own, index, t)),
    )
  }
  const { stability, clusters: ofClusters, order } = namesOfOthers(meta.metric)
  write(
    stability,
    byId(i => read.instability[i]!),
  )
  if (bundle !== undefined) {
    const clusters = nearestClusters(read, bundle)
    write(
      ofClusters,
      byId(index => clusters[index]!),
    )
  }
  if (options.data !== undefined) {
    write(
      order,
      ids.map((id, index) => [id, read.lines[index]!]),
    )
  }
  report(options, scored.length, files)
}

function metricFile(metric: Metric, step: number): string {
  return metric === 'loss'
    ? `loss_files/checkpoint-${step}_loss.json`
    : `attn_svd_files/checkpoint-${step}_attn_svd_full_vals_top${VALUES}.json`
}

/** What goes with the metric files. */
function namesOfOthers(metric: Metric): { stability: string; clusters: string; order: string } {
  const name = NAMES[metric]
  return {
    stability: `${name}_stability_vals_top-${VALUES}_singular_vals.json`,
    clusters: `${name}_cluster_idxs.json`,
    order: 'unique2orig.json',
  }
}

/**
 * What an export of this metric may have left in the folder, with --force: its files beside new ones would be read
 * as one schedule. Throws FILE_EXISTS without it, or where there are metric files that no export has written.
 */
function earlierFiles({ out, force }: Options, metric: Metric): string[] {
  const names = namesIn(out)
  if (force !== true && names.length > 0) {
    const hint = 'Name another folder, or --force to replace an earlier export.'
    throw notEmpty(out, names, hint)
  }
  const folder = join(out, dirname(metricFile(metric, 0)))
  const files = namesIn(folder)
  const foreign = files.filter(name => {
    const step = Number(/^checkpoint-(\d+)_/.exec(name)?.[1])
    return name !== basename(metricFile(metric, step))
  })
  if (foreign.length > 0) {
    const hint = 'Name another folder; --force removes only what an earlier export left.'
    throw notEmpty(folder, foreign, hint)
  }
  const others = Object.values(namesOfOthers(metric)).map(name => join(out, name))
  return [...files.map(name => join(folder, name)), ...others]
}

/** At checkpoint `t`: the 5 singular values, or the loss. */
function valueAt(
  read: Trajectories,
  signature: 'sum' | 'spectrum',
  index: number,
  t: number,
): number | number[] {
  const { data, dimensions } = read.signatures.get(signature)!
  const start = read.rows[index]! * dimensions
  if (signature === 'sum') return data[start + t]!
  return [...data.subarray(start + t * VALUES, start + (t + 1) * VALUES)]
}

async function metaOf(trajectories: string): Promise<TrajectoriesMeta> {
  const meta = await readTrajectoriesMeta(trajectories)
  if (meta !== undefined) return meta
  throw new XmasdError(
    'DATA_INVALID',
    `${trajectories}.meta.json is not there: nothing says which checkpoints the scores are of`,
    'Keep the .meta.json that `xmasd score` or `xmasd import-metrics` wrote beside its file.',
  )
}

function checkInput(
  { trajectories, bundle }: Options,
  read: Trajectories,
  meta: TrajectoriesMeta,
  signatures: readonly Signature[],
): void {
  const { count, dimensions } = read.points
  const lacking = signatures.find(signature => read.lacking.has(signature))
  const reason =
    count === 0
      ? 'holds no trajectory'
      : dimensions !== meta.schedule.steps.length
        ? `has ${dimensions} scores a line, its .meta.json ${meta.schedule.steps.length} checkpoints`
        : lacking !== undefined
          ? `lacks what ${lacking} is made of in line ${read.lacking.get(lacking)}`
          : undefined
  if (reason === undefined) return
  throw new XmasdError(
    'DATA_INVALID',
    `${trajectories} ${reason}`,
    bundle === undefined ? 'Score again: xmasd score.' : `Score again, and fit ${bundle} to it.`,
  )
}

/** Of the examples that `read` holds, by their lines. */
async function uniqueIdsOf(
  data: string,
  { trajectories }: Options,
  { lines, lineIds }: Trajectories,
): Promise<string[]> {
  const examples: Named[] = []
  for await (const bytes of readExamples(data)) examples.push(namesOf(bytes))
  const other = examples.findIndex(({ id }, line) => {
    return line >= lineIds.length || (lineIds[line] ?? String(id)) !== String(id)
  })
  if (other < 0 && examples.length === lineIds.length) {
    const ids = uniqueIds(examples)
    return lines.map(line => ids[line]!)
  }
  throw new XmasdError(
    'DATA_INVALID',
    `${data} is not what ${trajectories} was scored from: it has ${examples.length} examples, ` +
      `the file ${lineIds.length}${other < 0 ? '' : `, and example ${other + 1} differs`}`,
    'Give the file that was scored, unchanged.',
  )
}

function report({ out, json }: Options, examples: number, files: readonly string[]): void {
  if (json === true) {
    process.stdout.write(`${JSON.stringify({ v: 1, examples, out, files })}\n`)
    return
  }
  process.stdout.write(`${examples} examples written to ${out}:\n  ${files.join('\n  ')}\n`)
}
