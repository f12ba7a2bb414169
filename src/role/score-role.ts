/**
 * The score role: examples -> assignments and dead-letters, exactly once. Batches are measured
 * side by side, at most `batchesInFlightMax` of them, and committed in the order they were read.
 *
 *   poll ──► measure ──┐ (at most batchesInFlightMax)
 *   poll ──► measure ──┴──► outcomes ──► commit {outputs, positions}
 *                                          └─ LOG_FENCED: drop what is in flight of the refused
 *                                             partitions, rewind those, poll again
 */
import type { Config } from '../config.ts'
import { messageOf } from '../errors.ts'
import { type Consumer, type LogRecord, placeKey, refusedPlaces } from '../log/log.ts'
import type { Logger } from '../observe/logger.ts'
import type { Metrics } from '../observe/metrics.ts'
import type { Measurer } from '../score/measure.ts'
import {
  type Nearest,
  type Outcome,
  oldestOf,
  outcomeOf,
  outputOf,
  positionsAfter,
} from './outcome.ts'
import type { RoleStatus } from './status.ts'

export type ScoreRoleParts = {
  config: Config
  consumer: Consumer
  measurer: Pick<Measurer, 'measure'>
  nearest: Nearest
  bundle: string
  metrics: Metrics
  logger: Logger
  status: RoleStatus
  /** The largest record that the log takes. */
  recordBytesMax: number
}

type Batch = {
  records: LogRecord[]
  outcomes: Promise<Outcome[]>
  startedAt: number
  /** Partitions that another member has: its records of them are that one's. */
  refused: Set<string>
}

const POLL_WAIT_MS = 200

/** Runs until `signal` aborts; then finishes and commits what is in flight. */
export async function runScoreRole(parts: ScoreRoleParts, signal: AbortSignal): Promise<void> {
  const inFlight: Batch[] = []
  while (!signal.aborted || inFlight.length > 0) {
    parts.metrics.batchesInFlight.set(inFlight.length)
    const isRoom = inFlight.length < parts.config.score.batchesInFlightMax && !signal.aborted
    const records = isRoom ? await poll(parts, inFlight.length === 0) : []
    parts.status.movedAt = performance.now()
    if (records.length > 0) inFlight.push(start(parts, records))
    parts.status.idle = inFlight.length === 0
    parts.status.oldest = oldestOf(inFlight[0]?.records ?? [])
    if (inFlight.length > 0 && records.length === 0) await finishFirst(parts, inFlight)
  }
  parts.metrics.batchesInFlight.set(0)
}

function poll(parts: ScoreRoleParts, mayWait: boolean): Promise<LogRecord[]> {
  const { batchExamplesMax, batchBytesMax } = parts.config.score
  return parts.consumer.poll({
    recordsMax: batchExamplesMax,
    bytesMax: batchBytesMax,
    waitMsMax: mayWait ? POLL_WAIT_MS : 0,
  })
}

function start(parts: ScoreRoleParts, records: LogRecord[]): Batch {
  const outcomes = outcomesOf(parts, records)
  outcomes.catch(() => {}) // looked at when its turn to commit comes
  return { records, outcomes, startedAt: performance.now(), refused: new Set() }
}

async function outcomesOf(parts: ScoreRoleParts, records: LogRecord[]): Promise<Outcome[]> {
  const values = records.map(record => record.value ?? new Uint8Array())
  const measured = await parts.measurer.measure(values)
  return records.map((record, i) => outcomeOf(record, measured[i]!, parts.nearest, parts.bundle))
}

async function finishFirst(parts: ScoreRoleParts, inFlight: Batch[]): Promise<void> {
  const batch = inFlight[0]!
  const outcomes = await ours(batch)
  const { topics } = parts.config.log
  const outputs = outcomes.map(outcome => outputOf(outcome, topics, parts.recordBytesMax))
  const stopTimer = parts.metrics.commitSeconds.startTimer({ role: 'score' })
  try {
    await parts.consumer.commit({ positions: positionsAfter(batch.records), outputs })
  } catch (error) {
    await afterFailedCommit(parts, inFlight, error)
  }
  inFlight.shift()
  stopTimer()
  parts.status.movedAt = performance.now()
  parts.status.batches++
  parts.metrics.lastCommit.set({ role: 'score' }, Date.now() / 1000)
  count(parts, batch, await ours(batch))
}

/** The outcomes of those records that no other member has; the others are taken out of the batch. */
async function ours(batch: Batch): Promise<Outcome[]> {
  const outcomes = await batch.outcomes
  if (batch.refused.size === 0) return outcomes
  const isOurs = batch.records.map(record => !batch.refused.has(placeKey(record)))
  batch.records = batch.records.filter((_, i) => isOurs[i])
  batch.outcomes = Promise.resolve(outcomes.filter((_, i) => isOurs[i]))
  batch.refused.clear()
  return batch.outcomes
}

/** What was refused is another member's: forget our work on it, and read on from what is committed. */
async function afterFailedCommit(
  parts: ScoreRoleParts,
  inFlight: readonly Batch[],
  error: unknown,
): Promise<void> {
  const refused = refusedPlaces(error)
  if (refused === undefined) throw error
  parts.metrics.fencedCommits.inc({ role: 'score' })
  parts.logger.warn({ role: 'score' }, `${messageOf(error)}; reading again from the commit`)
  for (const batch of inFlight) for (const place of refused) batch.refused.add(placeKey(place))
  await parts.consumer.rewind(refused)
}

function count(parts: ScoreRoleParts, batch: Batch, outcomes: Outcome[]): void {
  const { metrics, logger } = parts
  let deadLetters = 0
  let tokens = 0
  for (const outcome of outcomes) {
    if (outcome.kind === 'dead_letter') {
      deadLetters++
      const { code } = outcome.error
      metrics.examples.inc({ outcome: 'dead_letter' })
      metrics.deadLetters.inc({ code })
      const { partition, offset } = outcome.record
      logger.debug({ partition, offset, code }, outcome.error.message)
    } else {
      if (outcome.truncated) metrics.truncated.inc()
      tokens += outcome.tokens
      const { key, cluster, source } = outcome.assignment
      logger.debug({ key, cluster, source, ...outcome.trace }, 'assigned')
    }
  }
  if (outcomes.length === 0) return
  metrics.tokens.inc(tokens)
  metrics.batchExamples.observe(batch.records.length)
  const ms = Math.round(performance.now() - batch.startedAt)
  const assigned = outcomes.length - deadLetters
  const { partition, offset } = batch.records[batch.records.length - 1]!
  logger.info({ role: 'score', assigned, deadLetters, tokens, ms, partition, offset }, 'batch')
}
