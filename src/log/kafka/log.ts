/** The log on Kafka: the port `log.ts` on the client in `src/kafka` (its README says where what is). */

import { setImmediate } from 'node:timers/promises'
import { XmasdError } from '../../errors.ts'
import { Brokers } from '../../kafka/link/brokers.ts'
import type { KafkaConnection } from '../../kafka/link/connection.ts'
import { verdictOn } from '../../kafka/link/errors.ts'
import { type RetryPolicy, withRetry } from '../../kafka/link/retry.ts'
import { ensureTopics, type KafkaTopic, type TopicDefaults } from '../../kafka/link/topics.ts'
import { BATCH_HEADER_BYTES, type Fetched, readBatches } from '../../kafka/wire/batch.ts'
import { checkCode } from '../../kafka/wire/model.ts'
import { fetchRequest } from '../../kafka/wire/requests.ts'
import { Appender } from '../../kafka/write/appender.ts'
import { encodeOutputs } from '../../kafka/write/encode.ts'
import { Partitioner } from '../../kafka/write/partition.ts'
import { fetchPositions, type WriteContext } from '../../kafka/write/transaction.ts'
import { type LogEvents, type Logger, NO_EVENTS } from '../../observe/logger.ts'
import type { Consumer, Lag, Log, LogRecord, OutRecord, TopicSpec } from '../log.ts'
import { KafkaConsumer } from './consumer.ts'
import { GroupState } from './state.ts'
import { VisibilityBarrier } from './visibility.ts'

export type KafkaLogOptions = {
  connection: Omit<KafkaConnection, 'logger'>
  defaults: TopicDefaults
  /** The folder of the groups' state. */
  statePath: string
  sessionMsMax: number
  transactionMsMax: number
  /** How long a partition that another member is to have is held for work in hand. */
  handoverMsMax: number
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
  readonly #retry: RetryPolicy
  readonly #brokers: Brokers
  readonly #topics = new Map<string, KafkaTopic>()
  readonly #partitioner = new Partitioner()
  readonly #barrier: VisibilityBarrier
  readonly #consumers = new Set<Consumer>()
  readonly #context: WriteContext
  readonly #appender: Appender
  #isClosed = false

  constructor(options: KafkaLogOptions) {
    const { logger, events = NO_EVENTS, unreachableMsMax } = options
    this.#options = options
    this.recordBytesMax = options.defaults.batchBytesMax - BATCH_HEADER_BYTES
    this.#connection = { ...options.connection, logger }
    const address = options.connection.brokers.join(', ')
    this.#retry = { address, events, logger, msMax: unreachableMsMax }
    this.#brokers = new Brokers(this.#connection)
    this.#barrier = new VisibilityBarrier(this.#brokers)
    this.#context = {
      brokers: this.#brokers,
      retry: this.#retry,
      transactionMsMax: options.transactionMsMax,
      topics: () => [...this.#topics.values()],
      onWritten: written => this.#barrier.add(written),
    }
    const { clientId } = options.connection
    this.#appender = new Appender(this.#context, clientId, attempt => this.#try(attempt))
  }

  async connect(): Promise<void> {
    const retry = { ...this.#retry, msMax: this.#options.connectMsMax }
    await withRetry(retry, this.#brokers, () => this.#brokers.connect())
  }

  async ensureTopics(specs: readonly TopicSpec[]): Promise<void> {
    this.#checkOpen()
    const { defaults, readonly = false } = this.#options
    await this.#try(() => ensureTopics(this.#brokers, specs, defaults, readonly))
    for (const { name, partitions, compacted = false } of specs) {
      this.#topics.set(name, { name, partitions, compacted })
    }
  }

  /** Throws RangeError where there is no such topic. */
  async #topic(name: string): Promise<KafkaTopic> {
    const known = this.#topics.get(name)
    if (known !== undefined) return known
    const found = (await this.#try(() => this.#brokers.describe([name]))).get(name)
    if (found === undefined) throw new RangeError(`no topic ${name} on the brokers`)
    const topic = { name, partitions: found.length, compacted: false }
    this.#topics.set(name, topic)
    return topic
  }

  async append(records: readonly OutRecord[]): Promise<void> {
    this.#checkOpen()
    if (this.#options.readonly) throw new Error('the log is open for reading only')
    if (records.length === 0) return
    const topicOf = (name: string) => this.#topic(name)
    const { batchBytesMax } = this.#options.defaults
    const outputs = await encodeOutputs(records, topicOf, this.#partitioner, batchBytesMax)
    await this.#appender.append(outputs)
  }

  async consume(options: {
    group: string
    topics: readonly string[]
    isStateless?: boolean
  }): Promise<Consumer> {
    this.#checkOpen()
    const { group, isStateless = false } = options
    const names = [...new Set(options.topics)]
    const inputs = await Promise.all(names.map(name => this.#topic(name)))
    const { statePath, fetchBytesMax, defaults, sessionMsMax, handoverMsMax } = this.#options
    // So that a heartbeat that is lost can be sent again before the session ends.
    const requestMsMax = Math.min(this.#connection.requestMsMax, sessionMsMax / TRIES_A_SESSION)
    const membership = { ...this.#connection, requestMsMax }
    const connections = [new Brokers(this.#connection), new Brokers(membership)] as const
    await this.#try(() => Promise.all(connections.map(brokers => brokers.connect())))
    const state = isStateless
      ? undefined
      : await GroupState.open(statePath, await this.#brokers.clusterId(), group)
    const consumer = await KafkaConsumer.join({
      ...this.#context,
      brokers: connections[0],
      membershipBrokers: connections[1],
      group,
      inputs,
      state,
      topicOf: name => this.#topic(name),
      partitioner: this.#partitioner,
      limits: {
        partitionBytesMax: fetchBytesMax,
        waitingBytesMax: WAITING_FETCHES * fetchBytesMax,
        batchBytesMax: defaults.batchBytesMax,
      },
      sessionMsMax,
      handoverMsMax,
      onClosed: async () => {
        await Promise.all(connections.map(brokers => brokers.close()))
        await state?.close()
      },
    })
    this.#consumers.add(consumer)
    return consumer
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
      for (const record of records) {
        if (record.offset >= to) break
        if (record.error !== undefined) throw record.error
        yield record
      }
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
    const [record] = records
    if (record?.error !== undefined) throw record.error
    return record?.offset === offset ? record : undefined
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
      const [leader] = (await this.#brokers.allLeaders([place])).keys()
      const limits = { waitMsMax: READ_WAIT_MS, bytesMax: this.#options.fetchBytesMax }
      const [answer] = await this.#brokers.send(leader!, fetchRequest([place], limits))
      if (answer?.code === OUT_OF_RANGE) return this.#oldest(topic, partition, from)
      checkCode(answer!.code, `${topic}/${partition}`)
      return readBatches(answer!.batches, { topic, partition, from }, answer!.aborted)
    })
  }

  /** The records asked for are deleted: continues at the oldest that is kept. */
  async #oldest(topic: string, partition: number, from: number): Promise<Fetched> {
    const oldest = (await this.#brokers.offsets(topic, [partition], 'oldest')).get(partition) ?? 0
    return { records: [], next: Math.max(from + 1, oldest), bytes: 0 }
  }

  async ends(topicName: string): Promise<number[]> {
    this.#checkOpen()
    const { partitions } = await this.#topic(topicName)
    const numbers = Array.from({ length: partitions }, (_, partition) => partition)
    const ends = await this.#try(async () => {
      await this.#barrier.seen(topicName)
      return this.#brokers.offsets(topicName, numbers, 'end')
    })
    return numbers.map(partition => ends.get(partition) ?? 0)
  }

  async committed(group: string, topicName: string): Promise<number[]> {
    this.#checkOpen()
    const { partitions } = await this.#topic(topicName)
    const numbers = Array.from({ length: partitions }, (_, partition) => partition)
    const settled = new Map<number, number | undefined>()
    const found = await this.#try(() =>
      fetchPositions(this.#brokers, group, topicName, numbers, settled),
    )
    return found.map(position => position ?? 0)
  }

  /** Transaction markers take offsets, so only a fetch tells whether records are left. */
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
    await this.#barrier.allSeen().catch(() => {})
    await this.#brokers.close()
  }

  async #checkPartition(topicName: string, partition: number): Promise<void> {
    const { partitions } = await this.#topic(topicName)
    if (Number.isInteger(partition) && partition >= 0 && partition < partitions) return
    throw new RangeError(`topic ${topicName} has no partition ${partition}`)
  }

  /** Retries what may pass. A fence may pass, too: nobody else has this log's transactional id. */
  async #try<T>(attempt: () => Promise<T>): Promise<T> {
    for (let left = FENCES_MAX; ; left--) {
      try {
        return await withRetry(this.#retry, this.#brokers, attempt)
      } catch (error) {
        const isFenced = verdictOn(error, this.#retry.address).kind === 'fenced'
        if (!isFenced || left === 0) throw this.#asOperating(error)
      }
    }
  }

  #asOperating(error: unknown): unknown {
    if (error instanceof XmasdError || error instanceof RangeError) return error
    const verdict = verdictOn(error, this.#retry.address)
    return verdict.kind === 'fatal' ? verdict.error : error
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new Error('the log is closed')
  }
}

const OUT_OF_RANGE = 1
const FENCES_MAX = 5
/** Requests of a membership that may be lost, one after the other, within a session. */
const TRIES_A_SESSION = 3
/** Enough for a first record, where it is not a large one. */
const PEEK_BYTES = 1 << 14
/** What may wait to be polled, in fetches of one partition. */
const WAITING_FETCHES = 16
