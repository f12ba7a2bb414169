/**
 * The `revisable` policy: after every settlement the subset equals the batch rule (`quotas.ts`) over all
 * examples so far, without a pass over them.
 *
 * Nothing is ever deleted and the order within a cluster is fixed, so a cluster needs two heaps: the kept
 * with the last of them on top, the dropped with the first of them on top. A new example or a changed quota
 * moves tops only. `level.ts` says which quotas change.
 *
 * An example is pending from `add` to the next `settle`, which decides keep or drop. Later settlements may
 * evict and restore it, each settlement at most once: it goes straight from one subset to the next.
 */
import { grown } from '../../math/vectors.ts'
import type { Cluster, Reason } from '../../record.ts'
import { Float64Column, Texts, Uint32Column } from '../columns/columns.ts'
import { type Chunk, MISALIGNED, PASSED_OVER, TEXT } from '../columns/stored.ts'
import { type Before, Heap, splitAt } from './heap.ts'
import { Levels } from './level.ts'
import {
  type ClusterCount,
  clusterOf,
  type Policy,
  type SettledEvent,
  slotOf,
  TEXT_SLOT,
} from './policy.ts'
import { budgetRule, SMALL_CLUSTER_SIZE_MAX } from './quotas.ts'

/** `pending` are the slots of the examples from `first` on; PASSED_OVER once one is kept, MISALIGNED of one. */
type Settlement = { first: number; pending: number[]; events: SettledEvent[] }

/** A set of slots that is reused for every settlement and allocates nothing. */
class Slots {
  readonly slots: number[] = []
  #isIn = new Uint8Array(1024)

  readonly mark = (slot: number): void => {
    if (slot >= this.#isIn.length) this.#isIn = grown(this.#isIn, 2 * slot)
    if (this.#isIn[slot] === 1) return
    this.#isIn[slot] = 1
    this.slots.push(slot)
  }

  clear(): void {
    for (const slot of this.slots) this.#isIn[slot] = 0
    this.slots.length = 0
  }
}

type Members = { kept: Heap; dropped: Heap }

export class Revisable implements Policy {
  readonly #budgetOf: (total: number) => number
  readonly #levels = new Levels(1024)
  readonly #members: (Members | undefined)[] = []
  /** Instability; of a text-only example where its id starts in `#texts`. */
  readonly #values = new Float64Column()
  readonly #texts = new Texts()
  readonly #orders: { numbers: [Before, Before]; text: [Before, Before] }
  /** Slots of the examples from `settled` on; PASSED_OVER where one was, MISALIGNED of one. */
  #pendingSlots: number[] = []
  readonly #changed = new Slots()
  #kept = 0
  #skipped = 0

  /**
   * `budgetOf` gives n of a history by its size; percent of it where it is left out. Throws
   * RangeError where percent is outside 0..100.
   */
  constructor(percent: number, budgetOf = budgetRule(percent)) {
    this.#budgetOf = budgetOf
    const values = this.#values
    const texts = this.#texts
    const steadier: Before = (a, b) => {
      const valueA = values.at(a)
      const valueB = values.at(b)
      return valueA < valueB || (valueA === valueB && a < b)
    }
    const earlierId: Before = (a, b) => {
      const order = texts.compare(values.at(a), values.at(b))
      return order < 0 || (order === 0 && a < b)
    }
    this.#orders = {
      numbers: [steadier, (a, b) => steadier(b, a)],
      text: [earlierId, (a, b) => earlierId(b, a)],
    }
  }

  get examples(): number {
    return this.#values.length - this.#skipped
  }

  get settled(): number {
    return this.#values.length - this.#pendingSlots.length
  }

  get kept(): number {
    return this.#kept
  }

  /** Its history is the stream alone. */
  readonly baseline = { examples: 0, kept: 0 }

  readonly wantsBeginning = false

  begin(): void {}

  add(cluster: Cluster, instability: number | null, id: string): number {
    const sequence = this.#values.length
    const slot = slotOf(cluster)
    this.#values.push(slot === TEXT_SLOT ? this.#texts.push(id) : instability!)
    this.#pendingSlots.push(slot)
    return sequence
  }

  skip(): void {
    this.#values.push(Number.NaN)
    this.#pendingSlots.push(PASSED_OVER)
    this.#skipped++
  }

  addMisaligned(): void {
    this.#values.push(Number.NaN)
    this.#pendingSlots.push(MISALIGNED)
  }

  /**
   * Decides every pending example and revises the others. The events are in this order: pending ones
   * by sequence number, then the others by sequence number.
   */
  settle(): SettledEvent[] {
    const first = this.settled
    const pending = this.#pendingSlots
    if (pending.length === 0) return []
    this.#pendingSlots = []
    const changed = this.#changed
    let most = 0
    for (const slot of pending) if (slot > most) most = slot
    this.#levels.reserve(most + 1)
    for (let index = 0; index < pending.length; index++) {
      const slot = pending[index]!
      if (slot < 0) continue
      this.#insert(slot, first + index)
      this.#levels.grow(slot, changed.mark)
    }
    this.#levels.settle(this.#budgetOf(this.examples), changed.mark)
    const events: SettledEvent[] = []
    for (const slot of changed.slots) this.#rebalance(slot, { first, pending, events })
    changed.clear()
    for (let index = 0; index < pending.length; index++) {
      const slot = pending[index]!
      if (slot >= 0) events.push(this.#dropEvent(slot, first + index))
    }
    if (events.length === 1) return events
    return events.sort((a, b) => eventOrder(a.sequence, first) - eventOrder(b.sequence, first))
  }

  #insert(slot: number, sequence: number): void {
    const members = this.#members[slot]
    if (members !== undefined) members.dropped.push(sequence, this.#order(slot)[0])
    else {
      const created = { kept: new Heap(), dropped: new Heap() }
      created.dropped.push(sequence, this.#order(slot)[0])
      this.#members[slot] = created
    }
  }

  /** Moves tops until the cluster's kept are the first `taken` of its members. */
  #rebalance(slot: number, { first, pending, events }: Settlement): void {
    const members = this.#members[slot]
    if (members === undefined) return
    const { kept, dropped } = members
    const [before, after] = this.#order(slot)
    const taken = this.#levels.taken(slot)
    const cluster = clusterOf(slot)
    const evicted: Reason = taken < kept.length ? 'quota_shrank' : 'over_quota'
    this.#kept += taken - kept.length
    const keepTop = (): void => {
      const sequence = dropped.pop(before)
      kept.push(sequence, after)
      const isNew = sequence >= first
      if (isNew) pending[sequence - first] = PASSED_OVER
      const action = isNew ? 'keep' : 'restore'
      const reason = isNew ? 'within_quota' : 'quota_grew'
      events.push({ sequence, action, reason, cluster, quota: taken })
    }
    const evictTop = (): void => {
      const sequence = kept.pop(after)
      dropped.push(sequence, before)
      events.push({ sequence, action: 'evict', reason: evicted, cluster, quota: taken })
    }
    while (kept.length < taken) keepTop()
    while (kept.length > taken) evictTop()
    while (kept.length > 0 && dropped.length > 0 && before(dropped.top(), kept.top())) {
      evictTop()
      keepTop()
    }
  }

  #dropEvent(slot: number, sequence: number): SettledEvent {
    const isSmall = this.#levels.sizes[slot]! <= SMALL_CLUSTER_SIZE_MAX
    const reason = isSmall ? 'cluster_too_small' : 'over_quota'
    const quota = this.#members[slot]!.kept.length
    return { sequence, action: 'drop', reason, cluster: clusterOf(slot), quota }
  }

  #order(slot: number): [Before, Before] {
    return slot === TEXT_SLOT ? this.#orders.text : this.#orders.numbers
  }

  regret(): undefined {}

  /** The subset follows from the history alone. */
  save(): undefined {}

  resume(): void {}

  refill(history: Iterable<Chunk>, settled: number): void {
    if (this.#values.length > 0) throw new RangeError('only an empty policy can be refilled')
    const groups = new Groups()
    let misaligned = 0
    for (const numbers of history) {
      let text = 0
      for (let i = 0; i < numbers.count; i++) {
        const cluster = numbers.cluster[i]!
        const sequence = this.#values.length
        const slot = cluster <= PASSED_OVER ? cluster : cluster + 1
        const isText = cluster === TEXT
        this.#values.push(isText ? this.#texts.push(numbers.ids[text++]!) : numbers.instability[i]!)
        if (slot === PASSED_OVER) this.#skipped++
        if (sequence >= settled) this.#pendingSlots.push(slot)
        else {
          groups.push(slot)
          if (slot === MISALIGNED) misaligned++
        }
      }
    }
    this.#regroup(groups, misaligned)
  }

  #regroup(groups: Groups, misaligned: number): void {
    const sizes = groups.sizes()
    const settled = sizes.reduce((sum, size) => sum + size, misaligned)
    this.#levels.restore(sizes, this.#budgetOf(settled))
    for (const { slot, items } of groups.split(sizes)) {
      const taken = this.#levels.taken(slot)
      this.#members[slot] =
        slot === TEXT_SLOT ? this.#splitText(items, taken) : this.#splitNumbers(items, taken)
      this.#kept += taken
    }
  }

  #splitText(items: Int32Array<ArrayBuffer>, taken: number): Members {
    const [before, after] = this.#orders.text
    splitAt(items, taken, before)
    const [kept, dropped] = [items.slice(0, taken), items.slice(taken)]
    return { kept: Heap.of(kept, after), dropped: Heap.of(dropped, before) }
  }

  /** As `#splitText`; gathers the values first, which saves cache misses. */
  #splitNumbers(sequences: Int32Array<ArrayBuffer>, taken: number): Members {
    const values = Float64Array.from(sequences, sequence => this.#values.at(sequence))
    const before: Before = (a, b) => values[a]! < values[b]! || (values[a] === values[b] && a < b)
    const items = Int32Array.from(sequences.keys())
    splitAt(items, taken, before)
    const kept = Heap.of(items.slice(0, taken), (a, b) => before(b, a))
    const dropped = Heap.of(items.slice(taken), before)
    for (const heap of [kept, dropped]) {
      const places = heap.items()
      for (let i = 0; i < places.length; i++) places[i] = sequences[places[i]!]!
    }
    return { kept, dropped }
  }

  *subset(): Generator<number> {
    for (const members of this.#members) if (members !== undefined) yield* members.kept.items()
  }

  quota(cluster: Cluster): number {
    return this.#members[slotOf(cluster)]?.kept.length ?? 0
  }

  *clusters(): Generator<ClusterCount> {
    for (const [slot, members] of this.#members.entries()) {
      if (members === undefined) continue
      const { kept, dropped } = members
      yield { cluster: clusterOf(slot), size: kept.length + dropped.length, quota: kept.length }
    }
  }
}

function eventOrder(sequence: number, first: number): number {
  return sequence >= first ? sequence - first - 2 ** 31 : sequence
}

/** Sequence numbers grouped by slot, each group in log order. */
class Groups {
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
