/**
 * Numbers by a 64-bit key, in hash tables with open addressing. A table holds numbers alone; the keys
 * lie in the caller's columns. Many small tables in place of a large one keep each growth short.
 */

/** The first 64 bits of an example's content hash. */
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

/** The caller's columns. `hasKey` is false for a number that has left them. */
export interface Keys {
  hasKey(number: number): boolean
  high(number: number): number
  low(number: number): number
}

const FREE = 0
const LOAD_MAX = 0.7
const FIRST_LENGTH = 16

export class HashTable {
  readonly #keys: Keys
  /** Number + 1 in each taken place. */
  readonly #tables: Uint32Array[]
  readonly #taken: Uint32Array

  constructor(keys: Keys, tables = 1) {
    this.#keys = keys
    this.#tables = Array.from({ length: tables }, () => new Uint32Array(FIRST_LENGTH))
    this.#taken = new Uint32Array(tables)
  }

  get bytes(): number {
    return this.#tables.reduce((sum, table) => sum + table.byteLength, 0)
  }

  /** The number last set for a key; undefined where there is none. */
  get(high: number, low: number): number | undefined {
    const table = this.#tables[high % this.#tables.length]!
    const entry = table[this.#placeOf(table, high, low)]!
    return entry === FREE ? undefined : entry - 1
  }

  /** Replaces the number of a key, whose columns hold `number` already. Returns the one before. */
  set(high: number, low: number, number: number): number | undefined {
    const index = high % this.#tables.length
    if (this.#taken[index]! >= LOAD_MAX * this.#tables[index]!.length) this.#rehash(index)
    const table = this.#tables[index]!
    const place = this.#placeOf(table, high, low)
    const before = table[place]!
    if (before === FREE) this.#taken[index]!++
    table[place] = number + 1
    return before === FREE ? undefined : before - 1
  }

  /** The key's place, or the free one where it belongs. A number without a key matches nothing. */
  #placeOf(table: Uint32Array, high: number, low: number): number {
    const keys = this.#keys
    const mask = table.length - 1
    for (let place = mixed(high, low) & mask; ; place = (place + 1) & mask) {
      const number = table[place]! - 1
      if (number < 0) return place
      if (keys.low(number) === low && keys.high(number) === high && keys.hasKey(number)) {
        return place
      }
    }
  }

  /** Drops numbers without a key, and doubles the table where more than half of it is left. */
  #rehash(index: number): void {
    const keys = this.#keys
    const before = this.#tables[index]!
    let kept = 0
    for (const entry of before) if (entry !== FREE && keys.hasKey(entry - 1)) kept++
    const table = new Uint32Array(kept > before.length / 2 ? 2 * before.length : before.length)
    for (const entry of before) {
      if (entry === FREE || !keys.hasKey(entry - 1)) continue
      let place = mixed(keys.high(entry - 1), keys.low(entry - 1)) & (table.length - 1)
      while (table[place] !== FREE) place = (place + 1) & (table.length - 1)
      table[place] = entry
    }
    this.#tables[index] = table
    this.#taken[index] = kept
  }
}

/** murmur3's last steps: keys that differ in any bit spread over the table. */
function mixed(high: number, low: number): number {
  let x = high ^ Math.imul(low, 0x9e3779b1)
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return (x ^ (x >>> 16)) >>> 0
}
