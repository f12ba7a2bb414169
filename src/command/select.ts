/** `select`: the batch rule over a file of trajectories. */
import { Command } from 'commander'
import { nearestClusters } from '../cluster/assign.ts'
import { type Bundle, openBundle } from '../cluster/bundle.ts'
import {
  readTrajectories,
  readTrajectoriesMeta,
  type Trajectories,
} from '../cluster/trajectories.ts'
import { XmasdError } from '../errors.ts'
import { readExamples } from '../ingest/data.ts'
import { startProgress } from '../observe/progress.ts'
import { nearnessOf } from '../role/clusters-in-force.ts'
import { countOnce } from '../select/duplicates.ts'
import { tellNear } from '../select/near-duplicates.ts'
import type { Likeness } from '../select/parse.ts'
import { type BatchSelection, type Ranked, selectBatch } from '../select/quotas.ts'
import { writeJsonArray } from './json-array.ts'
import { percent, positiveInteger } from './options.ts'

type Options = {
  trajectories: string
  bundle: string
  percent: number
  out: string
  data?: string
  nearDuplicates?: boolean
  exemplarsMax: number
  json?: boolean
}

export function selectCommand(): Command {
  return new Command('select')
    .description('Select a balanced subset of a file of trajectories by the batch rule.')
    .requiredOption('--trajectories <file>', 'JSON lines that `xmasd score` wrote')
    .requiredOption('--bundle <dir>', 'folder that `xmasd fit` wrote')
    .requiredOption('--percent <p>', 'share of the examples to keep, 0..100', percent)
    .requiredOption('--out <file>', 'JSON array of keys, in the order of the rule')
    .option(
      '--data <file>',
      'LLaVA file that was scored: write its selected examples, in its order',
    )
    .option(
      '--near-duplicates',
      'leave them out too, as the daemon with select.nearDuplicates.enabled and a log that begins with this bundle',
    )
    .option('--exemplars-max <n>', 'select.nearDuplicates.exemplarsMax', positiveInteger, 1_000_000)
    .option('--json', 'report as one JSON document on stdout')
    .action(select)
}

async function select(options: Options): Promise<void> {
  const bundle = await openBundle(options.bundle)
  const progress = startProgress('read', undefined)
  const read = await readTrajectories(options.trajectories, {
    signatures: [bundle.manifest.signature],
    onProgress: lines => progress.update(lines),
  })
  progress.stop()
  await checkBundleFits(options, bundle, read)
  const once = countOnce(read.ids, read.keys)
  const counted =
    options.nearDuplicates === true
      ? withoutNear(read, once.counted, bundle, options)
      : once.counted
  const selection = selectBatch(rank(read, counted, bundle), options.percent)
  const selected = selection.selected.map(index => counted[index]!)
  const entries =
    options.data === undefined
      ? selected.map(index => JSON.stringify(read.keys[index]))
      : examplesOf(options, options.data, read, selected)
  await writeJsonArray(options.out, entries)
  const { duplicates, redelivered } = once
  const nearDuplicates = once.counted.length - counted.length
  const left = { failed: read.failed, duplicates, nearDuplicates, redelivered }
  report(options, bundle, counted.length, selection, left)
}

/** Throws BUNDLE_MISMATCH where `read` is of another schedule, mode, metric or precision than the bundle. */
export async function checkBundleFits(
  options: Pick<Options, 'bundle' | 'trajectories'>,
  bundle: Bundle,
  read: Trajectories,
): Promise<void> {
  const { schedule, mode, metric = 'attention', precision = 'float32' } = bundle.manifest
  const { signature } = bundle.manifest
  const meta = await readTrajectoriesMeta(options.trajectories)
  const { count, dimensions } = read.points
  const lacking = read.lacking.get(signature)
  const own = bundle.index.centroids.dimensions
  const found = read.signatures.get(signature)?.dimensions ?? own
  const isOther = (a: string | null, b: string | null | undefined): boolean =>
    a !== null && b !== null && b !== undefined && a !== b
  const mismatch =
    count > 0 && dimensions !== schedule.T
      ? `${schedule.T} scores a trajectory, the file has ${dimensions}`
      : isOther(metric, meta?.metric)
        ? `metric ${metric}, the file was scored by ${meta?.metric}`
        : isOther(mode, meta?.mode)
          ? `mode ${mode}, the file was scored in mode ${meta?.mode}`
          : isOther(precision, meta?.precision)
            ? `precision ${precision}, the file was scored in ${meta?.precision}`
            : isOther(schedule.fingerprint, meta?.schedule.fingerprint)
              ? `schedule ${schedule.fingerprint}, the file was scored with ${meta?.schedule.fingerprint}`
              : lacking !== undefined
                ? `signature ${signature}, which line ${lacking} lacks`
                : count > 0 && found !== own
                  ? `${own} values of ${signature}, the file has ${found}`
                  : undefined
  if (mismatch === undefined) return
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `${options.bundle} does not fit ${options.trajectories}: the bundle is for ${mismatch}`,
    'Use the bundle that was fitted to trajectories of the same proxy and mode.',
  )
}

/** Those of `counted` that are near to none before them. Throws BUNDLE_MISMATCH. */
function withoutNear(
  read: Trajectories,
  counted: readonly number[],
  { manifest }: Bundle,
  { exemplarsMax }: Options,
): number[] {
  const near = tellNear(likenessOf(read, counted), nearnessOf(manifest), { exemplarsMax })
  const isNear = [...near]
  return counted.filter((_, i) => !isNear[i])
}

function* likenessOf(
  { points, rows, likeness }: Trajectories,
  counted: readonly number[],
): Generator<Partial<Likeness>> {
  const T = points.dimensions
  for (const index of counted) {
    const at = rows[index]! * T
    const trajectory = at < 0 ? null : [...points.data.subarray(at, at + T)]
    yield { ...likeness[index], trajectory }
  }
}

function rank(read: Trajectories, counted: readonly number[], bundle: Bundle): Ranked[] {
  const clusters = nearestClusters(read, bundle)
  return counted.map(index => {
    const id = read.ids[index]!
    const cluster = clusters[index]!
    if (cluster === null) return { cluster: 'text', instability: null, id }
    return { cluster, instability: read.instability[index]!, id }
  })
}

/** The selected examples as they stand in `data`, which must hold the same ids, line by line. */
async function* examplesOf(
  options: Options,
  data: string,
  read: Trajectories,
  selected: readonly number[],
): AsyncIterable<string> {
  const wanted = new Set(selected.map(index => read.lines[index]!))
  let line = 0
  for await (const bytes of readExamples(data)) {
    const text = Buffer.from(bytes).toString()
    const expected = read.lineIds[line]
    const found = idOf(text)
    if (line >= read.lineIds.length || (expected !== undefined && found !== expected)) {
      throw otherData(options, data, `example ${line + 1} is ${found}, not ${expected ?? 'there'}`)
    }
    if (wanted.has(line)) yield text
    line++
  }
  if (line === read.lineIds.length) return
  throw otherData(options, data, `it has ${line} examples, not ${read.lineIds.length}`)
}

/** Undefined where it has none, which is only good for an example that could not be scored. */
function idOf(text: string): string | undefined {
  try {
    const id: unknown = JSON.parse(text)?.id
    return typeof id === 'string' || typeof id === 'number' ? String(id) : undefined
  } catch {
    return undefined
  }
}

function report(
  options: Options,
  bundle: Bundle,
  examples: number,
  selection: BatchSelection,
  left: { failed: number; duplicates: number; nearDuplicates: number; redelivered: number },
): void {
  const { budget, clusters, selected } = selection
  const { percent, out } = options
  if (options.json === true) {
    const counts = { examples, ...left, budget, selected: selected.length }
    const document = { v: 1, bundle: bundle.id, percent, ...counts, clusters, out }
    process.stdout.write(`${JSON.stringify(document)}\n`)
    return
  }
  const exhausted = clusters.filter(({ size, taken }) => size === taken).length
  process.stdout.write(
    `${selected.length} of ${examples} examples selected (budget ${budget}, ${percent} %)\n` +
      `  left out  ${left.failed} failed, ${left.duplicates} duplicates, ${left.nearDuplicates} near-duplicates, ${left.redelivered} repeated\n` +
      `  clusters  ${clusters.length} give some, ${exhausted} of them all they have\n` +
      `written to ${out}\n`,
  )
}

function otherData(options: Options, data: string, what: string): XmasdError {
  return new XmasdError(
    'DATA_INVALID',
    `${data} is not what ${options.trajectories} was scored from: ${what}`,
    'Give the file that `xmasd score --data` read, unchanged.',
  )
}
