/**
 * A consumer on Kafka: group membership, assigned partitions, fetching and commits.
 */

import { setTimeout as after } from 'node:timers/promises'
import { type Given, Membership } from '../../kafka/group/membership.ts'
import type { Brokers } from '../../kafka/link/brokers.ts'
import type { KafkaTopic } from '../../kafka/link/topics.ts'
import { Fetcher, type FetchLimits } from '../../kafka/read/fetcher.ts'
import { type AssignedPartition, AssignedPartitions } from '../../kafka/read/partitions.ts'
import { placeOf } from '../../kafka/wire/model.ts'
import { encodeOutputs } from '../../kafka/write/encode.ts'
import type { Partitioner } from '../../kafka/write/partition.ts'
import type { WriteContext } from '../../kafka/write/transaction.ts'
import {
  type Commit,
  type Consumer,
  fenced,
  type LogRecord,
  type Place,
  type Position,
  placeKey,
  type StateReader,
  Waiters,
  withoutMove,
} from '../log.ts'
import { Committer, type Move } from './committer.ts'
import type { GroupState, StateChanges } from './state.ts'

export type KafkaConsumerOptions = WriteContext & {
  group: string
  inputs: readonly KafkaTopic[]
  /** Connections of its own: joining a group may keep one waiting. */
  membershipBrokers: Brokers
  /** Undefined for a member that keeps none. */
  state: GroupState | undefined
  /** Topics of outputs, looked up by name. Throws RangeError for one that does not exist. */
  topicOf: (name: string) => Promise<KafkaTopic>
  partitioner: Partitioner
  limits: FetchLimits & { batchBytesMax: number }
  sessionMsMax: number
  /** How long a partition that is wanted elsewhere is held for what is still worked on. */
  handoverMsMax: number
  onClosed: () => Promise<void>
}

const POLL_BYTES_MAX = 32 << 20
const CLOSE_MS_MAX = 2_000

export class KafkaConsumer implements Consumer {
  epoch = 0
  readonly #options: KafkaConsumerOptions
  readonly #partitions = new AssignedPartitions()
  readonly #membership: Membership
  readonly #fetcher: Fetcher
  readonly #abort = new AbortController()
  readonly #committer: Committer
  readonly #polls = new Waiters()
  #failure: unknown
  #isClosed = false

  private constructor(options: KafkaConsumerOptions) {
    this.#options = options
    for (const { name: topic, partitions } of options.inputs) {
      for (let partition = 0; partition < partitions; partition++) {
        this.#partitions.ensure({ topic, partition })
      }
    }
    const { brokers, group } = options
    const retry = { ...options.retry, signal: this.#abort.signal }
    const onFailed = (error: unknown): void => this.#fail(error)
    this.#membership = new Membership({
      brokers: options.membershipBrokers,
      group,
      topics: options.inputs.map(({ name }) => name),
      sessionMsMax: options.sessionMsMax,
      retry,
      holds: () => this.#partitions.held(),
      onGiven: given => this.#receive(given),
      onFailed,
    })
    this.#fetcher = new Fetcher({
      brokers,
      retry,
      limits: options.limits,
      partitions: this.#partitions,
      onRecords: () => this.#polls.wake(),
      onFailed,
    })
    this.#committer = new Committer({
      ...options,
      retry,
      inputs: [...this.#partitions].map(placeOf),
      member: () => this.#membership.member,
      confirm: () => this.#membership.confirm(),
      onNews: partition => this.#onNews(partition),
    })
    brokers.onBreak = () => this.#committer.doubt()
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

  #receive({ places, slot, free, isContinuous }: Given): void {
    // An older version that leads the group gives no numbers.
    this.#committer.use(slot ?? this.#membership.memberId, free)
    const given = new Set(places.map(placeKey))
    for (const place of places) this.#partitions.ensure(place)
    const openings = new Map<AssignedPartition, number>()
    for (const partition of this.#partitions) {
      if (given.has(placeKey(partition))) {
        if (!partition.isHeld) this.epoch++
        const opening = partition.assign(isContinuous)
        if (opening !== undefined) openings.set(partition, opening)
      } else if (partition.isHeld) this.#takeAway(partition, isContinuous)
    }
    this.#committer.open(openings).then(
      () => this.#fetcher.poke(),
      error => this.#fail(error),
    )
    this.#fetcher.poke()
  }

  /** While the membership lasts, work in hand may still be committed. */
  #takeAway(partition: AssignedPartition, isContinuous: boolean): void {
    const { handoverMsMax, retry, group } = this.#options
    if (isContinuous) {
      partition.takeAway(handoverMsMax, () => {
        const what = `${placeKey(partition)} is given up with work in hand after ${handoverMsMax} ms`
        retry.logger?.warn({ group }, `${what} (log.handoverMsMax)`)
        this.#release(partition)
      })
    } else partition.release()
    if (partition.isHeld) return
    this.epoch++
    if (isContinuous) this.#membership.release()
  }

  /** Lets the group assign it to another member. */
  #release(partition: AssignedPartition): void {
    partition.release()
    this.epoch++
    if (!this.#isClosed) this.#membership.release()
  }

  #releaseFinished(): void {
    for (const partition of this.#partitions) {
      if (partition.state === 'leaving' && !partition.isBusy) this.#release(partition)
    }
  }

  #onNews(partition: AssignedPartition): void {
    this.epoch++
    if (!partition.isHeld) this.#membership.release()
    this.#fetcher.poke()
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
      const records = this.#partitions.take(recordsMax, bytesMax)
      if (records.length > 0) this.#fetcher.took(records)
      const leftMs = deadline - performance.now()
      if (records.length > 0 || leftMs <= 0) return records
      await this.#polls.wait(leftMs)
    }
  }

  async commit(commit: Commit): Promise<void> {
    this.#checkOpen()
    const moves = commit.positions.map(position => this.#move(position))
    const isStill = moves.every(
      ({ partition, offset }) => offset === partition.committed && !partition.isStale,
    )
    if (isStill && commit.outputs.length > 0) throw withoutMove()
    const changes = this.#options.state?.collect(commit.state) ?? []
    const { topicOf, partitioner, limits } = this.#options
    const { batchBytesMax } = limits
    const outputs = await encodeOutputs(commit.outputs, topicOf, partitioner, batchBytesMax)
    const lost = moves.length === 0 ? [] : await this.#committer.commit(moves, outputs)
    this.#releaseFinished()
    if (lost.length > 0) throw this.#fenced(lost)
    await this.#writeState(changes, moves)
  }

  #move({ topic, partition: number, offset }: Position): Move {
    const partition = this.#partitions.at({ topic, partition: number })
    if (partition === undefined) throw new RangeError(`${topic}/${number} is not consumed here`)
    const { committed, delivered, isStale } = partition
    const isPast = !isStale && (offset < committed || offset > delivered)
    if (!Number.isSafeInteger(offset) || isPast) {
      throw new RangeError(
        `${topic}/${number}: position ${offset}, committed ${committed}, polled to ${delivered}`,
      )
    }
    return { partition, offset }
  }

  #fenced(partitions: readonly AssignedPartition[]): Error {
    const names = partitions.map(placeKey).join(', ')
    return fenced(
      partitions.map(placeOf),
      `another member of group ${this.#options.group} has ${names} now`,
    )
  }

  /** After the transaction: the state may lag, never lead. */
  async #writeState(changes: StateChanges, moves: readonly Move[]): Promise<void> {
    const { state } = this.#options
    if (changes.length === 0 || state === undefined) return
    if (!(await state.write(changes))) throw this.#fenced(moves.map(({ partition }) => partition))
  }

  async positions(): Promise<Position[]> {
    await this.#settled()
    return [...this.#partitions]
      .filter(({ isAssigned }) => isAssigned)
      .map(({ topic, partition, committed }) => ({ topic, partition, offset: committed }))
  }

  async rewind(places?: readonly Place[]): Promise<void> {
    this.#checkOpen()
    await this.#settled()
    await this.#options.state?.refresh()
    const wanted = places === undefined ? undefined : new Set(places.map(placeKey))
    for (const partition of this.#partitions) {
      if (wanted === undefined || wanted.has(placeKey(partition))) partition.restart()
    }
    this.#releaseFinished()
    this.#fetcher.poke()
  }

  async #settled(): Promise<void> {
    await this.#committer.opened()
    if (this.#failure !== undefined) throw this.#failure
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#polls.wake()
    this.#abort.abort()
    for (const partition of this.#partitions) partition.release()
    await this.#fetcher.close()
    await this.#membership.close()
    await Promise.race([this.#committer.close(), after(CLOSE_MS_MAX, undefined, { ref: false })])
    await this.#options.onClosed()
  }

  #fail(error: unknown): void {
    if (this.#isClosed) return
    this.#failure ??= error
    this.#polls.wake()
  }

  #checkOpen(): void {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#isClosed) throw new Error('the consumer is closed')
  }
}
