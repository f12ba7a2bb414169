/** Where the fold's examples lie: rows in the durable state, and those not yet in it in memory. */
import { createHash } from 'node:crypto'
import type { XmasdError } from '../errors.ts'
import type { StateKey, StateReader, StateWriter } from '../log/log.ts'
import { keyOf } from '../record.ts'
import {
  BLOCK_ROWS,
  blockStart,
  decodeBlock,
  decodeNumbers,
  decodeRow,
  encodeBlock,
  invalidState,
  type Row,
} from './blocks.ts'
import { type Content, contentText } from './duplicates.ts'
import type { ExampleStore, KeyedRow } from './fold.ts'
import {
  CHUNK_ROWS,
  decodeChunk,
  emptyNumbers,
  encodeChunk,
  type Numbers,
  pushNumbers,
} from './numbers.ts'

const EXAMPLE = 'example'
const NUMBERS = 'numbers'
const DUPLICATE = 'duplicate'
/** Some 4 MB, whatever the history. */
const RECENT_ROWS_MAX = 1 << 14

/** Rows from the state, and those not yet in it from memory. */
export class Store implements ExampleStore {
  readonly #reader: StateReader
  /** Rows from `#first` on, which is at the start of a block. */
  #rows: KeyedRow[] = []
  /**
   * Rows read from the state lately: those at the edge of a quota are evicted and restored again and
   * again, so five reads of six end here.
   */
  readonly #recent = new Map<number, KeyedRow>()
  #first: number
  /** Rows below it have been written, by the last `write` or before. */
  #written: number
  /** Numbers from `#first` or before on, up to the next chunk's start; and whole chunks to be written. */
  #numbers = emptyNumbers(CHUNK_ROWS)
  #chunks: { first: number; numbers: Numbers }[] = []
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
    pushNumbers(this.#numbers, row)
    if (this.#numbers.count === CHUNK_ROWS) {
      const first = this.#first + this.#rows.length - CHUNK_ROWS
      this.#chunks.push({ first, numbers: this.#numbers })
      this.#numbers = emptyNumbers(CHUNK_ROWS)
    }
  }

  /**
   * The numbers of all examples, for a fold to be restored from, in chunks. What is in no chunk yet comes from
   * the blocks.
   */
  *history(): Generator<Numbers> {
    const length = this.#written
    for (let first = 0; first < length; first += CHUNK_ROWS) {
      const isWhole = first + CHUNK_ROWS <= length
      const bytes = isWhole ? this.#reader.get([NUMBERS, first]) : undefined
      const numbers =
        bytes === undefined
          ? this.#fromBlocks(first, Math.min(length, first + CHUNK_ROWS))
          : decodeChunk(bytes)
      if (!isWhole) this.#numbers = numbers
      else if (bytes === undefined) this.#chunks.push({ first, numbers })
      yield numbers
    }
  }

  #fromBlocks(from: number, to: number): Numbers {
    const numbers = emptyNumbers(CHUNK_ROWS)
    for (const { value } of this.#reader.range([EXAMPLE, from], [EXAMPLE, to])) {
      for (const row of decodeNumbers(value)) {
        if (from + numbers.count < to) pushNumbers(numbers, row)
      }
    }
    if (from + numbers.count === to) return numbers
    throw damaged(`examples ${from} to ${to} are expected, ${numbers.count} are there`)
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
    for (const { first, numbers } of this.#chunks.splice(0)) {
      writer.put([NUMBERS, first], encodeChunk(numbers))
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

export function damaged(message: string): XmasdError {
  return invalidState(`the select state is damaged: ${message}`)
}
