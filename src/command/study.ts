/** `study`: does selecting pay on the user's own data? Trains targets on subsets and compares them. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { constants } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { loadConfig } from '../config.ts'
import { XmasdError } from '../errors.ts'
import { readExamples } from '../ingest/data/read.ts'
import { aboutSeconds } from '../observe/progress.ts'
import { shellWord } from '../observe/text.ts'
import { ARMS, armsHelp, CONTROLS } from '../study/arms.ts'
import { type StudyData, splitByPicture } from '../study/data.ts'
import { studyPage, withInterval } from '../study/page.ts'
import type { Plan } from '../study/plan.ts'
import { runStudy, type StudyOptions } from '../study/run.ts'
import { RUNS_FILE, type Run } from '../study/runs.ts'
import {
  type Judgement,
  judge,
  MEASURES,
  type Measure,
  sentenceOf,
  signed,
} from '../study/statistics.ts'
import {
  DATA_HELP,
  FileNotes,
  FLAGS,
  imagesOverride,
  inFlags,
  percent,
  positiveInteger,
  positiveNumber,
  print,
  warn,
} from './helpers/options.ts'
import { writeWhole } from './helpers/output.ts'
import { type ModelOptions, modelOf, withModelOptions } from './train.ts'

type Primary = { arm: string; percent: number }
type Options = ModelOptions & {
  data: string[]
  images: string
  out: string
  heldOut?: string[]
  heldOutPercent: number
  proxy?: string
  arms: string[]
  percents: number[]
  seeds: number
  primary?: Primary
  measure: Measure
  worth: number
  clusters?: number
  threads: number
  limit?: number
  json?: boolean
}

const HELP = `
For each seed the pictures are split into a pool and a held-out part. Each arm selects a subset of the
pool, a target is trained on it from scratch, always with --steps steps, and answers the held-out
examples. Results are averaged over families (the field "source" of a record; without it there is one)
and divided by those of a target trained on the whole pool. Arms are compared with random, seed by seed.

An arm is one base and any modifiers, such as sum or length+dedup; full and random are always run:
${armsHelp()}
source and +clean read labels: source+clean is the oracle that shows what could be won.

--out gets runs.jsonl, one line a run, and index.html. Stopped, by Ctrl-C too, the same command goes on;
more --seeds, --arms or --percents add runs. Name --primary before you look at results.

There are seeds × (1 + percents × (arms − 1)) runs of --steps steps, full among the arms, and a proxy a
seed. The time for all of them is estimated before the first, by a few steps.

A first look, in minutes: does it run on my data?
  xmasd study --data data.jsonl --images . --out study --arms sum,length --limit 1000 --steps 100
An answer, in hours: the same with --seeds 30, more --steps, and no --limit, into another --out.
`

export function command(): Command {
  const study = new Command('study')
    .description(
      'Measure on your own data whether selecting pays: train targets on subsets, compare.',
    )
    .requiredOption('--data <files...>', DATA_HELP)
    .requiredOption('--images <dir>', 'folder that image paths are relative to')
    .requiredOption('--out <dir>', 'folder for runs.jsonl and index.html')
    .option('--held-out <files...>', 'examples to evaluate on (default: split --data by picture)')
    .option('--held-out-percent <p>', 'share of the pictures to hold out', percent, 20)
    .option(
      '--proxy <dir>',
      'checkpoints that score (default: train some, half as wide, every seed)',
    )
    .addOption(
      new Option('--arms <list>', 'ways to select, listed below')
        .argParser(list)
        .default(ARMS, ARMS.join(',')),
    )
    .addOption(
      new Option('--percents <list>', 'sizes of the subsets, of the pool')
        .argParser(text => list(text).map(subsetPercent))
        .default([10], '10'),
    )
    .option('--seeds <n>', 'repetitions: 30 tell about 3 points', positiveInteger, 3)
    .option(
      '--primary <arm@p>',
      'the comparison that answers (default: sum, or without it the first arm, at the first size)',
      primary,
    )
    .addOption(
      new Option('--measure <name>', 'exact answers, tokens that are predicted, or loss')
        .choices(MEASURES)
        .default('exact'),
    )
    .option('--worth <points>', 'a difference that would be worth a selection', positiveNumber, 3)
    .option('--clusters <k>', 'as in fit (default: one for 20 examples)', positiveInteger)
    .option('--threads <n>', 'threads that compute', positiveInteger, 2)
    .option('--limit <n>', 'the first n examples of --data', positiveInteger)
  return withModelOptions(study)
    .option('--json', 'one JSON document on stdout')
    .addHelpText('after', HELP)
    .action(run)
}

function list(text: string): string[] {
  return text.split(',').map(part => part.trim())
}

function subsetPercent(text: string): number {
  const value = percent(text)
  if (value > 0 && value < 100) return value
  throw new InvalidArgumentError('It must be above 0 and below 100, which the arm full is.')
}

function primary(text: string): Primary {
  const [arm = '', share = ''] = text.split('@')
  if (arm !== '' && share !== '') return { arm, percent: subsetPercent(share) }
  throw new InvalidArgumentError(`"${text}": give an arm and a percent, such as sum@10.`)
}

async function run(options: Options): Promise<void> {
  const { percents, measure, worth } = options
  const named = options.primary ?? { arm: usualPrimary(options.arms), percent: percents[0]! }
  const arms = [...options.arms, named.arm]
  checkPrimary(named, percents)
  const notes = new FileNotes()
  const data = await dataOf(options, notes)
  const started = performance.now()
  const clock = new Clock()
  const studied = {
    data,
    arms,
    percents,
    seeds: Array.from({ length: options.seeds }, (_, i) => i + 1),
    target: modelOf(options),
    proxy: options.proxy,
    clusters: options.clusters,
    threads: options.threads,
    out: options.out,
    onPlan: (plan: Plan) => {
      clock.plan(plan)
      warn(planSaid(plan, options, notes))
      sayHowToGoOn(options.out)
    },
    onRun: (
      { seed, arm, percent }: Pick<Run, 'seed' | 'arm' | 'percent'>,
      done: number,
      total: number,
    ) => {
      const left = clock.left(done, total)
      const about = left === undefined ? '' : ` (${aboutSeconds(left)} left)`
      warn(`run ${done + 1} of ${total}: seed ${seed}, ${arm} at ${percent} %${about}`)
    },
  } satisfies StudyOptions
  const runs = await inFlags(imagesOverride(options), () => runStudy(studied))
  const judgement = judge(runs, { measure, worth })
  const page = join(options.out, 'index.html')
  const html = studyPage(judgement, runs, {
    title: data.name,
    primary: named,
    isNamed: options.primary !== undefined,
  })
  await writeWhole(page, temporary => writeFile(temporary, html))
  report(options, named, judgement, runs, { page, seconds: (performance.now() - started) / 1000 })
}

/** What answers where the user names nothing. */
function usualPrimary(arms: readonly string[]): string {
  return arms.includes('sum') ? 'sum' : (arms.find(arm => !CONTROLS.includes(arm)) ?? 'sum')
}

function checkPrimary({ arm, percent }: Primary, percents: readonly number[]): void {
  const isControl = CONTROLS.includes(arm)
  if (!isControl && percents.includes(percent)) return
  throw new XmasdError(
    'CONFIG_INVALID',
    isControl
      ? `--primary names ${arm}, which the other arms are compared with`
      : `--primary names ${arm} at ${percent} %, which is none of --percents`,
    isControl ? 'Name an arm that selects.' : 'Add the percent to --percents.',
  )
}

function planSaid(plan: Plan, { percents, seeds, steps }: Options, notes: FileNotes): string {
  const { runs, done, proxies, pool, heldOut, seconds } = plan
  const known = done === 0 ? '' : `, ${done} of them done`
  const trained = proxies === 0 ? '' : ` and ${proxies} ${proxies === 1 ? 'proxy' : 'proxies'}`
  const sizes = `a pool of ${pool} and ${heldOut} held-out examples${notes.said()}`
  const what = `${runs} runs${known}: ${seeds} ${seeds === 1 ? 'seed' : 'seeds'}, at ${percents.join(', ')} % of ${sizes}; ${steps} steps each`
  const cost =
    seconds === undefined
      ? ''
      : `; ${aboutSeconds(seconds)} for what is missing${trained} (fewer --arms, --seeds or --steps take less)`
  return what + cost
}

/** What is left of a study: as estimated before the first run, then as the runs of this call took. */
class Clock {
  #estimated: number | undefined
  #begun: { at: number; done: number } | undefined

  plan({ seconds, done }: Plan): void {
    this.#estimated = seconds
    this.#begun = { at: performance.now(), done }
  }

  /** Seconds. */
  left(done: number, total: number): number | undefined {
    const { at, done: before } = this.#begun!
    const made = done - before
    if (made === 0) return this.#estimated
    return ((performance.now() - at) / 1000 / made) * (total - done)
  }
}

/** Ctrl-C ends a study at once and says how to go on: whole runs are on the disk. */
function sayHowToGoOn(out: string): void {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      if (process.stderr.isTTY) process.stderr.write(`${SHOW_CURSOR}\n`)
      warn(
        `stopped; the same command goes on behind the runs in ${shellWord(join(out, RUNS_FILE))}`,
      )
      process.exit(128 + constants.signals[signal])
    })
  }
}

/** A progress bar hides it. */
const SHOW_CURSOR = '\x1b[?25h'

/** Reads everything once; a split is made for each seed. Held-out files are the same for all. */
async function dataOf(options: Options, notes: FileNotes): Promise<StudyData> {
  const { data, images, heldOut, heldOutPercent, limit } = options
  if (!existsSync(images)) {
    const hint = '--images is the folder that image paths in --data are relative to.'
    throw new XmasdError('CONFIG_INVALID', `--images ${images} does not exist`, hint)
  }
  const values = await allOf(readExamples(data, limit, notes.add))
  const held =
    heldOut === undefined ? undefined : await allOf(readExamples(heldOut, limit, notes.add))
  const { text, data: read } = loadConfig(undefined, process.env, {}, FLAGS)
  const form = { text, fields: read.fields }
  const parts = {
    examples: values.length,
    fields: JSON.stringify(read.fields),
    heldOut: held === undefined ? `${heldOutPercent} %` : held.length,
    content: contentOf([...values, ...(held ?? [])]),
  }
  return {
    name: data.map(file => basename(file)).join(', '),
    imageRoot: resolve(images),
    form,
    parts,
    partsOf: async seed =>
      held === undefined
        ? splitByPicture(values, seed, heldOutPercent, form)
        : { pool: values, heldOut: held },
  }
}

async function allOf(values: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> {
  const all: Uint8Array[] = []
  for await (const value of values) all.push(Uint8Array.from(value))
  return all
}

/** A digest of all examples, in order. */
function contentOf(values: readonly Uint8Array[]): string {
  const hash = createHash('sha256')
  for (const value of values) hash.update(value).update('\n')
  return hash.digest('hex').slice(0, 12)
}

function report(
  options: Options,
  { arm, percent }: Primary,
  judgement: Judgement,
  runs: readonly Run[],
  { page, seconds }: { page: string; seconds: number },
): void {
  const sentence = sentenceOf(judgement, arm, percent)
  const lines = judgement.cells.map(cell => {
    const relative = withInterval(cell.relative, value => value.toFixed(1))
    const { difference } = cell
    const over =
      difference === undefined
        ? ''
        : `${withInterval(difference, signed).padEnd(24)}${difference.verdict}`
    return `  ${cell.arm.padEnd(18)}${`${cell.percent} %`.padEnd(7)}${relative.padEnd(24)}${over}`
  })
  const file = join(options.out, RUNS_FILE)
  const primary = { arm, percent }
  print(options, { sentence, primary, ...judgement, runs: runs.length, seconds, page, file }, [
    `  ${'arm'.padEnd(18)}${'share'.padEnd(7)}${'relative performance'.padEnd(24)}over random`,
    ...lines,
    sentence,
    ...(judgement.caution === undefined ? [] : [judgement.caution]),
    `written to ${page}; the runs are in ${shellWord(file)}`,
  ])
}
