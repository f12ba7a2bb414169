/**
 * Fetches ahead of the reader: one request at a time to each broker that leads assigned partitions, until enough records
 * wait (`FetchBudget`). A long batch of work delays neither heartbeats nor fetches.
 */

import { setImmediate } from 'node:timers/promises'
import { XmasdError } from '../../errors.ts'
import { type Brokers, leaderlessError } from '../link/brokers.ts'
import { gaveUp, verdictOn } from '../link/errors.ts'
import { backoff, type RetryPolicy, withRetry } from '../link/retry.ts'
import { type Fetched, readBatches } from '../wire/batch.ts'
import { checkCode, type LogRecord } from '../wire/model.ts'
import { type FetchedPartition, fetchRequest } from '../wire/requests.ts'
import type { AssignedPartition } from './partitions.ts'

export type FetchLimits = {
  /** Of one partition in one request. */
  partitionBytesMax: number
  /** Waiting to be polled: above it nothing more is fetched. */
  waitingBytesMax: number
}

export type FetcherOptions = {
  brokers: Brokers
  retry: RetryPolicy
  limits: FetchLimits
  /** All partitions; those that are delivering are fetched from. */
  partitions: Iterable<AssignedPartition>
  onRecords: () => void
  onFailed: (error: unknown) => void
}

/** How long a broker waits for a first record before it answers with none. */
const WAIT_MS = 200
const RESPONSE_BYTES_MAX = 32 << 20
const OUT_OF_RANGE = 1

export class Fetcher {
  readonly #options: FetcherOptions
  readonly #abort = new AbortController()
  readonly #retry: RetryPolicy
  readonly #busy = new Set<string>()
  readonly #budget: FetchBudget
  #fills = 0
  readonly #held = new Set<AssignedPartition>()
  /** Leaders and partitions that fail, since when, and their pauses. */
  readonly #failing = new Map<
    AssignedPartition | string,
    { since: number; pause: (e: unknown) => Promise<void> }
  >()
  #wake: () => void = () => {}
  #isPoked = false
  #running: Promise<void> = Promise.resolve()

  constructor(options: FetcherOptions) {
    this.#options = options
    this.#retry = { ...options.retry, signal: this.#abort.signal }
    this.#budget = new FetchBudget(options.limits.waitingBytesMax)
  }

  start(): void {
    this.#running = this.#run().catch(error => this.#fail(error))
  }

  /** A poll has taken these: there may be room. */
  took(records: readonly LogRecord[]): void {
    this.#budget.took(records)
    this.poke()
  }

  /** There is room, or something new to fetch. */
  poke(): void {
    this.#isPoked = true
    this.#wake()
  }

  async close(): Promise<void> {
    this.#abort.abort()
    this.poke()
    await this.#running
  }

  async #run(): Promise<void> {
    while (!this.#abort.signal.aborted) {
      this.#isPoked = false
      const delivering = [...this.#options.partitions].filter(lane => lane.isDelivering)
      const bytes = this.#budget.room(delivering)
      const lanes = inTurn(delivering.filter(lane => !lane.isBeingFetched))
      if (lanes.length > 0 && bytes > 0) await this.#dispatch(lanes, bytes)
      await this.#poked()
    }
  }

  #poked(): Promise<void> {
    if (this.#isPoked) return Promise.resolve()
    return new Promise(resolve => {
      this.#wake = resolve
    })
  }

  async #dispatch(lanes: readonly AssignedPartition[], bytes: number): Promise<void> {
    const { brokers } = this.#options
    const leaders = await withRetry(this.#retry, brokers, () => brokers.leaders(lanes))
    const { byLeader, leaderless } = leaders
    for (const lane of leaderless) this.#hold(lane, leaderlessError(lane))
    for (const [nodeId, mine] of byLeader) {
      if (this.#busy.has(nodeId) || this.#abort.signal.aborted) continue
      for (const lane of mine) lane.isBeingFetched = true
      this.#busy.add(nodeId)
      void this.#fetchFrom(nodeId, mine, Math.ceil(bytes / byLeader.size))
        .catch(error => this.#fail(error))
        .finally(() => {
          this.#busy.delete(nodeId)
          this.poke()
        })
    }
  }

  /** A failed request pauses its leader; the error of a partition pauses that partition. */
  async #fetchFrom(
    nodeId: string,
    lanes: readonly AssignedPartition[],
    bytes: number,
  ): Promise<void> {
    const asked = lanes.map(lane => ({ lane, version: lane.version }))
    try {
      for (const answer of await this.#ask(nodeId, lanes, bytes)) {
        const { lane, version } = asked.find(
          one => one.lane.topic === answer.topic && one.lane.partition === answer.partition,
        )!
        if (lane.version === version) await this.#receive(lane, answer)
      }
      this.#failing.delete(nodeId)
    } catch (error) {
      await this.#pause(nodeId, error)
    } finally {
      for (const lane of lanes) if (!this.#held.has(lane)) lane.isBeingFetched = false
    }
  }

  #ask(
    nodeId: string,
    lanes: readonly AssignedPartition[],
    bytes: number,
  ): Promise<FetchedPartition[]> {
    const { brokers, limits } = this.#options
    const bytesMax = Math.min(bytes, limits.partitionBytesMax)
    const places = lanes.map(({ topic, partition, fetchFrom: offset }) => {
      return { topic, partition, offset, bytesMax }
    })
    const whole = { waitMsMax: WAIT_MS, bytesMax: Math.min(bytes, RESPONSE_BYTES_MAX) }
    return brokers.send(nodeId, fetchRequest(places, whole))
  }

  async #receive(lane: AssignedPartition, answer: FetchedPartition): Promise<void> {
    try {
      await this.#take(lane, answer)
      this.#failing.delete(lane)
    } catch (error) {
      this.#hold(lane, error)
    }
  }

  /** Pauses one partition, then looks its leader up again. The others go on. */
  #hold(lane: AssignedPartition, error: unknown): void {
    lane.isBeingFetched = true
    this.#held.add(lane)
    this.#pause(lane, error)
      .then(() => {
        this.#held.delete(lane)
        lane.isBeingFetched = false
        this.poke()
      })
      .catch(reason => this.#fail(reason))
  }

  /** Throws errors that do not pass. A partition without a leader may wait for as long as it takes. */
  async #pause(what: AssignedPartition | string, error: unknown): Promise<void> {
    if (this.#abort.signal.aborted) return
    const { address, msMax, events } = this.#retry
    const verdict = verdictOn(error, address)
    if (verdict.kind === 'fatal') throw verdict.error
    const cause = verdict.kind === 'retry' ? verdict.cause : 'other'
    events.onRetry(cause)
    const failing = this.#failing.get(what) ?? {
      since: performance.now(),
      pause: backoff(this.#retry),
    }
    this.#failing.set(what, failing)
    const isTooLong = performance.now() - failing.since > msMax
    if (isTooLong && cause !== 'leader') throw gaveUp(error, address, msMax)
    await failing.pause(error)
    await this.#options.brokers.refreshLeaders().catch(() => {})
  }

  async #take(lane: AssignedPartition, answer: FetchedPartition): Promise<void> {
    if (answer.code === OUT_OF_RANGE) return this.#startAtOldest(lane)
    checkCode(answer.code, `${lane.topic}/${lane.partition}`)
    const { topic, partition, fetchFrom } = lane
    const fetched: Fetched = readBatches(
      answer.batches,
      { topic, partition, from: fetchFrom },
      answer.aborted,
    )
    lane.put(fetched)
    if (fetched.records.length > 0) {
      lane.filled = ++this.#fills
      this.#options.onRecords()
    }
    await setImmediate()
  }

  /** A group without a position starts at the oldest record; a group with one has lost records. */
  async #startAtOldest(lane: AssignedPartition): Promise<void> {
    const { topic, partition, committed, delivered, fetchFrom, version } = lane
    const { brokers } = this.#options
    const oldest = (await brokers.offsets(topic, [partition], 'oldest')).get(partition) ?? 0
    if (lane.version !== version) return
    if (committed === 0 && delivered === 0 && fetchFrom < oldest) {
      lane.put({ records: [], next: oldest, bytes: 0 })
      return
    }
    throw new XmasdError(
      'POSITION_LOST',
      `${topic}/${partition} no longer holds offset ${fetchFrom}, its oldest is ${oldest}: records were deleted before they were read, or the topic was made anew`,
      'keep records longer (retention.ms); to go on with what is left: stop, kafka-consumer-groups --reset-offsets --to-earliest',
    )
  }

  #fail(error: unknown): void {
    if (!this.#abort.signal.aborted) this.#options.onFailed(error)
  }
}

/** Least recently filled first: a broker fills its answer in the order of the request, and one partition may take all of it. */
function inTurn(lanes: readonly AssignedPartition[]): AssignedPartition[] {
  return [...lanes].sort((a, b) => a.filled - b.filled)
}

/** A fetch is sent when half of these are left, so it may take as long as two polls. */
const POLLS_AHEAD = 4
/** The least, also before the first poll. */
const AHEAD_BYTES_MIN = 1 << 20
/** Memory of a record without its value. */
const RECORD_BYTES = 200

export type Waiting = { bytes: number; waiting: number }

/**
 * How far the fetcher reads ahead. Waiting records take memory, so the budget follows the size of polls: a megabyte of
 * small records, or as many large ones as some polls take, up to a limit.
 */
export class FetchBudget {
  readonly #bytesMax: number
  #bytes = AHEAD_BYTES_MIN

  /** `bytesMax`: above it nothing more is fetched, however much a poll takes. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  /** What the last poll took. */
  took(records: readonly LogRecord[]): void {
    let bytes = records.length * RECORD_BYTES
    for (const { value } of records) bytes += value?.length ?? 0
    this.#bytes = Math.min(this.#bytesMax, Math.max(AHEAD_BYTES_MIN, POLLS_AHEAD * bytes))
  }

  /** The bytes that are to be fetched now; 0 while enough is waiting. */
  room(lanes: Iterable<Waiting>): number {
    let waiting = 0
    for (const lane of lanes) waiting += lane.bytes + lane.waiting * RECORD_BYTES
    return waiting < this.#bytes / 2 ? this.#bytes - waiting : 0
  }
}
