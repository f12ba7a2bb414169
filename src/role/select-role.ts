/**
 * The select role: a deterministic fold over `assignments` in log order -> decisions and subset.
 * State is written in the same commit as outputs and position; where it lags (an engine that
 * commits it second, a lost disk) the gap is folded again and nothing is published twice.
 *
 *   open state ─► fold the gap silently ─► poll ─► fold ─► commit {decisions, subset, position, state}
 *        ▲                                                     │
 *        └──────────── LOG_FENCED: open again ◄────────────────┘
 */
import type { DriftWindow } from '../cluster/drift.ts'
import type { Config } from '../config.ts'
import { messageOf, XmasdError } from '../errors.ts'
import type { Consumer, Log, LogRecord, OutRecord } from '../log/log.ts'
import type { Logger } from '../observe/logger.ts'
import type { Metrics } from '../observe/metrics.ts'
import { groupsOf } from '../open-log.ts'
import type { Cluster, Control, Decision, SubsetEntry } from '../record.ts'
import type { Folded } from '../select/fold.ts'
import { type FoldedAssignment, parseForFold } from '../select/parse.ts'
import { openSelectState, type SelectState } from '../select/state.ts'
import { oldestOf, positionsAfter, traceOf } from './outcome.ts'
import type { RoleStatus } from './status.ts'

export type SelectRoleParts = {
  config: Config
  log: Log
  metrics: Metrics
  logger: Logger
  status: RoleStatus
  drift: DriftWindow
}

export type SelectRole = {
  /** Runs until `signal` aborts; the batch in hand is committed. */
  run(signal: AbortSignal): Promise<void>
  /** Every cluster that has examples: its size, and how many are kept. */
  clusters(): { cluster: Cluster; size: number; quota: number }[]
  close(): Promise<void>
}

/** Commits cost a flush to disk whatever their size: 4,096 records a commit are 15-20 % faster than 2,048. */
export const POLL_RECORDS_MAX = 4_096
const POLL_WAIT_MS = 200
/** How many records are folded between two looks at the event loop: some 10 ms of work. */
const FOLD_RECORDS = 256
const GAP_LOG_EVERY = 100_000
const REOPEN_WAIT_MS = 20

export async function openSelectRole(parts: SelectRoleParts): Promise<SelectRole> {
  const { config, log } = parts
  const topic = config.log.topics.assignments
  const consumer = await log.consume({ group: groupsOf(config).select, topics: [topic] })
  const role = new Role(parts, consumer)
  await role.open()
  return role
}

class Role implements SelectRole {
  readonly #parts: SelectRoleParts
  readonly #consumer: Consumer
  #state: SelectState | undefined
  #idleSince = performance.now()

  constructor(parts: SelectRoleParts, consumer: Consumer) {
    this.#parts = parts
    this.#consumer = consumer
  }

  get #opened(): SelectState {
    if (this.#state === undefined) throw new RangeError('open comes first')
    return this.#state
  }

  /** Loads the state and folds what the log has committed beyond it, until nobody moves meanwhile. */
  async open(): Promise<void> {
    for (;;) {
      await this.#consumer.rewind()
      if (await this.#tryOpen()) break
      await new Promise(resolve => setTimeout(resolve, REOPEN_WAIT_MS))
    }
    this.#gauges()
  }

  async #tryOpen(): Promise<boolean> {
    const { policy, percent, settleEvery } = this.#parts.config.select
    const [position] = await this.#consumer.positions()
    const to = position?.offset ?? 0
    const state = openSelectState(this.#consumer.state, { policy, percent, settleEvery })
    if (state.appliedOffset > to) return false
    this.#state = state
    return state.appliedOffset === to || (await this.#foldGap(state, to))
  }

  async #foldGap(state: SelectState, to: number): Promise<boolean> {
    const { config, log, logger } = this.#parts
    const from = state.appliedOffset
    logger.warn({ role: 'select', from, to }, 'state lags behind the log: folding the gap')
    for await (const record of log.read(config.log.topics.assignments, { from, to })) {
      state.fold(parse(record), record.offset)
      if (record.offset % GAP_LOG_EVERY !== 0) continue
      logger.info({ role: 'select', offset: record.offset, to }, 'folding the gap')
    }
    try {
      await this.#consumer.commit({
        positions: [],
        outputs: [],
        state: writer => state.write(writer),
      })
      return true
    } catch (error) {
      if (isFenced(error)) return false
      throw error
    }
  }

  clusters(): { cluster: Cluster; size: number; quota: number }[] {
    return [...this.#opened.clusters()]
  }

  async run(signal: AbortSignal): Promise<void> {
    const { status } = this.#parts
    while (!signal.aborted) {
      const records = await this.#consumer.poll({
        recordsMax: POLL_RECORDS_MAX,
        waitMsMax: POLL_WAIT_MS,
      })
      status.movedAt = performance.now()
      status.idle = records.length === 0 && this.#opened.pending === 0
      status.oldest = oldestOf(records)
      if (records.length > 0) await this.#step(records)
      else await this.#settleWhenIdle()
    }
  }

  async #step(records: LogRecord[]): Promise<void> {
    // Polled before another member moved on: the commit would be fenced.
    if (records[0]!.offset < this.#opened.appliedOffset) return this.open()
    const { metrics, logger, status, config } = this.#parts
    const started = performance.now()
    const folded = await this.#fold(records)
    const outputs = folded.flatMap(({ decisions }, i) => {
      const trace = decisions.length === 0 ? {} : traceOf(records[i]!)
      return decisions.flatMap(decision => outputsOf(decision, config.log.topics, trace))
    })
    const stopTimer = metrics.commitSeconds.startTimer({ role: 'select' })
    try {
      await this.#consumer.commit({
        positions: positionsAfter(records),
        outputs,
        state: writer => this.#opened.write(writer),
      })
    } catch (error) {
      await this.#afterFailedCommit(error)
      return
    }
    stopTimer()
    status.movedAt = performance.now()
    status.batches++
    metrics.lastCommit.set({ role: 'select' }, Date.now() / 1000)
    this.#idleSince = performance.now()
    this.#count(folded)
    const ms = Math.round(performance.now() - started)
    const offset = records[records.length - 1]!.offset
    const decisions = folded.reduce((sum, one) => sum + one.decisions.length, 0)
    logger.info({ role: 'select', assignments: records.length, decisions, ms, offset }, 'batch')
  }

  async #fold(records: readonly LogRecord[]): Promise<Folded[]> {
    const folded: Folded[] = []
    for (const [i, record] of records.entries()) {
      const parsed = parse(record)
      const one = this.#opened.fold(parsed, record.offset)
      folded.push(one)
      const counts = one.outcome === 'assigned' && !('control' in parsed)
      if (counts) this.#parts.drift.add(parsed.cluster, parsed.distance)
      if (i % FOLD_RECORDS === FOLD_RECORDS - 1) await new Promise(setImmediate)
    }
    return folded
  }

  /** Another member has moved on: what was folded since is void. */
  async #afterFailedCommit(error: unknown): Promise<void> {
    if (!isFenced(error)) throw error
    this.#parts.metrics.fencedCommits.inc({ role: 'select' })
    this.#parts.logger.warn({ role: 'select' }, `${messageOf(error)}; opening the state again`)
    await this.open()
  }

  /** A settlement out of turn is itself a record of the log, so that a replay settles there too. */
  async #settleWhenIdle(): Promise<void> {
    const { config, log } = this.#parts
    const isDue = performance.now() - this.#idleSince >= config.select.idleSettleMs
    if (this.#opened.pending === 0 || !isDue) return
    this.#idleSince = performance.now()
    const control: Control = { v: 1, control: 'settle' }
    const value = Buffer.from(JSON.stringify(control))
    await log.append([{ topic: config.log.topics.assignments, key: null, value, partition: 0 }])
  }

  #count(folded: readonly Folded[]): void {
    const { metrics, logger } = this.#parts
    for (const { outcome, decisions } of folded) {
      if (outcome !== 'settled') metrics.examples.inc({ outcome })
      for (const { key, action, reason } of decisions) {
        metrics.decisions.inc({ action, reason })
        logger.debug({ key, action, reason }, 'decision')
      }
    }
    this.#gauges()
  }

  #gauges(): void {
    const { metrics, drift } = this.#parts
    const state = this.#opened
    metrics.subset.set(state.kept)
    metrics.history.set(state.examples)
    metrics.pending.set(state.pending)
    const { examples, stabilityIndex, stabilityNoise, beyondShare } = drift.measure()
    metrics.driftWindow.set(examples)
    metrics.driftStability.set(stabilityIndex)
    metrics.driftNoise.set(stabilityNoise)
    metrics.driftBeyond.set(beyondShare)
    metrics.redundant.set(shareOf(state.duplicates, state.duplicates + state.examples))
  }

  async close(): Promise<void> {
    await this.#consumer.close()
  }
}

function isFenced(error: unknown): boolean {
  return error instanceof XmasdError && error.code === 'LOG_FENCED'
}

function shareOf(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}

/** @throws XmasdError RECORD_INVALID: `assignments` is ours alone, what can't be read there stops the fold */
function parse(record: LogRecord): FoldedAssignment | Control {
  try {
    return parseForFold(record.value!)
  } catch (error) {
    throw new XmasdError(
      'RECORD_INVALID',
      `${record.topic}/${record.partition}@${record.offset} is no assignment: ${messageOf(error)}`,
      'only the score role may write to this topic; find out who else did',
      { cause: error },
    )
  }
}

/** The event itself, and what it does to the compacted subset; `headers` go with both. */
export function outputsOf(
  decision: Decision,
  topics: { decisions: string; subset: string },
  headers: Record<string, string> = {},
): OutRecord[] {
  const { key, action } = decision
  const event: OutRecord = {
    topic: topics.decisions,
    key,
    value: Buffer.from(JSON.stringify(decision)),
    partition: 0,
    headers,
  }
  if (action === 'drop') return [event]
  return [event, { topic: topics.subset, key, value: subsetValue(decision), partition: 0, headers }]
}

function subsetValue({ action, key, id, cluster, instability, bundle }: Decision): Buffer | null {
  if (action === 'evict') return null
  const entry: SubsetEntry = { v: 1, key, id, cluster, instability, bundle }
  return Buffer.from(JSON.stringify(entry))
}
