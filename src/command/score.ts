/** `score`: offline scoring, one JSON line an example, in input order. */
import { writeFileSync } from 'node:fs'
import { Command } from 'commander'
import { loadConfig } from '../config.ts'
import { DEVICES, ENGINES, PRECISIONS } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import { countExamples, readExamples } from '../ingest/data.ts'
import { startProgress } from '../observe/progress.ts'
import { MODES } from '../score/attention.ts'
import type { ChosenDevice } from '../score/device.ts'
import type { OutOfMemory } from '../score/guard.ts'
import { type Measured, type Measurer, startMeasuring } from '../score/measure.ts'
import { METRICS } from '../score/metric.ts'
import { shellWord } from '../shell.ts'
import { chunks } from './export.ts'
import { writeJsonLines } from './json-array.ts'
import { positiveInteger } from './options.ts'
import { isPlace } from './whole-file.ts'

type Options = {
  proxy: string
  data: string
  images?: string
  out: string
  metric?: string
  mode?: string
  template?: string
  engine?: string
  precision?: string
  device?: string
  workers?: number
  threads?: number
  limit?: number
  json?: boolean
}

const CHUNKS_IN_FLIGHT = 4

export function scoreCommand(): Command {
  return new Command('score')
    .description('Score examples offline: trajectories over the checkpoints of a proxy.')
    .requiredOption('--proxy <dir>', 'folder of checkpoint-N/ as a Hugging Face Trainer leaves it')
    .requiredOption('--data <file>', 'LLaVA .json or .jsonl')
    .requiredOption('--out <file>', 'JSON lines to write')
    .option('--images <dir>', 'folder that image paths are relative to (default: ./images)')
    .option('--metric <metric>', METRICS.join(' or '))
    .option('--mode <mode>', `of attention: ${MODES.join(' or ')}`)
    .option('--template <name>', 'a built-in template or a JSON file {system,image,user,assistant}')
    .option('--engine <engine>', ENGINES.join(' or '))
    .option('--precision <precision>', PRECISIONS.join(' or '))
    .option('--device <device>', `auto, ${DEVICES.join(', ')}`)
    .option('--workers <n>', 'worker threads that run forward passes', positiveInteger)
    .option('--threads <n>', 'threads of each worker', positiveInteger)
    .option('--limit <n>', 'stop after that many examples', positiveInteger)
    .option('--json', 'report as one JSON document on stdout')
    .action(score)
}

async function score(options: Options): Promise<void> {
  const config = loadConfig(undefined, process.env, {
    'proxy.path': options.proxy,
    'proxy.metric': options.metric,
    'proxy.mode': options.mode,
    'proxy.template': options.template,
    'proxy.engine': options.engine,
    'proxy.precision': options.precision,
    'proxy.device': options.device,
    'proxy.workers': options.workers,
    'proxy.threads': options.threads,
    'images.root': options.images,
  })
  const started = performance.now()
  const examples = await countExamples(options.data, options.limit)
  if (examples === 0) {
    throw new XmasdError(
      'DATA_INVALID',
      `${options.data} holds no examples`,
      'give a LLaVA .json or .jsonl file',
    )
  }
  const measurer = await startMeasuring(config, { onOutOfMemory: warn })
  try {
    const counts = await scoreFile(measurer, options, {
      examples,
      chunkExamples: config.score.batchExamplesMax,
    })
    const { steps, fingerprint } = measurer.schedule
    const { metric, precision } = config.proxy
    const mode = metric === 'attention' ? config.proxy.mode : null
    const meta = { v: 1, schedule: { fingerprint, steps }, metric, mode, precision }
    if (isPlace(options.out)) {
      writeFileSync(`${options.out}.meta.json`, `${JSON.stringify(meta)}\n`)
    }
    const seconds = (performance.now() - started) / 1000
    report(options, { counts, steps, seconds, chosen: measurer.device })
  } finally {
    await measurer.close()
  }
}

function warn({ message, tokensMax, isLowered }: OutOfMemory): void {
  if (!isLowered) return
  process.stderr.write(`out of memory, passes of ${tokensMax} tokens from now on: ${message}\n`)
}

type Counts = { scored: number; textOnly: number; failed: Record<string, number> }

async function scoreFile(
  measurer: Measurer,
  options: Options,
  size: { examples: number; chunkExamples: number },
): Promise<Counts> {
  const counts: Counts = { scored: 0, textOnly: 0, failed: {} }
  const progress = startProgress('scored', size.examples)
  const lines = async function* (): AsyncGenerator<string> {
    let done = 0
    for await (const measured of measuredChunks(measurer, options, size.chunkExamples)) {
      for (const one of measured) {
        count(counts, one)
        yield JSON.stringify(lineOf(one))
      }
      done += measured.length
      progress.update(done)
    }
  }
  try {
    await writeJsonLines(options.out, lines())
  } finally {
    progress.stop()
  }
  return counts
}

/** In order, while the next ones are being measured. */
async function* measuredChunks(
  measurer: Measurer,
  { data, limit }: Options,
  chunkExamples: number,
): AsyncGenerator<Measured[]> {
  const inFlight: Promise<Measured[]>[] = []
  for await (const chunk of chunks(readExamples(data, limit), chunkExamples)) {
    const measuring = measurer.measure(chunk)
    measuring.catch(() => {}) // looked at in its turn
    inFlight.push(measuring)
    if (inFlight.length >= CHUNKS_IN_FLIGHT) yield inFlight.shift()!
  }
  yield* inFlight
}

function count(counts: Counts, measured: Measured): void {
  if (measured.kind === 'failed') {
    const { code } = measured.error
    counts.failed[code] = (counts.failed[code] ?? 0) + 1
  } else if (measured.trajectory === null) counts.textOnly++
  else counts.scored++
}

/** The line of DESIGN's `score`; `error` where the example could not be scored. */
function lineOf(measured: Measured): object {
  if (measured.kind === 'failed') {
    const { code, message, hint } = measured.error
    const none = { trajectory: null, instability: null, singularValues: null }
    return { id: measured.id, key: null, ...none, error: { code, message, hint } }
  }
  const { id, key, trajectory, instability, singularValues, words, layout, embedding } = measured
  return { id, key, trajectory, instability, singularValues, words, layout, embedding }
}

type Done = { counts: Counts; steps: number[]; seconds: number; chosen: ChosenDevice }

function report(options: Options, { counts, steps, seconds, chosen }: Done): void {
  const failed = Object.values(counts.failed).reduce((sum, n) => sum + n, 0)
  const total = counts.scored + counts.textOnly + failed
  if (failed === total) process.exitCode = 1
  if (options.json === true) {
    const { device, why } = chosen
    const cost = { seconds, device, why }
    const document = { v: 1, ...counts, checkpoints: steps, ...cost, out: options.out }
    process.stdout.write(`${JSON.stringify(document)}\n`)
    return
  }
  const codes = Object.entries(counts.failed).map(([code, n]) => `${n} ${code}`)
  const rate = (total / seconds).toFixed(1)
  process.stdout.write(
    `${counts.scored} scored over ${steps.length} checkpoints, ${counts.textOnly} text-only, ` +
      `${failed} failed${failed > 0 ? ` (${codes.join(', ')})` : ''}; ${rate}/s on ${chosen.device}\n` +
      `written to ${options.out}\n` +
      (counts.scored > 0
        ? `next: xmasd fit --trajectories ${shellWord(options.out)} --out bundle\n`
        : ''),
  )
}
