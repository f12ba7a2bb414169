/** Binary heaps of sequence numbers in one typed array, and the split of an array at a rank. */
import { grown } from '../../math/vectors.ts'

/** Whether `a` comes before `b`; a strict total order. */
export type Before = (a: number, b: number) => boolean

export class Heap {
  #items = new Int32Array(4)
  length = 0

  /** Takes the array as it is: `items` becomes the heap's storage. */
  static of(items: Int32Array<ArrayBuffer>, before: Before): Heap {
    const heap = new Heap()
    heap.#items = items
    heap.length = items.length
    for (let at = (items.length >> 1) - 1; at >= 0; at--) sink(items, items.length, at, before)
    return heap
  }

  /** The first item. Throws RangeError on an empty heap. */
  top(): number {
    if (this.length === 0) throw new RangeError('the heap is empty')
    return this.#items[0]!
  }

  push(item: number, before: Before): void {
    if (this.length === this.#items.length) this.#grow()
    const items = this.#items
    let at = this.length++
    for (; at > 0; ) {
      const parent = (at - 1) >> 1
      const above = items[parent]!
      if (!before(item, above)) break
      items[at] = above
      at = parent
    }
    items[at] = item
  }

  pop(before: Before): number {
    const first = this.top()
    const last = this.#items[--this.length]!
    if (this.length > 0) {
      this.#items[0] = last
      sink(this.#items, this.length, 0, before)
    }
    return first
  }

  /** A view in no particular order, valid until the heap changes. */
  items(): Int32Array {
    return this.#items.subarray(0, this.length)
  }

  #grow(): void {
    this.#items = grown(this.#items, Math.max(4, Math.ceil(this.#items.length * 1.5)))
  }
}

function sink(items: Int32Array, length: number, start: number, before: Before): void {
  const item = items[start]!
  let at = start
  for (;;) {
    let child = 2 * at + 1
    if (child >= length) break
    if (child + 1 < length && before(items[child + 1]!, items[child]!)) child++
    if (!before(items[child]!, item)) break
    items[at] = items[child]!
    at = child
  }
  items[at] = item
}

/** Reorders `items` so that its first `count` are those that come before all others (quickselect). */
export function splitAt(items: Int32Array, count: number, before: Before): void {
  let low = 0
  let high = items.length - 1
  while (low < high && count > low && count <= high) {
    const pivot = medianOfThree(items[low]!, items[(low + high) >> 1]!, items[high]!, before)
    let left = low
    let right = high
    while (left <= right) {
      while (before(items[left]!, pivot)) left++
      while (before(pivot, items[right]!)) right--
      if (left > right) break
      const moved = items[left]!
      items[left++] = items[right]!
      items[right--] = moved
    }
    if (count <= right) high = right
    else if (count > left) low = left
    else return
  }
}

function medianOfThree(a: number, b: number, c: number, before: Before): number {
  const [low, high] = before(a, b) ? [a, b] : [b, a]
  if (before(c, low)) return low
  return before(high, c) ? high : c
}
