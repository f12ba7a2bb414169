/**
 * What a fold is restored from: the numbers of its examples, column by column, 16,384 a chunk, little endian, so
 * that opening ten million is some 600 reads and copies of memory.
 *
 *     magic u32 · count u32 · bytes of ids u32 · 0 u32
 *     instability f64[count] (NaN: text-only) · content u64 as high u32[count], low u32[count]
 *     cluster i32[count] (-1: text) · ids of the text-only: a JSON array of strings
 */
import { invalidState } from './blocks.ts'
import type { PastExample } from './policy.ts'

export const CHUNK_ROWS = 1 << 14
export const TEXT = -1
/** Stands for the cluster of an example that takes no part. */
export const PASSED_OVER = -2

const MAGIC = 0x31434d58 // 'XMC1'
const HEADER_BYTES = 16
const ROW_BYTES = 8 + 4 + 4 + 4

export type Numbers = {
  count: number
  instability: Float64Array
  high: Uint32Array
  low: Uint32Array
  cluster: Int32Array
  /** Of the text-only ones, in order. */
  ids: string[]
}

/** Room for `rows` examples; none are there yet. */
export function emptyNumbers(rows: number): Numbers {
  return {
    count: 0,
    instability: new Float64Array(rows),
    high: new Uint32Array(rows),
    low: new Uint32Array(rows),
    cluster: new Int32Array(rows),
    ids: [],
  }
}

export function pushNumbers(numbers: Numbers, example: PastExample): void {
  const { cluster, instability, id, content } = example
  const at = numbers.count++
  numbers.instability[at] = instability
  numbers.high[at] = content.high
  numbers.low[at] = content.low
  numbers.cluster[at] = cluster === 'text' ? TEXT : cluster
  if (cluster === 'text') numbers.ids.push(id)
}

export function encodeChunk({ count, ids, ...columns }: Numbers): Uint8Array {
  const idBytes = Buffer.from(JSON.stringify(ids))
  const chunk = Buffer.alloc(HEADER_BYTES + count * ROW_BYTES + idBytes.length)
  ;[MAGIC, count, idBytes.length].forEach((value, index) => {
    chunk.writeUInt32LE(value, 4 * index)
  })
  let at = HEADER_BYTES
  for (const column of inOrder(columns)) {
    const bytes = bytesOf(column).subarray(0, count * column.BYTES_PER_ELEMENT)
    chunk.set(bytes, at)
    at += bytes.length
  }
  chunk.set(idBytes, at)
  return chunk
}

/** @throws XmasdError STATE_INVALID where the bytes are no chunk */
export function decodeChunk(bytes: Uint8Array): Numbers {
  const chunk = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (chunk.length < HEADER_BYTES || chunk.readUInt32LE(0) !== MAGIC) {
    throw invalidState('a chunk of numbers does not begin with its magic number')
  }
  const count = chunk.readUInt32LE(4)
  const idsAt = HEADER_BYTES + count * ROW_BYTES
  if (chunk.length !== idsAt + chunk.readUInt32LE(8)) {
    throw invalidState(`a chunk of ${count} examples has ${chunk.length} bytes`)
  }
  const numbers = emptyNumbers(count)
  let at = HEADER_BYTES
  for (const column of inOrder(numbers)) {
    bytesOf(column).set(chunk.subarray(at, at + column.byteLength))
    at += column.byteLength
  }
  return { ...numbers, count, ids: JSON.parse(chunk.toString('utf8', idsAt)) }
}

/** The columns as they follow each other. */
function inOrder({ instability, high, low, cluster }: Omit<Numbers, 'count' | 'ids'>) {
  return [instability, high, low, cluster] as const
}

/** Our hosts are little endian, as the format is. */
function bytesOf(column: Float64Array | Uint32Array | Int32Array): Uint8Array {
  return new Uint8Array(column.buffer, column.byteOffset, column.byteLength)
}
