/**
 * The score role: examples -> assignments and dead-letters, exactly once. Batches are scored side by
 * side, at most `batchesInFlightMax` of them, and committed in the order they were read.
 *
 *   poll ──► SCORE_STAGES ──┐ (at most batchesInFlightMax)
 *   poll ──► SCORE_STAGES ──┴──► COMMIT_STAGES
 *                                     └─ LOG_FENCED: drop the refused partitions from what is in
 *                                        flight, rewind them, commit the rest again
 */
import type { Config } from '../config.ts'
import { messageOf } from '../errors.ts'
import { type Consumer, type LogRecord, placeKey, refusedPlaces } from '../log/log.ts'
import type { Logger } from '../observe/logger.ts'
import type { Metrics } from '../observe/metrics.ts'
import { Stopped } from '../score/failure.ts'
import type { ScoredRecord, ScoringPipeline } from '../score/pipeline.ts'
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
  pipeline: Pick<ScoringPipeline, 'score'>
  nearest: Nearest
  bundle: string
  metrics: Metrics
  logger: Logger
  status: RoleStatus
  /** The largest record that the log takes. */
  recordBytesMax: number
}

type Batch = {
  records: readonly LogRecord[]
  scored: readonly ScoredRecord[]
  /** One a record. */
  outcomes: readonly Outcome[]
  startedAt: number
  /** Partitions that moved to another member, which reads their records again. */
  refused: Set<string>
}
type Stage = (batch: Batch, role: ScoreRole) => Batch | Promise<Batch>

const SCORE_STAGES: readonly Stage[] = [scoreRecords, assignClusters]
const COMMIT_STAGES: readonly Stage[] = [dropRefused, commitOutcomes, countOutcomes]

type InFlight = Pick<Batch, 'records' | 'refused'> & { scored: Promise<Batch> }
type ScoreRole = ScoreRoleParts & { inFlight: InFlight[] }

const POLL_WAIT_MS = 200

/** Runs until `signal` aborts; then finishes and commits what is in flight. */
export async function runScoreRole(parts: ScoreRoleParts, signal: AbortSignal): Promise<void> {
  const inFlight: InFlight[] = []
  try {
    await readAndCommit({ ...parts, inFlight }, signal)
  } catch (error) {
    if (!(signal.aborted && error instanceof Stopped)) throw error
    const message = 'stopped before the batches in flight were scored: their records are read again'
    parts.logger.warn({ role: 'score', batches: inFlight.length }, message)
  }
  parts.metrics.batchesInFlight.set(0)
}

async function readAndCommit(role: ScoreRole, signal: AbortSignal): Promise<void> {
  const { inFlight } = role
  while (!signal.aborted || inFlight.length > 0) {
    role.metrics.batchesInFlight.set(inFlight.length)
    const isRoom = inFlight.length < role.config.score.batchesInFlightMax && !signal.aborted
    const records = isRoom ? await poll(role) : []
    role.status.movedAt = performance.now()
    if (records.length > 0) inFlight.push(start(role, records))
    role.status.idle = inFlight.length === 0
    role.status.oldest = oldestOf(inFlight[0]?.records ?? [])
    if (inFlight.length === 0 || records.length > 0) continue
    await through(COMMIT_STAGES, await inFlight[0]!.scored, role)
  }
}

async function through(stages: readonly Stage[], batch: Batch, role: ScoreRole): Promise<Batch> {
  let current = batch
  for (const stage of stages) current = await stage(current, role)
  return current
}

function poll({ config, consumer, inFlight }: ScoreRole): Promise<LogRecord[]> {
  const { batchExamplesMax, batchBytesMax } = config.score
  return consumer.poll({
    recordsMax: batchExamplesMax,
    bytesMax: batchBytesMax,
    waitMsMax: inFlight.length === 0 ? POLL_WAIT_MS : 0,
  })
}

function start(role: ScoreRole, records: LogRecord[]): InFlight {
  const refused = new Set<string>()
  const batch = { records, scored: [], outcomes: [], startedAt: performance.now(), refused }
  const scored = through(SCORE_STAGES, batch, role)
  scored.catch(() => {}) // awaited when its turn to commit comes
  return { records, refused, scored }
}

async function scoreRecords(batch: Batch, { pipeline }: ScoreRole): Promise<Batch> {
  const values = batch.records.map(({ value, error }) => (error ? null : value) ?? new Uint8Array())
  const keys = batch.records.map(({ key }) => key)
  return { ...batch, scored: await pipeline.score(values, keys) }
}

function assignClusters(batch: Batch, { nearest, bundle }: ScoreRole): Batch {
  const outcomes = batch.records.map((record, i) =>
    outcomeOf(record, batch.scored[i]!, nearest, bundle),
  )
  return { ...batch, outcomes }
}

function dropRefused(batch: Batch): Batch {
  const { records, outcomes, refused } = batch
  if (refused.size === 0) return batch
  const isOwn = records.map(record => !refused.has(placeKey(record)))
  return {
    ...batch,
    records: records.filter((_, i) => isOwn[i]),
    outcomes: outcomes.filter((_, i) => isOwn[i]),
  }
}

async function commitOutcomes(batch: Batch, role: ScoreRole): Promise<Batch> {
  const { metrics, status, inFlight } = role
  const stopTimer = metrics.commitSeconds.startTimer({ role: 'score' })
  let left = batch
  while (!(await isCommitted(left, role))) {
    status.movedAt = performance.now()
    left = dropRefused(left)
  }
  inFlight.shift()
  stopTimer()
  status.movedAt = performance.now()
  status.batches++
  metrics.lastCommit.set({ role: 'score' }, Date.now() / 1000)
  return left
}

/** False where another member has some of it: the rest has to be committed again without that. */
async function isCommitted(batch: Batch, role: ScoreRole): Promise<boolean> {
  const { topics } = role.config.log
  const outputs = batch.outcomes.map(outcome => outputOf(outcome, topics, role.recordBytesMax))
  try {
    await role.consumer.commit({ positions: positionsAfter(batch.records), outputs })
    return true
  } catch (error) {
    await afterFailedCommit(role, error)
    return false
  }
}

/** The refused partitions belong to another member: discard our work on them, read on from the commit. */
async function afterFailedCommit(role: ScoreRole, error: unknown): Promise<void> {
  const refused = refusedPlaces(error)
  if (refused === undefined) throw error
  role.metrics.fencedCommits.inc({ role: 'score' })
  role.logger.warn({ role: 'score' }, `${messageOf(error)}; reading again from the commit`)
  for (const batch of role.inFlight) for (const one of refused) batch.refused.add(placeKey(one))
  await role.consumer.rewind(refused)
}

function countOutcomes(batch: Batch, { metrics, logger }: ScoreRole): Batch {
  let deadLetters = 0
  let tokens = 0
  for (const outcome of batch.outcomes) {
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
      const { key, cluster, source, gain } = outcome.assignment
      if (gain != null) metrics.imageGain.observe(gain)
      logger.debug({ key, cluster, source, ...outcome.trace }, 'assigned')
    }
  }
  if (batch.outcomes.length === 0) return batch
  metrics.tokens.inc(tokens)
  metrics.batchExamples.observe(batch.records.length)
  const ms = Math.round(performance.now() - batch.startedAt)
  const assigned = batch.outcomes.length - deadLetters
  const { partition, offset } = batch.records.at(-1)!
  logger.info({ role: 'score', assigned, deadLetters, tokens, ms, partition, offset }, 'batch')
  return batch
}
