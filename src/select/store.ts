/** The fold's examples: rows in the durable state, and in memory those that are not written yet. */
import { createHash } from 'node:crypto'
import type { StateKey, StateReader, StateWriter } from '../log/log.ts'
import { keyOf } from '../record.ts'
import { type Content, contentText } from './columns/hash-table.ts'
import {
  BLOCK_ROWS,
  blockStart,
  CHUNK_ROWS,
  type Chunk,
  damaged,
  decodeBlock,
  decodeChunk,
  decodeRow,
  emptyChunk,
  encodeBlock,
  encodeChunk,
  pushRow,
  type Row,
} from './columns/stored.ts'
import type { ExampleStore, KeyedRow } from './fold.ts'

const EXAMPLE = 'example'
const CHUNK = 'numbers'
const DUPLICATE = 'duplicate'
/** Some 4 MB, whatever the history. */
const RECENT_ROWS_MAX = 1 << 14

export class Store implements ExampleStore {
  readonly #reader: StateReader
  /** Rows from `#first` on, which is the start of a block. */
  #rows: KeyedRow[] = []
  /**
   * Rows lately read from the state. Those at the edge of a quota are evicted and restored again and
   * again: five reads of six end here.
   */
  readonly #recent = new Map<number, KeyedRow>()
  #first: number
  /** Rows below it have been written, by the last `write` or before. */
  #written: number
  /** Up to the next chunk's start; and whole chunks to be written. */
  #chunk = emptyChunk(CHUNK_ROWS)
  #wholeChunks: { first: number; chunk: Chunk }[] = []
  #duplicates = new Map<string, { key: StateKey; value: Buffer }>()
  /** Duplicates of the last `write`, whose commit may still be under way. */
  #writtenDuplicates: ReadonlyMap<string, unknown> = new Map()

  constructor(reader: StateReader, examples: number) {
    this.#reader = reader
    this.#first = blockStart(examples)
    this.#written = examples
    if (examples > this.#first) this.#rows = decodeBlock(this.#block(this.#first)).map(keyed)
  }

  row(sequence: number): KeyedRow {
    if (sequence >= this.#first) return this.#rows[sequence - this.#first]!
    const cached = this.#recent.get(sequence)
    if (cached !== undefined) return cached
    const first = blockStart(sequence)
    const row = keyed(decodeRow(this.#block(first), sequence - first))
    if (this.#recent.size >= RECENT_ROWS_MAX) this.#recent.clear()
    this.#recent.set(sequence, row)
    return row
  }

  append(row: KeyedRow): void {
    this.#rows.push(row)
    pushRow(this.#chunk, row)
    if (this.#chunk.count < CHUNK_ROWS) return
    const first = this.#first + this.#rows.length - CHUNK_ROWS
    this.#wholeChunks.push({ first, chunk: this.#chunk })
    this.#chunk = emptyChunk(CHUNK_ROWS)
  }

  /** All written examples, for a fold to be restored from. Rows in no stored chunk come from blocks. */
  *history(): Generator<Chunk> {
    const length = this.#written
    for (let first = 0; first < length; first += CHUNK_ROWS) {
      const isWhole = first + CHUNK_ROWS <= length
      const bytes = isWhole ? this.#reader.get([CHUNK, first]) : undefined
      const chunk =
        bytes === undefined
          ? this.#fromBlocks(first, Math.min(length, first + CHUNK_ROWS))
          : decodeChunk(bytes)
      if (!isWhole) this.#chunk = chunk
      else if (bytes === undefined) this.#wholeChunks.push({ first, chunk })
      yield chunk
    }
  }

  #fromBlocks(from: number, to: number): Chunk {
    const chunk = emptyChunk(CHUNK_ROWS)
    for (const { value } of this.#reader.range([EXAMPLE, from], [EXAMPLE, to])) {
      for (const row of decodeBlock(value)) if (from + chunk.count < to) pushRow(chunk, row)
    }
    if (from + chunk.count === to) return chunk
    throw damaged(`examples ${from} to ${to} are expected, ${chunk.count} are there`)
  }

  hasDuplicate(key: string, content: Content): boolean {
    if (this.#duplicates.has(key) || this.#writtenDuplicates.has(key)) return true
    return this.#reader.get(duplicateKey(key, content)) !== undefined
  }

  addDuplicate(key: string, content: Content, at: { owner: number; offset: number }): void {
    const value = Buffer.from(JSON.stringify({ v: 1, key, ...at }))
    this.#duplicates.set(key, { key: duplicateKey(key, content), value })
  }

  write(writer: StateWriter): void {
    for (const { key, value } of this.#duplicates.values()) writer.put(key, value)
    this.#writtenDuplicates = this.#duplicates
    this.#duplicates = new Map()
    const start = blockStart(this.#written)
    this.#rows.splice(0, start - this.#first)
    this.#first = start
    this.#written = start + this.#rows.length
    for (const { first, chunk } of this.#wholeChunks.splice(0)) {
      writer.put([CHUNK, first], encodeChunk(chunk))
    }
    for (let at = 0; at < this.#rows.length; at += BLOCK_ROWS) {
      writer.put([EXAMPLE, start + at], encodeBlock(this.#rows.slice(at, at + BLOCK_ROWS)))
    }
  }

  #block(first: number): Uint8Array {
    const block = this.#reader.get([EXAMPLE, first])
    if (block === undefined) throw damaged(`the block of examples from ${first} on is missing`)
    return block
  }
}

function keyed(row: Row): KeyedRow {
  return { ...row, key: keyOf(row.id, contentText(row.content)) }
}

/** Short whatever the id's length. */
function duplicateKey(key: string, { high, low }: Content): StateKey {
  return [DUPLICATE, high, low, createHash('sha256').update(key).digest('hex').slice(0, 32)]
}
