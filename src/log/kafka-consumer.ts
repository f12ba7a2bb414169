/**
 * A consumer on Kafka: a member of a group, its lanes, and their commits. One state machine a lane:
 *
 *   given ─► claim ─► ready ─► poll … commit … poll ─► taken away ─► finish what is out ─► let go
 *              ▲                  │ refused: somebody else moved it
 *              └──── rewind ◄─────┘
 */
import type { LogEvents } from '../observe/log-events.ts'
import { encodeOutputs, type RoundRobin } from './kafka-append.ts'
import type { Cluster } from './kafka-cluster.ts'
import { Fetcher, type FetchLimits } from './kafka-fetcher.ts'
import { type Given, Membership } from './kafka-group.ts'
import type { Lane } from './kafka-lane.ts'
import { claimLane, claimLaneInDoubt, commitLane, type LaneContext } from './kafka-lane-commit.ts'
import { Lanes, placeOf } from './kafka-lanes.ts'
import type { Patience } from './kafka-retry.ts'
import type { GroupState, StateChanges } from './kafka-state.ts'
import type { KafkaTopic } from './kafka-topics.ts'
import type { Output, Written } from './kafka-transactions.ts'
import {
  type Commit,
  type Consumer,
  fenced,
  type LogRecord,
  outputsBySource,
  type Place,
  type Position,
  placeKey,
  type StateReader,
} from './log.ts'

export type KafkaConsumerOptions = {
  group: string
  topics: readonly KafkaTopic[]
  /** Connections of its own: joining a group may keep one waiting. */
  membershipCluster: Cluster
  cluster: Cluster
  patience: Patience
  events: LogEvents
  /** Undefined for a member that keeps none. */
  state: GroupState | undefined
  /** Topics of outputs, looked up by name. Throws RangeError for one that does not exist. */
  topicOf: (name: string) => Promise<KafkaTopic>
  /** All that may be outputs, as far as they are known. */
  outputTopics: () => readonly KafkaTopic[]
  turns: RoundRobin
  limits: FetchLimits & { batchBytesMax: number }
  sessionMsMax: number
  transactionMsMax: number
  /** Told of what its transactions wrote. */
  onWritten: (written: readonly Written[]) => void
  onClosed: () => Promise<void>
}

/** How long a partition that is wanted elsewhere is held for what is still worked on. */
const FINISH_MS_MAX = 60_000
const POLL_BYTES_MAX = 32 << 20

export class KafkaConsumer implements Consumer {
  epoch = 0
  readonly #options: KafkaConsumerOptions
  readonly #lanes = new Lanes()
  readonly #membership: Membership
  readonly #fetcher: Fetcher
  readonly #abort = new AbortController()
  readonly #context: LaneContext
  readonly #waiting = new Set<() => void>()
  #claiming: Promise<unknown> = Promise.resolve()
  #failure: unknown
  #isClosed = false

  private constructor(options: KafkaConsumerOptions) {
    this.#options = options
    for (const { name: topic, partitions } of options.topics) {
      for (let partition = 0; partition < partitions; partition++) {
        this.#lanes.ensure({ topic, partition })
      }
    }
    const { cluster, events, group } = options
    const patience = { ...options.patience, signal: this.#abort.signal }
    const onFailed = (error: unknown): void => this.#fail(error)
    this.#membership = new Membership({
      cluster: options.membershipCluster,
      group,
      topics: options.topics.map(({ name }) => name),
      sessionMsMax: options.sessionMsMax,
      patience,
      events,
      holds: () => this.#lanes.held(),
      onGiven: given => this.#receive(given),
      onFailed,
    })
    this.#fetcher = new Fetcher({
      cluster,
      patience,
      limits: options.limits,
      lanes: this.#lanes,
      onRecords: () => this.#wakeAll(),
      onFailed,
    })
    cluster.onBreak = () => this.#doubt()
    this.#context = {
      cluster,
      group,
      patience,
      events,
      transactionMsMax: options.transactionMsMax,
      topics: options.outputTopics,
      onWritten: options.onWritten,
      confirm: () => this.#membership.confirm(),
      onNews: () => {
        this.epoch++
      },
    }
  }

  /** Resolves once the group has given it its first partitions, perhaps none. */
  static async join(options: KafkaConsumerOptions): Promise<KafkaConsumer> {
    const consumer = new KafkaConsumer(options)
    try {
      await consumer.#membership.start()
      await consumer.#settled()
    } catch (error) {
      await consumer.close()
      throw error
    }
    consumer.#fetcher.start()
    return consumer
  }

  get state(): StateReader {
    if (this.#options.state === undefined) throw new RangeError('this member keeps no state')
    return this.#options.state.reader
  }

  #receive({ places, isContinuous }: Given): void {
    const given = new Set(places.map(placeKey))
    for (const place of places) this.#lanes.ensure(place)
    const claimed: Promise<void>[] = []
    for (const lane of this.#lanes) {
      const isOurs = given.has(placeKey(lane))
      const isKept = lane.isHeld && lane.isReady && isContinuous
      const wasAssigned = lane.isAssigned
      lane.isAssigned = isOurs
      if (isOurs) {
        lane.isHeld = true
        if (isKept) continue
        lane.isReady = false
        claimed.push(this.#claim(lane))
      } else if (!isContinuous) this.#letGo(lane)
      else if (wasAssigned) this.#finish(lane)
    }
    this.#claiming = Promise.all([this.#claiming, ...claimed])
    this.#claiming.catch(() => {})
    this.#letGoOfIdle()
    this.#fetcher.poke()
  }

  async #claim(lane: Lane, how = claimLane): Promise<void> {
    const claiming = lane.committing.then(() => how(this.#context, lane))
    lane.committing = claiming.catch(error => this.#fail(error))
    await claiming
    this.#fetcher.poke()
  }

  /** A broker that died may have forgotten the end of a transaction, committed or not: claiming finds out. */
  #doubt(): void {
    if (this.#isClosed) return
    for (const lane of this.#lanes) {
      if (lane.claim === undefined || !lane.isHeld) continue
      lane.claim = undefined
      this.#claim(lane, claimLaneInDoubt).catch(() => {})
    }
  }

  /** It is wanted elsewhere: nothing more is given out of it, what is out may be committed. */
  #finish(lane: Lane): void {
    const timer = setTimeout(() => {
      if (lane.isAssigned || !lane.isHeld) return
      this.#letGo(lane)
      this.#membership.release()
    }, FINISH_MS_MAX)
    timer.unref()
  }

  /** What has nothing out any more, and is wanted elsewhere. */
  #letGoOfIdle(): void {
    const idle = [...this.#lanes].filter(lane => lane.isHeld && !lane.isAssigned && !lane.isBusy)
    for (const lane of idle) this.#letGo(lane)
    if (idle.length > 0 && !this.#isClosed) this.#membership.release()
  }

  #letGo(lane: Lane): void {
    if (lane.isHeld) this.epoch++
    lane.letGo()
  }

  async poll(options: {
    recordsMax: number
    bytesMax?: number
    waitMsMax: number
  }): Promise<LogRecord[]> {
    this.#checkOpen()
    const { recordsMax, bytesMax = POLL_BYTES_MAX, waitMsMax } = options
    if (!(recordsMax >= 1)) throw new RangeError(`recordsMax ${recordsMax}`)
    const deadline = performance.now() + waitMsMax
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure
      if (this.#isClosed) return []
      const records = this.#lanes.take(recordsMax, bytesMax)
      if (records.length > 0) this.#fetcher.took(records)
      const leftMs = deadline - performance.now()
      if (records.length > 0 || leftMs <= 0) return records
      await this.#woken(leftMs)
    }
  }

  #woken(ms: number): Promise<void> {
    return new Promise(resolve => {
      const wake = (): void => {
        clearTimeout(timer)
        this.#waiting.delete(wake)
        resolve()
      }
      const timer = setTimeout(wake, ms)
      this.#waiting.add(wake)
    })
  }

  #wakeAll(): void {
    for (const wake of [...this.#waiting]) wake()
  }

  async commit(commit: Commit): Promise<void> {
    this.#checkOpen()
    const bySource = outputsBySource(commit)
    const moves = commit.positions.map(position => this.#move(position))
    for (const { lane, offset } of moves) {
      const isStill = offset === lane.committed && !lane.isVoid
      if (isStill && bySource.get(placeKey(lane))!.length > 0) {
        throw new RangeError(`${placeKey(lane)} has outputs but does not move from ${offset}`)
      }
    }
    const changes = this.#options.state?.collect(commit.state) ?? []
    const encoded = new Map<string, Output[]>()
    for (const [key, outputs] of bySource) encoded.set(key, await this.#encode(outputs))
    const results = await Promise.allSettled(
      moves.map(({ lane, offset }) => this.#inTurn(lane, offset, encoded.get(placeKey(lane))!)),
    )
    this.#letGoOfIdle()
    const failed = results.find(result => result.status === 'rejected')
    if (failed !== undefined) throw failed.reason
    const refused = moves.filter((_, i) => (results[i] as { value: boolean }).value === false)
    if (refused.length > 0) throw this.#fenced(refused.map(({ lane }) => lane))
    await this.#writeState(changes, moves)
  }

  #move({ topic, partition, offset }: Position): { lane: Lane; offset: number } {
    const lane = this.#lanes.at({ topic, partition })
    if (lane === undefined) throw new RangeError(`${topic}/${partition} is not consumed here`)
    const isPast = !lane.isVoid && (offset < lane.committed || offset > lane.delivered)
    if (!Number.isSafeInteger(offset) || isPast) {
      throw new RangeError(
        `${topic}/${partition}: position ${offset}, committed ${lane.committed}, polled to ${lane.delivered}`,
      )
    }
    return { lane, offset }
  }

  async #encode(outputs: Commit['outputs']): Promise<Output[]> {
    const topics = new Map<string, KafkaTopic>()
    for (const { topic } of outputs) {
      if (!topics.has(topic)) topics.set(topic, await this.#options.topicOf(topic))
    }
    const { turns, limits } = this.#options
    return encodeOutputs(outputs, topics, turns, limits.batchBytesMax)
  }

  /** Commits of a lane are made one after the other. False where it was refused. */
  #inTurn(lane: Lane, offset: number, outputs: readonly Output[]): Promise<boolean> {
    const mine = lane.committing.then(() => commitLane(this.#context, lane, offset, outputs))
    lane.committing = mine.catch(() => {})
    return mine
  }

  #fenced(lanes: readonly Lane[]): Error {
    const names = lanes.map(placeKey).join(', ')
    return fenced(
      lanes.map(placeOf),
      `another member of group ${this.#options.group} has ${names} now`,
    )
  }

  /** After the transaction: the state may lag, never lead. */
  async #writeState(changes: StateChanges, moves: readonly { lane: Lane }[]): Promise<void> {
    const { state } = this.#options
    if (changes.length === 0 || state === undefined) return
    if (!(await state.write(changes))) throw this.#fenced(moves.map(({ lane }) => lane))
  }

  async positions(): Promise<Position[]> {
    await this.#settled()
    return [...this.#lanes]
      .filter(({ isAssigned }) => isAssigned)
      .map(({ topic, partition, committed }) => ({ topic, partition, offset: committed }))
  }

  async rewind(places?: readonly Place[]): Promise<void> {
    this.#checkOpen()
    await this.#settled()
    await this.#options.state?.refresh()
    const wanted = places === undefined ? undefined : new Set(places.map(placeKey))
    for (const lane of this.#lanes) {
      if (wanted === undefined || wanted.has(placeKey(lane))) lane.restart()
    }
    this.#letGoOfIdle()
    this.#fetcher.poke()
  }

  /** Every partition that was given has been claimed; or why not. */
  async #settled(): Promise<void> {
    for (let seen: unknown; seen !== this.#claiming; ) {
      seen = this.#claiming
      await this.#claiming
    }
    if (this.#failure !== undefined) throw this.#failure
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#wakeAll()
    this.#abort.abort()
    await this.#fetcher.close()
    await this.#membership.close()
    await this.#options.onClosed()
  }

  #fail(error: unknown): void {
    if (this.#isClosed) return
    this.#failure ??= error
    this.#wakeAll()
  }

  #checkOpen(): void {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#isClosed) throw new Error('the consumer is closed')
  }
}
