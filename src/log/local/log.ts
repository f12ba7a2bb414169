/**
 * The log in one folder, on LMDB: topics, positions and state in one environment, so that a commit is
 * one transaction. Several processes may open the folder at once. The log survives `kill -9` at any
 * moment, and a power cut as far as the disk keeps what it has confirmed: every append and every
 * commit is flushed before its promise resolves.
 *
 * Start at `environment.ts` (the folder), `transaction.ts` (atomic writes), then `append.ts` (bytes and
 * writing), `consumer.ts` (reading in a group).
 */
import { setImmediate } from 'node:timers/promises'
import { XmasdError } from '../../errors.ts'
import { type LogEvents, NO_EVENTS } from '../../observe/logger.ts'
import type { Consumer, Lag, Log, LogRecord, OutRecord, TopicSpec } from '../log.ts'
import { decodeFrame, prepareAppend, RECORD_BYTES_MAX, writeAppend } from './append.ts'
import { LocalConsumer } from './consumer.ts'
import {
  acquireEnvironment,
  type Environment,
  type MetaKey,
  OFFSET_MAX,
  releaseEnvironment,
} from './environment.ts'
import {
  checkPartition,
  checkSpec,
  checkTopic,
  createTopic,
  endKey,
  positionKey,
  readCount,
  type Topic,
  Topics,
} from './topics.ts'
import { settled, write } from './transaction.ts'

/** Records and bytes that `read` fetches at a time. */
const READ_RECORDS = 1024
const READ_BYTES = 4 << 20

/**
 * Opens the log in the folder `path`, which is created where it is missing. `readonly` opens what is
 * there and never writes. Throws LOG_UNAVAILABLE where the folder can't be used, STATE_INVALID where
 * it holds something else or a newer format.
 */
export async function openLocalLog(options: {
  path: string
  readonly?: boolean
  events?: LogEvents
}): Promise<Log> {
  const { path, readonly = false, events = NO_EVENTS } = options
  return new LocalLog(await acquireEnvironment(path, readonly), readonly, events)
}

class LocalLog implements Log {
  readonly kind = 'local'
  readonly recordBytesMax = RECORD_BYTES_MAX
  readonly environment: Environment
  readonly topics: Topics
  readonly isReadonly: boolean
  readonly events: LogEvents
  readonly #consumers = new Set<Consumer>()
  #isClosed = false

  constructor(environment: Environment, isReadonly: boolean, events: LogEvents) {
    this.environment = environment
    this.isReadonly = isReadonly
    this.events = events
    this.topics = new Topics(environment)
  }

  async ensureTopics(specs: readonly TopicSpec[]): Promise<void> {
    for (const spec of specs) checkSpec(spec)
    await this.#settled()
    const missing = specs.filter(spec => {
      const topic = this.topics.find(spec.name)
      if (topic !== undefined) checkTopic(topic, spec)
      return topic === undefined
    })
    if (missing.length === 0) return
    if (this.isReadonly) throw missingTopic(this.environment.path, missing[0]!.name)
    await write(this.environment, () => {
      for (const spec of missing) createTopic(this.environment, spec)
    })
  }

  async append(records: readonly OutRecord[]): Promise<void> {
    this.#checkOpen()
    if (this.isReadonly) throw new Error('the log is open for reading only')
    if (records.length === 0) return
    const append = await prepareAppend(this.topics, records)
    await write(this.environment, () => writeAppend(this.environment, append))
  }

  async consume(options: { group: string; topics: readonly string[] }): Promise<Consumer> {
    await this.#settled()
    const consumer = new LocalConsumer(this, options)
    await consumer.rewind()
    this.#consumers.add(consumer)
    this.events.onRebalance(options.group, consumer.partitions)
    return consumer
  }

  async *read(
    topicName: string,
    options: { partition?: number; from?: number; to?: number } = {},
  ): AsyncGenerator<LogRecord> {
    await this.#settled()
    const topic = this.topics.get(topicName)
    const partition = options.partition ?? 0
    checkPartition(topic, partition)
    const to = options.to ?? readCount(this.environment, endKey(topic.id, partition))
    let from = options.from ?? 0
    for (;;) {
      const chunk = readChunk(this.environment, topic, partition, { from, to })
      yield* chunk
      const last = chunk.at(-1)
      if (last === undefined) return
      from = last.offset + 1
      await setImmediate()
      await this.#settled()
    }
  }

  async get(topicName: string, partition: number, offset: number): Promise<LogRecord | undefined> {
    await this.#settled()
    const topic = this.topics.get(topicName)
    checkPartition(topic, partition)
    if (!(Number.isSafeInteger(offset) && offset >= 0)) throw new RangeError(`offset ${offset}`)
    const bytes = this.environment.records.get([topic.id, partition, offset])
    return bytes && decodeFrame(topic, partition, offset, bytes).record
  }

  async ends(topicName: string): Promise<number[]> {
    return await this.#counts(topicName, endKey)
  }

  async committed(group: string, topicName: string): Promise<number[]> {
    return await this.#counts(topicName, (topicId, partition) =>
      positionKey(group, topicId, partition),
    )
  }

  /** One counter a partition. */
  async #counts(
    topicName: string,
    keyOf: (topicId: number, partition: number) => MetaKey,
  ): Promise<number[]> {
    await this.#settled()
    const { id, partitions } = this.topics.get(topicName)
    return Array.from({ length: partitions }, (_, partition) =>
      readCount(this.environment, keyOf(id, partition)),
    )
  }

  async lag(group: string, topicName: string): Promise<Lag[]> {
    const ends = await this.ends(topicName)
    const committed = await this.committed(group, topicName)
    const topic = this.topics.get(topicName)
    return ends.map((to, partition) => {
      const from = committed[partition]!
      const [first] = readChunk(this.environment, topic, partition, { from, to, limit: 1 })
      const behind = Math.max(0, to - from)
      return { topic: topicName, partition, offset: from, behind, oldest: first?.timestamp }
    })
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    for (const consumer of this.#consumers) await consumer.close()
    await releaseEnvironment(this.environment)
  }

  async #settled(): Promise<void> {
    this.#checkOpen()
    await settled(this.environment)
    this.#checkOpen()
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new Error('the log is closed')
  }
}

function missingTopic(path: string, name: string): XmasdError {
  return new XmasdError(
    'TOPIC_MISSING',
    `the log at ${path} has no topic ${name} yet`,
    'start `xmasd run` or `xmasd produce` once: they create the topics',
  )
}

function readChunk(
  environment: Environment,
  topic: Topic,
  partition: number,
  { from, to, limit = READ_RECORDS }: { from: number; to: number; limit?: number },
): LogRecord[] {
  const chunk: LogRecord[] = []
  if (from >= to) return chunk
  let bytes = 0
  for (const { key, value } of environment.records.getRange({
    start: [topic.id, partition, from],
    end: [topic.id, partition, Math.min(to, OFFSET_MAX)],
    limit,
  })) {
    chunk.push(decodeFrame(topic, partition, key[2], value).record)
    bytes += value.length
    if (bytes >= READ_BYTES) break
  }
  return chunk
}
