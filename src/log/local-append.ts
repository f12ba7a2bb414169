/**
 * Appending to the local log: `prepareAppend` checks and encodes outside any transaction,
 * `writeAppend` gives offsets and stores inside one.
 */
import { createHash } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { XmasdError } from '../errors.ts'
import { type Environment, OFFSET_MAX } from './environment.ts'
import { type Encoded, FrameEncoder, stamp } from './frame.ts'
import {
  checkPartition,
  endKey,
  readCount,
  SEQUENCE,
  type Topic,
  type Topics,
} from './local-topics.ts'
import type { OutRecord } from './log.ts'
import { partitionOfBytes } from './partition.ts'

export const RECORD_BYTES_MAX = 256 << 20
/** Longer work gives way to other code this often. */
const SLICE_MS = 8
const RECORDS_PER_CLOCK = 64
/** Bytes of which a write is short enough to need no giving way. */
const SHORT_BYTES = 4 << 20
const SHORT_RECORDS = 3000
/** Longer keys are kept as their hash, well under lmdb's limit. */
const INDEX_KEY_BYTES_MAX = 512

type Prepared = { topic: Topic; partition: number; bytes: Buffer; indexKey: Buffer | undefined }
export type PreparedAppend = { records: Prepared[]; bytes: number }

/** Spreads records without a key over the partitions of their topic, in turn. */
export class RoundRobin {
  readonly #turns = new Map<number, number>()

  next(topic: Topic): number {
    const turn = this.#turns.get(topic.id) ?? 0
    this.#turns.set(topic.id, (turn + 1) % topic.partitions)
    return turn
  }
}

/**
 * Throws RangeError for an unknown topic or partition and for a null key on a compacted topic,
 * RECORD_TOO_LARGE over 256 MiB.
 */
export async function prepareAppend(
  topics: Topics,
  turns: RoundRobin,
  outputs: readonly OutRecord[],
): Promise<PreparedAppend> {
  const encoder = new FrameEncoder()
  const prepared: PreparedAppend = { records: [], bytes: 0 }
  const pause = pauser()
  for (const output of outputs) {
    const topic = topics.get(output.topic)
    checkOutput(topic, output)
    const encoded = encoder.encode(output)
    const partition = output.partition ?? choosePartition(topic, output, encoded, turns)
    const indexKey = topic.compacted ? indexKeyOf(topic.id, partition, encoded) : undefined
    prepared.records.push({ topic, partition, bytes: encoded.bytes, indexKey })
    prepared.bytes += encoded.bytes.length
    const due = pause(encoded.bytes.length)
    if (due !== undefined) await due
  }
  return prepared
}

function checkOutput(topic: Topic, output: OutRecord): void {
  if (output.partition !== undefined) checkPartition(topic, output.partition)
  if (topic.compacted && output.key === null) {
    throw new RangeError(`a record without a key on the compacted topic ${topic.name}`)
  }
  const bytes = output.value?.length ?? 0
  if (bytes > RECORD_BYTES_MAX) {
    throw new XmasdError(
      'RECORD_TOO_LARGE',
      `a record of ${bytes} bytes for topic ${topic.name}`,
      `keep records under ${RECORD_BYTES_MAX} bytes`,
    )
  }
}

function choosePartition(
  topic: Topic,
  output: OutRecord,
  encoded: Encoded,
  turns: RoundRobin,
): number {
  if (output.key === null) return turns.next(topic)
  return partitionOfBytes(encoded.bytes, encoded.keyStart, encoded.keyEnd, topic.partitions)
}

function indexKeyOf(topicId: number, partition: number, encoded: Encoded): Buffer {
  const key = encoded.bytes.subarray(encoded.keyStart, encoded.keyEnd)
  const isShort = key.length <= INDEX_KEY_BYTES_MAX
  const tail = isShort ? key : createHash('sha256').update(key).digest()
  const indexKey = Buffer.allocUnsafe(5 + tail.length)
  indexKey.writeUInt16BE(topicId, 0)
  indexKey.writeUInt16BE(partition, 2)
  indexKey[4] = isShort ? 0 : 1
  indexKey.set(tail, 5)
  return indexKey
}

/** Inside a write: gives the records their offsets and stores them, dropping what they supersede. */
export function writeAppend(
  environment: Environment,
  append: PreparedAppend,
): undefined | Promise<void> {
  const run = new AppendRun(environment)
  if (append.records.length <= SHORT_RECORDS && append.bytes <= SHORT_BYTES) {
    for (const record of append.records) run.put(record)
    run.finish()
    return undefined
  }
  return writeInSlices(run, append.records)
}

async function writeInSlices(run: AppendRun, records: readonly Prepared[]): Promise<void> {
  const pause = pauser()
  for (const record of records) {
    run.put(record)
    const due = pause(record.bytes.length)
    if (due !== undefined) await due
  }
  run.finish()
}

/** Counts work; from time to time, where it has taken long, a promise to wait for. */
function pauser(): (bytes: number) => Promise<unknown> | undefined {
  let since = performance.now()
  let count = 0
  return bytes => {
    count += 1 + (bytes >> 14)
    if (count < RECORDS_PER_CLOCK) return undefined
    count = 0
    if (performance.now() - since < SLICE_MS) return undefined
    return setImmediate().then(() => {
      since = performance.now()
    })
  }
}

class AppendRun {
  readonly #environment: Environment
  readonly #ends = new Map<number, { topicId: number; partition: number; offset: number }>()
  readonly #timestamp = Date.now()
  #sequence: number

  constructor(environment: Environment) {
    this.#environment = environment
    this.#sequence = readCount(environment, SEQUENCE)
  }

  put(record: Prepared): void {
    const { topic, partition, bytes, indexKey } = record
    const end = this.#end(topic.id, partition)
    const offset = end.offset++
    if (offset >= OFFSET_MAX) throw new RangeError(`topic ${topic.name} is full`)
    stamp(bytes, this.#sequence++, this.#timestamp)
    this.#environment.records.put([topic.id, partition, offset], bytes)
    if (indexKey !== undefined) this.#supersede(topic.id, partition, indexKey, offset)
  }

  #end(topicId: number, partition: number): { offset: number } {
    const place = topicId * 0x10000 + partition
    let end = this.#ends.get(place)
    if (end === undefined) {
      const offset = readCount(this.#environment, endKey(topicId, partition))
      end = { topicId, partition, offset }
      this.#ends.set(place, end)
    }
    return end
  }

  #supersede(topicId: number, partition: number, indexKey: Buffer, offset: number): void {
    const { latest, records } = this.#environment
    const before = latest.get(indexKey)
    if (before !== undefined) records.remove([topicId, partition, before.readDoubleLE(0)])
    const now = Buffer.allocUnsafe(8)
    now.writeDoubleLE(offset, 0)
    latest.put(indexKey, now)
  }

  finish(): void {
    const { meta } = this.#environment
    meta.put(SEQUENCE, this.#sequence)
    for (const { topicId, partition, offset } of this.#ends.values()) {
      meta.put(endKey(topicId, partition), offset)
    }
  }
}
