/**
 * Kafka's record batches (magic 2), written and read: the client library's own coding costs 10 to 20 us
 * a record, this 1 us. Big-endian, source: `DefaultRecordBatch` and `DefaultRecord` of Apache Kafka.
 *
 *   baseOffset i64 | length i32 | leaderEpoch i32 | magic i8 | crc u32 | attributes i16 | lastOffsetDelta i32 |
 *   baseTimestamp i64 | maxTimestamp i64 | producerId i64 | producerEpoch i16 | baseSequence i32 | count i32 | records
 *
 *   record: size varint | attributes i8 | timestampDelta varint | offsetDelta varint |
 *           key size varint, key | value size varint, value | headers count varint, (size, name, size, value)…
 */
import { XmasdError } from '../errors.ts'
import { decompress } from './kafka-codecs.ts'
import { crc32c } from './kafka-crc.ts'
import type { LogRecord, OutRecord } from './log.ts'

export const BATCH_HEADER_BYTES = 61
const MAGIC = 2
const MAGIC_AT = 16
const CRC_AT = 17
const ATTRIBUTES_AT = 21
const CODEC = 7
const LOG_APPEND_TIME = 8
const TRANSACTIONAL = 16
const CONTROL = 32
const ABORT = 0

/** Who writes a batch, and the number of its first record in that writer's count. */
export type Stamp = { producerId: number; epoch: number; sequence: number }

/** Records of one partition in the making; `stamped` gives the bytes of a batch. */
export class BatchWriter {
  #bytes: Buffer
  #at = BATCH_HEADER_BYTES
  #count = 0

  constructor(bytesHint: number) {
    this.#bytes = Buffer.allocUnsafeSlow(bytesHint)
  }

  get count(): number {
    return this.#count
  }

  get size(): number {
    return this.#at
  }

  /** `bodyBytes`: what `recordBytes` said. */
  add(record: OutRecord, bodyBytes: number): void {
    this.#reserve(bodyBytes + 5)
    this.#varint(bodyBytes)
    this.#bytes[this.#at++] = 0
    this.#bytes[this.#at++] = 0
    this.#varint(this.#count++)
    this.#text(record.key)
    if (record.value === null) this.#varint(-1)
    else {
      this.#varint(record.value.length)
      this.#bytes.set(record.value, this.#at)
      this.#at += record.value.length
    }
    const headers = record.headers === undefined ? NO_HEADERS : Object.entries(record.headers)
    this.#varint(headers.length)
    for (const [name, value] of headers) {
      this.#text(name)
      this.#text(value)
    }
  }

  /** The batch, sealed for one transaction of `stamp`'s writer; again for another. */
  stamped({ producerId, epoch, sequence }: Stamp): Buffer {
    const bytes = this.#bytes.subarray(0, this.#at)
    const now = BigInt(Date.now())
    bytes.writeBigInt64BE(0n, 0)
    bytes.writeInt32BE(this.#at - 12, 8)
    bytes.writeInt32BE(-1, 12)
    bytes[MAGIC_AT] = MAGIC
    bytes.writeInt16BE(TRANSACTIONAL, ATTRIBUTES_AT)
    bytes.writeInt32BE(this.#count - 1, 23)
    bytes.writeBigInt64BE(now, 27)
    bytes.writeBigInt64BE(now, 35)
    bytes.writeBigInt64BE(BigInt(producerId), 43)
    bytes.writeInt16BE(epoch, 51)
    bytes.writeInt32BE(sequence, 53)
    bytes.writeInt32BE(this.#count, 57)
    bytes.writeUInt32BE(crc32c(bytes, ATTRIBUTES_AT, this.#at), CRC_AT)
    return bytes
  }

  #reserve(more: number): void {
    if (this.#at + more <= this.#bytes.length) return
    const grown = Buffer.allocUnsafeSlow(Math.max(2 * this.#bytes.length, this.#at + more))
    this.#bytes.copy(grown, 0, 0, this.#at)
    this.#bytes = grown
  }

  #varint(value: number): void {
    let left = ((value << 1) ^ (value >> 31)) >>> 0
    while (left > 0x7f) {
      this.#bytes[this.#at++] = (left & 0x7f) | 0x80
      left >>>= 7
    }
    this.#bytes[this.#at++] = left
  }

  #text(text: string | null): void {
    const size = text === null ? -1 : Buffer.byteLength(text)
    this.#varint(size)
    if (text === null) return
    this.#bytes.write(text, this.#at, 'utf8')
    this.#at += size
  }
}

const NO_HEADERS: [string, string][] = []

/** Bytes of a record's body, at the place `index` of its batch. */
export function recordBytes(record: OutRecord, index: number): number {
  let bytes = 2 + varintBytes(index) + textBytes(record.key)
  const { value, headers } = record
  bytes += value === null ? 1 : varintBytes(value.length) + value.length
  const entries = headers === undefined ? NO_HEADERS : Object.entries(headers)
  bytes += varintBytes(entries.length)
  for (const [name, text] of entries) bytes += textBytes(name) + textBytes(text)
  return bytes
}

function textBytes(text: string | null): number {
  if (text === null) return 1
  const size = Buffer.byteLength(text)
  return varintBytes(size) + size
}

/** Of a number that is not negative. */
function varintBytes(value: number): number {
  return value < 1 << 6 ? 1 : value < 1 << 13 ? 2 : value < 1 << 20 ? 3 : value < 1 << 27 ? 4 : 5
}

/** A transaction whose records from `firstOffset` on were never committed. */
export type Aborted = { producerId: number; firstOffset: number }

/** What one fetch gave of a partition: its committed records, and where to go on. */
export type Fetched = { records: LogRecord[]; next: number; bytes: number }

/**
 * Reads whole batches from `bytes`; a last one that is cut off is left for the next fetch. Brokers tell of
 * `aborted` transactions in the order in which they ended, not in that of their first offsets. Records below
 * `from` are left out: a batch may begin before what was asked for.
 */
export function readBatches(
  bytes: Buffer,
  place: { topic: string; partition: number; from: number },
  aborted: readonly Aborted[],
): Fetched {
  const starts = aborted.toSorted((a, b) => a.firstOffset - b.firstOffset)
  const open = new Set<number>()
  const fetched: Fetched = { records: [], next: place.from, bytes: 0 }
  let unopened = 0
  for (let at = 0; at + BATCH_HEADER_BYTES <= bytes.length; ) {
    const end = at + 12 + bytes.readInt32BE(at + 8)
    if (end > bytes.length) break
    const batch = bytes.subarray(at, end)
    const { lastOffset, producerId, attributes } = headerOf(batch)
    while (unopened < starts.length && starts[unopened]!.firstOffset <= lastOffset) {
      open.add(starts[unopened++]!.producerId)
    }
    if ((attributes & CONTROL) !== 0) {
      if (controlOf(batch) === ABORT) open.delete(producerId)
    } else if ((attributes & TRANSACTIONAL) === 0 || !open.has(producerId)) {
      readRecords(batch, attributes, place, fetched)
    }
    fetched.next = Math.max(fetched.next, lastOffset + 1)
    at = end
  }
  return fetched
}

function headerOf(batch: Buffer): { lastOffset: number; producerId: number; attributes: number } {
  if (batch[MAGIC_AT] !== MAGIC) {
    throw new XmasdError(
      'LOG_UNAVAILABLE',
      `a batch of records in format ${batch[MAGIC_AT]}: only format 2 is read`,
      'let the topic be rewritten by Kafka 0.11 or later',
    )
  }
  return {
    lastOffset: Number(batch.readBigInt64BE(0)) + batch.readInt32BE(23),
    producerId: Number(batch.readBigInt64BE(43)),
    attributes: batch.readInt16BE(ATTRIBUTES_AT),
  }
}

/** The kind of a control batch: its one record's key is version i16, kind i16. */
function controlOf(batch: Buffer): number {
  const cursor = new Cursor(batch, BATCH_HEADER_BYTES)
  cursor.varint()
  cursor.at++
  cursor.varint()
  cursor.varint()
  cursor.varint()
  return batch.readInt16BE(cursor.at + 2)
}

function readRecords(
  batch: Buffer,
  attributes: number,
  { topic, partition, from }: { topic: string; partition: number; from: number },
  into: Fetched,
): void {
  const base = Number(batch.readBigInt64BE(0))
  const baseTimestamp = Number(batch.readBigInt64BE(27))
  const maxTimestamp = Number(batch.readBigInt64BE(35))
  const isAppendTime = (attributes & LOG_APPEND_TIME) !== 0
  const codec = attributes & CODEC
  const body = batch.subarray(BATCH_HEADER_BYTES)
  const cursor = new Cursor(codec === 0 ? body : decompress(codec, body), 0)
  const count = batch.readInt32BE(57)
  for (let i = 0; i < count; i++) {
    const end = cursor.varint() + cursor.at
    cursor.at++
    const delta = cursor.varint()
    const timestamp = isAppendTime ? maxTimestamp : baseTimestamp + delta
    const offset = base + cursor.varint()
    if (offset >= from) {
      const key = cursor.text()
      const value = cursor.bytes()
      const headers = cursor.headers()
      into.records.push({ topic, partition, offset, key, value, headers, timestamp })
      into.bytes += value?.length ?? 0
    }
    cursor.at = end
  }
}

class Cursor {
  readonly buffer: Buffer
  at: number

  constructor(buffer: Buffer, at: number) {
    this.buffer = buffer
    this.at = at
  }

  /** Zigzag; exact up to 53 bits. */
  varint(): number {
    const { buffer } = this
    let byte = buffer[this.at++]!
    let value = byte & 0x7f
    let scale = 128
    while (byte > 0x7f) {
      byte = buffer[this.at++]!
      value += (byte & 0x7f) * scale
      scale *= 128
    }
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2
  }

  text(): string | null {
    const size = this.varint()
    if (size < 0) return null
    this.at += size
    return this.buffer.toString('utf8', this.at - size, this.at)
  }

  bytes(): Buffer | null {
    const size = this.varint()
    if (size < 0) return null
    this.at += size
    return this.buffer.subarray(this.at - size, this.at)
  }

  /** A name that comes twice keeps its last value. */
  headers(): Record<string, string> {
    const headers: [string, string][] = []
    for (let left = this.varint(); left > 0; left--) {
      headers.push([this.text() ?? '', this.text() ?? ''])
    }
    return Object.fromEntries(headers)
  }
}
