/**
 * How examples lie in the durable state: blocks of 128 by sequence number, column by column, little
 * endian, so that opening a history is a few reads of memory a block and one example's id can be
 * read without decoding the rest.
 *
 *     magic u32 · count u32 · bytes of bundles u32 · bytes of ids u32
 *     offset f64[count] · instability f64[count] (NaN: text-only) · content u64 as (high, low) u32[2][count]
 *     cluster i32[count] (-1: text) · end of id u32[count] · bundle u32[count]
 *     bundles: a JSON array of strings · ids: UTF-8
 */
import { XmasdError } from '../errors.ts'
import type { Cluster } from '../record.ts'
import type { Content } from './duplicates.ts'

export const BLOCK_ROWS = 128

const MAGIC = 0x31534d58 // 'XMS1'
const HEADER_BYTES = 16
const ROW_BYTES = 8 + 8 + 8 + 4 + 4 + 4

/** One counted example: where its assignment lies in the log and what the subset needs of it. */
export type Row = {
  offset: number
  /** NaN for text-only ones. */
  instability: number
  content: Content
  cluster: Cluster
  id: string
  bundle: string
}

export function encodeBlock(rows: readonly Row[]): Uint8Array {
  const bundles = [...new Set(rows.map(row => row.bundle))]
  const bundleBytes = Buffer.from(JSON.stringify(bundles))
  const ids = rows.map(row => Buffer.from(row.id))
  const idBytes = ids.reduce((sum, id) => sum + id.length, 0)
  const count = rows.length
  const block = Buffer.alloc(HEADER_BYTES + count * ROW_BYTES + bundleBytes.length + idBytes)
  ;[MAGIC, count, bundleBytes.length, idBytes].forEach((value, index) => {
    block.writeUInt32LE(value, 4 * index)
  })
  const at = columnStarts(count)
  let idEnd = 0
  rows.forEach((row, index) => {
    block.writeDoubleLE(row.offset, at.offset + 8 * index)
    block.writeDoubleLE(row.instability, at.instability + 8 * index)
    block.writeUInt32LE(row.content.high, at.high + 4 * index)
    block.writeUInt32LE(row.content.low, at.low + 4 * index)
    block.writeInt32LE(row.cluster === 'text' ? -1 : row.cluster, at.cluster + 4 * index)
    block.writeUInt32LE(idEnd + ids[index]!.length, at.idEnd + 4 * index)
    block.writeUInt32LE(bundles.indexOf(row.bundle), at.bundle + 4 * index)
    ids[index]!.copy(block, at.bundles + bundleBytes.length + idEnd)
    idEnd += ids[index]!.length
  })
  bundleBytes.copy(block, at.bundles)
  return block
}

/** @throws XmasdError STATE_INVALID where the bytes are no block */
export function decodeBlock(bytes: Uint8Array): Row[] {
  const block = bufferOf(bytes)
  const { count, bundles } = headerOf(block)
  return Array.from({ length: count }, (_, index) => rowAt(block, index, bundles))
}

/** One row of a block. */
export function decodeRow(bytes: Uint8Array, index: number): Row {
  const block = bufferOf(bytes)
  const { count, bundles } = headerOf(block)
  if (index >= count) throw invalidState(`a block of ${count} examples has no number ${index}`)
  return rowAt(block, index, bundles)
}

/**
 * What a fold is restored from, row by row and without making a string of every id: ids are those of
 * text-only examples, else ''.
 */
export function* decodeNumbers(bytes: Uint8Array): Generator<Omit<Row, 'offset' | 'bundle'>> {
  const block = bufferOf(bytes)
  const { count, bundles } = headerOf(block)
  const at = columnStarts(count)
  for (let index = 0; index < count; index++) {
    const cluster = block.readInt32LE(at.cluster + 4 * index)
    const isText = cluster < 0
    yield {
      instability: block.readDoubleLE(at.instability + 8 * index),
      content: {
        high: block.readUInt32LE(at.high + 4 * index),
        low: block.readUInt32LE(at.low + 4 * index),
      },
      cluster: isText ? 'text' : cluster,
      id: isText ? rowAt(block, index, bundles).id : '',
    }
  }
}

function rowAt(block: Buffer, index: number, bundles: readonly string[]): Row {
  const count = block.readUInt32LE(4)
  const at = columnStarts(count)
  const ids = at.bundles + block.readUInt32LE(8)
  const start = index === 0 ? 0 : block.readUInt32LE(at.idEnd + 4 * (index - 1))
  const end = block.readUInt32LE(at.idEnd + 4 * index)
  const cluster = block.readInt32LE(at.cluster + 4 * index)
  return {
    offset: block.readDoubleLE(at.offset + 8 * index),
    instability: block.readDoubleLE(at.instability + 8 * index),
    content: {
      high: block.readUInt32LE(at.high + 4 * index),
      low: block.readUInt32LE(at.low + 4 * index),
    },
    cluster: cluster < 0 ? 'text' : cluster,
    id: block.toString('utf8', ids + start, ids + end),
    bundle: bundles[block.readUInt32LE(at.bundle + 4 * index)]!,
  }
}

function headerOf(block: Buffer): { count: number; bundles: string[] } {
  if (block.length < HEADER_BYTES || block.readUInt32LE(0) !== MAGIC) {
    throw invalidState('a block of examples does not begin with its magic number')
  }
  const count = block.readUInt32LE(4)
  const bundleBytes = block.readUInt32LE(8)
  const bundlesAt = HEADER_BYTES + count * ROW_BYTES
  if (block.length !== bundlesAt + bundleBytes + block.readUInt32LE(12)) {
    throw invalidState(`a block of ${count} examples has ${block.length} bytes`)
  }
  return { count, bundles: JSON.parse(block.toString('utf8', bundlesAt, bundlesAt + bundleBytes)) }
}

function columnStarts(count: number) {
  const offset = HEADER_BYTES
  const instability = offset + 8 * count
  const high = instability + 8 * count
  const low = high + 4 * count
  const cluster = low + 4 * count
  const idEnd = cluster + 4 * count
  const bundle = idEnd + 4 * count
  return { offset, instability, high, low, cluster, idEnd, bundle, bundles: bundle + 4 * count }
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Where the block begins that holds the row `number`. */
export function blockStart(number: number): number {
  return number - (number % BLOCK_ROWS)
}

export function invalidState(message: string): XmasdError {
  return new XmasdError('STATE_INVALID', message, REBUILD_HINT)
}

export const REBUILD_HINT = `It can be made again from the log: name a new select.group and new log.topics.decisions and log.topics.subset; it replays.`
