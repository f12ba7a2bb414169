/**
 * The bytes of a stored record. Little-endian, in this order:
 *
 *   flags u8 | sequence f64 | timestamp f64 | [key size u32, key] | [headers size u32, headers] | value
 *
 * `sequence` counts appends over the whole log: it is the order in which partitions are merged.
 */
import type { LogRecord, OutRecord } from './log.ts'

const HAS_KEY = 1
const HAS_VALUE = 2
const HAS_HEADERS = 4
const FIXED_BYTES = 17
const SLAB_BYTES = 1 << 18

/** A stored record without its place. */
export type Frame = Omit<LogRecord, 'topic' | 'partition' | 'offset'> & { sequence: number }

/** An encoded record; the key's bytes lie at [keyStart, keyEnd), both 0 where there is no key. */
export type Encoded = { bytes: Buffer; keyStart: number; keyEnd: number }

/** Hands out encoded records that share large buffers: one allocation for hundreds of records. */
export class FrameEncoder {
  #slab = Buffer.allocUnsafeSlow(0)
  #used = 0

  /** Everything of the record but sequence and timestamp, which `stamp` fills in. */
  encode(record: OutRecord): Encoded {
    const headers = headersOf(record)
    const keyBytes = record.key === null ? 0 : Buffer.byteLength(record.key)
    const headerBytes = headers === undefined ? 0 : Buffer.byteLength(headers)
    const size =
      FIXED_BYTES +
      (record.key === null ? 0 : 4 + keyBytes) +
      (headers === undefined ? 0 : 4 + headerBytes) +
      (record.value?.length ?? 0)
    const bytes = this.#take(size)
    bytes[0] =
      (record.key === null ? 0 : HAS_KEY) |
      (record.value === null ? 0 : HAS_VALUE) |
      (headers === undefined ? 0 : HAS_HEADERS)
    let at = FIXED_BYTES
    if (record.key !== null) at = writeText(bytes, at, record.key, keyBytes)
    if (headers !== undefined) at = writeText(bytes, at, headers, headerBytes)
    if (record.value !== null) bytes.set(record.value, at)
    const keyStart = record.key === null ? 0 : FIXED_BYTES + 4
    return { bytes, keyStart, keyEnd: keyStart + keyBytes }
  }

  #take(size: number): Buffer {
    if (size > SLAB_BYTES >> 3) return Buffer.allocUnsafeSlow(size)
    if (this.#used + size > this.#slab.length) {
      this.#slab = Buffer.allocUnsafeSlow(SLAB_BYTES)
      this.#used = 0
    }
    this.#used += size
    return this.#slab.subarray(this.#used - size, this.#used)
  }
}

function headersOf(record: OutRecord): string | undefined {
  if (record.headers === undefined) return undefined
  for (const _ in record.headers) return JSON.stringify(record.headers)
  return undefined
}

function writeText(bytes: Buffer, at: number, text: string, size: number): number {
  bytes.writeUInt32LE(size, at)
  bytes.write(text, at + 4, 'utf8')
  return at + 4 + size
}

/** Writes an encoded record's sequence and its timestamp (milliseconds since the epoch). */
export function stamp(bytes: Buffer, sequence: number, timestamp: number): void {
  bytes.writeDoubleLE(sequence, 1)
  bytes.writeDoubleLE(timestamp, 9)
}

/** Reads a stored record. Its value is a view into `bytes`. */
export function decodeFrame(bytes: Buffer): Frame {
  const flags = bytes[0]!
  let at = FIXED_BYTES
  let key: string | null = null
  let headers: Record<string, string> = {}
  if (flags & HAS_KEY) {
    const end = at + 4 + bytes.readUInt32LE(at)
    key = bytes.toString('utf8', at + 4, end)
    at = end
  }
  if (flags & HAS_HEADERS) {
    const end = at + 4 + bytes.readUInt32LE(at)
    headers = JSON.parse(bytes.toString('utf8', at + 4, end)) as Record<string, string>
    at = end
  }
  const value = flags & HAS_VALUE ? bytes.subarray(at) : null
  return {
    sequence: bytes.readDoubleLE(1),
    timestamp: bytes.readDoubleLE(9),
    key,
    headers,
    value,
  }
}
