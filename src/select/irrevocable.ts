/**
 * Policies that decide on arrival, for good. What they share: the counts and bits of what is kept, the sketches
 * of instability, and snapshots. How an example is judged is a `Judge`'s: `final.ts`, `naive.ts`.
 *
 * A snapshot is due at the first commit and then as the history has grown by a fiftieth; what came behind it is
 * judged again when the state is opened, with the same result.
 */
import { deserialize, serialize } from 'node:v8'
import type { Part } from '../observe/parts.ts'
import type { Cluster, Reason } from '../record.ts'
import type { Content } from './duplicates.ts'
import { Ledger } from './ledger.ts'
import { TEXT_SLOT } from './level.ts'
import { type Numbers, PASSED_OVER, TEXT } from './numbers.ts'
import {
  type BaselineUse,
  type Beginning,
  type Policy,
  type Regret,
  type SettledEvent,
  slotOf,
} from './policy.ts'
import { type Budget, budgetOf, budgetSoFar } from './quotas.ts'
import { regretOf } from './regret.ts'
import { Sketches } from './sketches.ts'

export type Verdict = { isKept: boolean; reason: Reason }

export interface Judge {
  /** Makes room for slots 0..slots-1. */
  reserve(slots: number): void
  /** The ledger holds a baseline: the history begins with it. */
  begin(): void
  /** Judges the next example of the history in the ledger, which does not hold it yet. */
  judge(slot: number, instability: number, content: Content): Verdict
  /** All that the next verdicts depend on, beside ledger and sketches. */
  save(): unknown
  restore(saved: unknown): void
}

/** What a judge looks at. */
export type History = {
  ledger: Ledger
  sketches: Sketches
  /** Examples of each slot that count for nothing but what is learned from them. */
  learned: { counts: Int32Array; total: number }
}

const SAVE_EVERY = 65_536
const SAVE_PART = 50
/** Examples of a baseline between two looks at what clusters share. */
const REFRESH_EVERY = 256

type Saved = {
  ledger: ReturnType<Ledger['save']>
  sketches: ReturnType<Sketches['save']>
  learned: History['learned']
  hasBegun: boolean
  judge: unknown
}

export type IrrevocableSettings = Budget & {
  /** Absent: continue. A fixed budget is of the stream alone: it learns at most. */
  baseline?: BaselineUse | undefined
}

export class Irrevocable implements Policy {
  readonly #settings: IrrevocableSettings
  readonly #history: History = {
    ledger: new Ledger(),
    sketches: new Sketches(1),
    learned: { counts: new Int32Array(1), total: 0 },
  }
  readonly #judge: Judge
  /** Decided, not yet told. */
  #events: SettledEvent[] = []
  #hasBegun = false
  #savedAt = -1
  /** Whose decisions are followed, where they are not the judge's own; and whether a snapshot holds them. */
  #followed: ((sequence: number) => boolean) | undefined
  #isFollowingSaved = true

  constructor(settings: IrrevocableSettings, judgeOf: (history: History) => Judge) {
    this.#settings = settings
    this.#judge = judgeOf(this.#history)
  }

  #reserve(slots: number): void {
    const { ledger, sketches, learned } = this.#history
    if (!ledger.reserve(slots)) return
    const { length } = ledger.sizes
    sketches.reserve(length)
    learned.counts = Int32Array.from({ length }, (_, slot) => learned.counts[slot] ?? 0)
    this.#judge.reserve(length)
  }

  get wantsBeginning(): boolean {
    return !this.#hasBegun && this.#history.ledger.length === 0
  }

  begin({ clusters, textOnly, members }: Beginning): void {
    this.#hasBegun = true
    this.#reserve(clusters + 1)
    const { baseline = 'continue' } = this.#settings
    if (members === undefined || baseline === 'ignore') return
    const { ledger, sketches, learned } = this.#history
    members.cluster.forEach((cluster, i) => {
      sketches.add(slotOf(cluster), members.instability[i]!)
      if (i % REFRESH_EVERY === 0) sketches.refresh()
    })
    if (goesOnFrom(this.#settings)) {
      ledger.begin(members, textOnly, budgetOf(this.#settings))
      this.#judge.begin()
      return
    }
    for (const cluster of members.cluster) learned.counts[slotOf(cluster)]!++
    learned.counts[TEXT_SLOT] = textOnly
    learned.total = members.cluster.length + textOnly
  }

  get examples(): number {
    return this.#history.ledger.total
  }

  get settled(): number {
    return this.#history.ledger.length
  }

  get kept(): number {
    return this.#history.ledger.keptTotal
  }

  get baseline(): Part {
    const { baseline, baselineKept } = this.#history.ledger
    return { examples: baseline, kept: baselineKept }
  }

  get bytes(): number {
    return this.#history.ledger.bytes + this.#history.sketches.bytes
  }

  /** Decided at once; `settle` only tells. */
  add(cluster: Cluster, instability: number | null, _id: string, content: Content): number {
    const { ledger, sketches } = this.#history
    const sequence = ledger.length
    const slot = slotOf(cluster)
    this.#reserve(slot + 1)
    const value = slot === TEXT_SLOT ? 0 : instability!
    const { isKept: isWanted, reason } = this.#judge.judge(slot, value, content)
    const isKept = this.#followed?.(sequence) ?? isWanted
    if (slot !== TEXT_SLOT) sketches.add(slot, value)
    ledger.add(slot, value, isKept)
    const quota = ledger.kept[slot]!
    this.#events.push({ sequence, action: isKept ? 'keep' : 'drop', reason, cluster, quota })
    return sequence
  }

  /** What was followed can't be judged again, so a snapshot is due. */
  follow(isKept: ((sequence: number) => boolean) | undefined): void {
    this.#followed = isKept
    this.#isFollowingSaved = false
  }

  skip(): void {
    this.#history.ledger.skip()
  }

  settle(): SettledEvent[] {
    const events = this.#events
    this.#events = []
    return events
  }

  quota(cluster: Cluster): number {
    return this.#history.ledger.kept[slotOf(cluster)] ?? 0
  }

  clusters(): Iterable<{ cluster: Cluster; size: number; quota: number }> {
    return this.#history.ledger.clusters()
  }

  subset(): Iterable<number> {
    return this.#history.ledger.subset()
  }

  regret(): Regret {
    const { ledger, sketches } = this.#history
    const budget = budgetSoFar(this.#settings, ledger.total, ledger.arrived)
    return regretOf(ledger, budget, (slot, count) => sketches.lowest(slot, count))
  }

  save(): Uint8Array | undefined {
    const { ledger, sketches, learned } = this.#history
    const due = this.#savedAt + Math.max(SAVE_EVERY, ledger.length / SAVE_PART)
    const isDue = this.#savedAt < 0 || ledger.length >= due || !this.#isFollowingSaved
    if (!isDue) return undefined
    this.#isFollowingSaved = this.#followed === undefined
    this.#savedAt = ledger.length
    const saved: Saved = {
      ledger: ledger.save(),
      sketches: sketches.save(),
      learned,
      hasBegun: this.#hasBegun,
      judge: this.#judge.save(),
    }
    return serialize(saved)
  }

  resume(bytes: Uint8Array | undefined): void {
    if (bytes === undefined) return
    const { ledger, sketches, learned } = this.#history
    const saved = deserialize(bytes) as Saved
    this.#hasBegun = saved.hasBegun
    ledger.restore(saved.ledger)
    sketches.restore(saved.sketches)
    learned.counts = saved.learned.counts.slice()
    learned.total = saved.learned.total
    this.#judge.reserve(ledger.sizes.length)
    this.#judge.restore(saved.judge)
    this.#savedAt = ledger.length
  }

  /** Those that the snapshot lacks are judged again. */
  refill(history: Iterable<Numbers>, _settled: number): void {
    const from = this.#history.ledger.length
    let first = 0
    for (const numbers of history) {
      for (let i = Math.max(0, from - first); i < numbers.count; i++) this.#again(numbers, i)
      first += numbers.count
    }
    this.#events = []
  }

  #again({ cluster, instability, high, low }: Numbers, i: number): void {
    const name = cluster[i] === TEXT ? 'text' : cluster[i]!
    if (name === PASSED_OVER) this.skip()
    else this.add(name, instability[i]!, '', { high: high[i]!, low: low[i]! })
  }
}

/** Whether a baseline that the bundle holds is the beginning of the history. */
export function goesOnFrom({
  baseline = 'continue',
  budgetExamples,
}: IrrevocableSettings): boolean {
  return baseline === 'continue' && budgetExamples === undefined
}
