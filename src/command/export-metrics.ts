/** `export-metrics`: trajectories and a bundle -> files that the published code reads. */
import { rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { Command } from 'commander'
import { openBundle } from '../bundle/bundle.ts'
import type { Signature } from '../bundle/signature.ts'
import { type Named, namesOf, uniqueIds, writeById } from '../cluster/interchange.ts'
import {
  nearestClusters,
  readTrajectories,
  readTrajectoriesMeta,
  type Trajectories,
  type TrajectoriesMeta,
} from '../cluster/trajectories.ts'
import { XmasdError } from '../errors.ts'
import { readExamples } from '../ingest/data/read.ts'
import { VALUES } from '../math/singular-values.ts'
import type { Metric } from '../score/metric.ts'
import { print } from './helpers/options.ts'
import { namesIn, notEmpty } from './helpers/output.ts'
import { checkBundleFits } from './select.ts'

type Options = {
  trajectories: string
  data?: string
  bundle?: string
  out: string
  force?: boolean
  json?: boolean
}

export function command(): Command {
  return new Command('export-metrics')
    .description('Write trajectories and clusters as the files of the published code.')
    .requiredOption('--trajectories <file>', 'JSON lines that `xmasd score` wrote')
    .requiredOption('--out <dir>', 'folder for attn_svd_files/ or loss_files/ and the other files')
    .option('--data <file>', 'the LLaVA file that was scored: unique ids, and unique2orig.json')
    .option('--bundle <dir>', 'folder that `xmasd fit` wrote: …_cluster_idxs.json')
    .option('--force', 'replace an earlier export in --out')
    .option('--json', 'one JSON document on stdout')
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
  print(options, { examples: scored.length, out, files }, [
    `${scored.length} examples written to ${out}:`,
    ...files.map(file => `  ${file}`),
  ])
}

function metricFile(metric: Metric, step: number): string {
  return metric === 'loss'
    ? `loss_files/checkpoint-${step}_loss.json`
    : `attn_svd_files/checkpoint-${step}_attn_svd_full_vals_top${VALUES}.json`
}

/** Names of the files beside the metric files. */
function namesOfOthers(metric: Metric): { stability: string; clusters: string; order: string } {
  const name = NAMES[metric]
  return {
    stability: `${name}_stability_vals_top-${VALUES}_singular_vals.json`,
    clusters: `${name}_cluster_idxs.json`,
    order: 'unique2orig.json',
  }
}

/**
 * Files of an earlier export of this metric, to be removed with --force: beside new ones they would be
 * read as one schedule. Throws FILE_EXISTS without it, and for metric files that no export writes.
 */
function earlierFiles({ out, force }: Options, metric: Metric): string[] {
  const names = namesIn(out)
  if (force !== true && names.length > 0) {
    const hint = 'name another folder, or --force to replace an earlier export'
    throw notEmpty(out, names, hint)
  }
  const folder = join(out, dirname(metricFile(metric, 0)))
  const files = namesIn(folder)
  const foreign = files.filter(name => {
    const step = Number(/^checkpoint-(\d+)_/.exec(name)?.[1])
    return name !== basename(metricFile(metric, step))
  })
  if (foreign.length > 0) {
    const hint = 'name another folder; --force removes only what an earlier export wrote'
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
    `${trajectories}.meta.json is missing: it names the checkpoints of the scores`,
    'keep the .meta.json that `xmasd score` or `xmasd import-metrics` writes beside its file',
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
          ? `lacks the values of signature ${lacking} in line ${read.lacking.get(lacking)}`
          : undefined
  if (reason === undefined) return
  throw new XmasdError(
    'DATA_INVALID',
    `${trajectories} ${reason}`,
    bundle === undefined ? 'score again: xmasd score' : `score again, and fit ${bundle} to it`,
  )
}

/** Unique ids of the examples of `read`, found by their lines in `data`. */
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
    'give the file that was scored, unchanged',
  )
}
