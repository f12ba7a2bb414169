/**
 * The log on Kafka. Start at `kafka-cluster.ts` (connections), `kafka-group.ts` (who has which partition),
 * `kafka-lane-commit.ts` (exactly once), `kafka-consumer.ts` (all of it together), `kafka-batch.ts` (bytes).
 */
import { setImmediate } from 'node:timers/promises'
import type { Admin } from 'kafkajs'
import { XmasdError } from '../errors.ts'
import { type LogEvents, NO_EVENTS } from '../observe/log-events.ts'
import type { Logger } from '../observe/logger.ts'
import { encodeOutputs, RoundRobin } from './kafka-append.ts'
import { Appender } from './kafka-appender.ts'
import { BATCH_HEADER_BYTES, type Fetched, readBatches } from './kafka-batch.ts'
import { Cluster, type KafkaConnection, libraryClient } from './kafka-cluster.ts'
import { KafkaConsumer } from './kafka-consumer.ts'
import { checkCode, verdictOn } from './kafka-errors.ts'
import { fetchRequest } from './kafka-requests.ts'
import { type Patience, patiently } from './kafka-retry.ts'
import { GroupState } from './kafka-state.ts'
import { checkTopics, ensureTopics, type KafkaTopic, type TopicDefaults } from './kafka-topics.ts'
import { fetchPositions } from './kafka-transactions.ts'
import { Unseen } from './kafka-visible.ts'
import type { Consumer, Lag, Log, LogRecord, OutRecord, TopicSpec } from './log.ts'

export type KafkaLogOptions = {
  connection: Omit<KafkaConnection, 'logger'>
  defaults: TopicDefaults
  /** The folder of the groups' state. */
  statePath: string
  sessionMsMax: number
  transactionMsMax: number
  /** How long brokers may be out of reach at the start, and later. */
  connectMsMax: number
  unreachableMsMax: number
  fetchBytesMax: number
  readonly?: boolean
  events?: LogEvents
  logger?: Logger
}

/** Resolves once a broker has let us in. Throws LOG_UNAVAILABLE, LOG_TLS_FAILED, LOG_LOGIN_FAILED, LOG_FORBIDDEN. */
export async function openKafkaLog(options: KafkaLogOptions): Promise<Log> {
  const log = new KafkaLog(options)
  try {
    await log.connect()
    return log
  } catch (error) {
    await log.close()
    throw error
  }
}

const READ_WAIT_MS = 500

class KafkaLog implements Log {
  readonly kind = 'kafka'
  readonly recordBytesMax: number
  readonly #options: KafkaLogOptions
  readonly #connection: KafkaConnection
  readonly #patience: Patience
  readonly #cluster: Cluster
  readonly #admin: Admin
  readonly #topics = new Map<string, KafkaTopic>()
  readonly #turns = new RoundRobin()
  readonly #unseen: Unseen
  readonly #consumers = new Set<Consumer>()
  readonly #appender: Appender
  #isClosed = false

  constructor(options: KafkaLogOptions) {
    const { logger, events = NO_EVENTS, unreachableMsMax } = options
    this.#options = options
    this.recordBytesMax = options.defaults.batchBytesMax - BATCH_HEADER_BYTES
    this.#connection = { ...options.connection, logger }
    const address = options.connection.brokers.join(', ')
    this.#patience = { address, events, logger, msMax: unreachableMsMax }
    this.#cluster = new Cluster(this.#connection)
    this.#unseen = new Unseen(this.#cluster)
    this.#admin = libraryClient(this.#connection).admin()
    this.#appender = new Appender({
      cluster: this.#cluster,
      clientId: options.connection.clientId,
      patience: this.#patience,
      transactionMsMax: options.transactionMsMax,
      trying: attempt => this.#try(attempt),
      topics: () => [...this.#topics.values()],
      onWritten: written => this.#unseen.add(written),
    })
  }

  async connect(): Promise<void> {
    const patience = { ...this.#patience, msMax: this.#options.connectMsMax }
    await patiently(patience, this.#cluster, () => this.#cluster.connect())
  }

  async ensureTopics(specs: readonly TopicSpec[]): Promise<void> {
    this.#checkOpen()
    const { defaults, readonly = false } = this.#options
    await this.#try(async () => {
      await this.#admin.connect()
      await (readonly ? checkTopics : ensureTopics)(this.#admin, specs, defaults)
    })
    for (const { name, partitions, compacted = false } of specs) {
      this.#topics.set(name, { name, partitions, compacted })
    }
  }

  /** Throws RangeError where there is no such topic. */
  async #topic(name: string): Promise<KafkaTopic> {
    const known = this.#topics.get(name)
    if (known !== undefined) return known
    const partitions = await this.#try(() => this.#cluster.partitions(name))
    if (partitions === undefined) throw new RangeError(`no topic ${name} on the brokers`)
    const topic = { name, partitions, compacted: false }
    this.#topics.set(name, topic)
    return topic
  }

  async append(records: readonly OutRecord[]): Promise<void> {
    this.#checkOpen()
    if (this.#options.readonly) throw new Error('the log is open for reading only')
    if (records.length === 0) return
    const topics = new Map<string, KafkaTopic>()
    for (const { topic } of records) {
      if (!topics.has(topic)) topics.set(topic, await this.#topic(topic))
    }
    const { batchBytesMax } = this.#options.defaults
    const outputs = await encodeOutputs(records, topics, this.#turns, batchBytesMax)
    await this.#appender.append(outputs)
  }

  async consume(options: {
    group: string
    topics: readonly string[]
    isStateless?: boolean
  }): Promise<Consumer> {
    this.#checkOpen()
    const { group, isStateless = false } = options
    const inputs = new Set(options.topics)
    const topics = await Promise.all([...inputs].map(name => this.#topic(name)))
    const clusters = [new Cluster(this.#connection), new Cluster(this.#connection)] as const
    await this.#try(() => Promise.all(clusters.map(cluster => cluster.connect())))
    const { statePath, fetchBytesMax, defaults, sessionMsMax, transactionMsMax } = this.#options
    const state = isStateless
      ? undefined
      : await GroupState.open(statePath, await this.#clusterId(), group)
    const consumer = await KafkaConsumer.join({
      group,
      topics,
      cluster: clusters[0],
      membershipCluster: clusters[1],
      patience: this.#patience,
      events: this.#patience.events,
      state,
      topicOf: name => this.#topic(name),
      outputTopics: () => [...this.#topics.values()].filter(({ name }) => !inputs.has(name)),
      turns: this.#turns,
      limits: {
        partitionBytesMax: fetchBytesMax,
        waitingBytesMax: WAITING_FETCHES * fetchBytesMax,
        batchBytesMax: defaults.batchBytesMax,
      },
      sessionMsMax,
      transactionMsMax,
      onWritten: written => this.#unseen.add(written),
      onClosed: async () => {
        await Promise.all(clusters.map(cluster => cluster.close()))
        await state?.close()
      },
    })
    this.#consumers.add(consumer)
    return consumer
  }

  async #clusterId(): Promise<string> {
    return this.#try(async () => {
      await this.#admin.connect()
      return (await this.#admin.describeCluster()).clusterId
    })
  }

  async *read(
    topicName: string,
    options: { partition?: number; from?: number; to?: number } = {},
  ): AsyncGenerator<LogRecord> {
    this.#checkOpen()
    const partition = options.partition ?? 0
    await this.#checkPartition(topicName, partition)
    const to = options.to ?? (await this.ends(topicName))[partition]!
    let from = options.from ?? 0
    while (from < to) {
      this.#checkOpen()
      const { records, next } = await this.#fetch(topicName, partition, from)
      for (const record of records) if (record.offset < to) yield record
      from = next
      await setImmediate()
    }
  }

  async get(topicName: string, partition: number, offset: number): Promise<LogRecord | undefined> {
    this.#checkOpen()
    await this.#checkPartition(topicName, partition)
    if (!(Number.isSafeInteger(offset) && offset >= 0)) throw new RangeError(`offset ${offset}`)
    if (offset >= (await this.ends(topicName))[partition]!) return undefined
    const { records } = await this.#fetch(topicName, partition, offset)
    return records[0]?.offset === offset ? records[0] : undefined
  }

  /** Committed records from `from` on; `next` moves past what is none. */
  async #fetch(
    topic: string,
    partition: number,
    from: number,
    bytesMax: number = this.#options.fetchBytesMax,
  ): Promise<Fetched> {
    const place = { topic, partition, offset: from, bytesMax }
    return this.#try(async () => {
      const [leader] = (await this.#cluster.leaders([place])).keys()
      const limits = { waitMsMax: READ_WAIT_MS, bytesMax: this.#options.fetchBytesMax }
      const [answer] = await this.#cluster.send(leader!, fetchRequest([place], limits))
      if (answer?.code === OUT_OF_RANGE) return this.#oldest(topic, partition, from)
      checkCode(answer!.code, `${topic}/${partition}`)
      return readBatches(answer!.batches, { topic, partition, from }, answer!.aborted)
    })
  }

  /** What was asked for is no longer kept: on from the oldest that is. */
  async #oldest(topic: string, partition: number, from: number): Promise<Fetched> {
    const oldest = (await this.#cluster.offsets(topic, [partition], 'oldest')).get(partition) ?? 0
    return { records: [], next: Math.max(from + 1, oldest), bytes: 0 }
  }

  async ends(topicName: string): Promise<number[]> {
    this.#checkOpen()
    const { partitions } = await this.#topic(topicName)
    const numbers = Array.from({ length: partitions }, (_, partition) => partition)
    const ends = await this.#try(async () => {
      await this.#unseen.seen(topicName)
      return this.#cluster.offsets(topicName, numbers, 'end')
    })
    return numbers.map(partition => ends.get(partition) ?? 0)
  }

  async committed(group: string, topicName: string): Promise<number[]> {
    this.#checkOpen()
    const { partitions } = await this.#topic(topicName)
    const numbers = Array.from({ length: partitions }, (_, partition) => partition)
    const settled = new Map<number, number | undefined>()
    const found = await this.#try(() =>
      fetchPositions(this.#cluster, group, topicName, numbers, settled),
    )
    return found.map(position => position ?? 0)
  }

  /** Ends of transactions take offsets too, so whether anything is left has to be looked at. */
  async lag(group: string, topic: string): Promise<Lag[]> {
    const [ends, committed] = [await this.ends(topic), await this.committed(group, topic)]
    return Promise.all(
      ends.map(async (end, partition) => {
        const offset = committed[partition]!
        const first = await this.#first(topic, partition, offset, end)
        const behind = first === undefined ? 0 : end - first.offset
        return { topic, partition, offset, behind, oldest: first?.timestamp }
      }),
    )
  }

  /** The first record within [from, end). */
  async #first(
    topic: string,
    partition: number,
    from: number,
    end: number,
  ): Promise<LogRecord | undefined> {
    while (from < end) {
      const { records, next } = await this.#fetch(topic, partition, from, PEEK_BYTES)
      if (records.length > 0) return records[0]
      from = next
    }
    return undefined
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#appender.close()
    for (const consumer of this.#consumers) await consumer.close()
    await this.#unseen.allSeen().catch(() => {})
    await this.#admin.disconnect()
    await this.#cluster.close()
  }

  async #checkPartition(topicName: string, partition: number): Promise<void> {
    const { partitions } = await this.#topic(topicName)
    if (Number.isInteger(partition) && partition >= 0 && partition < partitions) return
    throw new RangeError(`topic ${topicName} has no partition ${partition}`)
  }

  /** Tries again what may be tried again; for us a fence is nothing else, our id is our own. */
  async #try<T>(attempt: () => Promise<T>): Promise<T> {
    for (let left = FENCES_MAX; ; left--) {
      try {
        return await patiently(this.#patience, this.#cluster, attempt)
      } catch (error) {
        const isFenced = verdictOn(error, this.#patience.address).kind === 'fenced'
        if (!isFenced || left === 0) throw this.#asOperating(error)
      }
    }
  }

  #asOperating(error: unknown): unknown {
    if (error instanceof XmasdError || error instanceof RangeError) return error
    const verdict = verdictOn(error, this.#patience.address)
    return verdict.kind === 'fatal' ? verdict.error : error
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new Error('the log is closed')
  }
}

const OUT_OF_RANGE = 1
const FENCES_MAX = 5
/** Enough for a first record, where it is not a large one. */
const PEEK_BYTES = 1 << 14
/** What may wait to be polled, in fetches of one partition. */
const WAITING_FETCHES = 16
