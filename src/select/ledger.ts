/** What is kept for good: counts by cluster, and one bit an example. */
import type { Cluster } from '../record.ts'
import { TEXT_SLOT } from './level.ts'
import { type Beginning, clusterOf, slotOf } from './policy.ts'
import { batchQuotas } from './quotas.ts'

type Members = NonNullable<Beginning['members']>

export class Ledger {
  /** Clusters known of, text-only among them: slots 0..slots-1. */
  slots = 1
  sizes = new Int32Array(1)
  kept = new Int32Array(1)
  /** Sums of instability of each slot: of all, and of the kept. */
  sums = new Float64Array(1)
  keptSums = new Float64Array(1)
  #bits = new Uint8Array(1 << 10)
  /** Sequence numbers given; how many of them were passed over; how many are kept. */
  length = 0
  skipped = 0
  keptLength = 0
  /** Of the baseline: how many count in N, and how many of them are kept. */
  baseline = 0
  baselineKept = 0

  /** Makes room for slots 0..slots-1. Returns whether there was none. */
  reserve(slots: number): boolean {
    if (slots <= this.slots) return false
    this.slots = slots
    if (slots <= this.sizes.length) return false
    const length = Math.max(slots, Math.ceil(1.5 * this.sizes.length))
    this.sizes = Int32Array.from({ length }, (_, slot) => this.sizes[slot] ?? 0)
    this.kept = Int32Array.from({ length }, (_, slot) => this.kept[slot] ?? 0)
    this.sums = Float64Array.from({ length }, (_, slot) => this.sums[slot] ?? 0)
    this.keptSums = Float64Array.from({ length }, (_, slot) => this.keptSums[slot] ?? 0)
    return true
  }

  /** Examples that came and count. */
  get arrived(): number {
    return this.length - this.skipped
  }

  /** N, those of a baseline too. */
  get total(): number {
    return this.baseline + this.arrived
  }

  get keptTotal(): number {
    return this.baselineKept + this.keptLength
  }

  /** Counts a history as it is, and keeps the batch rule's subset of it. */
  begin(members: Members, textOnly: number, budgetOf: (total: number) => number): void {
    const groups = Array.from({ length: this.slots }, (): number[] => [])
    members.cluster.forEach((cluster, i) => {
      groups[slotOf(cluster)]!.push(members.instability[i]!)
    })
    const sizes = groups.map((group, slot) => {
      return { cluster: clusterOf(slot), size: slot === TEXT_SLOT ? textOnly : group.length }
    })
    this.baseline = members.cluster.length + textOnly
    for (const { cluster, size } of sizes) this.sizes[slotOf(cluster)] = size
    for (const { cluster, taken } of batchQuotas(sizes, budgetOf(this.baseline))) {
      const slot = slotOf(cluster)
      const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0)
      const group = groups[slot]!.sort((a, b) => a - b)
      this.kept[slot] = taken
      this.baselineKept += taken
      this.keptSums[slot] = sum(group.slice(0, taken))
    }
    groups.forEach((group, slot) => {
      this.sums[slot] = group.reduce((a, b) => a + b, 0)
    })
  }

  /** The next example, of a cluster that has room. */
  add(slot: number, instability: number, isKept: boolean): void {
    const sequence = this.#number()
    this.sizes[slot]!++
    this.sums[slot]! += instability
    if (isKept) this.#keep(sequence, slot, instability)
  }

  #keep(sequence: number, slot: number, instability: number): void {
    this.#bits[sequence >> 3]! |= 1 << (sequence & 7)
    this.kept[slot]!++
    this.keptSums[slot]! += instability
    this.keptLength++
  }

  /** Passes over a sequence number. */
  skip(): void {
    this.#number()
    this.skipped++
  }

  #number(): number {
    const sequence = this.length++
    if (sequence >> 3 >= this.#bits.length) {
      const bits = new Uint8Array(this.#bits.length * 2)
      bits.set(this.#bits)
      this.#bits = bits
    }
    return sequence
  }

  *subset(): Generator<number> {
    for (let sequence = 0; sequence < this.length; sequence++) {
      if ((this.#bits[sequence >> 3]! >> (sequence & 7)) & 1) yield sequence
    }
  }

  *clusters(): Generator<{ cluster: Cluster; size: number; quota: number }> {
    for (let slot = 0; slot < this.slots; slot++) {
      const size = this.sizes[slot]!
      if (size > 0) yield { cluster: clusterOf(slot), size, quota: this.kept[slot]! }
    }
  }

  get bytes(): number {
    return this.#bits.byteLength + this.sizes.byteLength * 6
  }

  save() {
    const { slots, sizes, kept, sums, keptSums, baseline, baselineKept } = this
    const { length, skipped, keptLength } = this
    const counts = { length, skipped, keptLength, baseline, baselineKept }
    const bits = this.#bits.subarray(0, (length + 7) >> 3)
    return { slots, sizes, kept, sums, keptSums, ...counts, bits }
  }

  restore(saved: ReturnType<Ledger['save']>): void {
    this.slots = saved.slots
    this.sizes = saved.sizes.slice()
    this.kept = saved.kept.slice()
    this.sums = saved.sums.slice()
    this.keptSums = saved.keptSums.slice()
    this.length = saved.length
    this.skipped = saved.skipped
    this.keptLength = saved.keptLength
    this.baseline = saved.baseline
    this.baselineKept = saved.baselineKept
    this.#bits = new Uint8Array(Math.max(1 << 10, 2 * saved.bits.length))
    this.#bits.set(saved.bits)
  }
}
