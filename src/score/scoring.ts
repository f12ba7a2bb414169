/**
 * Scoring for the main thread: opens the schedule, plans batches, sends them to the workers, and
 * gives every sequence exactly one result, in order.
 */
import { availableParallelism } from 'node:os'
import type { Device, EngineName, Precision } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import { checkpointBytes, openSchedule, type Schedule } from '../proxy/schedule.ts'
import type { Mode } from './attention.ts'
import type { Sequence } from './batch.ts'
import {
  type ChosenDevice,
  chooseDevice,
  chooseTensorflowDevice,
  type DeviceWish,
} from './device.ts'
import { type BatchLimits, planBatches } from './plan.ts'
import { createPool, type Load, type Pool, runSurviving } from './pool.ts'
import type { DeviceUse, Scored, ScorerOptions } from './scorer.ts'

export type ScoringOptions = {
  proxyDir: string
  mode: Mode
  /** Default: onnx. */
  engine?: EngineName | undefined
  /** Default: float32. */
  precision?: Precision | undefined
  /** Default: cpu. */
  device?: DeviceWish | undefined
  /** How many worker threads, and how many threads each computes with; see `chooseThreads`. */
  workers?: number | undefined
  threads?: number | undefined
  limits?: BatchLimits
  onWorkerReplaced?: (() => void) | undefined
  onDeviceUse?: ((use: DeviceUse) => void) | undefined
  /** Tests give their own. */
  script?: URL
}

export interface Scoring {
  readonly schedule: Schedule
  readonly device: ChosenDevice
  readonly workers: number
  readonly threads: number
  /** One result a sequence, in order. Throws where scoring as such is broken, not one example. */
  score(sequences: readonly Sequence[]): Promise<Scored[]>
  load(): Load
  close(): Promise<void>
}

/**
 * Resolves once all workers have loaded. Throws PROXY_INVALID, PROXY_UNSUPPORTED,
 * CHECKPOINT_INVALID, ENGINE_UNAVAILABLE or ENGINE_FAILED.
 */
export async function startScoring(options: ScoringOptions): Promise<Scoring> {
  const schedule = openSchedule(options.proxyDir)
  const { mode, engine = 'onnx', device: wish = 'cpu', precision } = options
  const chosen =
    engine === 'onnx'
      ? await chooseDevice(wish, schedule.config)
      : await chooseTensorflowDevice(wish)
  const { device, fusedAttention } = chosen
  const { workers, threads } = chooseThreads({
    device,
    checkpointBytes: checkpointBytes(schedule.checkpoints[0]!),
    cores: availableParallelism(),
    workers: options.workers,
    threads: options.threads,
  })
  if (engine === 'tensorflow') {
    const { prepareTensorflow } = await import('../engine/tensorflow-backend.ts')
    prepareTensorflow({ threads: workers * threads })
  }
  const { limits } = options
  const choice = { engine, device, precision, fusedAttention }
  const workerData: ScorerOptions = { schedule, mode, threads, limits, ...choice }
  const script = options.script ?? new URL('./worker.js', import.meta.url)
  const pool = createPool<readonly Sequence[], Scored[]>({
    script,
    workerData,
    size: workers,
    onReplaced: options.onWorkerReplaced,
    onUse: options.onDeviceUse,
  })
  try {
    await pool.ready()
  } catch (error) {
    await pool.close()
    throw error
  }
  return {
    schedule,
    device: chosen,
    workers,
    threads,
    score: sequences => scoreAll(pool, workers, sequences),
    load: () => pool.load(),
    close: () => pool.close(),
  }
}

const SMALL_MODEL_BYTES = 64 * 2 ** 20

/**
 * On a GPU one worker: it is what computes, and a second one would end the process. On the CPU one
 * worker on all cores where a checkpoint has 64 MB or more: its products are large enough to
 * be split, and its weights stay in memory once. Smaller models gain nothing from splitting: one
 * single-threaded worker a core. What is given counts; the other follows from it.
 */
export function chooseThreads(options: {
  device: Device
  checkpointBytes: number
  cores: number
  workers?: number | undefined
  threads?: number | undefined
}): { workers: number; threads: number } {
  const { cores, workers, threads } = options
  if (options.device !== 'cpu') {
    if ((workers ?? 1) > 1) throw oneWorker(options.device, workers!)
    return { workers: 1, threads: threads ?? cores }
  }
  const share = (count: number): number => Math.max(1, Math.floor(cores / count))
  if (workers !== undefined) return { workers, threads: threads ?? share(workers) }
  if (threads !== undefined) return { workers: share(threads), threads }
  return options.checkpointBytes < SMALL_MODEL_BYTES
    ? { workers: cores, threads: 1 }
    : { workers: 1, threads: cores }
}

function oneWorker(device: Device, workers: number): XmasdError {
  return new XmasdError(
    'CONFIG_INVALID',
    `proxy.workers is ${workers}; on ${device} one worker computes`,
    'leave proxy.workers out, or set proxy.device to cpu',
  )
}

/** Sequences of one job: many, so that a checkpoint that is not in memory is read for many. */
const JOB_EXAMPLES_MAX = 64

/** Every worker gets its share; the worker cuts it into runs. */
async function scoreAll(
  pool: Pool<readonly Sequence[], Scored[]>,
  workers: number,
  sequences: readonly Sequence[],
): Promise<Scored[]> {
  const results = new Array<Scored>(sequences.length)
  const examplesMax = Math.min(JOB_EXAMPLES_MAX, Math.ceil(sequences.length / workers))
  const tokensMax = Number.POSITIVE_INFINITY
  const batches = planBatches(sequences, { tokensMax, examplesMax: Math.max(1, examplesMax) })
  const settled = await Promise.allSettled(
    batches.map(async indices => {
      const batch = indices.map(i => sequences[i]!)
      const scored = await runSurviving(
        pool,
        batch,
        part => part,
        error => ({ error }),
      )
      for (const [at, i] of indices.entries()) results[i] = scored[at]!
    }),
  )
  for (const outcome of settled) if (outcome.status === 'rejected') throw outcome.reason
  return results
}
