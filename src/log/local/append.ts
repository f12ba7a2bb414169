/**
 * Appending to the local log: `prepareAppend` checks and encodes outside any transaction,
 * `writeAppend` assigns offsets and stores inside one.
 *
 * The bytes of a stored record, little-endian, in this order:
 *
 *   flags u8 | sequence f64 | timestamp f64 | [key size u32, key] | [headers size u32, headers] | value
 *
 * `headers` is JSON: an object of texts, or [name, base64 or null][] where an object does not hold them.
 * `sequence` counts appends over the whole log: partitions are merged in its order.
 */
import { createHash } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { XmasdError } from '../../errors.ts'
import type { LogRecord, OutRecord } from '../log.ts'
import { type Environment, OFFSET_MAX } from './environment.ts'
import { checkPartition, endKey, readCount, SEQUENCE, type Topic, type Topics } from './topics.ts'

export const RECORD_BYTES_MAX = 256 << 20

const HAS_KEY = 1
const HAS_VALUE = 2
const HAS_HEADERS = 4
const FIXED_BYTES = 17
/** Encoded records share buffers of this size: one allocation for hundreds of records. */
const SLAB_BYTES = 1 << 18

/** Longer work yields to other code this often. */
const SLICE_MS = 8
const RECORDS_PER_CLOCK = 64
/** A write within both limits runs without yielding. */
const SHORT_BYTES = 4 << 20
const SHORT_RECORDS = 3000
/** A longer key is stored as its hash: LMDB limits the size of keys. */
const INDEX_KEY_BYTES_MAX = 512

type Prepared = { topic: Topic; partition: number; bytes: Buffer; indexKey: Buffer | undefined }
export type PreparedAppend = { records: Prepared[]; bytes: number }

/** A stored record, and its place in the order of appends. */
export type Frame = { record: LogRecord; sequence: number; bytes: number }

/** Decodes a stored record. Its value is a view into `bytes`. */
export function decodeFrame(topic: Topic, partition: number, offset: number, bytes: Buffer): Frame {
  const flags = bytes[0]!
  let at = FIXED_BYTES
  let key: string | null = null
  let headers: Pick<LogRecord, 'headers' | 'rawHeaders'> = { headers: {} }
  if (flags & HAS_KEY) {
    const end = at + 4 + bytes.readUInt32LE(at)
    key = bytes.toString('utf8', at + 4, end)
    at = end
  }
  if (flags & HAS_HEADERS) {
    const end = at + 4 + bytes.readUInt32LE(at)
    headers = decodeHeaders(bytes.toString('utf8', at + 4, end))
    at = end
  }
  const value = flags & HAS_VALUE ? bytes.subarray(at) : null
  const timestamp = bytes.readDoubleLE(9)
  const record = { topic: topic.name, partition, offset, key, value, ...headers, timestamp }
  return { record, sequence: bytes.readDoubleLE(1), bytes: bytes.length }
}

type CodedHeaders = Record<string, string> | [name: string, base64: string | null][]

function decodeHeaders(text: string): Pick<LogRecord, 'headers' | 'rawHeaders'> {
  const coded = JSON.parse(text) as CodedHeaders
  if (!Array.isArray(coded)) return { headers: coded }
  const rawHeaders = coded.map(([name, base64]) => {
    return [name, base64 === null ? null : Buffer.from(base64, 'base64')] as const
  })
  const texts = rawHeaders.map(([name, value]) => [name, String(value ?? '')])
  return { headers: Object.fromEntries(texts) as Record<string, string>, rawHeaders }
}

/** Null where there are none. */
function encodeHeaders({ headers = {}, rawHeaders = [] }: OutRecord): string | null {
  if (rawHeaders.length === 0) {
    return Object.keys(headers).length === 0 ? null : JSON.stringify(headers)
  }
  const texts = Object.entries(headers).map(([name, text]) => [name, Buffer.from(text)] as const)
  const coded: CodedHeaders = [...texts, ...rawHeaders].map(([name, value]) => {
    return [name, value && Buffer.from(value).toString('base64')]
  })
  return JSON.stringify(coded)
}

/**
 * Throws RangeError for an unknown topic or partition and for a null key on a compacted topic,
 * RECORD_TOO_LARGE over 256 MiB.
 */
export async function prepareAppend(
  topics: Topics,
  outputs: readonly OutRecord[],
): Promise<PreparedAppend> {
  const allocate = slabAllocator()
  const prepared: PreparedAppend = { records: [], bytes: 0 }
  await inSlices(outputs, output => {
    const topic = topics.get(output.topic)
    checkOutput(topic, output)
    const { bytes, key } = encodeFrame(output, allocate)
    const partition = output.partition ?? topics.partitioner.choose(topic, key)
    const indexKey = topic.compacted ? indexKeyOf(topic.id, partition, key!) : undefined
    prepared.records.push({ topic, partition, bytes, indexKey })
    prepared.bytes += bytes.length
    return bytes.length
  })
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

type Allocate = (size: number) => Buffer

function slabAllocator(): Allocate {
  let slab = Buffer.allocUnsafeSlow(0)
  let used = 0
  return size => {
    if (size > SLAB_BYTES >> 3) return Buffer.allocUnsafeSlow(size)
    if (used + size > slab.length) {
      slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
      used = 0
    }
    used += size
    return slab.subarray(used - size, used)
  }
}

/** Encodes everything but sequence and timestamp, which `appender` fills in; `key` is a view. */
function encodeFrame(output: OutRecord, allocate: Allocate): { bytes: Buffer; key: Buffer | null } {
  const { key, value } = output
  const headerText = encodeHeaders(output)
  const keyBytes = key === null ? 0 : Buffer.byteLength(key)
  const headerBytes = headerText === null ? 0 : Buffer.byteLength(headerText)
  const texts = (key === null ? 0 : 4 + keyBytes) + (headerText === null ? 0 : 4 + headerBytes)
  const bytes = allocate(FIXED_BYTES + texts + (value?.length ?? 0))
  bytes[0] =
    (key === null ? 0 : HAS_KEY) |
    (value === null ? 0 : HAS_VALUE) |
    (headerText === null ? 0 : HAS_HEADERS)
  let at = FIXED_BYTES
  if (key !== null) at = writeText(bytes, at, key, keyBytes)
  const keyView = key === null ? null : bytes.subarray(at - keyBytes, at)
  if (headerText !== null) at = writeText(bytes, at, headerText, headerBytes)
  if (value !== null) bytes.set(value, at)
  return { bytes, key: keyView }
}

function writeText(bytes: Buffer, at: number, text: string, size: number): number {
  bytes.writeUInt32LE(size, at)
  bytes.write(text, at + 4, 'utf8')
  return at + 4 + size
}

function indexKeyOf(topicId: number, partition: number, key: Buffer): Buffer {
  const isShort = key.length <= INDEX_KEY_BYTES_MAX
  const tail = isShort ? key : createHash('sha256').update(key).digest()
  const indexKey = Buffer.allocUnsafe(5 + tail.length)
  indexKey.writeUInt16BE(topicId, 0)
  indexKey.writeUInt16BE(partition, 2)
  indexKey[4] = isShort ? 0 : 1
  indexKey.set(tail, 5)
  return indexKey
}

/**
 * Inside a write: assigns offsets, stores the records, removes what they supersede, then calls
 * `finish`. Returns a promise where the append is long enough to yield to other code.
 */
export function writeAppend(
  environment: Environment,
  { records, bytes }: PreparedAppend,
  finish: () => void = () => {},
): undefined | Promise<void> {
  const { put, finish: storeEnds } = appender(environment)
  const end = (): undefined => {
    storeEnds()
    finish()
  }
  if (records.length > SHORT_RECORDS || bytes > SHORT_BYTES) return inSlices(records, put).then(end)
  for (const record of records) put(record)
  return end()
}

/** Calls `work` on each item; yields to other code every SLICE_MS. `work` returns its bytes. */
async function inSlices<T>(items: readonly T[], work: (item: T) => number): Promise<void> {
  let since = performance.now()
  let count = 0
  for (const item of items) {
    count += 1 + (work(item) >> 14)
    if (count < RECORDS_PER_CLOCK) continue
    count = 0
    if (performance.now() - since < SLICE_MS) continue
    await setImmediate()
    since = performance.now()
  }
}

/** `put` stores one record and returns its bytes; `finish` stores the new ends and sequence. */
function appender(environment: Environment): {
  put(record: Prepared): number
  finish(): void
} {
  const { records, latest, meta } = environment
  const ends = new Map<number, { topicId: number; partition: number; offset: number }>()
  const timestamp = Date.now()
  let sequence = readCount(environment, SEQUENCE)
  const endOf = (topicId: number, partition: number): { offset: number } => {
    const place = topicId * 0x10000 + partition
    let end = ends.get(place)
    if (end === undefined) {
      end = { topicId, partition, offset: readCount(environment, endKey(topicId, partition)) }
      ends.set(place, end)
    }
    return end
  }
  return {
    put({ topic, partition, bytes, indexKey }) {
      const offset = endOf(topic.id, partition).offset++
      if (offset >= OFFSET_MAX) throw new RangeError(`topic ${topic.name} is full`)
      bytes.writeDoubleLE(sequence++, 1)
      bytes.writeDoubleLE(timestamp, 9)
      records.put([topic.id, partition, offset], bytes)
      if (indexKey === undefined) return bytes.length
      const before = latest.get(indexKey)
      if (before !== undefined) records.remove([topic.id, partition, before.readDoubleLE(0)])
      const now = Buffer.allocUnsafe(8)
      now.writeDoubleLE(offset, 0)
      latest.put(indexKey, now)
      return bytes.length
    },
    finish() {
      meta.put(SEQUENCE, sequence)
      for (const { topicId, partition, offset } of ends.values()) {
        meta.put(endKey(topicId, partition), offset)
      }
    },
  }
}
