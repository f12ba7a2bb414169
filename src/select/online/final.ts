/**
 * The `final` policy: keep or drop on arrival, for good, so that at the horizon the subset is as near as
 * possible to the batch rule's over the whole history: the same counts, the same steadiest examples.
 *
 *   arrival ─► rank among its cluster (`sketches.ts`) ────────────────────► kept where rank < share
 *          └─► arrivals of its cluster until the horizon (`forecast.ts`) ─┐        ▲
 *              where quotas will end (`forecast.ts`) ─────────────────────┴─ share ┘
 *
 * Shares are averaged over the arrivals that are possible, as prices (`priceOf`): dropping what will be
 * missing has a high price. docs/selection.md, "How `final` decides", has the steps.
 */
import { hashedDraw } from '../../math/random.ts'
import type { Reason } from '../../record.ts'
import type { Content } from '../columns/hash-table.ts'
import { TEXT_SLOT } from '../rule/policy.ts'
import { type Budget, budgetOf } from '../rule/quotas.ts'
import { ArrivalRates, type Plan, planFor, staysSmall } from './forecast.ts'
import type { Admission, AdmissionRule, History } from './online-policy.ts'

/** The horizon where none is set, as a part of the stream. */
const AHEAD = 0.1
/** Arrivals between two plans: a twentieth of those behind and of those ahead, at most this many. */
const PLAN_EVERY = 64
const PLAN_PART = 20
/** A plan is a pass over the clusters; it may cost at most this many clusters an arrival. */
const PLAN_CLUSTERS = 16
/** A cluster that expects at most this many arrivals gets a whole number as its quota. */
const FEW = 20
/**
 * A need of r in a arrivals asks for the share (r + early) / (a + slack): slightly early, because the last
 * ones can't be chosen. It is met to within `soft` examples, or `softPart` of the level, so that noise is
 * not corrected. `priceMax` is the price of dropping an example that will be missing: (ln of the share
 * dropped)² = 39 drops 0.2 %.
 */
type Feedback = { early: number; slack: number; soft: number; softPart: number; priceMax: number }
const AT_HORIZON: Feedback = { early: 1.5, slack: 1.3, soft: 0, softPart: 0.02, priceMax: 39 }
const AT_ALL_TIMES: Feedback = { early: 0, slack: 0, soft: 2, softPart: 0, priceMax: 39 }
/**
 * After a baseline the counts begin balanced and the budget holds at all times, which leaves no room to be
 * early: steadiness comes first. The smaller the budget, the less a missing example costs.
 */
const BEHIND_BASELINE: Feedback = { early: 0.5, slack: 2, soft: 0, softPart: 0.03, priceMax: 90 }
/** How far the count may then be from the budget, as a part of it. */
const PACE_BAND = 0.009
/** Of the mean rank, over some 200 arrivals: 4 standard deviations are 0.06. */
const RANK_MEMORY = 0.005
const RANK_DOUBT = 0.06
const RANK_DISBELIEF = 0.15
/** A share from which a cluster is as good as kept whole. */
const WHOLE_SHARE = 0.99

const TIES = 1
const RANDOM = 2

type Saved = {
  popularity: ReturnType<ArrivalRates['save']>
  plan: Plan
  planAt: number
  meanRank: number
  /** Absent in states of earlier versions. */
  ending?: number
}

export class FinalRule implements AdmissionRule {
  readonly #horizonExamples: number | undefined
  readonly #budgetOf: (total: number) => number
  readonly #history: History
  readonly #behindBaseline: Feedback
  readonly #rates = new ArrivalRates()
  #plan: Plan = { level: 0, extraFrom: Infinity, ceiling: Infinity }
  /** N at which the next plan is due. */
  #planAt = 1
  #meanRank = 0.5
  /** The probability that a cluster ends all at once. */
  #ending = 0

  constructor(budget: Budget, history: History) {
    this.#horizonExamples = budget.horizonExamples
    this.#budgetOf = budgetOf(budget)
    this.#history = history
    const priceMax = -BEHIND_BASELINE.priceMax * Math.log(1 - Math.min(0.99, budget.percent / 100))
    this.#behindBaseline = { ...BEHIND_BASELINE, priceMax }
  }

  /** Whether the horizon is a fixed place, which is reached. */
  get #hasEnd(): boolean {
    return this.#horizonExamples !== undefined
  }

  get #feedback(): Feedback {
    if (!this.#hasEnd) return AT_ALL_TIMES
    return this.#history.ledger.baseline > 0 ? this.#behindBaseline : AT_HORIZON
  }

  reserve(slots: number): void {
    this.#rates.reserve(slots)
  }

  begin(): void {}

  admit(slot: number, instability: number, content: Content): Admission {
    const { ledger } = this.#history
    const total = ledger.total + 1
    const rank = this.#rank(slot, instability, content)
    this.#rates.add(slot, total + this.#history.learned.total)
    // This example counts in the size of its cluster.
    ledger.sizes[slot]!++
    if (total >= this.#planAt) this.#makePlan(total)
    const share = this.#share(slot, total)
    ledger.sizes[slot]!--
    const isKept = rank < share
    return { isKept, reason: reasonOf(isKept, share) }
  }

  /** The rank that decides; a random draw for text-only examples and where ranks are not uniform. */
  #rank(slot: number, instability: number, content: Content): number {
    const draw = hashedDraw(content, TIES)
    if (slot === TEXT_SLOT) return draw
    const rank = this.#history.sketches.rank(slot, instability, draw)
    this.#meanRank += RANK_MEMORY * (rank - this.#meanRank)
    const distance = Math.abs(this.#meanRank - 0.5)
    const trust = (RANK_DISBELIEF - distance) / (RANK_DISBELIEF - RANK_DOUBT)
    return trust >= 1 || draw < trust ? rank : hashedDraw(content, RANDOM)
  }

  /** Arrivals until the horizon, after the `total`th. */
  #ahead(total: number): number {
    const every = this.#horizonExamples
    if (every === undefined) return Math.ceil(AHEAD * total)
    const arrived = total - this.#history.ledger.baseline
    return Math.ceil(arrived / every) * every - arrived
  }

  #makePlan(total: number): void {
    const { slots, sizes, kept } = this.#history.ledger
    const { learned, sketches } = this.#history
    const rates = this.#rates
    const ahead = this.#ahead(total)
    const seen = total + learned.total
    const counts = Int32Array.from({ length: slots }, (_, i) => sizes[i]! + learned.counts[i]!)
    sketches.refresh()
    rates.fit(counts, seen)
    this.#ending = rates.turnover(counts, seen)
    const coming = new Float64Array(slots)
    for (let slot = 0; slot < slots; slot++) {
      const count = rates.effective(slot, counts[slot]!, seen)
      coming[slot] = ahead * rates.share(count, seen)
    }
    const budget = this.#budgetOf(total + ahead)
    const [gone, hasEnd] = [this.#ending, this.#hasEnd]
    this.#plan = planFor({ slots, sizes, kept, coming, ahead, budget, gone, hasEnd })
    const most = Math.max(PLAN_EVERY, slots / PLAN_CLUSTERS)
    this.#planAt = total + Math.max(1, Math.min(most, total / PLAN_PART, ahead / PLAN_PART))
  }

  /** The share of a cluster's arrivals to keep now: 0..1. */
  #share(slot: number, total: number): number {
    const { ledger, learned } = this.#history
    const { sizes, kept } = ledger
    const { level, extraFrom, ceiling } = this.#plan
    const rates = this.#rates
    const ahead = this.#ahead(total)
    const size = sizes[slot]!
    const seen = total + learned.total
    const count = rates.effective(slot, size + learned.counts[slot]!, seen)
    const coming = ahead * rates.share(count, seen)
    // Where clusters end all at once, the size of a new one does not predict its final size.
    const isSmall = this.#hasEnd && this.#ending === 0 && staysSmall(size, coming)
    if (kept[slot]! >= ceiling || isSmall) return 0
    const isFew = this.#hasEnd && coming <= FEW
    const quota = isFew ? Math.floor(level) + (size + coming >= extraFrom ? 1 : 0) : level
    const { early, slack, soft, softPart, priceMax } = this.#feedback
    const softness = soft + softPart * level
    const need = quota - kept[slot]! + softness * Math.min(1, level / (size + coming))
    if (need <= 0) return 0
    const wanted = this.#pace(total) * (need + early * Math.min(1, need))
    const scenarios = rates.scenarios(count, seen)
    let price = 0
    let weight = 0
    for (let i = 0; i < scenarios; i++) {
      const arrivals = ahead * rates.shares[i]!
      const isMissing = size + arrivals <= quota
      const asked = isMissing ? 1 : wanted / (arrivals + slack + softness)
      price += rates.weights[i]! * priceOf(asked, priceMax)
      weight += rates.weights[i]!
    }
    const mean = price / weight
    return 1 - Math.exp(-Math.sqrt(mean + this.#ending * (priceMax - mean)))
  }

  /** After a baseline: above 1 where the count is below the budget, below 1 where it is above. */
  #pace(total: number): number {
    const { baseline, keptTotal } = this.#history.ledger
    if (baseline === 0) return 1
    const budget = this.#budgetOf(total)
    const lead = (keptTotal - budget) / (PACE_BAND * budget)
    return lead < 0 ? 1 - 2 * lead : Math.max(0, 1 - lead)
  }

  save(): Saved {
    const popularity = this.#rates.save()
    const [plan, planAt] = [this.#plan, this.#planAt]
    return { popularity, plan, planAt, meanRank: this.#meanRank, ending: this.#ending }
  }

  restore(saved: unknown): void {
    const { popularity, plan, planAt, meanRank, ending = 0 } = saved as Saved
    this.#rates.restore(popularity)
    this.#plan = plan
    this.#planAt = planAt
    this.#meanRank = meanRank
    this.#ending = ending
  }
}

/** The price of dropping where `share` of the arrivals is wanted: 0 for none, up to `most`. */
function priceOf(share: number, most: number): number {
  if (share >= 1) return most
  const logarithm = Math.log(1 - share)
  return Math.min(most, logarithm * logarithm)
}

function reasonOf(isKept: boolean, share: number): Reason {
  if (!isKept) return 'over_quota'
  return share >= WHOLE_SHARE ? 'below_level' : 'within_quota'
}
