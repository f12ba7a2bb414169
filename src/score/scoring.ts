/**
 * Scoring for the main thread: opens the schedule, plans batches, sends them to the workers, and
 * gives every sequence exactly one result, in order.
 */
import { availableParallelism } from 'node:os'
import type { Device, EngineName, Precision } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import { checkpointBytes, openSchedule, type Schedule } from '../proxy/schedule.ts'
import { stampFiles } from '../proxy/unchanged.ts'
import type { Mode } from './attention.ts'
import type { Sequence } from './batch.ts'
import {
  type ChosenDevice,
  chooseDevice,
  chooseTensorflowDevice,
  type DeviceWish,
} from './device.ts'
import { createGuard, type Guard, type OutOfMemory, type ScoreJob } from './guard.ts'
import type { Isolation } from './host.ts'
import { type Metric, reachOf } from './metric.ts'
import { type BatchLimits, LIMITS, planBatches } from './plan.ts'
import { createPool, type Load } from './pool.ts'
import { chooseResidency, type Residency } from './residency.ts'
import type { DeviceUse, Scored, ScorerOptions } from './scorer.ts'

export type ScoringOptions = {
  proxyDir: string
  /** Default: attention. */
  metric?: Metric | undefined
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
  /** Bytes that all workers together may take; see `residency.ts`. Default: half of what is free. */
  memoryMax?: number | undefined
  /** Sequences that `score` is given at once, at most. Default: 64. */
  batchExamplesMax?: number | undefined
  onWorkerReplaced?: (() => void) | undefined
  onDeviceUse?: ((use: DeviceUse) => void) | undefined
  onOutOfMemory?: ((event: OutOfMemory) => void) | undefined
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
  const { metric = 'attention' } = options
  const schedule = openSchedule(options.proxyDir, reachOf(metric))
  const stamps = stampFiles(schedule.checkpoints)
  const { mode, limits, engine = 'onnx', device: wish = 'cpu', precision } = options
  const chosen =
    engine === 'onnx'
      ? await chooseDevice(wish, schedule.config)
      : await chooseTensorflowDevice(wish)
  const { device, fusedAttention } = chosen
  const plan = planWorkers(schedule, device, options)
  const { threads, residency } = plan
  if (engine === 'tensorflow') {
    const { prepareTensorflow } = await import('../engine/tensorflow-backend.ts')
    const sharing = plan.isolation === 'thread' ? plan.workers : 1
    prepareTensorflow({ threads: sharing * threads })
  }
  const choice = { engine, device, precision, fusedAttention, threads, residency }
  const workerData: ScorerOptions = { schedule, stamps, metric, mode, limits, ...choice }
  const pool = createPool<ScoreJob, Scored[]>({
    script: options.script ?? new URL('./worker.js', import.meta.url),
    workerData: () => workerData,
    size: plan.workers,
    isolation: plan.isolation,
    onReplaced: options.onWorkerReplaced,
    onUse: options.onDeviceUse,
  })
  try {
    await pool.ready()
  } catch (error) {
    await pool.close()
    throw error
  }
  const guard = createGuard({
    pool,
    config: schedule.config,
    tokensMax: (limits ?? LIMITS).tokensMax,
    onOutOfMemory: options.onOutOfMemory,
  })
  return {
    schedule,
    device: chosen,
    plan,
    score: sequences => scoreAll(guard, plan, sequences),
    load: () => pool.load(),
    close: () => pool.close(),
  }
}

export type WorkerPlan = {
  /** How many worker threads, and how many threads each computes with. */
  workers: number
  threads: number
  /** A process where a driver may end it, or checkpoints come and go. */
  isolation: Isolation
  /** Of each worker. */
  residency: Residency
  /** Sequences of one job. */
  jobExamplesMax: number
}

/** Sequences of one job where every checkpoint stays in memory: few, so that workers share them well. */
const JOB_EXAMPLES_MAX = 64

/**
 * How many workers, and what each keeps in memory. Where checkpoints are streamed a job is a worker's
 * share of a whole batch of the role (`batchExamplesMax`), for the load is paid once a job.
 */
export function planWorkers(
  schedule: Schedule,
  device: Device,
  options: Pick<
    ScoringOptions,
    'workers' | 'threads' | 'limits' | 'memoryMax' | 'batchExamplesMax' | 'precision'
  >,
): WorkerPlan {
  const { precision, memoryMax, limits = LIMITS, batchExamplesMax = JOB_EXAMPLES_MAX } = options
  const { workers, threads } = chooseThreads({
    device,
    checkpointBytes: checkpointBytes(schedule.checkpoints[0]!),
    cores: availableParallelism(),
    workers: options.workers,
    threads: options.threads,
  })
  const streamed = Math.ceil(batchExamplesMax / workers)
  const resident = Math.min(JOB_EXAMPLES_MAX, streamed)
  const { tokensMax } = limits
  const residency = chooseResidency(schedule, {
    device,
    precision,
    workers,
    memoryMax,
    tokensMax,
    jobExamples: { resident, streamed },
  })
  const isStreamed = residency.residents < schedule.checkpoints.length
  return {
    workers,
    threads,
    isolation: device === 'cpu' && !isStreamed ? 'thread' : 'process',
    residency,
    jobExamplesMax: isStreamed ? streamed : resident,
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

/** Every worker gets its share; the worker cuts it into runs. */
async function scoreAll(
  guard: Guard,
  { workers, jobExamplesMax }: WorkerPlan,
  sequences: readonly Sequence[],
): Promise<Scored[]> {
  const results = new Array<Scored>(sequences.length)
  const examplesMax = Math.min(jobExamplesMax, Math.ceil(sequences.length / workers))
  const tokensMax = Number.POSITIVE_INFINITY
  const batches = planBatches(sequences, { tokensMax, examplesMax: Math.max(1, examplesMax) })
  const settled = await Promise.allSettled(
    batches.map(async indices => {
      const scored = await guard(indices.map(i => sequences[i]!))
      for (const [at, i] of indices.entries()) results[i] = scored[at]!
    }),
  )
  for (const outcome of settled) if (outcome.status === 'rejected') throw outcome.reason
  return results
}
