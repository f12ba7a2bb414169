/** `study`: does selecting pay on the user's own data? Trains targets on subsets and compares them. */
import { existsSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { XmasdError } from '../errors.ts'
import { readExamples } from '../ingest/data/read.ts'
import { shellWord } from '../observe/text.ts'
import { ARMS, armsHelp } from '../study/arms.ts'
import { type StudyData, splitByPicture } from '../study/data.ts'
import { studyPage, withInterval } from '../study/page.ts'
import { RUNS_FILE, type Run, runStudy } from '../study/run.ts'
import {
  type Judgement,
  judge,
  MEASURES,
  type Measure,
  sentenceOf,
  signed,
} from '../study/statistics.ts'
import { DATA_HELP, percent, positiveInteger, print, warn } from './options.ts'
import { writeWhole } from './output.ts'
import { type ModelOptions, modelOf, positiveNumber, withModelOptions } from './train.ts'

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

--out gets runs.jsonl, one line a run, and index.html. The same command goes on where it was stopped;
more --seeds, --arms or --percents add runs. Name --primary before you look at results.

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
    .option('--arms <list>', 'ways to select, listed below', list, ARMS)
    .option('--percents <list>', 'sizes of the subsets', text => list(text).map(percent), [10])
    .option('--seeds <n>', 'repetitions: 30 tell about 3 points', positiveInteger, 3)
    .option(
      '--primary <arm@p>',
      'the comparison that answers (default: sum at the first size)',
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

function primary(text: string): Primary {
  const [arm = '', share = ''] = text.split('@')
  if (arm !== '' && share !== '') return { arm, percent: percent(share) }
  throw new InvalidArgumentError(`"${text}": give an arm and a percent, such as sum@10.`)
}

async function run(options: Options): Promise<void> {
  const { percents, measure, worth } = options
  const named = options.primary ?? { arm: 'sum', percent: percents[0]! }
  const arms = options.primary === undefined ? options.arms : [...options.arms, named.arm]
  if (!percents.includes(named.percent)) throw notRun(named)
  const data = await dataOf(options)
  const started = performance.now()
  const runs = await runStudy({
    data,
    arms,
    percents,
    seeds: Array.from({ length: options.seeds }, (_, i) => i + 1),
    target: modelOf(options),
    proxy: options.proxy,
    clusters: options.clusters,
    threads: options.threads,
    out: options.out,
    onRun: ({ seed, arm, percent }, done, total) =>
      warn(`run ${done + 1} of ${total}: seed ${seed}, ${arm} at ${percent} %`),
  })
  const judgement = judge(runs, { measure, worth })
  const page = join(options.out, 'index.html')
  const html = studyPage(judgement, runs, { title: data.name, primary: named })
  await writeWhole(page, temporary => writeFile(temporary, html))
  report(options, named, judgement, runs, { page, seconds: (performance.now() - started) / 1000 })
}

function notRun({ arm, percent }: Primary): XmasdError {
  return new XmasdError(
    'CONFIG_INVALID',
    `--primary names ${arm} at ${percent} %, which is none of --percents`,
    'Add the percent to --percents.',
  )
}

/** Reads everything once; a split is made for each seed. Held-out files are the same for all. */
async function dataOf(options: Options): Promise<StudyData> {
  const { data, images, heldOut, heldOutPercent, limit } = options
  if (!existsSync(images)) {
    const hint = '--images is the folder that image paths in --data are relative to.'
    throw new XmasdError('CONFIG_INVALID', `--images ${images} does not exist`, hint)
  }
  const values = await allOf(readExamples(data, limit, warn))
  const held = heldOut === undefined ? undefined : await allOf(readExamples(heldOut, limit, warn))
  return {
    name: data.map(file => basename(file)).join(', '),
    imageRoot: resolve(images),
    partsOf: async seed =>
      held === undefined
        ? splitByPicture(values, seed, heldOutPercent)
        : { pool: values, heldOut: held },
  }
}

async function allOf(values: AsyncIterable<Uint8Array>): Promise<Uint8Array[]> {
  const all: Uint8Array[] = []
  for await (const value of values) all.push(Uint8Array.from(value))
  return all
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
    `written to ${page}; the runs are in ${shellWord(file)}`,
  ])
}
