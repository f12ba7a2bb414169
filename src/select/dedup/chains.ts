/**
 * Numbers by a 64-bit key, the newest first: chains through a ring, so that memory is bounded and the
 * oldest numbers drop out by themselves. Numbers ascend but need not be dense; those `capacity` or
 * more behind the last one are forgotten. A hash table holds the head of each chain.
 */
import { grown } from '../../math/vectors.ts'
import { type Content, HashTable } from '../columns/hash-table.ts'

const NONE = 0
const FIRST_LENGTH = 1 << 10

export class Chains {
  readonly #capacity: number
  /** By number modulo the ring's length, a power of two: the key, and the next older number + 1. */
  #high = new Uint32Array(FIRST_LENGTH)
  #low = new Uint32Array(FIRST_LENGTH)
  #previous = new Uint32Array(FIRST_LENGTH)
  /** Whether a number has a key: those that were passed over have none. */
  #isTaken = new Uint8Array(FIRST_LENGTH)
  /** The last number + 1. */
  #end = 0
  readonly #heads = new HashTable({
    hasKey: number => this.#isRemembered(number),
    high: number => this.#high[number & this.#mask]!,
    low: number => this.#low[number & this.#mask]!,
  })

  constructor(capacity: number) {
    this.#capacity = capacity
  }

  get #mask(): number {
    return this.#high.length - 1
  }

  get bytes(): number {
    const ring = [this.#high, this.#low, this.#previous, this.#isTaken]
    return ring.reduce((sum, column) => sum + column.byteLength, this.#heads.bytes)
  }

  /** Puts `number`, above all before, at the head of a key's chain. */
  add(high: number, low: number, number: number): void {
    this.advance(number)
    const slot = number & this.#mask
    this.#high[slot] = high
    this.#low[slot] = low
    this.#isTaken[slot] = 1
    const head = this.#heads.set(high, low, number)
    this.#previous[slot] = head === undefined ? NONE : head + 1
  }

  /** Passes over the numbers up to `number`: they have no key. */
  advance(number: number): void {
    if (number < this.#end) throw new RangeError(`${number} does not come after ${this.#end - 1}`)
    while (number >= this.#high.length && this.#high.length < this.#capacity) this.#double()
    const from = Math.max(this.#end, number + 1 - this.#high.length)
    for (let passed = from; passed <= number; passed++) this.#isTaken[passed & this.#mask] = 0
    this.#end = number + 1
  }

  /** The newest number with the key that is not forgotten. */
  newest(high: number, low: number): number | undefined {
    return this.#heads.get(high, low)
  }

  /** The next older number of the same key. */
  older(number: number): number | undefined {
    const older = this.#previous[number & this.#mask]! - 1
    return this.#isRemembered(older) ? older : undefined
  }

  /** The key that `number`, which is not forgotten, was added with; zeros where it was passed over. */
  keyOf(number: number): Content {
    const slot = number & this.#mask
    const isTaken = this.#isTaken[slot] === 1
    return isTaken ? { high: this.#high[slot]!, low: this.#low[slot]! } : { high: 0, low: 0 }
  }

  /** Whether `number`, which is not forgotten, was added with this key. */
  isKeyOf(number: number, high: number, low: number): boolean {
    const slot = number & this.#mask
    return this.#isTaken[slot] === 1 && this.#low[slot] === low && this.#high[slot] === high
  }

  #isRemembered(number: number): boolean {
    return number >= 0 && number >= this.#end - this.#capacity
  }

  #double(): void {
    const length = 2 * this.#high.length
    this.#high = grown(this.#high, length)
    this.#low = grown(this.#low, length)
    this.#previous = grown(this.#previous, length)
    this.#isTaken = grown(this.#isTaken, length)
  }
}
