/**
 * Fetches ahead of the reader (`kafka-ahead.ts`): one request at a time for each broker that leads partitions of ours,
 * until enough is waiting. It stops for nothing but that, so a long batch of work delays no heartbeat and no fetch.
 */
import { setImmediate } from 'node:timers/promises'
import { XmasdError } from '../errors.ts'
import { Ahead } from './kafka-ahead.ts'
import { type Fetched, readBatches } from './kafka-batch.ts'
import type { Cluster } from './kafka-cluster.ts'
import { checkCode, verdictOn } from './kafka-errors.ts'
import type { Lane } from './kafka-lane.ts'
import { type FetchedPartition, fetchRequest } from './kafka-requests.ts'
import { backoff, type Patience, patiently } from './kafka-retry.ts'
import type { LogRecord } from './log.ts'

export type FetchLimits = {
  /** Of one partition in one request. */
  partitionBytesMax: number
  /** Waiting to be polled: above it nothing more is fetched. */
  waitingBytesMax: number
}

export type FetcherOptions = {
  cluster: Cluster
  patience: Patience
  limits: FetchLimits
  /** All lanes; those that are delivering are fetched from. */
  lanes: Iterable<Lane>
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
  readonly #patience: Patience
  readonly #busy = new Set<string>()
  readonly #ahead: Ahead
  #fills = 0
  #pause: (error: unknown) => Promise<void>
  #wake: () => void = () => {}
  #isPoked = false
  #running: Promise<void> = Promise.resolve()

  constructor(options: FetcherOptions) {
    this.#options = options
    this.#patience = { ...options.patience, signal: this.#abort.signal }
    this.#ahead = new Ahead(options.limits.waitingBytesMax)
    this.#pause = backoff(this.#patience)
  }

  start(): void {
    this.#running = this.#run().catch(error => this.#fail(error))
  }

  /** A poll has taken these: there may be room. */
  took(records: readonly LogRecord[]): void {
    this.#ahead.took(records)
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
      const delivering = [...this.#options.lanes].filter(lane => lane.isDelivering)
      const bytes = this.#ahead.room(delivering)
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

  async #dispatch(lanes: readonly Lane[], bytes: number): Promise<void> {
    const { cluster } = this.#options
    const byLeader = await patiently(this.#patience, cluster, () => cluster.leaders(lanes))
    for (const [nodeId, mine] of byLeader) {
      if (this.#busy.has(nodeId) || this.#abort.signal.aborted) continue
      for (const lane of mine) lane.isBeingFetched = true
      this.#busy.add(nodeId)
      void this.#fetchFrom(nodeId, mine, Math.ceil(bytes / byLeader.size))
        .catch(error => this.#fail(error))
        .finally(() => {
          for (const lane of mine) lane.isBeingFetched = false
          this.#busy.delete(nodeId)
          this.poke()
        })
    }
  }

  /** Waits a while after a failure; the leaders are looked up again for the next request. */
  async #fetchFrom(nodeId: string, lanes: readonly Lane[], bytes: number): Promise<void> {
    const { cluster, limits } = this.#options
    const bytesMax = Math.min(bytes, limits.partitionBytesMax)
    const asked = lanes.map(lane => {
      const { topic, partition, fetchFrom: offset, version } = lane
      return { lane, version, place: { topic, partition, offset, bytesMax } }
    })
    try {
      const request = fetchRequest(
        asked.map(({ place }) => place),
        { waitMsMax: WAIT_MS, bytesMax: Math.min(bytes, RESPONSE_BYTES_MAX) },
      )
      for (const answer of await cluster.send(nodeId, request)) {
        const of = asked.find(
          ({ place }) => place.topic === answer.topic && place.partition === answer.partition,
        )!
        if (of.lane.version !== of.version) continue
        await this.#receive(of.lane, answer)
      }
      this.#pause = backoff(this.#patience)
    } catch (error) {
      await this.#afterFailure(error)
    }
  }

  async #afterFailure(error: unknown): Promise<void> {
    if (this.#abort.signal.aborted) return
    const verdict = verdictOn(error, this.#patience.address)
    if (verdict.kind === 'fatal') throw verdict.error
    this.#patience.events.onRetry(verdict.kind === 'retry' ? verdict.cause : 'other')
    await this.#pause(error)
    await this.#options.cluster.refresh().catch(() => {})
  }

  async #receive(lane: Lane, answer: FetchedPartition): Promise<void> {
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

  /** Nothing was ever committed and the oldest records are gone: the stream begins where it begins. */
  async #startAtOldest(lane: Lane): Promise<void> {
    const { topic, partition, committed, delivered, fetchFrom, version } = lane
    const { cluster } = this.#options
    const oldest = (await cluster.offsets(topic, [partition], 'oldest')).get(partition) ?? 0
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

/** A broker fills its answer in the order of the request, and one lane may take all of it. */
function inTurn(lanes: readonly Lane[]): Lane[] {
  return [...lanes].sort((a, b) => a.filled - b.filled)
}
