/**
 * Numbers by a 64-bit key, the newest first: chains through a ring, so that memory is bounded and the
 * oldest are forgotten without being looked for. Numbers ascend but need not be dense; those that lie
 * `capacity` or more behind the last one are forgotten.
 *
 * `newest` finds the head of a key's chain in a hash table with open addressing; `older` goes on. Heads
 * that were forgotten fill the table up, which is then made again from the ring.
 */
const NONE = 0
/** A table with more entries than this share is made again, at most half full. */
const LOAD_MAX = 0.75
const FIRST_LENGTH = 1 << 10

export class Chains {
  readonly #capacity: number
  /** By number modulo the ring's length: the key, and the next older number of its chain + 1. */
  #high = new Uint32Array(0)
  #low = new Uint32Array(0)
  #previous = new Uint32Array(0)
  /** Is the place taken: gaps between numbers are not. */
  #isTaken = new Uint8Array(0)
  /** Newest number + 1 of a chain. */
  #table = new Uint32Array(2 * FIRST_LENGTH)
  #entries = 0
  /** The last number + 1. */
  #end = 0

  /** Of the ring, whose length is a power of two. */
  get #mask(): number {
    return this.#high.length - 1
  }

  constructor(capacity: number) {
    this.#capacity = capacity
    this.#resize(FIRST_LENGTH)
  }

  get bytes(): number {
    const ring = [this.#high, this.#low, this.#previous, this.#isTaken]
    return ring.reduce((sum, column) => sum + column.byteLength, this.#table.byteLength)
  }

  /** Puts `number`, above all before, at the head of a key's chain. */
  add(high: number, low: number, number: number): void {
    if (this.#entries > LOAD_MAX * this.#table.length) this.#remake()
    this.advance(number)
    const slot = number & this.#mask
    this.#high[slot] = high
    this.#low[slot] = low
    this.#isTaken[slot] = 1
    this.#link(number, slot)
  }

  /** Lets numbers up to `number` pass without a key. */
  advance(number: number): void {
    if (number < this.#end) throw new RangeError(`${number} does not come after ${this.#end - 1}`)
    while (number >= this.#high.length && this.#high.length < this.#capacity) {
      this.#resize(2 * this.#high.length)
    }
    const from = Math.max(this.#end, number + 1 - this.#high.length)
    for (let passed = from; passed <= number; passed++) this.#isTaken[passed & this.#mask] = 0
    this.#end = number + 1
  }

  /** The newest number with the key that is not forgotten; undefined where there is none. */
  newest(high: number, low: number): number | undefined {
    return this.#remembered(this.#table[this.#placeOf(high, low)]!)
  }

  /** The next older number of the same key. */
  older(number: number): number | undefined {
    return this.#remembered(this.#previous[number & this.#mask]!)
  }

  /** The key that `number`, which is not forgotten, was added with; zeros where it was passed over. */
  keyOf(number: number): { high: number; low: number } {
    const slot = number & this.#mask
    const isTaken = this.#isTaken[slot] === 1
    return isTaken ? { high: this.#high[slot]!, low: this.#low[slot]! } : { high: 0, low: 0 }
  }

  /** Was `number`, which is not forgotten, added with this key? */
  isKeyOf(number: number, high: number, low: number): boolean {
    const slot = number & this.#mask
    return this.#isTaken[slot] === 1 && this.#low[slot] === low && this.#high[slot] === high
  }

  #remembered(entry: number): number | undefined {
    return entry !== NONE && entry > this.#end - this.#capacity ? entry - 1 : undefined
  }

  #link(number: number, slot: number): void {
    const place = this.#placeOf(this.#high[slot]!, this.#low[slot]!)
    const head = this.#table[place]!
    if (head === NONE) this.#entries++
    this.#previous[slot] = this.#remembered(head) === undefined ? NONE : head
    this.#table[place] = number + 1
  }

  /**
   * Where the key stands in the table, or may. A head that was forgotten has lost its key to another
   * number: it matches none and is passed over.
   */
  #placeOf(high: number, low: number): number {
    const mask = this.#table.length - 1
    for (let place = mixed(high, low) & mask; ; place = (place + 1) & mask) {
      const entry = this.#table[place]!
      if (entry === NONE) return place
      if (this.#remembered(entry) === undefined) continue
      const slot = (entry - 1) & this.#mask
      if (this.#low[slot] === low && this.#high[slot] === high) return place
    }
  }

  #resize(length: number): void {
    this.#high = grown(this.#high, new Uint32Array(length))
    this.#low = grown(this.#low, new Uint32Array(length))
    this.#previous = grown(this.#previous, new Uint32Array(length))
    this.#isTaken = grown(this.#isTaken, new Uint8Array(length))
    let size = this.#table.length
    while (size < 2 * length) size *= 2
    if (size > this.#table.length) this.#remake(size)
  }

  /** The table again, from what the ring holds. */
  #remake(size = this.#table.length): void {
    this.#table = new Uint32Array(size)
    this.#entries = 0
    const first = Math.max(0, this.#end - this.#capacity)
    for (let number = first; number < this.#end; number++) {
      const slot = number & this.#mask
      if (this.#isTaken[slot] === 1) this.#link(number, slot)
    }
  }
}

/** `longer`, with what stands in `column`. */
export function grown<Column extends Int8Array | Uint8Array | Int16Array | Uint32Array>(
  column: Column,
  longer: Column,
): Column {
  longer.set(column)
  return longer
}

/** murmur3's last steps, so that keys that differ in any bit spread. */
function mixed(high: number, low: number): number {
  let x = high ^ Math.imul(low, 0x9e3779b1)
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return (x ^ (x >>> 16)) >>> 0
}
