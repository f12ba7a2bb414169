/** The policies that `bench:regret` compares. */
import { hashedDraw } from '../../src/math/random.ts'
import type { Content } from '../../src/select/columns/hash-table.ts'
import { FinalRule } from '../../src/select/online/final.ts'
import {
  type Admission,
  type AdmissionRule,
  type History,
  OnlinePolicy,
} from '../../src/select/online/online-policy.ts'
import { NaiveRule } from '../../src/select/online/random.ts'
import { Levels } from '../../src/select/rule/level.ts'
import { type Policy, slotOf } from '../../src/select/rule/policy.ts'
import { batchQuotas, budgetRule } from '../../src/select/rule/quotas.ts'
import { type Optimum, optimumFor, thresholdOf } from './optimal.ts'
import type { Stream } from './streams.ts'

/**
 * - `final`        with `horizonExamples` at the stream's end; `final_open` without a horizon
 * - `naive`        keeps with probability level / size
 * - `proportional` a quantile at level / size, with proportional feedback of counts
 * - `optimum`      knows the size of each cluster and the distribution of its instability
 * - `counts_known` knows the sizes, and learns the distributions
 * - `begun_known`  knows the sizes of the clusters that have arrived, and learns the rest
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
  return new OnlinePolicy(budget, history => {
    switch (kind) {
      case 'final':
      case 'final_open':
        return new FinalRule(budget, history)
      case 'naive':
        return new NaiveRule(budget, history)
      case 'proportional':
        return new ProportionalRule(percent, history)
      case 'optimum':
        return new OptimumRule(history, stream, percent)
      case 'counts_known':
        return new CountsKnownRule(history, stream, percent)
      case 'begun_known':
        return new BegunKnownRule(history, stream, percent)
    }
  })
}

const TIES = 1
/** Gain on the gap between quota and count, in examples of the cluster's share; the best of a few values. */
const GAIN = 4
const REFRESH_EVERY = 64

/** The batch rule's quota so far, a quantile of the cluster, and a correction in proportion to its lag. */
class ProportionalRule implements AdmissionRule {
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

  admit(slot: number, instability: number, content: Content): Admission {
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

/** The size of each slot at the end of the stream. */
function sizesOf(stream: Stream): Int32Array {
  const sizes = new Int32Array(stream.clusters + 1)
  for (const cluster of stream.cluster) sizes[slotOf(cluster)]!++
  return sizes
}

/** The size and the batch rule's quota of each slot at the end of the stream. */
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

/** The optimum at the batch rule's counts: in random order no policy saves more on average. */
class OptimumRule implements AdmissionRule {
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

  admit(slot: number, instability: number): Admission {
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
 * A cluster that needs r of its last m examples keeps those below its estimated r / m quantile. Its loss
 * does not grow with the stream (Vera and Banerjee, The Bayesian Prophet, 2021).
 */
class CountsKnownRule implements AdmissionRule {
  readonly #history: History
  readonly #end: ReturnType<typeof endOf>

  constructor(history: History, stream: Stream, percent: number) {
    this.#history = history
    this.#end = endOf(stream, percent)
  }

  reserve(): void {}

  begin(): void {}

  admit(slot: number, instability: number, content: Content): Admission {
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
 * If clusters arrive one after the other in random order, those that have arrived are a random sample of
 * all. The places that the others will take are estimated by the sample's mean, which is unbiased and has
 * the least variance of all estimates that treat clusters alike. With an exact level the counts would be
 * the batch rule's.
 */
class BegunKnownRule implements AdmissionRule {
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

  admit(slot: number, instability: number, content: Content): Admission {
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

function verdict(isKept: boolean): Admission {
  return { isKept, reason: isKept ? 'within_quota' : 'over_quota' }
}
