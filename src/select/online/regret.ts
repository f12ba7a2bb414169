/** The record of online decisions: counts by cluster, one bit an example; and the regret of the subset. */
import { grown, shareOf, sum } from '../../math/vectors.ts'
import {
  type Beginning,
  type ClusterCount,
  clusterOf,
  type Regret,
  slotOf,
  TEXT_SLOT,
} from '../rule/policy.ts'
import { batchQuotas } from '../rule/quotas.ts'

type Members = Omit<NonNullable<Beginning['members']>, 'gain'>

export class Ledger {
  /** Slots 0..slots-1 are known clusters. */
  slots = 1
  sizes = new Int32Array(1)
  kept = new Int32Array(1)
  /** Sums of instability of each slot: of all examples, and of the kept ones. */
  sums = new Float64Array(1)
  keptSums = new Float64Array(1)
  #bits = new Uint8Array(1 << 10)
  /** Sequence numbers given; how many were passed over; how many are kept. */
  length = 0
  skipped = 0
  keptLength = 0
  /** Baseline examples that count in N, and how many of them are kept. */
  baseline = 0
  baselineKept = 0
  /** Of each slot: the highest instability that the baseline's subset keeps, and how many of that value. */
  #limits: { values: Float32Array; ties: Int32Array } | undefined

  /** Makes room for slots 0..slots-1. Returns whether the arrays grew. */
  reserve(slots: number): boolean {
    if (slots <= this.slots) return false
    this.slots = slots
    if (slots <= this.sizes.length) return false
    const length = Math.max(slots, Math.ceil(1.5 * this.sizes.length))
    this.sizes = grown(this.sizes, length)
    this.kept = grown(this.kept, length)
    this.sums = grown(this.sums, length)
    this.keptSums = grown(this.keptSums, length)
    return true
  }

  /** Examples of the stream that count. */
  get arrived(): number {
    return this.length - this.skipped
  }

  /** N, the baseline included. */
  get total(): number {
    return this.baseline + this.arrived
  }

  get keptTotal(): number {
    return this.baselineKept + this.keptLength
  }

  /** Takes a baseline as the beginning, and keeps the batch rule's subset of it. */
  begin(
    members: Members,
    { textOnly, misaligned }: { textOnly: number; misaligned: number },
    budgetOf: (total: number) => number,
  ): void {
    const groups = Array.from({ length: this.slots }, (): number[] => [])
    members.cluster.forEach((cluster, i) => {
      groups[slotOf(cluster)]!.push(members.instability[i]!)
    })
    const sizes = groups.map((group, slot) => {
      return { cluster: clusterOf(slot), size: slot === TEXT_SLOT ? textOnly : group.length }
    })
    this.baseline = members.cluster.length + textOnly + misaligned
    const limits = { values: new Float32Array(this.slots), ties: new Int32Array(this.slots) }
    for (const { cluster, size } of sizes) this.sizes[slotOf(cluster)] = size
    for (const { cluster, taken } of batchQuotas(sizes, budgetOf(this.baseline))) {
      const slot = slotOf(cluster)
      const group = groups[slot]!.sort((a, b) => a - b)
      this.kept[slot] = taken
      this.baselineKept += taken
      this.keptSums[slot] = sum(group.slice(0, taken))
      // Text-only examples have no instability: all are ties.
      const limit = slot === TEXT_SLOT ? 0 : (group[taken - 1] ?? 0)
      limits.values[slot] = limit
      const below = slot === TEXT_SLOT ? 0 : group.filter(value => value < limit).length
      limits.ties[slot] = Math.max(0, taken - below)
    }
    this.#limits = limits
    groups.forEach((group, slot) => {
      this.sums[slot] = sum(group)
    })
  }

  /** Adds the next example; its slot must have room. */
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

  /** Whether the history begins with a baseline whose subset is known. */
  get hasLimits(): boolean {
    return this.#limits !== undefined
  }

  /** Gives a sequence number to an example of the baseline. Returns whether the baseline's subset has it. */
  claim(slot: number, instability: number): boolean {
    const { values, ties } = this.#limits!
    const sequence = this.length
    this.skip()
    const value = Math.fround(instability)
    const isTie = value === values[slot] && ties[slot]! > 0
    if (isTie) ties[slot]!--
    const isKept = isTie || value < (values[slot] ?? 0)
    if (isKept) this.#bits[sequence >> 3]! |= 1 << (sequence & 7)
    return isKept
  }

  /** Passes over a sequence number. */
  skip(): void {
    this.#number()
    this.skipped++
  }

  /** Counts in N alone. */
  addMisaligned(): void {
    this.#number()
  }

  #number(): number {
    const sequence = this.length++
    if (sequence >> 3 >= this.#bits.length) this.#bits = grown(this.#bits, 2 * this.#bits.length)
    return sequence
  }

  *subset(): Generator<number> {
    for (let sequence = 0; sequence < this.length; sequence++) {
      if ((this.#bits[sequence >> 3]! >> (sequence & 7)) & 1) yield sequence
    }
  }

  *clusters(): Generator<ClusterCount> {
    for (let slot = 0; slot < this.slots; slot++) {
      const size = this.sizes[slot]!
      if (size > 0) yield { cluster: clusterOf(slot), size, quota: this.kept[slot]! }
    }
  }

  save() {
    const { slots, sizes, kept, sums, keptSums, baseline, baselineKept } = this
    const { length, skipped, keptLength } = this
    const counts = { length, skipped, keptLength, baseline, baselineKept }
    const bits = this.#bits.subarray(0, (length + 7) >> 3)
    return { slots, sizes, kept, sums, keptSums, ...counts, bits, limits: this.#limits }
  }

  /** States of earlier versions have no limits. */
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
    const { limits } = saved
    this.#limits = limits && { values: limits.values.slice(), ties: limits.ties.slice() }
  }
}

/**
 * Compares the subset with the batch rule's over the same history. `lowest` gives the sum of the `count`
 * lowest instabilities of a slot.
 *
 * `recovered` is (naive - own) / (naive - batch) in mean instability, each at the batch rule's count of every
 * cluster, so that unbalanced counts gain nothing: `naive` has random members, `batch` the steadiest. `own`
 * is the subset brought to those counts at random: a random part of the kept where they are too many, random
 * dropped ones added where they are too few.
 */
export function regretOf(
  ledger: Ledger,
  budget: number,
  lowest: (slot: number, count: number) => number,
): Regret {
  const { sizes, kept, sums, keptSums, slots } = ledger
  const sized = Array.from({ length: slots }, (_, slot) => {
    return { cluster: clusterOf(slot), size: sizes[slot]! }
  })
  const quotas = batchQuotas(sized, budget)
  const wanted = quotas.reduce((sum, { taken }) => sum + taken, 0)
  const rule = new Int32Array(slots)
  for (const { cluster, taken } of quotas) rule[slotOf(cluster)] = taken
  let [naive, own, best, variation] = [0, 0, 0, 0]
  for (let slot = 0; slot < slots; slot++) {
    const [size, have, want] = [sizes[slot]!, kept[slot]!, rule[slot]!]
    variation += Math.abs(shareOf(have, ledger.keptTotal) - shareOf(want, wanted)) / 2
    if (slot === TEXT_SLOT || want === 0) continue
    naive += (want * sums[slot]!) / size
    best += lowest(slot, want)
    own +=
      have >= want
        ? (want * keptSums[slot]!) / have
        : keptSums[slot]! + ((want - have) * (sums[slot]! - keptSums[slot]!)) / (size - have)
  }
  return {
    budgetError: shareOf(ledger.keptTotal - budget, budget),
    totalVariation: variation,
    recovered: naive > best ? (naive - own) / (naive - best) : 1,
  }
}
