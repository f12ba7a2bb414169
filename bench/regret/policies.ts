/** The policies that `bench:regret` compares: ours, and those that it is held against. */
import { hashedDraw } from '../../src/random.ts'
import type { Content } from '../../src/select/duplicates.ts'
import { FinalJudge } from '../../src/select/final.ts'
import {
  type History,
  Irrevocable,
  type Judge,
  type Verdict,
} from '../../src/select/irrevocable.ts'
import { Levels } from '../../src/select/level.ts'
import { NaiveJudge } from '../../src/select/naive.ts'
import { type Policy, slotOf } from '../../src/select/policy.ts'
import { batchQuotas, budgetRule } from '../../src/select/quotas.ts'
import { type Optimum, optimumFor, thresholdOf } from './optimal.ts'
import type { Stream } from './streams.ts'

/**
 * - `final`        with `horizonExamples` at the stream's end; `final_open` without a horizon
 * - `naive`        keeps with probability level / size
 * - `proportional` a quantile at level / size, with proportional feedback of counts
 * - `optimum`      knows how many of each cluster will come and how their instability is distributed
 * - `counts_known` knows how many will come, and learns the distributions
 * - `begun_known`  knows how many will come of the clusters that have begun, and learns the rest
 */
export const KINDS = [
  'final',
  'final_open',
  'naive',
  'proportional',
  'optimum',
  'counts_known',
  'begun_known',
] as const
export type Kind = (typeof KINDS)[number]

export function policyOf(kind: Kind, stream: Stream, at: { percent: number; end: number }): Policy {
  const { percent } = at
  const budget = { percent, horizonExamples: kind === 'final_open' ? undefined : at.end }
  return new Irrevocable(budget, history => {
    switch (kind) {
      case 'final':
      case 'final_open':
        return new FinalJudge(budget, history)
      case 'naive':
        return new NaiveJudge(budget, history)
      case 'proportional':
        return new ProportionalJudge(percent, history)
      case 'optimum':
        return new OptimumJudge(history, stream, percent)
      case 'counts_known':
        return new CountsKnownJudge(history, stream, percent)
      case 'begun_known':
        return new BegunKnownJudge(history, stream, percent)
    }
  })
}

const TIES = 1
/** Of the gap between quota and count, in examples of the cluster's share: what a few sizes tell is best. */
const GAIN = 4
const REFRESH_EVERY = 64

/** The twenty lines: the batch rule's quota of now, a quantile of the cluster, a correction by how far it lags. */
class ProportionalJudge implements Judge {
  readonly #budgetOf: (total: number) => number
  readonly #history: History
  readonly #levels = new Levels(1024)

  constructor(percent: number, history: History) {
    this.#budgetOf = budgetRule(percent)
    this.#history = history
  }

  reserve(slots: number): void {
    this.#levels.reserve(slots)
  }

  begin(): void {
    this.restore()
  }

  judge(slot: number, instability: number, content: Content): Verdict {
    const { ledger, sketches } = this.#history
    const total = ledger.total + 1
    if (total % REFRESH_EVERY === 1) sketches.refresh()
    this.#levels.grow(slot, () => {})
    this.#levels.settle(this.#budgetOf(total), () => {})
    const [quota, size] = [this.#levels.taken(slot), this.#levels.sizes[slot]!]
    const lag = (quota - ledger.kept[slot]!) / Math.max(1, quota)
    const share = (quota / size) * (1 + GAIN * lag)
    return verdict(sketches.rank(slot, instability, hashedDraw(content, TIES)) < share)
  }

  save(): null {
    return null
  }

  restore(): void {
    const { total, sizes } = this.#history.ledger
    this.#levels.restore([...sizes], this.#budgetOf(total))
  }
}

/** How many came of each slot by the stream's end. */
function sizesOf(stream: Stream): Int32Array {
  const sizes = new Int32Array(stream.clusters + 1)
  for (const cluster of stream.cluster) sizes[slotOf(cluster)]!++
  return sizes
}

/** Of each slot, at the stream's end: how many came, and the batch rule's quota. */
function endOf(stream: Stream, percent: number): { sizes: Int32Array; quotas: Int32Array } {
  const sizes = sizesOf(stream)
  const quotas = new Int32Array(stream.clusters + 1)
  const named = Array.from({ length: stream.clusters }, (_, cluster) => {
    return { cluster, size: sizes[slotOf(cluster)]! }
  })
  for (const { cluster, taken } of batchQuotas(named, budgetRule(percent)(stream.cluster.length))) {
    quotas[slotOf(cluster)] = taken
  }
  return { sizes, quotas }
}

/** What can be had with the batch rule's counts: in random order no policy saves more, on average. */
class OptimumJudge implements Judge {
  readonly #history: History
  readonly #stream: Stream
  readonly #end: ReturnType<typeof endOf>
  /** By deviation. */
  readonly #optima = new Map<number, Optimum>()

  constructor(history: History, stream: Stream, percent: number) {
    this.#history = history
    this.#stream = stream
    this.#end = endOf(stream, percent)
    const { sizes, quotas } = this.#end
    const most = new Map<number, { left: number; need: number }>()
    stream.deviations.forEach((deviation, cluster) => {
      const { left, need } = most.get(deviation) ?? { left: 0, need: 0 }
      const slot = slotOf(cluster)
      const found = { left: Math.max(left, sizes[slot]!), need: Math.max(need, quotas[slot]!) }
      most.set(deviation, found)
    })
    for (const [deviation, { left, need }] of most) {
      this.#optima.set(deviation, optimumFor(deviation, left, need))
    }
  }

  reserve(): void {}

  begin(): void {}

  judge(slot: number, instability: number): Verdict {
    const { ledger } = this.#history
    const { medians, deviations } = this.#stream
    const optimum = this.#optima.get(deviations[slot - 1]!)!
    const left = this.#end.sizes[slot]! - ledger.sizes[slot]!
    const need = this.#end.quotas[slot]! - ledger.kept[slot]!
    return verdict(
      instability < Math.exp(medians[slot - 1]!) * thresholdOf(optimum, { left, need }),
    )
  }

  save(): null {
    return null
  }

  restore(): void {}
}

/**
 * A cluster that needs r of its last m keeps one below its r / m quantile, as far as that is known: it loses a
 * number of examples that does not grow with the stream (Vera and Banerjee, The Bayesian Prophet, 2021).
 */
class CountsKnownJudge implements Judge {
  readonly #history: History
  readonly #end: ReturnType<typeof endOf>

  constructor(history: History, stream: Stream, percent: number) {
    this.#history = history
    this.#end = endOf(stream, percent)
  }

  reserve(): void {}

  begin(): void {}

  judge(slot: number, instability: number, content: Content): Verdict {
    const { ledger, sketches } = this.#history
    if (ledger.total % REFRESH_EVERY === 0) sketches.refresh()
    const left = this.#end.sizes[slot]! - ledger.sizes[slot]!
    const share = (this.#end.quotas[slot]! - ledger.kept[slot]!) / left
    return verdict(sketches.rank(slot, instability, hashedDraw(content, TIES)) < share)
  }

  save(): null {
    return null
  }

  restore(): void {}
}

/**
 * Where clusters come one after the other, in random order, those that have begun are a random sample of all, and
 * nothing else is known of the others: what they will take is estimated by the sample's mean, which is unbiased and
 * varies least of all estimates that treat clusters alike. With the level exact all would be kept as the batch rule
 * does; it is as good as the estimate.
 */
class BegunKnownJudge implements Judge {
  readonly #history: History
  readonly #sizes: Int32Array
  readonly #budget: number
  #level = 0

  constructor(history: History, stream: Stream, percent: number) {
    this.#history = history
    this.#sizes = sizesOf(stream)
    this.#budget = budgetRule(percent)(stream.cluster.length)
  }

  reserve(): void {}

  begin(): void {}

  judge(slot: number, instability: number, content: Content): Verdict {
    const { ledger, sketches } = this.#history
    if (ledger.total % REFRESH_EVERY === 0) sketches.refresh()
    if (ledger.sizes[slot] === 0) this.#level = this.#levelWith(slot)
    const size = this.#sizes[slot]!
    const missing = Math.min(size, this.#level) - ledger.kept[slot]!
    const need = Math.min(missing, this.#budget - ledger.keptTotal)
    const share = need / (size - ledger.sizes[slot]!)
    return verdict(sketches.rank(slot, instability, hashedDraw(content, TIES)) < share)
  }

  /** The level that spends the budget, as `slot` begins. */
  #levelWith(slot: number): number {
    const { sizes, keptTotal } = this.#history.ledger
    const begun = this.#sizes.filter((_, other) => other === slot || sizes[other]! > 0)
    const others = this.#sizes.length - 1 - begun.length
    let [low, high] = [0, this.#budget]
    while (low < high) {
      const level = (low + high) >> 1
      const taken = begun.reduce((sum, size) => sum + Math.min(size, level), 0) / begun.length
      if (keptTotal + Math.min(this.#sizes[slot]!, level) + others * taken < this.#budget) {
        low = level + 1
      } else high = level
    }
    return low
  }

  save(): null {
    return null
  }

  restore(): void {}
}

function verdict(isKept: boolean): Verdict {
  return { isKept, reason: isKept ? 'within_quota' : 'over_quota' }
}
