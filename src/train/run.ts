/** A whole training run: examples in, a folder of `checkpoint-N/` with `template.json` out. */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ErrorCode, XmasdError } from '../errors.ts'
import { IMAGE_LIMITS } from '../ingest/image.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { type HistoryEntry, saveCheckpoint, writeJson, writeModelFiles } from './checkpoint.ts'
import { type ParameterValues, parameterCount } from './init.ts'
import { prepareSamples, type Samples } from './samples.ts'
import { configOf, type ProxyShape, TRAINING_TEMPLATE } from './shape.ts'
import { type TrainingOptions, trainProxy } from './train.ts'

export type RunOptions = TrainingOptions & {
  shape: ProxyShape
  /** Steps to save at, ascending, all after the joint phase. */
  checkpoints: readonly number[]
  /** Folder that image paths are relative to. */
  imageRoot: string
  out: string
}

export type RunHooks = {
  onPrepared?: (done: number) => void
  onSamples?: (samples: Samples) => void
  onStep?: (entry: HistoryEntry) => void
}

export type RunReport = {
  out: string
  checkpoints: number[]
  samples: number
  failed: Partial<Record<ErrorCode, number>>
  parameters: number
  firstLoss: number
  /** Mean over the last tenth of the steps. */
  finalLoss: number
  stepMs: number
}

/** Throws CONFIG_INVALID for options that don't fit together, and as its parts throw. */
export async function runTraining(
  values: AsyncIterable<Uint8Array>,
  options: RunOptions,
  hooks: RunHooks = {},
): Promise<RunReport> {
  checkSteps(options)
  const config = configOf(options.shape)
  const prepared = await prepareAll(values, config, options, hooks.onPrepared)
  hooks.onSamples?.(prepared)
  mkdirSync(options.out, { recursive: true })
  writeJson(join(options.out, 'template.json'), TRAINING_TEMPLATE)
  const history: HistoryEntry[] = []
  let last: ReadonlyMap<string, ParameterValues> = new Map()
  const started = performance.now()
  await trainProxy(prepared.samples, config, options, ({ parameters, ...entry }) => {
    history.push(entry)
    last = parameters
    hooks.onStep?.(entry)
    if (!options.checkpoints.includes(entry.step)) return
    const { steps } = options
    saveCheckpoint(options.out, { step: entry.step, steps, config, parameters, history })
  })
  return {
    out: options.out,
    checkpoints: [...options.checkpoints],
    samples: prepared.samples.length,
    failed: Object.fromEntries(prepared.failed),
    parameters: parameterCount(last),
    firstLoss: history[0]!.loss,
    finalLoss: meanOfTail(history),
    stepMs: (performance.now() - started) / options.steps,
  }
}

/** `count` steps spread evenly over what follows the joint phase; the last is the last step. */
export function evenCheckpoints(
  count: number,
  { steps, jointSteps }: { steps: number; jointSteps: number },
): number[] {
  const spread = Array.from({ length: count }, (_, i) =>
    Math.round(jointSteps + ((i + 1) * (steps - jointSteps)) / count),
  )
  return [...new Set(spread)].filter(step => step > jointSteps)
}

function checkSteps({ checkpoints, jointSteps, steps }: RunOptions): void {
  const isAscending = checkpoints.every((step, i) => i === 0 || step > checkpoints[i - 1]!)
  const first = checkpoints[0]
  const last = checkpoints.at(-1)
  if (first !== undefined && last !== undefined && isAscending) {
    if (first > jointSteps && last <= steps && checkpoints.every(Number.isSafeInteger)) return
  }
  throw new XmasdError(
    'CONFIG_INVALID',
    `checkpoints at [${checkpoints}] do not fit ${steps} steps, the first ${jointSteps} of them joint`,
    `Name ascending steps from ${jointSteps + 1} to ${steps}: the vision tower must be frozen by then.`,
  )
}

/** The preparer reads tokenizer and image processor from a checkpoint; there is none yet. */
async function prepareAll(
  values: AsyncIterable<Uint8Array>,
  config: ProxyConfig,
  { imageRoot }: RunOptions,
  onPrepared: RunHooks['onPrepared'],
): Promise<Samples> {
  const checkpointDir = mkdtempSync(join(tmpdir(), 'xmasd-train-'))
  try {
    writeModelFiles(checkpointDir, config)
    const { imageTokens, imageTokenId, lengthMax, aspect, vision } = config
    const { imageSize, patchSize } = vision
    const model = { imageTokens, imageTokenId, lengthMax, aspect, imageSize, patchSize }
    const sources = { imageRoot, limits: IMAGE_LIMITS, hosts: [], addressesAllowed: [] }
    const options = { ...model, ...sources, checkpointDir, template: TRAINING_TEMPLATE }
    return await prepareSamples(values, options, onPrepared)
  } finally {
    rmSync(checkpointDir, { recursive: true, force: true })
  }
}

function meanOfTail(history: readonly HistoryEntry[]): number {
  const tail = history.slice(-Math.max(1, Math.floor(history.length / 10)))
  return tail.reduce((sum, { loss }) => sum + loss, 0) / tail.length
}
