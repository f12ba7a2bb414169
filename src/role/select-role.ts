/**
 * The select role: a deterministic fold over `assignments` in log order -> decisions and subset. State,
 * outputs and position are one commit; where the state lags (an engine that commits it second, a lost
 * disk) the gap is folded again and nothing is published twice.
 *
 *   open state ─► fold the gap, no outputs ─► poll ─► fold ─► commit {decisions, subset, position, state}
 *        ▲                                   │                 │
 *        ├── the partition came or went ◄────┘                 │
 *        └──────────── LOG_FENCED: open again ◄────────────────┘
 *
 * One member of the group has the one partition of `assignments`; the others stand by.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Config } from '../config.ts'
import { messageOf, XmasdError } from '../errors.ts'
import type { Consumer, Log, LogRecord, OutRecord } from '../log/log.ts'
import type { Logger } from '../observe/logger.ts'
import type { Metrics } from '../observe/metrics.ts'
import type { Control, Decision } from '../record.ts'
import type { Folded } from '../select/fold.ts'
import type { ClusterCount, Regret } from '../select/rule/policy.ts'
import type { SelectState } from '../select/state.ts'
import { FOLD_RECORDS, Selections } from './bundle-swap.ts'
import { oldestOf, positionsAfter } from './outcome.ts'
import { type GaugeBundle, SelectionGauges } from './selection-gauges.ts'
import type { RoleStatus } from './status.ts'

export type SelectRoleParts = {
  config: Config
  log: Log
  metrics: Metrics
  logger: Logger
  status: RoleStatus
  /** The configured bundle. */
  bundle: GaugeBundle
}

/** A commit costs a flush to disk: 8,192 records are a tenth faster than 4,096, and 16,384 no more. */
export const POLL_RECORDS_MAX = 8_192
const POLL_WAIT_MS = 200
const GAP_LOG_EVERY_MS = 5_000
/** Records between two commits while a gap is folded: the next start goes on from there. */
const GAP_COMMIT_RECORDS = 65_536
const REOPEN_WAIT_MS = 20
const REOPEN_TRIES_MAX = 500

export async function openSelectRole(parts: SelectRoleParts): Promise<SelectRole> {
  const { config, log } = parts
  const topic = config.log.topics.assignments
  const consumer = await log.consume({ group: config.select.group, topics: [topic] })
  const role = new SelectRole(parts, consumer)
  await role.open()
  return role
}

export class SelectRole {
  readonly #parts: SelectRoleParts
  readonly #consumer: Consumer
  /** Undefined while standing by. */
  #selections: Selections | undefined
  #epoch = -1
  #idleSince = performance.now()
  readonly #gauges: SelectionGauges

  constructor(parts: SelectRoleParts, consumer: Consumer) {
    this.#parts = parts
    this.#consumer = consumer
    this.#gauges = new SelectionGauges(parts)
  }

  get #opened(): Selections {
    if (this.#selections === undefined) throw new RangeError('open comes first')
    return this.#selections
  }

  get #state(): SelectState {
    return this.#opened.state
  }

  /** Loads the state and folds the gap to the committed position, again where another member commits. */
  async open(): Promise<void> {
    for (let tries = 1; ; tries++) {
      this.#epoch = this.#consumer.epoch
      await this.#consumer.rewind()
      if (await this.#tryOpen(tries >= REOPEN_TRIES_MAX)) break
      await sleep(REOPEN_WAIT_MS)
    }
    if (this.#selections !== undefined) await this.#gauges.opened(this.#selections)
    else this.#gauges.hide()
  }

  async #tryOpen(isLast: boolean): Promise<boolean> {
    const { config, log, logger } = this.#parts
    const [position] = await this.#consumer.positions()
    if (position === undefined) {
      if (this.#selections !== undefined) logger.warn({ role: 'select' }, 'another member decides')
      else logger.info({ role: 'select' }, 'standing by: another member decides')
      this.#selections = undefined
      return true
    }
    const to = position.offset
    const selections = new Selections({ config, log, logger, consumer: this.#consumer })
    const from = selections.state.appliedOffset
    if (from > to && isLast) throw stateLeads(from, to)
    if (from > to) return false
    this.#selections = selections
    return from === to || (await this.#foldGap(selections, to))
  }

  async #foldGap(selections: Selections, to: number): Promise<boolean> {
    const { config, log, logger, status } = this.#parts
    const from = selections.state.appliedOffset
    logger.warn({ role: 'select', from, to }, 'state lags behind the log: folding the gap')
    const progress = gapProgress(logger, to)
    try {
      let folded = 0
      for await (const record of log.read(config.log.topics.assignments, { from, to })) {
        await selections.fold(record)
        folded++
        if (folded % FOLD_RECORDS === 0) await new Promise(setImmediate)
        if (folded % GAP_COMMIT_RECORDS === 0) await this.#commitState(selections)
        progress(folded, record.offset)
        status.movedAt = performance.now()
      }
      await this.#commitState(selections)
      return true
    } catch (error) {
      if (isFenced(error)) return false
      throw error
    }
  }

  async #commitState(selections: Selections): Promise<void> {
    const state = selections.write.bind(selections)
    await this.#consumer.commit({ positions: [], outputs: [], state })
  }

  /** Whether this member has the partition: others stand by. */
  get isDeciding(): boolean {
    return this.#selections !== undefined
  }

  /** Every cluster that has examples. */
  clusters(): ClusterCount[] {
    return this.#selections === undefined ? [] : [...this.#state.clusters()]
  }

  /** Clusters of the active bundle; undefined where that one has not been needed yet. */
  clusterCount(): number | undefined {
    return this.#selections?.clusterCount
  }

  /** See `Policy.regret`. */
  regret(): Regret | undefined {
    return this.#selections?.state.regret()
  }

  /** Until `signal` aborts; the current batch is committed. */
  async run(signal: AbortSignal): Promise<void> {
    const { status } = this.#parts
    while (!signal.aborted) {
      const records = await this.#consumer.poll({
        recordsMax: POLL_RECORDS_MAX,
        waitMsMax: POLL_WAIT_MS,
      })
      status.movedAt = performance.now()
      for (const { error } of records) if (error !== undefined) throw error
      if (this.#consumer.epoch !== this.#epoch) {
        status.idle = false
        await this.open()
        continue
      }
      status.idle = records.length === 0 && (this.#selections?.state.pending ?? 0) === 0
      status.oldest = oldestOf(records)
      if (records.length > 0) await this.#step(records)
      else if (this.#selections !== undefined) await this.#whenIdle(this.#selections)
    }
  }

  async #step(records: LogRecord[]): Promise<void> {
    // Polled before another member committed: the commit would be fenced.
    if (records[0]!.offset < this.#state.appliedOffset) return this.open()
    const { metrics, logger, status } = this.#parts
    const started = performance.now()
    const { tally, outputs } = await this.#fold(records)
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
    this.#count(tally)
    const ms = Math.round(performance.now() - started)
    const offset = records[records.length - 1]!.offset
    const { decisions } = tally
    logger.info({ role: 'select', assignments: records.length, decisions, ms, offset }, 'batch')
  }

  async #fold(records: readonly LogRecord[]): Promise<{ tally: Tally; outputs: OutRecord[] }> {
    const tally: Tally = { outcomes: new Map(), reasons: new Map(), decisions: 0, shown: [] }
    const isShown = this.#parts.logger.isLevelEnabled('debug')
    const outputs: OutRecord[] = []
    for (const [i, record] of records.entries()) {
      const folding = this.#opened.fold(record)
      const one = folding instanceof Promise ? await folding : folding
      addTo(tally, one.folded, isShown)
      for (const output of one.outputs) outputs.push(output)
      const counting = this.#gauges.folded(this.#opened, one)
      if (counting !== undefined) await counting
      if (i % FOLD_RECORDS === FOLD_RECORDS - 1) await new Promise(setImmediate)
    }
    return { tally, outputs }
  }

  /** Another member has committed: discard what was folded since. */
  async #afterFailedCommit(error: unknown): Promise<void> {
    if (!isFenced(error)) throw error
    this.#parts.metrics.fencedCommits.inc({ role: 'select' })
    this.#parts.logger.warn({ role: 'select' }, `${messageOf(error)}; opening the state again`)
    await this.open()
  }

  /** A settlement on idle is a record of the log, so that a replay settles there too. */
  async #whenIdle(selections: Selections): Promise<void> {
    this.#gauges.compareShadow(selections)
    const { config, log } = this.#parts
    const isDue = performance.now() - this.#idleSince >= config.select.idleSettleMs
    if (this.#state.pending === 0 || !isDue) return
    this.#idleSince = performance.now()
    const control: Control = { v: 1, control: 'settle' }
    const value = Buffer.from(JSON.stringify(control))
    await log.append([{ topic: config.log.topics.assignments, key: null, value, partition: 0 }])
  }

  #count({ outcomes, reasons, shown }: Tally): void {
    const { metrics, logger } = this.#parts
    for (const [outcome, count] of outcomes) metrics.examples.inc({ outcome }, count)
    for (const [name, count] of reasons) {
      const [action, reason] = name.split(' ') as [string, string]
      metrics.decisions.inc({ action, reason }, count)
    }
    for (const { key, action, reason } of shown) logger.debug({ key, action, reason }, 'decision')
    this.#gauges.show(this.#opened)
  }

  async close(): Promise<void> {
    await this.#consumer.close()
  }
}

/** What is counted of a batch once it is committed. The decisions themselves would be garbage that lives long. */
type Tally = {
  outcomes: Map<string, number>
  /** By action and reason, with a space between. */
  reasons: Map<string, number>
  decisions: number
  /** Those to be logged. */
  shown: Decision[]
}

function addTo(tally: Tally, { outcome, decisions }: Folded, isShown: boolean): void {
  if (outcome !== 'settled') addOne(tally.outcomes, outcome)
  for (const decision of decisions) {
    addOne(tally.reasons, `${decision.action} ${decision.reason}`)
    if (isShown) tally.shown.push(decision)
  }
  tally.decisions += decisions.length
}

function addOne(counts: Map<string, number>, name: string): void {
  counts.set(name, (counts.get(name) ?? 0) + 1)
}

/** Logs position, rate and time left now and then. */
function gapProgress(logger: Logger, to: number): (folded: number, offset: number) => void {
  const started = performance.now()
  let loggedAt = started
  return (folded, offset) => {
    const now = performance.now()
    if (now - loggedAt < GAP_LOG_EVERY_MS) return
    loggedAt = now
    const perSecond = Math.round((1000 * folded) / (now - started))
    const leftSeconds = Math.round((to - offset) / perSecond)
    logger.info({ role: 'select', offset, to, perSecond, leftSeconds }, 'folding the gap')
  }
}

function stateLeads(from: number, to: number): XmasdError {
  return new XmasdError(
    'STATE_INVALID',
    `the select state has assignments up to ${from}, its group is at ${to}`,
    'The position was moved back, or the topic was created again: remove the state (log.path), which is then folded again, or name a new select.group.',
  )
}

function isFenced(error: unknown): boolean {
  return error instanceof XmasdError && error.code === 'LOG_FENCED'
}
