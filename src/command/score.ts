/** `score`: offline scoring, one JSON line an example, in input order. */
import { writeFileSync } from 'node:fs'
import { Command, Option } from 'commander'
import { loadConfig, type Overrides } from '../config.ts'
import { DEVICES, ENGINES, PRECISIONS } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import { countExamples, readExamples } from '../ingest/data/read.ts'
import { startProgress } from '../observe/progress.ts'
import { shellWord } from '../observe/text.ts'
import { MODES } from '../score/attention.ts'
import type { ChosenDevice } from '../score/device/choice.ts'
import { METRICS } from '../score/metric.ts'
import { type ScoredRecord, type ScoringPipeline, startPipeline } from '../score/pipeline.ts'
import type { OutOfMemory } from '../score/scoring.ts'
import { chunks } from './export.ts'
import {
  DATA_HELP,
  FileNotes,
  FLAGS,
  flagNames,
  inFlags,
  positiveInteger,
  print,
  warn,
} from './helpers/options.ts'
import { checkNotRead, isPlace, writeJsonLines } from './helpers/output.ts'
import { showPrompt } from './helpers/prompt.ts'

type Options = {
  proxy: string
  base?: string
  data: string[]
  images?: string
  out?: string
  showPrompt?: string
  metric?: string
  mode?: string
  gain?: 'last' | 'each'
  template?: string
  imagePixels?: number | 'checkpoint'
  engine?: string
  precision?: string
  device?: string
  workers?: number
  threads?: number
  limit?: number
  json?: boolean
}

type Scoring = Options & { out: string }

const CHUNKS_IN_FLIGHT = 4

export function command(): Command {
  const scoring = new Command('score')
  return scoring
    .description('Score examples offline: trajectories over the checkpoints of a proxy.')
    .requiredOption('--proxy <dir>', 'folder of checkpoint-N/ as a Hugging Face Trainer leaves it')
    .option(
      '--base <dir>',
      'base model of LoRA checkpoints, where their own config does not lead to it',
    )
    .requiredOption('--data <files...>', DATA_HELP)
    .option('--out <file>', 'JSON lines to write')
    .option('--show-prompt <id>', 'print the prompt of this example and score nothing')
    .option('--images <dir>', 'folder that image paths are relative to (default: ./images)')
    .option('--metric <metric>', METRICS.join(' or '))
    .option('--mode <mode>', `of attention: ${MODES.join(' or ')}`)
    .addOption(
      new Option('--gain [when]', 'also the image gain: at the last checkpoint, or at each')
        .choices(['last', 'each'])
        .preset('last'),
    )
    .option('--template <name>', 'a built-in template or a JSON file {system,image,user,assistant}')
    .option(
      '--image-pixels <n>',
      'pixels of a picture, or checkpoint: as its image processor says',
      pixelBudget,
    )
    .option('--engine <engine>', ENGINES.join(' or '))
    .option('--precision <precision>', PRECISIONS.join(' or '))
    .option('--device <device>', `auto, ${DEVICES.join(', ')}`)
    .option('--workers <n>', 'worker threads that run forward passes', positiveInteger)
    .option('--threads <n>', 'threads of each worker', positiveInteger)
    .option('--limit <n>', 'stop after n examples', positiveInteger)
    .option('--json', 'one JSON document on stdout')
    .action((options: Options) => {
      const overrides = overridesOf(options)
      return inFlags(overrides, () => {
        const { showPrompt: id, data, json, out } = options
        if (id === undefined) {
          if (out === undefined)
            return scoring.error("error: required option '--out <file>' not specified")
          return score({ ...options, out }, overrides)
        }
        const config = loadConfig(undefined, process.env, overrides, FLAGS)
        return showPrompt(config, { data, id, json })
      })
    })
}

function pixelBudget(text: string): number | 'checkpoint' {
  return text === 'checkpoint' ? text : positiveInteger(text)
}

/** Every key that a flag stands for, given or not: this command reads no configuration file. */
function overridesOf(options: Options): Overrides {
  return {
    'proxy.path': options.proxy,
    'proxy.base': options.base,
    'proxy.metric': options.metric,
    'proxy.mode': options.mode,
    'proxy.gain': options.gain === 'last' ? true : options.gain,
    'proxy.template': options.template,
    'proxy.imagePixels': options.imagePixels,
    'proxy.engine': options.engine,
    'proxy.precision': options.precision,
    'proxy.device': options.device,
    'proxy.workers': options.workers,
    'proxy.threads': options.threads,
    'images.root': options.images,
  }
}

async function score(options: Scoring, overrides: Overrides): Promise<void> {
  const config = loadConfig(undefined, process.env, overrides, FLAGS)
  const started = performance.now()
  await checkNotRead(options.out, options.data)
  const examples = await countExamples(options.data, options.limit)
  if (examples === 0) {
    throw new XmasdError(
      'DATA_INVALID',
      `${options.data.join(', ')} holds no examples`,
      'give a file in a form of docs/data.md',
    )
  }
  const pipeline = await startPipeline(config, { onOutOfMemory: warnOfMemory, onNote: warn })
  try {
    for (const warning of pipeline.warnings) warn(warning)
    const outcome = await scoreFile(pipeline, options, {
      examples,
      chunkExamples: config.score.batchExamplesMax,
    })
    const { steps } = pipeline.scores.schedule
    const meta = { v: 1, ...pipeline.scores }
    if (isPlace(options.out)) {
      writeFileSync(`${options.out}.meta.json`, `${JSON.stringify(meta)}\n`)
    }
    const seconds = (performance.now() - started) / 1000
    const template = pipeline.prompt.origin
    report(options, { ...outcome, steps, seconds, template, chosen: pipeline.device })
  } finally {
    await pipeline.close()
  }
}

function warnOfMemory({ message, tokensMax, isLowered }: OutOfMemory): void {
  if (isLowered) warn(`out of memory (${message}): passes have ${tokensMax} tokens from now on`)
}

type Counts = { scored: number; textOnly: number; failed: Record<string, number> }
/** `example` counts from 1 within the file. */
type Failure = {
  file: string
  example: number
  id: string | null
  code: string
  message: string
  hint: string
}
type Outcome = { counts: Counts; firstFailure: Failure | undefined; notes: FileNotes }

async function scoreFile(
  pipeline: ScoringPipeline,
  options: Scoring,
  size: { examples: number | undefined; chunkExamples: number },
): Promise<Outcome> {
  const outcome: Outcome = {
    counts: { scored: 0, textOnly: 0, failed: {} },
    firstFailure: undefined,
    notes: new FileNotes(),
  }
  const say = flagNames(overridesOf(options))
  const progress = startProgress('scored', size.examples)
  const lines = async function* (): AsyncGenerator<string> {
    let done = 0
    const begins: Begin[] = []
    for await (const scored of scoredChunks(
      pipeline,
      options,
      size.chunkExamples,
      begins,
      outcome.notes,
    )) {
      for (const [i, one] of scored.entries()) {
        const line = lineOf(one, say)
        count(outcome.counts, one)
        if ('error' in line) {
          outcome.firstFailure ??= { ...placeOf(done + i, begins), id: line.id, ...line.error }
        }
        yield JSON.stringify(line)
      }
      done += scored.length
      progress.update(done)
    }
  }
  try {
    await writeJsonLines(options.out, lines())
  } finally {
    progress.stop()
  }
  return outcome
}

/** The examples before those of a file. */
type Begin = { file: string; before: number }

function placeOf(index: number, begins: readonly Begin[]): Pick<Failure, 'file' | 'example'> {
  const { file, before } = begins.findLast(one => one.before <= index)!
  return { file, example: index - before + 1 }
}

/** In order; the next chunks are scored meanwhile. */
async function* scoredChunks(
  pipeline: ScoringPipeline,
  { data, limit }: Options,
  chunkExamples: number,
  begins: Begin[],
  notes: FileNotes,
): AsyncGenerator<ScoredRecord[]> {
  const inFlight: Promise<ScoredRecord[]>[] = []
  const onFile = (file: string, before: number) => void begins.push({ file, before })
  const examples = readExamples(data, limit, notes.add, undefined, onFile)
  for await (const chunk of chunks(examples, chunkExamples)) {
    const scoring = pipeline.score(chunk)
    scoring.catch(() => {}) // awaited below
    inFlight.push(scoring)
    if (inFlight.length >= CHUNKS_IN_FLIGHT) yield inFlight.shift()!
  }
  yield* inFlight
}

function count(counts: Counts, scored: ScoredRecord): void {
  if (scored.kind === 'failed') {
    const { code } = scored.error
    counts.failed[code] = (counts.failed[code] ?? 0) + 1
  } else if (scored.trajectory === null) counts.textOnly++
  else counts.scored++
}

/** One line of the output; `error` where the example could not be scored. */
function lineOf(scored: ScoredRecord, say: (text: string) => string) {
  if (scored.kind === 'failed') {
    const { code, message, hint } = scored.error
    const none = { trajectory: null, instability: null, singularValues: null }
    const error = { code, message: say(message), hint: say(hint) }
    return { id: scored.id, key: null, ...none, error }
  }
  const { id, key, content, trajectory, instability, singularValues } = scored
  const { words, layout, embedding, question, size, gain, gains } = scored
  const compared = { words, layout, embedding, question, size }
  return { id, key, content, trajectory, instability, singularValues, ...compared, gain, gains }
}

type Done = Outcome & { steps: number[]; seconds: number; template: string; chosen: ChosenDevice }

function report(options: Scoring, done: Done): void {
  const { counts, firstFailure = null, notes, steps, seconds, template, chosen } = done
  const failed = Object.values(counts.failed).reduce((sum, n) => sum + n, 0)
  const total = counts.scored + counts.textOnly + failed
  if (failed === total) process.exitCode = 1
  const { out } = options
  const codes = Object.entries(counts.failed).map(([code, n]) => `${n} ${code}`)
  const rate = (total / seconds).toFixed(1)
  const { device, why } = chosen
  const document = {
    ...counts,
    leftOut: notes.leftOut,
    firstFailure,
    checkpoints: steps,
    template,
    seconds,
    device,
    why,
    out,
  }
  print(options, document, [
    `${counts.scored} scored over ${steps.length} checkpoints, ${counts.textOnly} text-only, ` +
      `${failed} failed${failed > 0 ? ` (${codes.join(', ')})` : ''}${notes.said()}; ${rate}/s on ${device}`,
    `prompts by template ${template}`,
    ...(firstFailure === null ? [] : describeFailure(firstFailure)),
    `written to ${out}`,
    ...(counts.scored > 0 ? [`next: xmasd fit --trajectories ${shellWord(out)} --out bundle`] : []),
  ])
}

function describeFailure({ file, example, id, code, message, hint }: Failure): string[] {
  const name = id === null ? '' : ` (${id})`
  return [
    `  first failure: ${file}, example ${example}${name}: ${message} [${code}]`,
    `    ${hint}`,
  ]
}
