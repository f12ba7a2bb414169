/**
 * The log in one folder, on LMDB: topics, positions and state in one environment, so that a commit is
 * one transaction. Several processes may have the folder open at once. It survives `kill -9` at any
 * moment, and a power cut as far as the disk keeps what it has confirmed: every append and every
 * commit is flushed before its promise resolves.
 *
 * Start at `environment.ts` (the folder), `transaction.ts` (atomic writes), then `frame.ts` (bytes), `local-append.ts` (writing),
 * `local-consumer.ts` (reading in a group).
 */
import { setImmediate } from 'node:timers/promises'
import { XmasdError } from '../errors.ts'
import { type LogEvents, NO_EVENTS } from '../observe/log-events.ts'
import {
  acquireEnvironment,
  type Environment,
  OFFSET_MAX,
  releaseEnvironment,
} from './environment.ts'
import { decodeFrame } from './frame.ts'
import { prepareAppend, RECORD_BYTES_MAX, RoundRobin, writeAppend } from './local-append.ts'
import { LocalConsumer } from './local-consumer.ts'
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
} from './local-topics.ts'
import type { Consumer, Lag, Log, LogRecord, OutRecord, TopicSpec } from './log.ts'
import { settled, write } from './transaction.ts'

/** Records and bytes that `read` fetches at a time. */
const READ_RECORDS = 1024
const READ_BYTES = 4 << 20

/**
 * Opens the log in the folder `path`, made where it is missing. `readonly` opens what is there and
 * never writes. Throws LOG_UNAVAILABLE where the folder can't be used, STATE_INVALID where it
 * holds something else or a newer format.
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
  readonly turns = new RoundRobin()
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
    this.#checkOpen()
    for (const spec of specs) checkSpec(spec)
    await settled(this.environment)
    const missing = specs.filter(spec => {
      const topic = this.topics.find(spec.name)
      if (topic !== undefined) checkTopic(topic, spec)
      return topic === undefined
    })
    if (missing.length === 0) return
    if (this.isReadonly) throw missingTopic(this.environment.path, missing[0]!.name)
    await write(this.environment, () => {
      for (const spec of missing) this.#createOrCheck(spec)
    })
  }

  /** Another process, or an earlier one of the same specifications, may have created it meanwhile. */
  #createOrCheck(spec: TopicSpec): void {
    const stored = this.environment.meta.get(['topic', spec.name]) as Topic | undefined
    if (stored === undefined) createTopic(this.environment, spec)
    else checkTopic(stored, spec)
  }

  async append(records: readonly OutRecord[]): Promise<void> {
    this.#checkOpen()
    if (this.isReadonly) throw new Error('the log is open for reading only')
    if (records.length === 0) return
    const append = await prepareAppend(this.topics, this.turns, records)
    await write(this.environment, () => writeAppend(this.environment, append))
  }

  async consume(options: { group: string; topics: readonly string[] }): Promise<Consumer> {
    this.#checkOpen()
    await settled(this.environment)
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
    this.#checkOpen()
    await settled(this.environment)
    const topic = this.topics.get(topicName)
    const partition = options.partition ?? 0
    checkPartition(topic, partition)
    const to = options.to ?? readCount(this.environment, endKey(topic.id, partition))
    let from = options.from ?? 0
    for (;;) {
      this.#checkOpen()
      const chunk = readChunk(this.environment, topic, partition, from, to)
      yield* chunk
      const last = chunk.at(-1)
      if (last === undefined) return
      from = last.offset + 1
      await setImmediate()
      await settled(this.environment)
    }
  }

  async get(topicName: string, partition: number, offset: number): Promise<LogRecord | undefined> {
    this.#checkOpen()
    await settled(this.environment)
    const topic = this.topics.get(topicName)
    checkPartition(topic, partition)
    if (!(Number.isSafeInteger(offset) && offset >= 0)) throw new RangeError(`offset ${offset}`)
    const bytes = this.environment.records.get([topic.id, partition, offset])
    return bytes === undefined ? undefined : placed(topic, partition, offset, bytes)
  }

  async ends(topicName: string): Promise<number[]> {
    this.#checkOpen()
    await settled(this.environment)
    const topic = this.topics.get(topicName)
    return Array.from({ length: topic.partitions }, (_, partition) =>
      readCount(this.environment, endKey(topic.id, partition)),
    )
  }

  async committed(group: string, topicName: string): Promise<number[]> {
    this.#checkOpen()
    await settled(this.environment)
    const topic = this.topics.get(topicName)
    return Array.from({ length: topic.partitions }, (_, partition) =>
      readCount(this.environment, positionKey(group, topic.id, partition)),
    )
  }

  async lag(group: string, topicName: string): Promise<Lag[]> {
    const ends = await this.ends(topicName)
    const committed = await this.committed(group, topicName)
    const topic = this.topics.get(topicName)
    return ends.map((end, partition) => {
      const offset = committed[partition]!
      const [first] = readChunk(this.environment, topic, partition, offset, end, 1)
      const behind = Math.max(0, end - offset)
      return { topic: topicName, partition, offset, behind, oldest: first?.timestamp }
    })
  }

  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    for (const consumer of this.#consumers) await consumer.close()
    await releaseEnvironment(this.environment)
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
  from: number,
  to: number,
  limit: number = READ_RECORDS,
): LogRecord[] {
  const chunk: LogRecord[] = []
  if (from >= to) return chunk
  let bytes = 0
  const end = Math.min(to, OFFSET_MAX)
  const range = { start: [topic.id, partition, from], end: [topic.id, partition, end] } as const
  for (const { key, value } of environment.records.getRange({
    start: [...range.start],
    end: [...range.end],
    limit,
  })) {
    chunk.push(placed(topic, partition, key[2], value))
    bytes += value.length
    if (bytes >= READ_BYTES) break
  }
  return chunk
}

function placed(topic: Topic, partition: number, offset: number, bytes: Buffer): LogRecord {
  const { key, value, headers, timestamp } = decodeFrame(bytes)
  return { topic: topic.name, partition, offset, key, value, headers, timestamp }
}
