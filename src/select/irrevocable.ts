/**
 * Policies that decide on arrival, for good. What they share: the counts and bits of what is kept, the sketches
 * of instability, and snapshots. How an example is judged is a `Judge`'s: `final.ts`, `naive.ts`.
 *
 * A snapshot is due at the first commit and then as the history has grown by a fiftieth; what came behind it is
 * judged again when the state is opened, with the same result.
 */
import { deserialize, serialize } from 'node:v8'
import type { Cluster, Reason } from '../record.ts'
import type { Content } from './duplicates.ts'
import { Ledger } from './ledger.ts'
import { TEXT_SLOT } from './level.ts'
import { type PastExample, type Policy, type Regret, type SettledEvent, slotOf } from './policy.ts'
import { type Budget, budgetSoFar } from './quotas.ts'
import { regretOf } from './regret.ts'
import { Sketches } from './sketches.ts'

export type Verdict = { isKept: boolean; reason: Reason }

export interface Judge {
  /** Makes room for slots 0..slots-1. */
  reserve(slots: number): void
  /** Judges the next example of the history in the ledger, which does not hold it yet. */
  judge(slot: number, instability: number, content: Content): Verdict
  /** All that the next verdicts depend on, beside ledger and sketches. */
  save(): unknown
  restore(saved: unknown): void
}

/** What a judge looks at. */
export type History = { ledger: Ledger; sketches: Sketches }

const SAVE_EVERY = 65_536
const SAVE_PART = 50

type Saved = {
  ledger: ReturnType<Ledger['save']>
  sketches: ReturnType<Sketches['save']>
  judge: unknown
}

export class Irrevocable implements Policy {
  readonly #budget: Budget
  readonly #history: History = { ledger: new Ledger(), sketches: new Sketches(1) }
  readonly #judge: Judge
  /** Decided, not yet told. */
  #events: SettledEvent[] = []
  #savedAt = -1
  /** Whose decisions are followed, where they are not the judge's own; and whether a snapshot holds them. */
  #followed: ((sequence: number) => boolean) | undefined
  #isFollowingSaved = true

  /** `clusters` is K of the bundle; 0 where it is not known. */
  constructor(budget: Budget, clusters: number, judgeOf: (history: History) => Judge) {
    this.#budget = budget
    this.#judge = judgeOf(this.#history)
    this.#reserve(clusters + 1)
  }

  #reserve(slots: number): void {
    const { ledger, sketches } = this.#history
    if (!ledger.reserve(slots)) return
    sketches.reserve(ledger.sizes.length)
    this.#judge.reserve(ledger.sizes.length)
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
    const budget = budgetSoFar(this.#budget, ledger.total, ledger.length)
    return regretOf(ledger, budget, (slot, count) => sketches.lowest(slot, count))
  }

  save(): Uint8Array | undefined {
    const { ledger, sketches } = this.#history
    const due = this.#savedAt + Math.max(SAVE_EVERY, ledger.length / SAVE_PART)
    const isDue = this.#savedAt < 0 || ledger.length >= due || !this.#isFollowingSaved
    if (!isDue) return undefined
    this.#isFollowingSaved = this.#followed === undefined
    this.#savedAt = ledger.length
    const saved: Saved = {
      ledger: ledger.save(),
      sketches: sketches.save(),
      judge: this.#judge.save(),
    }
    return serialize(saved)
  }

  resume(bytes: Uint8Array | undefined): number {
    if (bytes === undefined) return 0
    const { ledger, sketches } = this.#history
    const saved = deserialize(bytes) as Saved
    ledger.restore(saved.ledger)
    sketches.restore(saved.sketches)
    this.#judge.restore(saved.judge)
    this.#savedAt = ledger.length
    return ledger.length
  }

  restore(history: Iterable<PastExample>, _settled: number): void {
    for (const { cluster, instability, id, content } of history) {
      this.add(cluster, instability, id, content)
    }
    this.#events = []
  }
}
