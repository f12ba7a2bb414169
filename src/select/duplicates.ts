/**
 * Which content already stands where: the first 64 bits of an example's content hash to the sequence
 * number of the first example that had it. A hash table of sequence numbers with open addressing; the
 * hashes themselves lie in two columns by sequence. 256 small tables instead of a large one, so that
 * none takes long to grow. Two contents of ten million share 64 bits with a chance of 3 in a million.
 */
import { Uint32Column } from './columns.ts'

const TABLES = 256
const LOAD_MAX = 0.7

export type Content = { high: number; low: number }

/** The first 16 hex digits of a content hash; undefined where there are none. */
export function contentOf(hash: string): Content | undefined {
  const digits = hash.slice(0, 16)
  if (!/^[0-9a-f]{16}$/.test(digits)) return undefined
  return {
    high: Number.parseInt(digits.slice(0, 8), 16),
    low: Number.parseInt(digits.slice(8), 16),
  }
}

/** The 16 hex digits again. */
export function contentText({ high, low }: Content): string {
  return high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0')
}

export class Owners {
  readonly #high = new Uint32Column()
  readonly #low = new Uint32Column()
  /** Sequence number + 1; 0 where free. */
  readonly #tables = Array.from({ length: TABLES }, () => new Int32Array(16))
  readonly #counts = new Int32Array(TABLES)

  get length(): number {
    return this.#high.length
  }

  /** The content with this sequence number. */
  at(sequence: number): Content {
    return { high: this.#high.at(sequence), low: this.#low.at(sequence) }
  }

  /** The sequence number of the first example with this content. */
  find({ high, low }: Content): number | undefined {
    const table = this.#tables[high % TABLES]!
    const mask = table.length - 1
    for (let at = low & mask; ; at = (at + 1) & mask) {
      const owner = table[at]! - 1
      if (owner < 0) return undefined
      if (this.#low.at(owner) === low && this.#high.at(owner) === high) return owner
    }
  }

  /** Gives the next sequence number to a content that none has. */
  add({ high, low }: Content): void {
    this.#add(high, low)
  }

  #add(high: number, low: number): void {
    const index = high % TABLES
    const sequence = this.#high.length
    this.#high.push(high)
    this.#low.push(low)
    const count = ++this.#counts[index]!
    if (count > LOAD_MAX * this.#tables[index]!.length) this.#grow(index)
    place(this.#tables[index]!, low, sequence + 1)
  }

  /** Many at once, which none has. */
  addAll({ count, high, low }: { count: number; high: Uint32Array; low: Uint32Array }): void {
    for (let i = 0; i < count; i++) this.#add(high[i]!, low[i]!)
  }

  #grow(index: number): void {
    const grown = new Int32Array(this.#tables[index]!.length * 2)
    for (const entry of this.#tables[index]!) {
      if (entry > 0) place(grown, this.#low.at(entry - 1), entry)
    }
    this.#tables[index] = grown
  }

  get bytes(): number {
    const tables = this.#tables.reduce((sum, table) => sum + table.byteLength, 0)
    return tables + this.#high.bytes + this.#low.bytes
  }
}

function place(table: Int32Array, low: number, entry: number): void {
  const mask = table.length - 1
  let at = low & mask
  while (table[at] !== 0) at = (at + 1) & mask
  table[at] = entry
}

export type CountedOnce = {
  /** Indices of the examples that count in N, in order. */
  counted: number[]
  duplicates: number
  redelivered: number
}

/**
 * The fold's rules of identity over a whole file: a key that was there before is a redelivery; another
 * id with a content that was there before is a duplicate. Content is known where the key is id + @ + 16
 * hex digits.
 */
export function countOnce(ids: readonly string[], keys: readonly string[]): CountedOnce {
  const seenKeys = new Set<string>()
  const seenContents = new Set<string>()
  const found: CountedOnce = { counted: [], duplicates: 0, redelivered: 0 }
  keys.forEach((key, index) => {
    const content = key.startsWith(`${ids[index]!}@`) ? key.slice(ids[index]!.length + 1) : ''
    const isKnown = /^[0-9a-f]{16}$/.test(content)
    if (seenKeys.has(key)) found.redelivered++
    else if (isKnown && seenContents.has(content)) found.duplicates++
    else found.counted.push(index)
    seenKeys.add(key)
    if (isKnown) seenContents.add(content)
  })
  return found
}
