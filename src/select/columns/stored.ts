/**
 * Examples as they lie in the durable state: columns of numbers, little endian, behind one header.
 * Two records hold the same columns for two purposes:
 *
 *     block   128 rows with all their fields: one example is read without the rest
 *     chunk   16,384 rows with what a fold is restored from: ten million examples are some 600 reads
 *
 *     header  magic u32 · count u32 · bytes of the two tails u32 u32
 *     block   offset f64 · instability f64 · high u32 · low u32 · cluster i32 · idEnd u32 · bundle u32
 *             where examples rank by something else, with a magic of its own, and at the end · order f64
 *             tails: bundles, a JSON array of strings · ids, UTF-8, end to end
 *     chunk   instability f64 · high u32 · low u32 · cluster i32
 *             tails: ids of the text-only examples, a JSON array of strings · empty
 *
 * `instability` is NaN and `cluster` -1 for text-only examples; (high, low) is the content. A chunk has the
 * order in the place of the instability, where there is one.
 * Protected examples take no part: their cluster is -2 in a chunk, and in a block -2 less the cluster's
 * number + 1 (-2 where text-only). Misaligned ones count in N alone: theirs is -3 in a chunk, and in a block
 * -2^24 less the cluster's number. Examples of a baseline count already: theirs is -2^30 less the cluster's
 * number + 1 (-2^30 where text-only).
 */
import type { z } from 'zod'
import { XmasdError } from '../../errors.ts'
import type { StateReader } from '../../log/log.ts'
import type { Cluster } from '../../record.ts'
import type { Content } from './hash-table.ts'

export const BLOCK_ROWS = 128
export const CHUNK_ROWS = 1 << 14
export const TEXT = -1
/** Stands for the cluster of an example that takes no part. */
export const PASSED_OVER = -2
/** Stands for the cluster of an example that counts in N and joins no cluster. */
export const MISALIGNED = -3
/** In a block; below all clusters of protected examples, above those of a baseline. */
const MISALIGNED_FROM = -(2 ** 24)
const BASELINE = -(2 ** 30)

type Coded = Pick<Row, 'cluster' | 'isBaseline' | 'isProtected' | 'isMisaligned'>

/** As a block holds it. */
function codeOf({ cluster, isBaseline, isProtected, isMisaligned }: Coded): number {
  const code = cluster === 'text' ? TEXT : cluster
  if (isBaseline === true) return BASELINE + TEXT - code
  if (isMisaligned === true) return MISALIGNED_FROM + TEXT - code
  return isProtected === true ? PASSED_OVER + TEXT - code : code
}

export function isBaselineCode(code: number): boolean {
  return code <= BASELINE
}

function isMisalignedCode(code: number): boolean {
  return code <= MISALIGNED_FROM && !isBaselineCode(code)
}

export function clusterOfCode(code: number): Cluster {
  const other = isMisalignedCode(code) ? MISALIGNED_FROM : PASSED_OVER
  const from = isBaselineCode(code) ? BASELINE : other
  const plain = code <= PASSED_OVER ? from + TEXT - code : code
  return plain < 0 ? 'text' : plain
}

const HEADER_BYTES = 16
const NO_STARTS = {
  offset: 0,
  instability: 0,
  high: 0,
  low: 0,
  cluster: 0,
  idEnd: 0,
  bundle: 0,
  order: 0,
}

const ARRAYS = {
  offset: Float64Array,
  instability: Float64Array,
  high: Uint32Array,
  low: Uint32Array,
  cluster: Int32Array,
  idEnd: Uint32Array,
  bundle: Uint32Array,
  order: Float64Array,
}
type Name = keyof typeof ARRAYS
type Columns<N extends Name> = { [K in N]: InstanceType<(typeof ARRAYS)[K]> }
type Form<N extends Name> = { what: string; magic: number; names: readonly N[] }

const BLOCK = {
  what: 'a block of examples',
  magic: 0x31534d58, // 'XMS1'
  names: ['offset', 'instability', 'high', 'low', 'cluster', 'idEnd', 'bundle'],
} as const satisfies Form<Name>
const ORDERED_BLOCK = {
  what: BLOCK.what,
  magic: 0x32534d58, // 'XMS2'
  names: [...BLOCK.names, 'order'],
} as const satisfies Form<Name>
const CHUNK = {
  what: 'a chunk of examples',
  magic: 0x31434d58, // 'XMC1'
  names: ['instability', 'high', 'low', 'cluster'],
} as const satisfies Form<Name>

function allocate<N extends Name>(form: Form<N>, rows: number): Columns<N> {
  return Object.fromEntries(form.names.map(name => [name, new ARRAYS[name](rows)])) as Columns<N>
}

function encode<N extends Name>(
  form: Form<N>,
  columns: Columns<N>,
  count: number,
  tails: [Buffer, Buffer],
): Uint8Array {
  const header = Uint32Array.of(form.magic, count, tails[0].length, tails[1].length)
  const parts = form.names.map(name => columns[name].subarray(0, count))
  return Buffer.concat([...[header, ...parts].map(bytesOf), ...tails])
}

type Decoded = {
  bytes: Buffer
  count: number
  /** Where each column begins. */
  starts: Record<Name, number>
  texts: string[]
  ids: Buffer
}

function decode(form: Form<Name>, stored: Uint8Array): Decoded {
  const bytes = Buffer.from(stored.buffer, stored.byteOffset, stored.byteLength)
  if (bytes.length < HEADER_BYTES || bytes.readUInt32LE(0) !== form.magic) {
    throw damaged(`${form.what} does not begin with its magic number`)
  }
  const count = bytes.readUInt32LE(4)
  const starts: Decoded['starts'] = { ...NO_STARTS }
  let end = HEADER_BYTES
  for (const name of form.names) {
    starts[name] = end
    end += count * ARRAYS[name].BYTES_PER_ELEMENT
  }
  const idsAt = end + bytes.readUInt32LE(8)
  if (bytes.length !== idsAt + bytes.readUInt32LE(12)) {
    throw damaged(`${form.what} says ${count} rows and has ${bytes.length} bytes`)
  }
  const texts = JSON.parse(bytes.toString('utf8', end, idsAt))
  return { bytes, count, starts, texts, ids: bytes.subarray(idsAt) }
}

/** Hosts are little endian, as the format is. */
function bytesOf({ buffer, byteOffset, byteLength }: NodeJS.ArrayBufferView): Buffer {
  return Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength)
}

/** One example that counts: where its assignment lies in the log, and what the subset needs of it. */
export type Row = {
  offset: number
  /** NaN for text-only ones. */
  instability: number
  content: Content
  cluster: Cluster
  id: string
  bundle: string
  /** Has a number, but takes no part: see `Fold`. */
  isProtected?: boolean
  /** Counts as one of the baseline: see `Policy.claim`. */
  isBaseline?: boolean
  /** Counts in N alone. */
  isMisaligned?: boolean
  /** What orders it within its cluster, where that is not its instability: see `orderOf`. */
  order?: number
}

export function encodeBlock(rows: readonly Row[]): Uint8Array {
  const isOrdered = rows.some(({ order }) => order !== undefined)
  const columns = allocate(ORDERED_BLOCK, rows.length)
  const bundles = [...new Set(rows.map(row => row.bundle))]
  const ids = rows.map(row => Buffer.from(row.id))
  let idEnd = 0
  for (const [i, row] of rows.entries()) {
    idEnd += ids[i]!.length
    columns.offset[i] = row.offset
    columns.instability[i] = row.instability
    columns.high[i] = row.content.high
    columns.low[i] = row.content.low
    columns.cluster[i] = codeOf(row)
    columns.order[i] = row.order ?? row.instability
    columns.idEnd[i] = idEnd
    columns.bundle[i] = bundles.indexOf(row.bundle)
  }
  const tails: [Buffer, Buffer] = [Buffer.from(JSON.stringify(bundles)), Buffer.concat(ids)]
  return isOrdered
    ? encode(ORDERED_BLOCK, columns, rows.length, tails)
    : encode(BLOCK, columns, rows.length, tails)
}

function decodeAnyBlock(bytes: Uint8Array): Decoded {
  const isOrdered = Buffer.from(bytes.subarray(0, 4)).equals(magicOf(ORDERED_BLOCK))
  return decode(isOrdered ? ORDERED_BLOCK : BLOCK, bytes)
}

function magicOf({ magic }: Form<Name>): Buffer {
  return bytesOf(Uint32Array.of(magic))
}

/** Throws STATE_INVALID where the bytes are no block. */
export function decodeBlock(bytes: Uint8Array): Row[] {
  const block = decodeAnyBlock(bytes)
  return Array.from({ length: block.count }, (_, index) => rowOf(block, index))
}

/** One row of a block. */
export function decodeRow(bytes: Uint8Array, index: number): Row {
  const block = decodeAnyBlock(bytes)
  if (index < block.count) return rowOf(block, index)
  throw damaged(`a block of ${block.count} examples has no number ${index}`)
}

/** Reads single fields in place: most blocks are opened for one row. */
function rowOf({ bytes, starts, texts: bundles, ids }: Decoded, index: number): Row {
  const uint32 = (name: Name, at = index): number => bytes.readUInt32LE(starts[name] + 4 * at)
  const code = bytes.readInt32LE(starts.cluster + 4 * index)
  const isProtected = code <= PASSED_OVER && code > MISALIGNED_FROM
  return {
    offset: bytes.readDoubleLE(starts.offset + 8 * index),
    instability: bytes.readDoubleLE(starts.instability + 8 * index),
    content: { high: uint32('high'), low: uint32('low') },
    cluster: clusterOfCode(code),
    id: ids.toString('utf8', index === 0 ? 0 : uint32('idEnd', index - 1), uint32('idEnd')),
    bundle: bundles[uint32('bundle')]!,
    ...(isBaselineCode(code) ? { isBaseline: true } : {}),
    ...(isProtected ? { isProtected } : {}),
    ...(isMisalignedCode(code) ? { isMisaligned: true } : {}),
    ...(starts.order > 0 ? { order: bytes.readDoubleLE(starts.order + 8 * index) } : {}),
  }
}

/** What a fold is restored from; `ids` are those of the text-only examples, in order. */
export type Chunk = Columns<(typeof CHUNK.names)[number]> & { count: number; ids: string[] }

/** Room for `rows` examples; none are there yet. */
export function emptyChunk(rows: number): Chunk {
  return { count: 0, ...allocate(CHUNK, rows), ids: [] }
}

export function pushRow(chunk: Chunk, row: Omit<Row, 'offset' | 'bundle'>): void {
  const { instability, id, content, isProtected, isMisaligned, order } = row
  const at = chunk.count++
  chunk.instability[at] = order ?? instability
  chunk.high[at] = content.high
  chunk.low[at] = content.low
  const code = isProtected ? PASSED_OVER : isMisaligned ? MISALIGNED : codeOf(row)
  chunk.cluster[at] = code
  if (code === TEXT) chunk.ids.push(id)
}

export function encodeChunk({ count, ids, ...columns }: Chunk): Uint8Array {
  return encode(CHUNK, columns, count, [Buffer.from(JSON.stringify(ids)), Buffer.alloc(0)])
}

/** Throws STATE_INVALID where the bytes are no chunk. */
export function decodeChunk(bytes: Uint8Array): Chunk {
  const chunk = decode(CHUNK, bytes)
  const { count, starts, texts } = chunk
  const columns = allocate(CHUNK, count)
  for (const name of CHUNK.names) {
    const column = bytesOf(columns[name])
    column.set(chunk.bytes.subarray(starts[name], starts[name] + column.length))
  }
  return { count, ...columns, ids: texts }
}

/** The first row of the block that holds `row`. */
export function blockStart(row: number): number {
  return row - (row % BLOCK_ROWS)
}

export function damaged(what: string): XmasdError {
  return new XmasdError(
    'STATE_INVALID',
    `the select state is damaged: ${what}`,
    'Rebuild it from the log: name a new select.group and new log.topics.decisions and log.topics.subset.',
  )
}

/** A JSON entry of the state, if it is there. Throws STATE_INVALID where it is damaged. */
export function readEntry<T>(
  reader: StateReader,
  name: string,
  schema: z.ZodType<T>,
): T | undefined {
  const bytes = reader.get([name])
  if (bytes === undefined) return undefined
  const { data } = schema.safeParse(parseJson(bytes))
  if (data !== undefined) return data
  throw damaged(`its '${name}' entry is not of this version of the format`)
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString())
  } catch {
    return undefined
  }
}

/** `name`: of a key in section `select` that state and configuration have different values of. */
export function otherSetting(name: string, before: unknown, now: unknown): XmasdError {
  return new XmasdError(
    'STATE_INVALID',
    `the select state was made with ${name} ${before}, the configuration says ${now}`,
    `Put select.${name} back; or replay the assignments, without scoring, under a new select.group and new names of log.topics.decisions and log.topics.subset.`,
  )
}
