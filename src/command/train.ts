/** `train`: fine-tunes a small proxy in process and keeps its checkpoints. */
import { rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Command } from 'commander'
import { XmasdError } from '../errors.ts'
import { readExamples } from '../ingest/data.ts'
import { startProgress } from '../observe/progress.ts'
import { shellWord } from '../shell.ts'
import { evenCheckpoints, type RunOptions, type RunReport, runTraining } from '../train/run.ts'
import { SMALL_PROXY } from '../train/shape.ts'
import { TRAINING } from '../train/train.ts'
import { namesIn, notEmpty } from './out-folder.ts'

type Options = {
  data: string
  images: string
  out: string
  steps: string
  batch: string
  jointSteps?: string
  checkpoints?: string
  seed: string
  width: string
  layers: string
  imageSize: string
  patchSize: string
  length: string
  learningRate: string
  limit?: string
  force?: boolean
  json?: boolean
}

const CHECKPOINTS = 6

export function trainCommand(): Command {
  const shape = SMALL_PROXY
  return new Command('train')
    .description('Fine-tune a small CLIP + Llama proxy from nothing and keep its checkpoints.')
    .requiredOption('--data <file>', 'LLaVA .json or .jsonl')
    .requiredOption('--images <dir>', 'folder that image paths are relative to')
    .requiredOption('--out <dir>', 'folder for checkpoint-N/ and template.json')
    .option('--steps <n>', 'optimizer steps', String(TRAINING.steps))
    .option('--batch <n>', 'examples a step', String(TRAINING.batchSize))
    .option('--joint-steps <n>', 'steps in which the vision tower learns too (default: a third)')
    .option('--checkpoints <list>', `steps to save at (default: ${CHECKPOINTS}, evenly spread)`)
    .option('--seed <n>', 'same seed, same bytes', '1')
    .option('--width <n>', 'channels of the language model', String(shape.width))
    .option('--layers <n>', 'layers of each side', String(shape.layers))
    .option('--image-size <n>', 'pixels a side', String(shape.imageSize))
    .option('--patch-size <n>', 'pixels a side', String(shape.patchSize))
    .option('--length <n>', 'longest sequence, in positions', String(shape.lengthMax))
    .option('--learning-rate <x>', 'at its peak', String(TRAINING.learningRate))
    .option('--limit <n>', 'train on that many examples, from the first')
    .option('--force', 'replace what the out folder holds')
    .option('--json', 'report as one JSON document on stdout')
    .action(train)
}

async function train(options: Options): Promise<void> {
  const run = runOptions(options)
  clearOut(options)
  const limit = options.limit === undefined ? Number.POSITIVE_INFINITY : whole(options, 'limit')
  const preparing = startProgress('prepared', undefined)
  let training: ReturnType<typeof startProgress> | undefined
  const report = await runTraining(readExamples(options.data, limit), run, {
    onPrepared: done => preparing.update(done),
    onSamples: () => {
      preparing.stop()
      training = startProgress('step', run.steps)
    },
    onStep: ({ step, loss }) => training?.update(step, `loss ${loss.toFixed(3)}`),
  })
  training?.stop()
  process.stdout.write(
    options.json === true ? `${JSON.stringify({ v: 1, ...report })}\n` : text(report, options),
  )
}

function runOptions(options: Options): RunOptions {
  const steps = whole(options, 'steps')
  const jointSteps =
    options.jointSteps === undefined ? Math.floor(steps / 3) : whole(options, 'jointSteps', 0)
  const layers = whole(options, 'layers')
  return {
    seed: whole(options, 'seed', 0),
    steps,
    jointSteps,
    batchSize: whole(options, 'batch'),
    checkpoints:
      options.checkpoints === undefined
        ? evenCheckpoints(CHECKPOINTS, { steps, jointSteps })
        : options.checkpoints.split(',').map(Number),
    learningRate: rateOf(options),
    warmupSteps: Math.min(TRAINING.warmupSteps, Math.ceil(steps / 10)),
    gradientNormMax: TRAINING.gradientNormMax,
    imageRoot: resolve(options.images),
    out: resolve(options.out),
    shape: {
      ...SMALL_PROXY,
      width: whole(options, 'width'),
      layers,
      visionLayers: layers,
      imageSize: whole(options, 'imageSize'),
      patchSize: whole(options, 'patchSize'),
      lengthMax: whole(options, 'length'),
    },
  }
}

function whole(options: Options, name: keyof Options, least = 1): number {
  const value = Number(options[name])
  if (Number.isSafeInteger(value) && value >= least) return value
  throw new XmasdError(
    'CONFIG_INVALID',
    `--${name.replace(/[A-Z]/g, c => `-${c.toLowerCase()}`)} is ${options[name]}`,
    `Give a whole number from ${least} on.`,
  )
}

function rateOf({ learningRate }: Options): number {
  const rate = Number(learningRate)
  if (Number.isFinite(rate) && rate > 0) return rate
  throw new XmasdError(
    'CONFIG_INVALID',
    `--learning-rate is ${learningRate}`,
    'Give a number above 0, such as 0.002.',
  )
}

/** Only what a training run leaves is ever removed. */
function clearOut({ out, force }: Options): void {
  const names = namesIn(out)
  if (names.length === 0) return
  const foreign = names.filter(
    name => !/^(\.?checkpoint-\d+(\.partial)?|template\.json)$/.test(name),
  )
  if (force !== true || foreign.length > 0) {
    throw notEmpty(
      out,
      foreign.length > 0 ? foreign : names,
      foreign.length > 0
        ? 'Name another folder; --force removes only what an earlier training left.'
        : 'Name another folder, or --force to replace an earlier training.',
    )
  }
  for (const name of names) rmSync(join(out, name), { recursive: true })
}

function text(report: RunReport, options: Options): string {
  const failed = Object.entries(report.failed).map(([code, count]) => `${code} ${count}`)
  return [
    `trained on ${report.samples} examples, ${report.parameters} parameters`,
    ...(failed.length > 0 ? [`left out: ${failed.join(', ')}`] : []),
    `loss ${report.firstLoss.toFixed(3)} -> ${report.finalLoss.toFixed(3)} (${report.stepMs.toFixed(0)} ms a step)`,
    `schedule: ${report.out}/checkpoint-{${report.checkpoints}}`,
    '',
    'Score with it:',
    `  xmasd score --proxy ${shellWord(options.out)} --data ${shellWord(options.data)} --images ${shellWord(options.images)} --out trajectories.jsonl`,
    '',
  ].join('\n')
}
