/**
 * Scoring for the main thread: opens the schedule, plans batches, sends them to the workers, and
 * gives every sequence exactly one result, in order.
 */

import { isOutOfMemory } from '../engine/engine.ts'
import { messageOf } from '../errors.ts'
import { openSchedule, type Schedule, stampFiles } from '../proxy/checkpoint/schedule.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { scriptAt } from '../version.ts'
import type { Mode } from './attention.ts'
import { type BatchLimits, LIMITS, planBatches, type Sequence } from './batch.ts'
import {
  type ChosenDevice,
  chooseDevice,
  chooseTensorflowDevice,
  type DeviceWish,
} from './device/choice.ts'
import { deviceFailed, type Failure, survived, withRetry } from './failure.ts'
import { usualImage } from './features.ts'
import { type Gain, type Metric, reachOf } from './metric.ts'
import { planWorkers, type WorkerPlan, type WorkerWish } from './residency.ts'
import type { DeviceUse, Scored, ScoreJob, ScorerOptions } from './scorer.ts'
import { type Load, Pool } from './workers/pool.ts'

export type ScoringOptions = WorkerWish & {
  proxyDir: string
  /** Default: opened from `proxyDir`. */
  schedule?: Schedule
  /** Default: attention. */
  metric?: Metric | undefined
  mode: Mode
  /** Default: none. */
  gain?: Gain | undefined
  /** Default: cpu. */
  device?: DeviceWish | undefined
  onWorkerReplaced?: (() => void) | undefined
  onDeviceUse?: ((use: DeviceUse) => void) | undefined
  onOutOfMemory?: ((event: OutOfMemory) => void) | undefined
  onProgress?: (() => void) | undefined
  /** Tests give their own. */
  script?: URL
}

export interface Scoring {
  readonly schedule: Schedule
  readonly device: ChosenDevice
  readonly plan: WorkerPlan
  /** One result a sequence, in order. Throws DEVICE_FAILED, and whatever is no example's fault. */
  score(sequences: readonly Sequence[]): Promise<Scored[]>
  load(): Load
  close(): Promise<void>
}

/**
 * Resolves once all workers have loaded. Throws PROXY_INVALID, PROXY_UNSUPPORTED,
 * CHECKPOINT_INVALID, CONFIG_INVALID, ENGINE_UNAVAILABLE or DEVICE_FAILED.
 */
export async function startScoring(options: ScoringOptions): Promise<Scoring> {
  const { metric = 'attention', gain = false } = options
  const { schedule = openSchedule(options.proxyDir, reachOf(metric, gain)) } = options
  const stamps = stampFiles(schedule.checkpoints)
  const { mode, limits = LIMITS, engine = 'onnx', device: wish = 'cpu', precision } = options
  const chosen =
    engine === 'onnx'
      ? await chooseDevice(wish, schedule.config)
      : await chooseTensorflowDevice(wish)
  const { device, fusedAttention } = chosen
  const plan = planWorkers(schedule, device, options)
  const { threads, residency } = plan
  if (engine === 'tensorflow') {
    const { prepareTensorflow } = await import('../engine/tensorflow/backend.ts')
    const sharing = plan.isolation === 'thread' ? plan.workers : 1
    prepareTensorflow({ threads: sharing * threads })
  }
  const choice = { engine, device, precision, fusedAttention, threads, residency }
  const workerData: ScorerOptions = { schedule, stamps, metric, mode, gain, ...choice }
  const pool = new Pool<ScoreJob, Scored[]>({
    script: options.script ?? scriptAt('score/workers/score-worker.js'),
    workerData,
    size: plan.workers,
    isolation: plan.isolation,
    onReplaced: options.onWorkerReplaced,
    onUse: options.onDeviceUse,
    onProgress: options.onProgress,
  })
  try {
    await pool.ready()
  } catch (error) {
    await pool.close()
    throw error
  }
  const { config } = schedule
  const { onOutOfMemory } = options
  const score = createBatchRetry({ pool, config, limits, onOutOfMemory })
  return {
    schedule,
    device: chosen,
    plan,
    score: sequences => scoreAll(score, plan, sequences),
    load: () => pool.load(),
    close: () => pool.close(),
  }
}

/** Jobs such that every worker gets its share of the sequences. */
async function scoreAll(
  score: BatchRetry,
  { workers, jobExamplesMax }: WorkerPlan,
  sequences: readonly Sequence[],
): Promise<Scored[]> {
  const results = new Array<Scored>(sequences.length)
  const examplesMax = Math.min(jobExamplesMax, Math.ceil(sequences.length / workers))
  const tokensMax = Number.POSITIVE_INFINITY
  const batches = planBatches(sequences, { tokensMax, examplesMax: Math.max(1, examplesMax) })
  const settled = await Promise.allSettled(
    batches.map(async indices => {
      const scored = await score(indices.map(i => sequences[i]!))
      for (const [at, i] of indices.entries()) results[i] = scored[at]!
    }),
  )
  for (const outcome of settled) if (outcome.status === 'rejected') throw outcome.reason
  return results
}

/* What comes of a job that fails. */

/** Memory ran out: how, and how many tokens a pass has from now on. */
export type OutOfMemory = { message: string; tokensMax: number; isLowered: boolean }

export type BatchRetryOptions = {
  pool: Pick<Pool<ScoreJob, Scored[]>, 'run'>
  config: ProxyConfig
  limits: BatchLimits
  onOutOfMemory?: ((event: OutOfMemory) => void) | undefined
}

/** This many failures in a row are the engine's fault, even where the last good example still passes. */
export const BLAMED_IN_A_ROW_MAX = 32

/** One job's results, in order. Throws DEVICE_FAILED, and whatever is no example's fault. */
export type BatchRetry = (sequences: readonly Sequence[]) => Promise<Scored[]>

/**
 * Scores job by job so that only an example that is at fault itself is lost.
 *
 *   job ──► out of memory? ──► passes of half as many tokens, from then on ──► the job again
 *    └──► fails ──► again in parts, down to one example (`failure.ts`) ──► is the device sound? the last
 *                   good example is scored again ──► yes: the one is to blame; no: DEVICE_FAILED
 */
export function createBatchRetry(options: BatchRetryOptions): BatchRetry {
  const { pool, config, limits, onOutOfMemory } = options
  let limit = limits.tokensMax
  const simplest = builtInSequence(config)
  let good = simplest
  let blamed = 0

  const scoreWith = (sequences: readonly Sequence[], tokensMax: number): Promise<Scored[]> => {
    const plan = planBatches(sequences, { ...limits, tokensMax })
    const passes = plan.map(indices => indices.map(i => sequences[i]!))
    return pool.run({ passes }).then(scored => {
      const results = new Array<Scored>(sequences.length)
      for (const [at, i] of plan.flat().entries()) results[i] = scored[at]!
      return results
    })
  }
  /** Passes stay short: memory runs out again, and on a CPU short passes cost next to nothing. */
  const lower = (tried: number, sequences: readonly Sequence[]): boolean => {
    if (limit < tried) return true
    const longest = Math.max(...sequences.map(({ ids }) => ids.length))
    if (tried <= longest) return false // a pass of that one alone is the largest already
    limit = Math.ceil(tried / 2)
    return true
  }
  const withinMemory = async (sequences: readonly Sequence[]): Promise<Scored[]> => {
    for (;;) {
      const tried = limit
      try {
        return await scoreWith(sequences, tried)
      } catch (error) {
        if (!isOutOfMemory(error)) throw error
        const before = limit
        const mayFit = lower(tried, sequences)
        onOutOfMemory?.({
          message: messageOf(error),
          tokensMax: limit,
          isLowered: limit < before,
        })
        if (!mayFit) throw error
      }
    }
  }
  const blame = async (failure: Failure): Promise<Scored> => {
    const again = await survived(scoreWith([good], limit))
    const trouble = 'failure' in again ? again.failure : failureIn(again.result[0]!)
    const { code, message } = failure
    if (trouble !== undefined) {
      const other =
        good === simplest ? 'the simplest example fails alike' : 'what scored before fails now'
      throw deviceFailed(`${message}; and ${other}: ${trouble.message}`, trouble.code)
    }
    blamed++
    if (blamed >= BLAMED_IN_A_ROW_MAX) {
      throw deviceFailed(`${blamed} examples in a row failed; the last: ${message}`, code)
    }
    return { error: failure }
  }
  const run = async (sequences: readonly Sequence[]): Promise<Scored[]> => {
    const results = await withinMemory(sequences)
    const sound = results.findLastIndex(scored => failureIn(scored) === undefined)
    if (sound >= 0) good = sequences[sound]!
    for (const scored of results) {
      const error = failureIn(scored)
      if (error === undefined) blamed = 0
      else if (error.code === 'SCORE_NOT_FINITE') await blame(error)
    }
    return results
  }
  return sequences => withRetry(sequences, { attempt: run, blame })
}

function failureIn(scored: Scored): Failure | undefined {
  return 'error' in scored ? scored.error : undefined
}

/** A small example that any proxy can score: an image of a grey ramp, and a few tokens after it. */
function builtInSequence(config: ProxyConfig): Sequence {
  const image = usualImage(config, 'built-in', ramp)
  const positions = image.cut?.positions ?? config.imageTokens
  const length = 1 + positions + TEXT_TOKENS
  const last = (count: number): Int32Array =>
    Int32Array.from({ length: count }, (_, i) => length - count + i)
  return {
    ids: new Int32Array(length),
    columns: Int32Array.from({ length: positions }, (_, i) => 1 + i),
    rows: last(TEXT_TOKENS - 1),
    answers: last(2),
    images: [image],
  }
}

const TEXT_TOKENS = 8

function ramp(length: number): Float32Array {
  return Float32Array.from({ length }, (_, i) => (2 * i) / length - 1)
}
