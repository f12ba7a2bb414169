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

import { isUtf8 } from 'node:buffer'
import { crc32c } from '@node-rs/crc32'
import { messageOf, XmasdError } from '../../errors.ts'
import { decompress } from './codecs.ts'
import { KafkaFailure, type LogRecord, type OutRecord, type RawHeaders } from './model.ts'

export const BATCH_HEADER_BYTES = 61
const SIZE_AT = 8
/** What the size of a batch leaves out: its offset, and the size itself. */
const BODY_AT = 12
/** Of a message of the oldest format. */
const SIZE_MIN = 14
const MAGIC = 2
const MAGIC_AT = 16
const CRC_AT = 17
const ATTRIBUTES_AT = 21
const CODEC = 7
const LOG_APPEND_TIME = 8
const TRANSACTIONAL = 16
const CONTROL = 32

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
    this.#value(record.value)
    const { headers, raw } = headersOf(record)
    this.#varint(headers.length + raw.length)
    for (const [name, value] of headers) {
      this.#text(name)
      this.#text(value)
    }
    for (const [name, value] of raw) {
      this.#text(name)
      this.#value(value)
    }
  }

  /** The batch, sealed for one transaction of `stamp`'s writer, or for none; again for another. */
  stamped({ producerId, epoch, sequence }: Stamp, isTransactional = true): Buffer {
    const bytes = this.#bytes.subarray(0, this.#at)
    const now = BigInt(Date.now())
    bytes.writeBigInt64BE(0n, 0)
    bytes.writeInt32BE(this.#at - 12, 8)
    bytes.writeInt32BE(-1, 12)
    bytes[MAGIC_AT] = MAGIC
    bytes.writeInt16BE(isTransactional ? TRANSACTIONAL : 0, ATTRIBUTES_AT)
    bytes.writeInt32BE(this.#count - 1, 23)
    bytes.writeBigInt64BE(now, 27)
    bytes.writeBigInt64BE(now, 35)
    bytes.writeBigInt64BE(BigInt(producerId), 43)
    bytes.writeInt16BE(epoch, 51)
    bytes.writeInt32BE(sequence, 53)
    bytes.writeInt32BE(this.#count, 57)
    bytes.writeUInt32BE(crc32c(bytes.subarray(ATTRIBUTES_AT)), CRC_AT)
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

  #value(value: Uint8Array | null): void {
    this.#varint(value === null ? -1 : value.length)
    if (value === null) return
    this.#bytes.set(value, this.#at)
    this.#at += value.length
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
const NO_RAW_HEADERS: RawHeaders = []

function headersOf({ headers, rawHeaders }: OutRecord): {
  headers: [string, string][]
  raw: RawHeaders
} {
  return {
    headers: headers === undefined ? NO_HEADERS : Object.entries(headers),
    raw: rawHeaders ?? NO_RAW_HEADERS,
  }
}

/** Bytes of a record's body, at the place `index` of its batch. */
export function recordBytes(record: OutRecord, index: number): number {
  let bytes = 2 + varintBytes(index) + textBytes(record.key) + valueBytes(record.value)
  const { headers, raw } = headersOf(record)
  bytes += varintBytes(headers.length + raw.length)
  for (const [name, text] of headers) bytes += textBytes(name) + textBytes(text)
  for (const [name, value] of raw) bytes += textBytes(name) + valueBytes(value)
  return bytes
}

function valueBytes(value: Uint8Array | null): number {
  return value === null ? 1 : varintBytes(value.length) + value.length
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

export type From = { topic: string; partition: number; from: number }

/**
 * Reads whole batches from `bytes`. A last batch that is cut off is left for the next fetch; records below `from` are
 * left out, because a batch may begin before the offset that was asked for. A batch that cannot be decoded gives one
 * record with an `error`. Throws CORRUPT_MESSAGE where the bytes are not the ones that the producer sealed.
 *
 * Brokers list `aborted` transactions in the order in which they ended, not in that of their first offsets. Every marker of
 * a producer ends its transaction, so what a marker says is not looked at: compaction may have removed its record.
 */
export function readBatches(bytes: Buffer, place: From, aborted: readonly Aborted[]): Fetched {
  const starts = aborted.toSorted((a, b) => a.firstOffset - b.firstOffset)
  const open = new Set<number>()
  const fetched: Fetched = { records: [], next: place.from, bytes: 0 }
  let unopened = 0
  for (let at = 0; at + MAGIC_AT < bytes.length; ) {
    const size = bytes.readInt32BE(at + SIZE_AT)
    if (size < SIZE_MIN) throw corrupt(place, `a batch of ${size} bytes`)
    const end = at + BODY_AT + size
    if (end > bytes.length) break
    const batch = bytes.subarray(at, end)
    const { lastOffset, producerId, attributes } = headerOf(batch, place)
    while (unopened < starts.length && starts[unopened]!.firstOffset <= lastOffset) {
      open.add(starts[unopened++]!.producerId)
    }
    if ((attributes & CONTROL) !== 0) open.delete(producerId)
    else if ((attributes & TRANSACTIONAL) === 0 || !open.has(producerId)) {
      readBatch(batch, attributes, place, fetched)
    }
    fetched.next = Math.max(fetched.next, lastOffset + 1)
    at = end
  }
  return fetched
}

type Header = { lastOffset: number; producerId: number; attributes: number }

function headerOf(batch: Buffer, place: From): Header {
  const base = Number(batch.readBigInt64BE(0))
  // Older formats hold no transactions; they are refused where their records are read.
  if (batch[MAGIC_AT] !== MAGIC) return { lastOffset: base, producerId: -1, attributes: 0 }
  if (batch.length < BATCH_HEADER_BYTES) throw corrupt(place, `a batch of ${batch.length} bytes`)
  if (batch.readUInt32BE(CRC_AT) !== crc32c(batch.subarray(ATTRIBUTES_AT))) {
    throw corrupt(place, `the batch at offset ${base} does not have its checksum`)
  }
  return {
    lastOffset: base + batch.readInt32BE(23),
    producerId: Number(batch.readBigInt64BE(43)),
    attributes: batch.readInt16BE(ATTRIBUTES_AT),
  }
}

function corrupt({ topic, partition }: From, what: string): KafkaFailure {
  return new KafkaFailure('CORRUPT_MESSAGE', `${topic}/${partition}: ${what}`)
}

/** A batch that cannot be decoded becomes one record, which holds the bytes of the batch and the reason. */
function readBatch(batch: Buffer, attributes: number, place: From, into: Fetched): void {
  const { topic, partition, from } = place
  const before = { records: into.records.length, bytes: into.bytes }
  try {
    readRecords(batch, attributes, place, into)
  } catch (error) {
    into.records.length = before.records
    into.bytes = before.bytes + batch.length
    const base = Number(batch.readBigInt64BE(0))
    const unreadable = new XmasdError(
      'BATCH_UNREADABLE',
      `${topic}/${partition}: the batch at offset ${base} cannot be decoded: ${messageOf(error)}`,
      'find the producer that wrote it; its records have to be produced again',
      { cause: error },
    )
    const timestamp = batch[MAGIC_AT] === MAGIC ? Number(batch.readBigInt64BE(35)) : 0
    const common = { topic, partition, key: null, headers: {}, timestamp }
    into.records.push({ ...common, offset: Math.max(base, from), value: batch, error: unreadable })
  }
}

/** Throws where the records do not make up the body of the batch exactly. */
function readRecords(batch: Buffer, attributes: number, place: From, into: Fetched): void {
  const { topic, partition, from } = place
  if (batch[MAGIC_AT] !== MAGIC)
    throw new Error(`message format ${batch[MAGIC_AT]} is not supported`)
  const base = Number(batch.readBigInt64BE(0))
  const lastDelta = batch.readInt32BE(23)
  const baseTimestamp = Number(batch.readBigInt64BE(27))
  const maxTimestamp = Number(batch.readBigInt64BE(35))
  const isAppendTime = (attributes & LOG_APPEND_TIME) !== 0
  const count = batch.readInt32BE(57)
  if (count === 0) return
  const cursor = new Cursor(decompress(attributes & CODEC, batch.subarray(BATCH_HEADER_BYTES)))
  for (let i = 0; i < count; i++) {
    const end = cursor.begin()
    const sinceBase = cursor.varint()
    const timestamp = isAppendTime ? maxTimestamp : baseTimestamp + sinceBase
    const delta = cursor.varint()
    if (!(delta >= 0 && delta <= lastDelta)) throw new Error(`offset ${delta} of ${lastDelta}`)
    if (base + delta >= from) {
      const key = cursor.text()
      const value = cursor.bytes()
      const headers = cursor.headers()
      into.records.push({
        topic,
        partition,
        offset: base + delta,
        key,
        value,
        ...headers,
        timestamp,
      })
      into.bytes += value?.length ?? 0
      if (cursor.at !== end) throw new Error(`record ${i} ends at ${cursor.at}, not at ${end}`)
    }
    cursor.at = end
  }
  if (count < 0 || cursor.at !== cursor.buffer.length) {
    throw new Error(`${count} records take ${cursor.at} of ${cursor.buffer.length} bytes`)
  }
}

class Cursor {
  readonly buffer: Buffer
  at = 0

  constructor(buffer: Buffer) {
    this.buffer = buffer
  }

  /** Enters the next record; gives where it ends. */
  begin(): number {
    const size = this.varint()
    const end = this.at + size
    this.#reserve(size)
    this.at++
    return end
  }

  /** Throws where so many bytes are not left. */
  #reserve(size: number): void {
    if (size >= 0 && this.at + size <= this.buffer.length) return
    throw new Error(`${size} bytes at ${this.at} of ${this.buffer.length}`)
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
    if (size === -1) return null
    this.#reserve(size)
    this.at += size
    return this.buffer.toString('utf8', this.at - size, this.at)
  }

  bytes(): Buffer | null {
    const size = this.varint()
    if (size === -1) return null
    this.#reserve(size)
    this.at += size
    return this.buffer.subarray(this.at - size, this.at)
  }

  headers(): Pick<LogRecord, 'headers' | 'rawHeaders'> {
    const count = this.varint()
    if (count === 0) return { headers: {} }
    const raw: [string, Buffer | null][] = []
    this.#reserve(count)
    for (let left = count; left > 0; left--) raw.push([this.text() ?? '', this.bytes()])
    const headers = Object.fromEntries(raw.map(([name, value]) => [name, String(value ?? '')]))
    const isExact =
      Object.keys(headers).length === count &&
      raw.every(([, value]) => value !== null && isUtf8(value))
    return isExact ? { headers } : { headers, rawHeaders: raw }
  }
}
