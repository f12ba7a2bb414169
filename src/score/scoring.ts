/**
 * Scoring for the main thread: opens the schedule, plans batches, sends them to the workers, and
 * gives every sequence exactly one result, in order.
 */
import { availableParallelism } from 'node:os'
import { XmasdError } from '../errors.ts'
import { checkpointBytes, openSchedule, type Schedule } from '../proxy/schedule.ts'
import type { Mode } from './attention.ts'
import { type BatchLimits, planBatches, type Sequence } from './batch.ts'
import { createPool, type Pool } from './pool.ts'
import type { Scored, ScorerOptions } from './scorer.ts'

export type ScoringOptions = {
  proxyDir: string
  mode: Mode
  /** How many worker threads, and how many threads each computes with; see `chooseThreads`. */
  workers?: number | undefined
  threads?: number | undefined
  limits?: BatchLimits
  /** Tests give their own. */
  script?: URL
}

export interface Scoring {
  readonly schedule: Schedule
  readonly workers: number
  readonly threads: number
  /** One result a sequence, in order. Throws where scoring as such is broken, not one example. */
  score(sequences: readonly Sequence[]): Promise<Scored[]>
  close(): Promise<void>
}

const LIMITS: BatchLimits = { tokensMax: 8192, examplesMax: 64 }

/**
 * Resolves once all workers have loaded. Throws PROXY_INVALID, PROXY_UNSUPPORTED,
 * CHECKPOINT_INVALID or ENGINE_FAILED.
 */
export async function startScoring(options: ScoringOptions): Promise<Scoring> {
  const schedule = openSchedule(options.proxyDir)
  const { workers, threads } = chooseThreads({
    checkpointBytes: checkpointBytes(schedule.checkpoints[0]!),
    cores: availableParallelism(),
    workers: options.workers,
    threads: options.threads,
  })
  const workerData: ScorerOptions = { schedule, mode: options.mode, threads }
  const script = options.script ?? new URL('./worker.js', import.meta.url)
  const pool = createPool<readonly Sequence[], Scored[]>({ script, workerData, size: workers })
  try {
    await pool.ready()
  } catch (error) {
    await pool.close()
    throw error
  }
  return {
    schedule,
    workers,
    threads,
    score: sequences => scoreAll(pool, sequences, options.limits ?? LIMITS),
    close: () => pool.close(),
  }
}

const SMALL_MODEL_BYTES = 64 * 2 ** 20

/**
 * One worker on all cores where a checkpoint has 64 MB or more: its products are large enough to
 * be split, and its weights stay in memory once. Smaller models gain nothing from splitting: one
 * single-threaded worker a core. What is given counts; the other follows from it.
 */
export function chooseThreads(options: {
  checkpointBytes: number
  cores: number
  workers?: number | undefined
  threads?: number | undefined
}): { workers: number; threads: number } {
  const { cores, workers, threads } = options
  const share = (count: number): number => Math.max(1, Math.floor(cores / count))
  if (workers !== undefined) return { workers, threads: threads ?? share(workers) }
  if (threads !== undefined) return { workers: share(threads), threads }
  return options.checkpointBytes < SMALL_MODEL_BYTES
    ? { workers: cores, threads: 1 }
    : { workers: 1, threads: cores }
}

async function scoreAll(
  pool: Pool<readonly Sequence[], Scored[]>,
  sequences: readonly Sequence[],
  limits: BatchLimits,
): Promise<Scored[]> {
  const results = new Array<Scored>(sequences.length)
  const batches = planBatches(sequences, limits)
  const settled = await Promise.allSettled(
    batches.map(async indices => {
      const batch = indices.map(i => sequences[i]!)
      const scored = await scoreBatch(pool, batch)
      for (const [at, i] of indices.entries()) results[i] = scored[at]!
    }),
  )
  for (const outcome of settled) if (outcome.status === 'rejected') throw outcome.reason
  return results
}

/** A batch whose worker died is tried once more, one by one, so that only the culprit is lost. */
async function scoreBatch(
  pool: Pool<readonly Sequence[], Scored[]>,
  batch: readonly Sequence[],
): Promise<Scored[]> {
  try {
    return await pool.run(batch)
  } catch (error) {
    if (!isWorkerDeath(error)) throw error
    return Promise.all(batch.map(sequence => scoreAlone(pool, sequence)))
  }
}

async function scoreAlone(
  pool: Pool<readonly Sequence[], Scored[]>,
  sequence: Sequence,
): Promise<Scored> {
  try {
    return (await pool.run([sequence]))[0]!
  } catch (error) {
    if (!isWorkerDeath(error)) throw error
    const { code, message, hint } = error
    return { error: { code, message, hint } }
  }
}

function isWorkerDeath(error: unknown): error is XmasdError {
  return error instanceof XmasdError && error.code === 'WORKER_DIED'
}
