/** `train`: fine-tunes a small proxy in this process and keeps its checkpoints. */
import { rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Command } from 'commander'
import { loadConfig } from '../config.ts'
import { readExamples } from '../ingest/data/read.ts'
import { aboutSeconds, startProgress } from '../observe/progress.ts'
import { shellWord } from '../observe/text.ts'
import {
  type Estimate,
  evenCheckpoints,
  type RunOptions,
  type RunReport,
  runTraining,
  UNFINISHED,
} from '../train/run.ts'
import { SMALL_PROXY } from '../train/shape.ts'
import { TRAINING } from '../train/train.ts'
import {
  DATA_HELP,
  FileNotes,
  FLAGS,
  natural,
  positiveInteger,
  positiveNumber,
  print,
  warn,
} from './helpers/options.ts'
import { namesIn, notEmpty } from './helpers/output.ts'

type Options = ModelOptions & {
  data: string[]
  images: string
  out: string
  checkpoints?: number[]
  seed: number
  limit?: number
  force?: boolean
  json?: boolean
}

/** What a model trained from scratch is, and how it is trained: flags of `train` and `study`. */
export type ModelOptions = {
  steps: number
  batch: number
  jointSteps?: number
  width: number
  layers: number
  imageSize: number
  patchSize: number
  length: number
  learningRate: number
}

const CHECKPOINTS = 6

export function command(): Command {
  return withModelOptions(
    new Command('train')
      .description('Fine-tune a small CLIP + Llama proxy from scratch and keep its checkpoints.')
      .requiredOption('--data <files...>', DATA_HELP)
      .requiredOption('--images <dir>', 'folder that image paths are relative to')
      .requiredOption('--out <dir>', 'folder for checkpoint-N/ and template.json'),
  )
    .option(
      '--checkpoints <list>',
      `steps to save at (default: ${CHECKPOINTS}, evenly spread)`,
      list => list.split(',').map(positiveInteger),
    )
    .option('--seed <n>', 'the same seed gives the same bytes', natural, 1)
    .option('--limit <n>', 'train on the first n examples', positiveInteger)
    .option('--force', 'replace an earlier training in --out')
    .option('--json', 'one JSON document on stdout')
    .action(train)
}

/** Adds the flags of `ModelOptions`. */
export function withModelOptions(command: Command): Command {
  const shape = SMALL_PROXY
  const { steps, batchSize, learningRate } = TRAINING
  return command
    .option('--steps <n>', 'optimizer steps', positiveInteger, steps)
    .option('--batch <n>', 'examples in a step', positiveInteger, batchSize)
    .option(
      '--joint-steps <n>',
      'steps that train the vision tower too (default: a third)',
      natural,
    )
    .option('--width <n>', 'channels of the language model', positiveInteger, shape.width)
    .option('--layers <n>', 'layers of each tower', positiveInteger, shape.layers)
    .option('--image-size <n>', 'side of an image in pixels', positiveInteger, shape.imageSize)
    .option('--patch-size <n>', 'side of a patch in pixels', positiveInteger, shape.patchSize)
    .option('--length <n>', 'longest sequence, in positions', positiveInteger, shape.lengthMax)
    .option('--learning-rate <x>', 'at its peak', positiveNumber, learningRate)
}

async function train(options: Options): Promise<void> {
  const run = runOptions(options)
  clearOut(options)
  const notes = new FileNotes()
  const preparing = startProgress('prepared', undefined)
  let training: ReturnType<typeof startProgress> | undefined
  const report = await runTraining(readExamples(options.data, options.limit, notes.add), run, {
    onPrepared: done => preparing.update(done),
    onSamples: () => {
      preparing.stop()
      training = startProgress('step', run.steps)
    },
    onEstimate: estimate => warn(describeCost(estimate, run)),
    onStep: ({ step, loss }) => training?.update(step, `loss ${loss.toFixed(3)}`),
  })
  training?.stop()
  print(options, { ...report, leftOut: notes.leftOut }, describe(report, options, notes))
}

function runOptions(options: Options): RunOptions {
  const model = modelOf(options)
  const { checkpoints = evenCheckpoints(CHECKPOINTS, model) } = options
  const { seed, images, out } = options
  const { text, data } = loadConfig(undefined, process.env, {}, FLAGS)
  const form = { text, fields: data.fields }
  return { ...model, seed, checkpoints, imageRoot: resolve(images), out: resolve(out), form }
}

export function modelOf(
  options: ModelOptions,
): Omit<RunOptions, 'seed' | 'checkpoints' | 'imageRoot' | 'out'> {
  const { steps, layers, jointSteps = Math.floor(steps / 3) } = options
  return {
    steps,
    jointSteps,
    batchSize: options.batch,
    learningRate: options.learningRate,
    warmupSteps: Math.min(TRAINING.warmupSteps, Math.ceil(steps / 10)),
    gradientNormMax: TRAINING.gradientNormMax,
    shape: {
      ...SMALL_PROXY,
      width: options.width,
      layers,
      visionLayers: layers,
      imageSize: options.imageSize,
      patchSize: options.patchSize,
      lengthMax: options.length,
    },
  }
}

function describeCost({ samples, parameters, epochs, seconds }: Estimate, run: RunOptions): string {
  const { steps, batchSize, checkpoints } = run
  const eta = seconds === undefined ? '' : `; ${aboutSeconds(seconds)}`
  return (
    `training ${parameters} parameters on ${samples} examples: ${steps} steps of ${batchSize} ` +
    `(${epochs.toFixed(1)} epochs), ${checkpoints.length} checkpoints${eta}`
  )
}

/** Removes only what a training run writes. What an unfinished run has left needs no --force. */
function clearOut({ out, force = false }: Options): void {
  const names = namesIn(out)
  if (names.length === 0) return
  const foreign = names.filter(
    name => !/^(\.?checkpoint-\d+(\.partial)?|template\.json|\.unfinished)$/.test(name),
  )
  if (foreign.length > 0) {
    const hint = 'name another folder; --force removes only what an earlier training wrote'
    throw notEmpty(out, foreign, hint)
  }
  const isFinished =
    !names.includes(UNFINISHED) && names.some(name => /^checkpoint-\d+$/.test(name))
  if (isFinished && !force) {
    throw notEmpty(out, names, 'name another folder, or --force to replace an earlier training')
  }
  for (const name of names) rmSync(join(out, name), { recursive: true })
}

function describe(report: RunReport, { out, data, images }: Options, notes: FileNotes): string[] {
  const failed = Object.entries(report.failed).map(([code, count]) => `${code} ${count}`)
  const files = `--data ${data.map(shellWord).join(' ')} --images ${shellWord(images)}`
  return [
    `trained on ${report.samples} examples${notes.said()}, ${report.parameters} parameters`,
    ...(failed.length > 0 ? [`left out: ${failed.join(', ')}`] : []),
    `loss ${report.firstLoss.toFixed(3)} -> ${report.finalLoss.toFixed(3)} (${report.stepMs.toFixed(0)} ms a step)`,
    `schedule: ${report.out}/checkpoint-{${report.checkpoints}}`,
    `next: xmasd score --proxy ${shellWord(out)} ${files} --out trajectories.jsonl`,
  ]
}
