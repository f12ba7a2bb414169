/** `select`: the batch rule over a file of trajectories. */
import { Command, Option } from 'commander'
import { type Bundle, openBundle, similarityModelOf } from '../bundle/bundle.ts'
import {
  comparedAt,
  nearestClusters,
  readTrajectories,
  readTrajectoriesMeta,
  type Trajectories,
} from '../cluster/trajectories.ts'
import { loadConfig } from '../config.ts'
import { XmasdError } from '../errors.ts'
import { withoutProtected } from '../history/trajectories.ts'
import { readExamples } from '../ingest/data/read.ts'
import { idIn } from '../ingest/form/decode.ts'
import { jsonText } from '../ingest/form/json.ts'
import { startProgress } from '../observe/progress.ts'
import type { ComparedFields } from '../record.ts'
import { checkGains } from '../role/bundle-checks.ts'
import { differenceOf, recordedIdentity } from '../score/identity.ts'
import { countOnce } from '../select/dedup/duplicates.ts'
import { flagNearDuplicates } from '../select/dedup/near-duplicates.ts'
import { protectionOf } from '../select/dedup/protected.ts'
import { type BatchSelection, type Ranked, selectBatch } from '../select/rule/quotas.ts'
import {
  type Gained,
  isMisaligned,
  orderOf,
  RANKS,
  type Rank,
  type Ranking,
} from '../select/rule/rank.ts'
import { FLAGS, finiteNumber, percent, positiveInteger, print } from './helpers/options.ts'
import { checkNotRead, writeJsonArray } from './helpers/output.ts'

type Options = {
  trajectories: string
  bundle: string
  percent: number
  out: string
  data?: string[]
  nearDuplicates?: boolean
  exemplarsMax: number
  rank: Rank
  gainMin?: number
  json?: boolean
}

export function command(): Command {
  return new Command('select')
    .description('Select a balanced subset of a file of trajectories by the batch rule.')
    .requiredOption('--trajectories <file>', 'JSON lines that `xmasd score` wrote')
    .requiredOption('--bundle <dir>', 'folder that `xmasd fit` wrote')
    .requiredOption('--percent <p>', 'share of the examples to keep, 0..100', percent)
    .requiredOption('--out <file>', 'JSON array of keys, in the order of the rule')
    .option(
      '--data <files...>',
      'the data files that were scored: write their selected examples, in order',
    )
    .addOption(
      new Option('--rank <what>', 'what orders the examples of a cluster')
        .choices(RANKS)
        .default('instability'),
    )
    .option('--gain-min <nats>', 'drop examples of a lower image gain as misaligned', finiteNumber)
    .option('--near-duplicates', 'drop them too, as the daemon with select.nearDuplicates.enabled')
    .option('--exemplars-max <n>', 'select.nearDuplicates.exemplarsMax', positiveInteger, 1_000_000)
    .option('--json', 'one JSON document on stdout')
    .action(select)
}

async function select(options: Options): Promise<void> {
  await checkNotRead(options.out, [options.trajectories, ...(options.data ?? [])])
  const bundle = await openBundle(options.bundle)
  const progress = startProgress('read', undefined)
  const read = await readTrajectories(options.trajectories, {
    signatures: [bundle.manifest.signature],
    onProgress: lines => progress.update(lines),
  })
  progress.stop()
  await checkBundleFits(options, bundle, read)
  checkGains(bundle, options)
  const once = countOnce(read.ids, read.keys)
  const free = withoutProtected(read, once.counted, protectionOf(bundle))
  const aligned = free.filter(index => !isMisaligned(options, measuredAt(read, index)))
  const counted =
    options.nearDuplicates === true ? withoutNear(read, aligned, bundle, options) : aligned
  const misaligned = free.length - aligned.length
  const ranked = rank(read, counted, bundle, options)
  const selection = selectBatch(ranked, options.percent, misaligned)
  const selected = selection.selected.map(index => counted[index]!)
  const entries =
    options.data === undefined
      ? selected.map(index => JSON.stringify(read.keys[index]))
      : examplesOf(options, options.data, read, selected)
  await writeJsonArray(options.out, entries)
  const { duplicates, redelivered } = once
  const nearDuplicates = aligned.length - counted.length
  const copies = once.counted.length - free.length
  const left = { failed: read.failed, duplicates, nearDuplicates, protected: copies, redelivered }
  report(options, bundle, counted.length + misaligned, selection, { ...left, misaligned })
}

/** Throws BUNDLE_MISMATCH where the scores of `read` are not those that the bundle was fitted to. */
export async function checkBundleFits(
  options: Pick<Options, 'bundle' | 'trajectories'>,
  bundle: Bundle,
  read: Trajectories,
): Promise<void> {
  const { signature, schedule } = bundle.manifest
  const meta = await readTrajectoriesMeta(options.trajectories)
  const { count, dimensions } = read.points
  const lacking = read.lacking.get(signature)
  const own = bundle.index.centroids.dimensions
  const found = read.signatures.get(signature)?.dimensions ?? own
  const difference = meta && differenceOf(recordedIdentity(bundle.manifest), recordedIdentity(meta))
  const mismatch =
    count > 0 && dimensions !== schedule.T
      ? `${schedule.T} scores a trajectory, the file has ${dimensions}`
      : difference !== undefined
        ? `${difference.one}, the file has ${difference.other}`
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

/** Without those of `counted` that are near-duplicates of an earlier one. Throws BUNDLE_MISMATCH. */
function withoutNear(
  read: Trajectories,
  counted: readonly number[],
  { manifest }: Bundle,
  { exemplarsMax }: Options,
): number[] {
  const model = similarityModelOf(manifest)
  const isNear = [...flagNearDuplicates(comparedOf(read, counted), model, { exemplarsMax })]
  return counted.filter((_, i) => !isNear[i])
}

function* comparedOf(read: Trajectories, counted: readonly number[]): Generator<ComparedFields> {
  for (const index of counted) yield comparedAt(read, index)
}

function measuredAt({ instability, gain, keys }: Trajectories, index: number): Gained {
  return { instability: instability[index]!, gain: gain[index]!, key: keys[index]! }
}

function rank(
  read: Trajectories,
  counted: readonly number[],
  bundle: Bundle,
  ranking: Ranking,
): Ranked[] {
  const clusters = nearestClusters(read, bundle)
  return counted.map(index => {
    const id = read.ids[index]!
    const cluster = clusters[index]!
    if (cluster === null) return { cluster: 'text', instability: null, id }
    return { cluster, instability: orderOf(ranking, measuredAt(read, index)), id }
  })
}

/** The raw selected examples of `data`, which must hold the ids of the trajectories, line by line. */
async function* examplesOf(
  options: Options,
  data: readonly string[],
  read: Trajectories,
  selected: readonly number[],
): AsyncIterable<string> {
  const wanted = new Set(selected.map(index => read.lines[index]!))
  const { fields } = loadConfig(undefined, process.env, {}, FLAGS).data
  let line = 0
  for await (const bytes of readExamples(data)) {
    const expected = read.lineIds[line]
    const found = idIn(bytes, fields)
    // The id of an example that has none was made when it was scored.
    const isOther = expected !== undefined && found !== undefined && found !== expected
    if (line >= read.lineIds.length || isOther) {
      throw otherData(options, data, `example ${line + 1} is ${found}, not ${expected ?? 'there'}`)
    }
    if (wanted.has(line)) yield jsonText(bytes)
    line++
  }
  if (line === read.lineIds.length) return
  throw otherData(options, data, `it has ${line} examples, not ${read.lineIds.length}`)
}

type Left = 'failed' | 'duplicates' | 'nearDuplicates' | 'protected' | 'redelivered' | 'misaligned'

function report(
  options: Options,
  bundle: Bundle,
  examples: number,
  selection: BatchSelection,
  left: Record<Left, number>,
): void {
  const { budget, clusters, selected } = selection
  const { percent, out } = options
  const counts = { examples, ...left, budget, selected: selected.length }
  const exhausted = clusters.filter(({ size, taken }) => size === taken).length
  print(options, { bundle: bundle.id, percent, ...counts, clusters, out }, [
    `${selected.length} of ${examples} examples selected (budget ${budget}, ${percent} %)`,
    `  left out  ${left.failed} failed, ${left.duplicates} duplicates, ${left.nearDuplicates} near-duplicates, ${left.protected} protected, ${left.redelivered} repeated`,
    ...(options.gainMin === undefined
      ? []
      : [`  misaligned ${left.misaligned}, of an image gain below ${options.gainMin}`]),
    `  clusters  ${clusters.length} give some, ${exhausted} of them all they have`,
    `written to ${out}`,
  ])
}

function otherData(options: Options, data: readonly string[], what: string): XmasdError {
  return new XmasdError(
    'DATA_INVALID',
    `${data.join(', ')} is not what ${options.trajectories} was scored from: ${what}`,
    'Give the file that `xmasd score --data` read, unchanged.',
  )
}
