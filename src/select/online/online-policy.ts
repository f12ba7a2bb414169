/**
 * Policies that decide on arrival, for good. They share the counts and bits of the kept examples, the
 * sketches of instability, and snapshots; an `AdmissionRule` decides (`final.ts`, `random.ts`).
 *
 * A snapshot is due at the first commit and whenever the history has grown by a fiftieth. Examples after the
 * snapshot are admitted again when the state is opened, with the same result.
 */
import { deserialize, serialize } from 'node:v8'
import { grown } from '../../math/vectors.ts'
import type { Part } from '../../observe/segments.ts'
import type { Cluster, Reason } from '../../record.ts'
import type { Content } from '../columns/hash-table.ts'
import {
  type Chunk,
  clusterOfCode,
  isBaselineCode,
  MISALIGNED,
  PASSED_OVER,
} from '../columns/stored.ts'
import {
  type BaselineUse,
  type Beginning,
  type ClusterCount,
  type Policy,
  type Regret,
  type SettledEvent,
  slotOf,
  TEXT_SLOT,
} from '../rule/policy.ts'
import { type Budget, budgetOf, budgetSoFar } from '../rule/quotas.ts'
import { type Ranking, ranked } from '../rule/rank.ts'
import { Ledger, regretOf } from './regret.ts'
import { Sketches } from './sketches.ts'

export type Admission = { isKept: boolean; reason: Reason }

export interface AdmissionRule {
  /** Makes room for slots 0..slots-1. */
  reserve(slots: number): void
  /** Called when the ledger holds a baseline, with which the history begins. */
  begin(): void
  /** Decides the next example, which the ledger does not hold yet. */
  admit(slot: number, instability: number, content: Content): Admission
  /** All that later admissions depend on, besides ledger and sketches. */
  save(): unknown
  restore(saved: unknown): void
}

/** The part of the history that a rule reads. */
export type History = {
  ledger: Ledger
  sketches: Sketches
  /** Baseline examples of each slot that only arrival rates are learned from. */
  learned: { counts: Int32Array; total: number }
}

const SAVE_EVERY = 65_536
const SAVE_PART = 50
/** Baseline examples between two refreshes of the sketches. */
const REFRESH_EVERY = 256

type Saved = {
  ledger: ReturnType<Ledger['save']>
  sketches: ReturnType<Sketches['save']>
  learned: History['learned']
  hasBegun: boolean
  judge: unknown
}

export type OnlineSettings = Budget &
  Ranking & {
    /** Absent: continue. A fixed budget covers the stream alone, so it can only learn. */
    baseline?: BaselineUse | undefined
  }

export class OnlinePolicy implements Policy {
  readonly #settings: OnlineSettings
  readonly #history: History = {
    ledger: new Ledger(),
    sketches: new Sketches(),
    learned: { counts: new Int32Array(1), total: 0 },
  }
  readonly #rule: AdmissionRule
  /** Decided, not yet returned by `settle`. */
  #events: SettledEvent[] = []
  #hasBegun = false
  #savedAt = -1
  /** The decisions to follow in place of the rule's; and whether a snapshot holds them. */
  #followed: ((sequence: number) => boolean) | undefined
  #isFollowingSaved = true

  constructor(settings: OnlineSettings, ruleOf: (history: History) => AdmissionRule) {
    this.#settings = settings
    this.#rule = ruleOf(this.#history)
  }

  #reserve(slots: number): void {
    const { ledger, sketches, learned } = this.#history
    if (!ledger.reserve(slots)) return
    const { length } = ledger.sizes
    sketches.reserve(length)
    learned.counts = grown(learned.counts, length)
    this.#rule.reserve(length)
  }

  get wantsBeginning(): boolean {
    return !this.#hasBegun && this.#history.ledger.length === 0
  }

  begin({ clusters, textOnly, members: all }: Beginning): void {
    this.#hasBegun = true
    this.#reserve(clusters + 1)
    const { baseline = 'continue' } = this.#settings
    if (all === undefined || baseline === 'ignore') return
    const { members, misaligned } = ranked(this.#settings, all)
    const { ledger, sketches, learned } = this.#history
    members.cluster.forEach((cluster, i) => {
      sketches.add(slotOf(cluster), members.instability[i]!)
      if (i % REFRESH_EVERY === 0) sketches.refresh()
    })
    if (continuesBaseline(this.#settings)) {
      ledger.begin(members, { textOnly, misaligned }, budgetOf(this.#settings))
      this.#rule.begin()
      return
    }
    for (const cluster of members.cluster) learned.counts[slotOf(cluster)]!++
    learned.counts[TEXT_SLOT] = textOnly
    learned.total = members.cluster.length + textOnly + misaligned
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

  /** Decides at once; `settle` returns the decision. */
  add(cluster: Cluster, instability: number | null, _id: string, content: Content): number {
    const { ledger, sketches } = this.#history
    const sequence = ledger.length
    const slot = slotOf(cluster)
    this.#reserve(slot + 1)
    const value = slot === TEXT_SLOT ? 0 : instability!
    const { isKept: isWanted, reason } = this.#rule.admit(slot, value, content)
    const isKept = this.#followed?.(sequence) ?? isWanted
    if (slot !== TEXT_SLOT) sketches.add(slot, value)
    ledger.add(slot, value, isKept)
    const quota = ledger.kept[slot]!
    this.#events.push({ sequence, action: isKept ? 'keep' : 'drop', reason, cluster, quota })
    return sequence
  }

  claim(cluster: Cluster, instability: number | null): void {
    const { ledger } = this.#history
    const sequence = ledger.length
    const slot = slotOf(cluster)
    const isKept = ledger.claim(slot, instability ?? 0)
    const reason = isKept ? 'within_quota' : 'over_quota'
    const quota = ledger.kept[slot] ?? 0
    this.#events.push({ sequence, action: isKept ? 'keep' : 'drop', reason, cluster, quota })
  }

  get claims(): boolean {
    return this.#history.ledger.hasLimits
  }

  /** Followed decisions can't be repeated by the rule, so a snapshot is due. */
  follow(isKept: ((sequence: number) => boolean) | undefined): void {
    this.#followed = isKept
    this.#isFollowingSaved = false
  }

  skip(): void {
    this.#history.ledger.skip()
  }

  addMisaligned(): void {
    this.#history.ledger.addMisaligned()
  }

  settle(): SettledEvent[] {
    const events = this.#events
    this.#events = []
    return events
  }

  quota(cluster: Cluster): number {
    return this.#history.ledger.kept[slotOf(cluster)] ?? 0
  }

  clusters(): Iterable<ClusterCount> {
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
      judge: this.#rule.save(),
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
    this.#rule.reserve(ledger.sizes.length)
    this.#rule.restore(saved.judge)
    this.#savedAt = ledger.length
  }

  /** Admits the examples after the snapshot again. */
  refill(history: Iterable<Chunk>, _settled: number): void {
    const from = this.#history.ledger.length
    let first = 0
    for (const numbers of history) {
      for (let i = Math.max(0, from - first); i < numbers.count; i++) this.#again(numbers, i)
      first += numbers.count
    }
    this.#events = []
  }

  #again({ cluster, instability, high, low }: Chunk, i: number): void {
    const code = cluster[i]!
    const content = { high: high[i]!, low: low[i]! }
    if (code === PASSED_OVER) this.skip()
    else if (code === MISALIGNED) this.addMisaligned()
    else if (isBaselineCode(code)) this.claim(clusterOfCode(code), valueAt(instability, i))
    else this.add(clusterOfCode(code), valueAt(instability, i), '', content)
  }
}

/** Text-only examples have NaN there. */
function valueAt(instability: ArrayLike<number>, i: number): number | null {
  const value = instability[i]!
  return Number.isNaN(value) ? null : value
}

/** Whether the bundle's data, where it holds them, is the beginning of the history. */
export function continuesBaseline({
  baseline = 'continue',
  budgetExamples,
}: OnlineSettings): boolean {
  return baseline === 'continue' && budgetExamples === undefined
}
