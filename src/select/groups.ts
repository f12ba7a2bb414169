/** Sequence numbers by slot: what is pushed in log order comes out slot by slot, each in log order. */
import { Uint32Column } from './columns.ts'

export class Groups {
  /** One more than the slot; 0 where there is none. */
  readonly #places = new Uint32Column()
  #slotsEnd = 0

  /** The next sequence number belongs to `slot`; below 0 to none. */
  push(slot: number): void {
    this.#places.push(slot < 0 ? 0 : slot + 1)
    if (slot >= this.#slotsEnd) this.#slotsEnd = slot + 1
  }

  /** How many each slot has. */
  sizes(): number[] {
    const sizes = new Array<number>(this.#slotsEnd).fill(0)
    for (let sequence = 0; sequence < this.#places.length; sequence++) {
      const place = this.#places.at(sequence)
      if (place > 0) sizes[place - 1]!++
    }
    return sizes
  }

  /** `sizes` as above. Slots that have any, ascending. */
  *split(sizes: readonly number[]): Generator<{ slot: number; items: Int32Array<ArrayBuffer> }> {
    const groups = sizes.map(size => new Int32Array(size))
    const filled = new Int32Array(sizes.length)
    for (let sequence = 0; sequence < this.#places.length; sequence++) {
      const place = this.#places.at(sequence)
      if (place > 0) groups[place - 1]![filled[place - 1]!++] = sequence
    }
    for (const [slot, items] of groups.entries()) if (items.length > 0) yield { slot, items }
  }
}
