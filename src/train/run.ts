/** A whole training run: examples in, a folder of `checkpoint-N/` with `template.json` out. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type ErrorCode, XmasdError } from '../errors.ts'
import type { DecodeOptions } from '../ingest/form/decode.ts'
import { IMAGE_LIMITS } from '../ingest/image/pixels.ts'
import { familyOf } from '../proxy/checkpoint/config.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { type HistoryEntry, saveCheckpoint, writeJson, writeModelFiles } from './checkpoint.ts'
import { prepareSamples, type Samples } from './samples.ts'
import {
  configOf,
  initialParameters,
  type ParameterValues,
  type ProxyShape,
  parameterCount,
  TRAINING_TEMPLATE,
} from './shape.ts'
import { type TrainingOptions, trainProxy } from './train.ts'

export type RunOptions = TrainingOptions & {
  shape: ProxyShape
  /** Steps to save at, ascending, all after the joint phase. */
  checkpoints: readonly number[]
  /** Folder that image paths are relative to. */
  imageRoot: string
  out: string
  /** How records are read. */
  form?: DecodeOptions | undefined
}

export type RunHooks = {
  onPrepared?: (done: number) => void
  onSamples?: (samples: Samples) => void
  /** Before the first step. */
  onEstimate?: (estimate: Estimate) => void
  onStep?: (entry: HistoryEntry) => void
}

/** What a run costs. `seconds` follows from timed trial steps; undefined for a run of a few steps. */
export type Estimate = {
  samples: number
  parameters: number
  epochs: number
  seconds: number | undefined
}

/** In `out` while a run has not come to its end. */
export const UNFINISHED = '.unfinished'

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
  values: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  options: RunOptions,
  hooks: RunHooks = {},
): Promise<RunReport> {
  checkSteps(options)
  const config = configOf(options.shape)
  const prepared = await prepareTraining(values, config, options, hooks.onPrepared)
  hooks.onSamples?.(prepared)
  hooks.onEstimate?.({
    samples: prepared.samples.length,
    parameters: parameterCount(initialParameters(config, options.seed)),
    epochs: (options.steps * options.batchSize) / prepared.samples.length,
    seconds: await estimateSeconds(prepared.samples, config, options),
  })
  mkdirSync(options.out, { recursive: true })
  writeFileSync(join(options.out, UNFINISHED), '')
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
  rmSync(join(options.out, UNFINISHED))
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

/** Of each phase: one step to warm up, one to time. */
const TRIAL_STEPS = 2
/** A shorter run ends before an estimate is worth its trial. */
const ESTIMATED_STEPS_MIN = 20

/** What a training would take, by timed trial steps; undefined for one of a few steps. */
export async function estimateSeconds(
  samples: Samples['samples'],
  config: ProxyConfig,
  options: TrainingOptions,
): Promise<number | undefined> {
  const { steps, jointSteps } = options
  if (steps < ESTIMATED_STEPS_MIN) return undefined
  const trial = { ...options, steps: 2 * TRIAL_STEPS, jointSteps: TRIAL_STEPS }
  const ends: number[] = []
  await trainProxy(samples, config, trial, () => ends.push(performance.now()))
  const jointMs = ends[1]! - ends[0]!
  const frozenMs = ends[3]! - ends[2]!
  return (jointSteps * jointMs + (steps - jointSteps) * frozenMs) / 1000
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

/**
 * Examples as a proxy of this configuration is trained on them. Throws as `prepareSamples`. The preparer
 * reads tokenizer and image processor from a checkpoint; there is none yet.
 */
export async function prepareTraining(
  values: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  config: ProxyConfig,
  { imageRoot, form }: Pick<RunOptions, 'imageRoot' | 'form'>,
  onPrepared?: RunHooks['onPrepared'],
): Promise<Samples> {
  const checkpointDir = mkdtempSync(join(tmpdir(), 'xmasd-train-'))
  try {
    writeModelFiles(checkpointDir, config)
    const { imageTokens, imageTokenId, lengthMax } = config
    const pictures = familyOf(config).pictures(config, checkpointDir, undefined)
    const model = { imageTokens, imageTokenId, lengthMax, pictures }
    const sources = { imageRoot, limits: IMAGE_LIMITS, hosts: [], addressesAllowed: [] }
    const options = { ...model, ...sources, checkpointDir, template: TRAINING_TEMPLATE, form }
    return await prepareSamples(values, options, onPrepared)
  } finally {
    rmSync(checkpointDir, { recursive: true, force: true })
  }
}

function meanOfTail(history: readonly HistoryEntry[]): number {
  const tail = history.slice(-Math.max(1, Math.floor(history.length / 10)))
  return tail.reduce((sum, { loss }) => sum + loss, 0) / tail.length
}
