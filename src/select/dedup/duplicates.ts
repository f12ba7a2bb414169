/**
 * Which content is known: the first example that had it, by its sequence number. `../fold.ts` drops on a stream
 * what is known; `countOnce` applies the same rule to a whole file.
 */
import { Uint32Column } from '../columns/columns.ts'
import { type Content, HashTable } from '../columns/hash-table.ts'

/** None of them takes long to grow. */
const TABLES = 256

/**
 * The owner of each content: the sequence number of the first example that had it. Two contents of ten
 * million share 64 bits with a chance of 3 in a million.
 */
export class Owners {
  readonly #high = new Uint32Column()
  readonly #low = new Uint32Column()
  readonly #table = new HashTable(
    {
      hasKey: () => true,
      high: sequence => this.#high.at(sequence),
      low: sequence => this.#low.at(sequence),
    },
    TABLES,
  )

  get length(): number {
    return this.#high.length
  }

  /** The content with this sequence number. */
  at(sequence: number): Content {
    return { high: this.#high.at(sequence), low: this.#low.at(sequence) }
  }

  /** The sequence number of the first example with this content. */
  find({ high, low }: Content): number | undefined {
    return this.#table.get(high, low)
  }

  /** Gives the next sequence number to a content that none has. */
  add({ high, low }: Content): void {
    this.#add(high, low)
  }

  /** Adds many contents that none has. */
  addAll({ count, high, low }: { count: number; high: Uint32Array; low: Uint32Array }): void {
    for (let i = 0; i < count; i++) this.#add(high[i]!, low[i]!)
  }

  #add(high: number, low: number): void {
    const sequence = this.length
    this.#high.push(high)
    this.#low.push(low)
    this.#table.set(high, low, sequence)
  }

  get bytes(): number {
    return this.#table.bytes + this.#high.bytes + this.#low.bytes
  }
}

export type CountedOnce = {
  /** Indices of the examples that count in N, in order. */
  counted: number[]
  duplicates: number
  redelivered: number
}

/**
 * The fold's identity rules over a whole file: a known key is a redelivery, a known content under another
 * id a duplicate. The content is known where the key is id + @ + 16 hex digits.
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
