/**
 * The exemplars that a new example is compared with: the last ones that counted, in a ring of bounded
 * memory. A match depends on the rows of the ring alone, so a restored index answers as one that never
 * stopped.
 *
 * Candidates come from two sets of chains: exemplars with the same words, and exemplars whose first
 * pictures have the same code (docs/duplicates.md, "How exemplars are found").
 *
 * A row holds one picture; an example has as many rows as pictures, and at least one. Its first row says
 * which example it is and how many pictures it has; the rows that follow hold their picture alone.
 */
import {
  type Layouts,
  layoutDistance,
  pictureCode,
  pictureCodes,
  type SimilarityModel,
  stateDistance,
} from '../../bundle/similarity.ts'
import { LAYOUT_VALUES } from '../../ingest/image/layout.ts'
import { grown } from '../../math/vectors.ts'
import type { Measure } from '../../record.ts'
import type { Content } from '../columns/hash-table.ts'
import { Chains } from './chains.ts'

/** The compared fields of an example, decoded. */
export type Appearance = {
  words: Content
  /** Of no pictures for text-only examples. */
  layouts: Layouts
  /** Undefined for text-only ones. */
  state: Int16Array | undefined
}

export type Match = {
  /** The exemplar's sequence number. */
  sequence: number
  /** For `words` the distance is 0. */
  measure: Measure
  distance: number
}

/** Exemplars of one chain that are compared, the newest first: a common question has many. */
const CHAIN_LOOKS_MAX = 1_024

const FIRST_LENGTH = 1 << 10
const LINE_BYTES = 64
const SQUARE_AT = 56
const START_AT = 60
/** Marks a row without a state: no component is as low. */
const NO_STATE = -32768

/** One row, as it is stored. */
export type ExemplarRow = {
  /** Pictures of the example + 1 in its first row, 0 in the rows that follow. */
  start: number
  sequence: number
  words: Content
  /** [LAYOUT_VALUES], zeros for text-only examples. */
  layout: Int8Array
  /** [D], `NO_STATE` where there is none. */
  state: Int16Array
}

export class Exemplars {
  readonly model: SimilarityModel
  readonly #capacity: number
  readonly #looksMax: number
  readonly #dimensions: number
  readonly #words: Chains
  readonly #pictures: Chains
  /** One cache line a row: the layout's bytes, its squared length, `start`. */
  #lines = new Int8Array(0)
  #numbers = new Uint32Array(0)
  #sequences = new Uint32Array(0)
  #states = new Int16Array(0)
  #end = 0

  /** Holds `capacity` rows, the first of which has the number `from`. */
  constructor(
    model: SimilarityModel,
    capacity: number,
    { from = 0, looksMax = CHAIN_LOOKS_MAX }: { from?: number; looksMax?: number } = {},
  ) {
    this.model = model
    this.#capacity = capacity
    this.#looksMax = looksMax
    this.#dimensions = model.mean.length
    this.#words = new Chains(capacity)
    this.#pictures = new Chains(capacity)
    this.#end = from
    this.#resize(FIRST_LENGTH)
    if (from === 0) return
    this.#words.advance(from - 1)
    this.#pictures.advance(from - 1)
  }

  /** The next row's number. */
  get end(): number {
    return this.#end
  }

  /** The number of the oldest row that it holds. */
  get first(): number {
    return Math.max(0, this.#end - this.#capacity)
  }

  /** The exemplar that an example is a near-duplicate of: by its words, else by its state. */
  find(appearance: Appearance): Match | undefined {
    return this.#findByWords(appearance) ?? this.#findByPicture(appearance)
  }

  /** The nearest picture with the same words, ties to the oldest. */
  #findByWords({ words, layouts }: Appearance): Match | undefined {
    let found: Match | undefined
    let looks = this.#looksMax
    let most = this.model.layoutRadius
    let number = this.#words.newest(words.high, words.low)
    for (; number !== undefined && looks > 0; number = this.#words.older(number), looks--) {
      const distance = this.#pictureDistance(layouts, number)
      if (distance > most) continue
      const measure = layouts.count === 0 ? 'words' : 'layout'
      found = { sequence: this.#sequences[this.#slot(number)]!, measure, distance }
      most = distance
    }
    return found
  }

  /** Among similar pictures: the nearest picture with the same words, else the nearest state. */
  #findByPicture({ words, layouts, state }: Appearance): Match | undefined {
    if (layouts.count === 0) return undefined
    let [byWords, byState]: (Match | undefined)[] = []
    let looks = this.#looksMax
    for (const code of pictureCodes(this.model, layouts)) {
      let number = this.#pictures.newest(0, code)
      for (; number !== undefined && looks > 0; number = this.#pictures.older(number), looks--) {
        const picture = this.#pictureDistance(layouts, number)
        if (picture > this.model.layoutRadius) continue
        const sequence = this.#sequences[this.#slot(number)]!
        if (this.#words.isKeyOf(number, words.high, words.low)) {
          byWords = nearer(byWords, { sequence, measure: 'layout', distance: picture })
        } else if (state !== undefined) {
          const distance = this.#stateDistance(state, number)
          if (distance > this.model.stateRadius) continue
          byState = nearer(byState, { sequence, measure: 'state', distance })
        }
      }
    }
    return byWords ?? byState
  }

  #stateDistance(state: Int16Array, number: number): number {
    const from = this.#slot(number) * this.#dimensions
    if (this.#states[from] === NO_STATE) return Number.POSITIVE_INFINITY
    return stateDistance(state, 0, this.#states, from, state.length)
  }

  /** The distance of the pictures that differ most; 2, the largest, where their counts differ. */
  #pictureDistance({ count, bytes, squares }: Layouts, number: number): number {
    if (this.#startOf(this.#slot(number)) !== count + 1) return 2
    let farthest = 0
    for (let i = 0; i < count; i++) {
      const line = this.#slot(number + i) * LINE_BYTES
      const square = this.#numbers[(line + SQUARE_AT) >> 2]!
      const from = i * LAYOUT_VALUES
      const distance = layoutDistance(bytes, from, squares[i]!, this.#lines, line, square)
      farthest = Math.max(farthest, distance)
    }
    return farthest
  }

  #startOf(slot: number): number {
    return this.#numbers[(slot * LINE_BYTES + START_AT) >> 2]!
  }

  /** A new exemplar. */
  add({ words, layouts, state }: Appearance, sequence: number): void {
    const none = new Int16Array(this.#dimensions).fill(NO_STATE)
    for (let i = 0; i < Math.max(1, layouts.count); i++) {
      const layout = layouts.bytes.slice(i * LAYOUT_VALUES, (i + 1) * LAYOUT_VALUES)
      const isFirst = i === 0
      this.addRow({
        start: isFirst ? layouts.count + 1 : 0,
        sequence,
        words,
        layout: layouts.count === 0 ? new Int8Array(LAYOUT_VALUES) : layout,
        state: isFirst && state !== undefined ? state : none,
      })
    }
  }

  /** The next row, as `row` gave it. */
  addRow({ start, sequence, words, layout, state }: ExemplarRow): void {
    const number = this.#end++
    while (number >= this.#sequences.length && this.#sequences.length < this.#capacity) {
      this.#resize(2 * this.#sequences.length)
    }
    const slot = this.#slot(number)
    const line = slot * LINE_BYTES
    const square = layout.reduce((sum, byte) => sum + byte * byte, 0)
    this.#lines.set(layout, line)
    this.#numbers[(line + SQUARE_AT) >> 2] = square
    this.#numbers[(line + START_AT) >> 2] = start
    this.#sequences[slot] = sequence
    this.#states.set(state, slot * this.#dimensions)
    if (start === 0) this.#words.advance(number)
    else this.#words.add(words.high, words.low, number)
    if (start <= 1) this.#pictures.advance(number)
    else {
      const picture = { bytes: layout, squares: [square] }
      this.#pictures.add(0, pictureCode(this.model, picture), number)
    }
  }

  /** A row that is remembered. */
  row(number: number): ExemplarRow {
    const slot = this.#slot(number)
    const [picture, state] = [slot * LINE_BYTES, slot * this.#dimensions]
    return {
      start: this.#startOf(slot),
      sequence: this.#sequences[slot]!,
      words: this.#words.keyOf(number),
      layout: this.#lines.slice(picture, picture + LAYOUT_VALUES),
      state: this.#states.slice(state, state + this.#dimensions),
    }
  }

  #slot(number: number): number {
    return number & (this.#sequences.length - 1)
  }

  #resize(length: number): void {
    this.#lines = grown(this.#lines, length * LINE_BYTES)
    this.#numbers = new Uint32Array(this.#lines.buffer)
    this.#sequences = grown(this.#sequences, length)
    this.#states = grown(this.#states, length * this.#dimensions)
  }
}

/** Ties to the oldest. */
function nearer(found: Match | undefined, other: Match): Match {
  if (found === undefined || other.distance < found.distance) return other
  return other.distance === found.distance && other.sequence < found.sequence ? other : found
}

const ROW_HEAD_BYTES = 1 + 4 + 4 + 4

/**
 * Little endian, row by row: start u8 · sequence u32 · words u32 u32 · layout i8[54] · state i16[D].
 * Forgotten rows of the block hold whatever stands in their place.
 */
export function encodeRows(exemplars: Exemplars, from: number, to: number): Buffer {
  const blocks: Buffer[] = []
  for (let number = from; number < to; number++) {
    const { start, sequence, words, layout, state } = exemplars.row(number)
    const head = Buffer.alloc(ROW_HEAD_BYTES)
    head.writeUInt8(start, 0)
    head.writeUInt32LE(sequence, 1)
    head.writeUInt32LE(words.high, 5)
    head.writeUInt32LE(words.low, 9)
    blocks.push(head, Buffer.from(layout.buffer), Buffer.from(state.buffer))
  }
  return Buffer.concat(blocks)
}

/** Rows of states with D `dimensions`. */
export function decodeRows(value: Uint8Array, dimensions: number): ExemplarRow[] {
  const rowBytes = ROW_HEAD_BYTES + LAYOUT_VALUES + 2 * dimensions
  return Array.from({ length: Math.floor(value.length / rowBytes) }, (_, i) => {
    const row = Buffer.from(value.subarray(i * rowBytes, (i + 1) * rowBytes))
    const stateAt = ROW_HEAD_BYTES + LAYOUT_VALUES
    return {
      start: row.readUInt8(0),
      sequence: row.readUInt32LE(1),
      words: { high: row.readUInt32LE(5), low: row.readUInt32LE(9) },
      layout: new Int8Array(row.subarray(ROW_HEAD_BYTES, stateAt)),
      state: new Int16Array(Uint8Array.from(row.subarray(stateAt)).buffer),
    }
  })
}
