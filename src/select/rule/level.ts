/**
 * The batch rule's quotas, updated while clusters grow one example at a time.
 *
 * The rule is water-filling: the budget n is poured over the clusters until the water stands at one level.
 * A cluster smaller than the level is exhausted and gives all it has; a larger one is capped and gives the
 * level. In the order of (size, number), with clusters of at most two examples first, which give nothing:
 *
 *     too small | exhausted: give all | capped: of k with L left, the last L mod k give floor(L / k) + 1,
 *                                       the others floor(L / k), which is the level
 *
 * Three numbers therefore say every quota: the first capped rank, the level, and how many give one more.
 * Cluster i (from 0, of m) is the first capped one when
 *
 *     (sum of the sizes before it) + size * (m - i) > n
 *
 * The left side never falls along the order, so a walking pointer finds it again after a change. A growth
 * moves one cluster past those of its old size; the pointer walks past ties at the level. Neither passes
 * over all clusters unless all have one size.
 */
import { grown } from '../../math/vectors.ts'
import { TEXT_SLOT } from './policy.ts'
import { SMALL_CLUSTER_SIZE_MAX } from './quotas.ts'

/** The level where nothing is capped: larger than any cluster. */
const NO_CAP = 2 ** 31 - 1

export class Levels {
  /** Examples of each slot. */
  sizes = new Int32Array(0)
  /** Slots in ascending (size, number). */
  #order = new Int32Array(0)
  /** The index of each slot in `#order`. */
  #rank = new Int32Array(0)
  /** The first capped rank. */
  #capped = 0
  /** Sum of the sizes of the exhausted clusters. */
  #exhausted = 0
  #level = NO_CAP
  /** The number of last ranks that give level + 1. */
  #extra = 0

  constructor(slots: number) {
    this.reserve(slots)
  }

  /** Makes room for slots 0..slots-1. */
  reserve(slots: number): void {
    const before = this.sizes.length
    if (slots <= before) return
    const length = Math.max(slots, 2 * before)
    this.#sort(grown(this.sizes, length))
    this.#capped += length - before
  }

  /** Starts over with clusters of the given sizes and a budget. */
  restore(sizes: readonly number[], budget: number): void {
    const length = Math.max(sizes.length, this.sizes.length)
    const restored = new Int32Array(length)
    restored.set(sizes)
    this.#sort(restored)
    this.#capped = 0
    this.#exhausted = 0
    this.settle(budget, () => {})
  }

  #sort(sizes: Int32Array<ArrayBuffer>): void {
    this.sizes = sizes
    this.#order = Int32Array.from(sizes.keys()).sort((a, b) =>
      sizes[a] === sizes[b] ? numberOf(a) - numberOf(b) : sizes[a]! - sizes[b]!,
    )
    this.#rank = new Int32Array(sizes.length)
    this.#order.forEach((slot, rank) => {
      this.#rank[slot] = rank
    })
  }

  /** The cluster's quota now. */
  taken(slot: number): number {
    const size = this.sizes[slot]!
    if (size <= SMALL_CLUSTER_SIZE_MAX) return 0
    const isExtra = this.#rank[slot]! >= this.sizes.length - this.#extra
    return Math.min(size, isExtra ? this.#level + 1 : this.#level)
  }

  /** Adds an example to a cluster. Calls `changed` for every slot whose `taken` may differ. */
  grow(slot: number, changed: (slot: number) => void): void {
    const order = this.#order
    const extraFrom = order.length - this.#extra
    const size = ++this.sizes[slot]!
    const from = this.#rank[slot]!
    const to = this.#moveUp(slot, from)
    if (from < this.#capped) {
      if (to < this.#capped) this.#exhausted += weight(size) - weight(size - 1)
      else {
        this.#capped--
        this.#exhausted -= weight(size - 1)
      }
    }
    changed(slot)
    if (from < extraFrom && extraFrom <= to) changed(order[extraFrom - 1]!)
  }

  #moveUp(slot: number, from: number): number {
    const order = this.#order
    const sizes = this.sizes
    const rank = this.#rank
    const size = sizes[slot]!
    const number = numberOf(slot)
    let at = from
    for (; at + 1 < order.length; at++) {
      const next = order[at + 1]!
      if (sizes[next]! > size || (sizes[next] === size && numberOf(next) > number)) break
      order[at] = next
      rank[next] = at
    }
    order[at] = slot
    rank[slot] = at
    return at
  }

  /** Sets the budget n. Calls `changed` for every slot whose `taken` may differ. */
  settle(budget: number, changed: (slot: number) => void): void {
    this.#walk(budget)
    const count = this.#order.length
    const capped = count - this.#capped
    const left = budget - this.#exhausted
    const level = capped === 0 ? NO_CAP : Math.floor(left / capped)
    const extra = capped === 0 ? 0 : left - level * capped
    const before = { level: this.#level, extra: this.#extra }
    this.#level = level
    this.#extra = extra
    if (level !== before.level) this.#levelMoved(before, changed)
    else {
      const to = count - Math.min(extra, before.extra)
      for (let at = count - Math.max(extra, before.extra); at < to; at++) changed(this.#order[at]!)
    }
  }

  #walk(budget: number): void {
    const order = this.#order
    const count = order.length
    for (; this.#capped < count; this.#capped++) {
      const size = this.sizes[order[this.#capped]!]!
      if (weight(size) > 0 && this.#exhausted + size * (count - this.#capped) > budget) break
      this.#exhausted += weight(size)
    }
    for (; this.#capped > 0; this.#capped--) {
      const size = this.sizes[order[this.#capped - 1]!]!
      const exhausted = this.#exhausted - size
      if (weight(size) === 0 || exhausted + size * (count - this.#capped + 1) <= budget) break
      this.#exhausted = exhausted
    }
  }

  /**
   * All clusters larger than the lower of the two levels changed, except those that gave one more than the
   * lower level before and give the higher level now, or the reverse.
   */
  #levelMoved(before: { level: number; extra: number }, changed: (slot: number) => void): void {
    const order = this.#order
    const count = order.length
    const lower = Math.max(SMALL_CLUSTER_SIZE_MAX, Math.min(before.level, this.#level))
    let start = this.#capped
    while (start > 0 && this.sizes[order[start - 1]!]! > lower) start--
    const isNextLevel = Math.abs(before.level - this.#level) === 1
    const upperExtra = before.level > this.#level ? before.extra : this.#extra
    const lowerExtra = before.level > this.#level ? this.#extra : before.extra
    const sameFrom = isNextLevel ? count - lowerExtra : count
    const sameTo = isNextLevel ? count - upperExtra : count
    for (let at = start; at < Math.min(sameFrom, count); at++) changed(order[at]!)
    for (let at = Math.max(start, sameFrom, sameTo); at < count; at++) changed(order[at]!)
  }
}

function weight(size: number): number {
  return size > SMALL_CLUSTER_SIZE_MAX ? size : 0
}

function numberOf(slot: number): number {
  return slot === TEXT_SLOT ? NO_CAP : slot
}
