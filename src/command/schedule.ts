/** `schedule`: is a proxy's schedule of use. Scores a few examples, and says what speaks against it. */
import { Command } from 'commander'
import { judgeSchedule, type ScheduleQuality } from '../cluster/schedule-quality.ts'
import { type Config, loadConfig, type Overrides } from '../config.ts'
import { DEVICES, ENGINES } from '../engine/engine.ts'
import { messageOf, XmasdError } from '../errors.ts'
import { readExamples } from '../ingest/data/read.ts'
import { type ScoredRecord, startPipeline } from '../score/pipeline.ts'
import { FileNotes, FLAGS, inFlags, positiveInteger, print, warn } from './helpers/options.ts'

type Options = {
  data: string
  images?: string
  base?: string
  template?: string
  engine?: string
  device?: string
  limit: number
  json?: boolean
}

export function command(): Command {
  return new Command('schedule')
    .description('Judge the checkpoints of a proxy: loss and score by checkpoint, and a verdict.')
    .argument('<path>', 'folder of checkpoint-N/, whole models or LoRA adapters')
    .requiredOption(
      '--data <file>',
      'a file in a form of docs/data.md; better not what the proxy was trained on',
    )
    .option('--images <dir>', 'folder that image paths are relative to (default: ./images)')
    .option('--base <dir>', 'base model of LoRA checkpoints')
    .option('--template <name>', 'a built-in template or a JSON file {system,image,user,assistant}')
    .option('--engine <engine>', ENGINES.join(' or '))
    .option('--device <device>', `auto, ${DEVICES.join(', ')}`)
    .option('--limit <n>', 'examples to score', positiveInteger, 200)
    .option('--json', 'one JSON document on stdout')
    .action((path: string, options: Options) => {
      const overrides: Overrides = {
        'proxy.path': path,
        'proxy.base': options.base,
        'proxy.template': options.template,
        'proxy.engine': options.engine,
        'proxy.device': options.device,
        'images.root': options.images,
      }
      return inFlags(overrides, () => schedule(path, options, overrides))
    })
}

async function schedule(path: string, options: Options, overrides: Overrides): Promise<void> {
  const config = loadConfig(undefined, process.env, overrides, FLAGS)
  const notes = new FileNotes()
  const values: Uint8Array[] = []
  for await (const value of readExamples(options.data, options.limit, notes.add)) values.push(value)
  const attention = await rowsOf(config, 'attention', values)
  const losses = await rowsOf(config, 'loss', values).catch((error: unknown) => {
    if (!(error instanceof XmasdError)) throw error
    warn(`the losses are not known: ${messageOf(error)}`)
    return undefined
  })
  const scored = [...attention.rows.keys()].filter(i => losses === undefined || losses.rows.has(i))
  if (scored.length < 2) {
    throw new XmasdError(
      'DATA_INVALID',
      `${scored.length} of ${values.length} examples of ${options.data} could be scored${notes.said()}`,
      attention.failure ?? 'give examples with pictures',
    )
  }
  const quality = judgeSchedule({
    steps: attention.steps,
    trajectories: scored.map(i => attention.rows.get(i)!),
    losses: losses && scored.map(i => losses.rows.get(i)!),
  })
  const document = { path, template: attention.template, ...quality, leftOut: notes.leftOut }
  print(options, document, linesOf(path, quality, notes))
  if (quality.verdict === 'useless') process.exitCode = 1
}

/** The trajectories of those that have one, by their place in `values`. */
async function rowsOf(config: Config, metric: 'attention' | 'loss', values: readonly Uint8Array[]) {
  const pipeline = await startPipeline({ ...config, proxy: { ...config.proxy, metric } })
  try {
    const rows = new Map<number, number[]>()
    let failure: string | undefined
    for (const [i, one] of (await pipeline.score(values)).entries()) {
      if (one.kind === 'failed') failure ??= failureOf(one)
      else if (one.trajectory !== null) rows.set(i, one.trajectory)
    }
    const { steps } = pipeline.scores.schedule
    return { steps, rows, failure, template: pipeline.prompt.origin }
  } finally {
    await pipeline.close()
  }
}

function failureOf({ error }: Extract<ScoredRecord, { kind: 'failed' }>): string {
  return `${error.message}: ${error.hint}`
}

const VERDICTS: Record<ScheduleQuality['verdict'], string> = {
  good: 'good: nothing speaks against this schedule',
  weak: 'weak: it can be used, but',
  useless: 'useless: clusters of these scores say nothing of the data, because',
}

function linesOf(path: string, quality: ScheduleQuality, notes: FileNotes): string[] {
  const { examples, checkpoints, movement, agreement, stability, verdict, reasons } = quality
  const cell = (value: number | null, digits: number): string =>
    (value === null ? '-' : value.toFixed(digits)).padStart(10)
  const without = new Map(agreement.map(one => [one.without, one.adjustedRand]))
  return [
    `${path}: ${checkpoints.length} checkpoints, ${examples} examples${notes.said()}`,
    `${['step', 'loss', 'score', 'moved'].map(name => name.padStart(10)).join('')}  agreement without it`,
    ...checkpoints.map(({ step, loss, score, moved }) =>
      [
        String(step).padStart(10),
        cell(loss, 4),
        cell(score, 4),
        cell(moved, 4),
        cell(without.get(step) ?? null, 2).padStart(22),
      ].join(''),
    ),
    `an example's score moves by ${(100 * movement).toFixed(1)} % of its size over the schedule; clusters agree by ${stability.toFixed(2)} between seeds`,
    VERDICTS[verdict],
    ...reasons.map(reason => `  - ${reason}`),
  ]
}
