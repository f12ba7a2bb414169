/**
 * The `final` policy: keep or drop on arrival, for good, so that at the horizon the subset is as near as it
 * can be to the batch rule's over the whole history: the same counts, the same steadiest examples.
 *
 *   arrival ─► rank among its cluster (`sketches.ts`) ──────────────────────────► kept where rank < share
 *          └─► what its cluster will have by the horizon (`popularity.ts`) ─┐        ▲
 *              where quotas will end (`plan.ts`) ───────────────────────────┴─ share ┘
 *
 * The horizon is the next multiple of `horizonExamples`, or, without one, always a tenth of the stream away.
 *
 * The share. A cluster that needs r more of a arrivals keeps about r / a of them: that is the feedback, and all
 * there is to it where a is known. It is not: a cluster that came rarely may end below the level, and then
 * whatever was dropped is missing. So shares are averaged over what a may be, as prices (`priceOf`): the price
 * of dropping what will be missing is high, and the higher the more clusters end all at once.
 * `docs/selection.md` has the derivation and the figures.
 *
 * Guard rails: no cluster is filled above what it would have if the ones never seen came too; where ranks are no
 * longer uniform (a stream sorted by instability) they say nothing, and a draw decides instead.
 */
import { hashedDraw } from '../random.ts'
import type { Reason } from '../record.ts'
import type { Content } from './duplicates.ts'
import type { History, Judge, Verdict } from './irrevocable.ts'
import { TEXT_SLOT } from './level.ts'
import { type Plan, planFor, staysSmall } from './plan.ts'
import { Popularity } from './popularity.ts'
import { type Budget, budgetOf } from './quotas.ts'

/** Without a horizon: how far ahead, as a part of the stream. */
const AHEAD = 0.1
/** Arrivals between two plans: a twentieth of those behind, of those ahead, at most this many. */
const PLAN_EVERY = 64
const PLAN_PART = 20
/** A plan is a pass over the clusters: at most so many clusters an arrival. */
const PLAN_CLUSTERS = 16
/** Where the rest is counted in few arrivals, quotas are whole numbers. */
const FEW = 20
/**
 * A need of r in a arrivals asks for the share (r + early) / (a + slack): a little early, for the last ones can't be
 * chosen. And it is met to within `soft` examples, or that part of the level: chance is not chased to the last one.
 * `priceMax`: of dropping what will be missing; (ln of the share dropped)² = 39 is a share of 0.2 %.
 */
type Control = { early: number; slack: number; soft: number; softPart: number; priceMax: number }
const AT_HORIZON: Control = { early: 1.5, slack: 1.3, soft: 0, softPart: 0.02, priceMax: 39 }
const AT_ALL_TIMES: Control = { early: 0, slack: 0, soft: 2, softPart: 0, priceMax: 39 }
/**
 * Behind a baseline counts begin balanced and the budget is kept to at all times, which leaves no room to be
 * early: steadiness comes first. The smaller the budget, the less a missing one is worth against a steady one.
 */
const BEHIND_BASELINE: Control = { early: 0.5, slack: 2, soft: 0, softPart: 0.03, priceMax: 90 }
/** How far the count may stray from the budget there, as a part of it. */
const PACE_BAND = 0.009
/** Of the mean rank, over some 200 arrivals: 4 standard deviations are 0.06. */
const RANK_MEMORY = 0.005
const RANK_DOUBT = 0.06
const RANK_DISBELIEF = 0.15
/** A share from which a cluster is as good as kept whole. */
const WHOLE_SHARE = 0.99

const TIES = 1
const LOTS = 2

type Saved = {
  popularity: ReturnType<Popularity['save']>
  plan: Plan
  planAt: number
  meanRank: number
  /** Absent in states of earlier versions. */
  ending?: number
}

export class FinalJudge implements Judge {
  readonly #horizonExamples: number | undefined
  readonly #budgetOf: (total: number) => number
  readonly #history: History
  readonly #behindBaseline: Control
  readonly #popularity = new Popularity(1)
  #plan: Plan = { level: 0, extraFrom: Infinity, ceiling: Infinity }
  /** N at which the next plan is due. */
  #planAt = 1
  #meanRank = 0.5
  /** How likely a cluster is to end all at once. */
  #ending = 0

  constructor(budget: Budget, history: History) {
    this.#horizonExamples = budget.horizonExamples
    this.#budgetOf = budgetOf(budget)
    this.#history = history
    const priceMax = -BEHIND_BASELINE.priceMax * Math.log(1 - Math.min(0.99, budget.percent / 100))
    this.#behindBaseline = { ...BEHIND_BASELINE, priceMax }
  }

  /** Whether the horizon is a place that is reached, and not always ahead. */
  get #hasEnd(): boolean {
    return this.#horizonExamples !== undefined
  }

  get #control(): Control {
    if (!this.#hasEnd) return AT_ALL_TIMES
    return this.#history.ledger.baseline > 0 ? this.#behindBaseline : AT_HORIZON
  }

  reserve(slots: number): void {
    this.#popularity.reserve(slots)
  }

  begin(): void {}

  judge(slot: number, instability: number, content: Content): Verdict {
    const { ledger } = this.#history
    const total = ledger.total + 1
    const rank = this.#rank(slot, instability, content)
    this.#popularity.add(slot, total + this.#history.learned.total)
    // The example in hand counts while its cluster is looked at.
    ledger.sizes[slot]!++
    if (total >= this.#planAt) this.#makePlan(total)
    const share = this.#share(slot, total)
    ledger.sizes[slot]!--
    const isKept = rank < share
    return { isKept, reason: reasonOf(isKept, share) }
  }

  /** The rank that decides; a draw where ranks have lost their meaning, or there is none. */
  #rank(slot: number, instability: number, content: Content): number {
    const draw = hashedDraw(content, TIES)
    if (slot === TEXT_SLOT) return draw
    const rank = this.#history.sketches.rank(slot, instability, draw)
    this.#meanRank += RANK_MEMORY * (rank - this.#meanRank)
    const distance = Math.abs(this.#meanRank - 0.5)
    const trust = (RANK_DISBELIEF - distance) / (RANK_DISBELIEF - RANK_DOUBT)
    return trust >= 1 || draw < trust ? rank : hashedDraw(content, LOTS)
  }

  /** Arrivals until the horizon, when the `total`th is in hand. */
  #ahead(total: number): number {
    const every = this.#horizonExamples
    if (every === undefined) return Math.ceil(AHEAD * total)
    const arrived = total - this.#history.ledger.baseline
    return Math.ceil(arrived / every) * every - arrived
  }

  #makePlan(total: number): void {
    const { slots, sizes, kept } = this.#history.ledger
    const { learned, sketches } = this.#history
    const popularity = this.#popularity
    const ahead = this.#ahead(total)
    const seen = total + learned.total
    const counts = Int32Array.from({ length: slots }, (_, i) => sizes[i]! + learned.counts[i]!)
    sketches.refresh()
    popularity.fit(counts, seen)
    this.#ending = popularity.turnover(counts, seen)
    const coming = new Float64Array(slots)
    for (let slot = 0; slot < slots; slot++) {
      const count = popularity.effective(slot, counts[slot]!, seen)
      coming[slot] = ahead * popularity.share(count, seen)
    }
    const budget = this.#budgetOf(total + ahead)
    const [gone, hasEnd] = [this.#ending, this.#hasEnd]
    this.#plan = planFor({ slots, sizes, kept, coming, ahead, budget, gone, hasEnd })
    const most = Math.max(PLAN_EVERY, slots / PLAN_CLUSTERS)
    this.#planAt = total + Math.max(1, Math.min(most, total / PLAN_PART, ahead / PLAN_PART))
  }

  /** The share of a cluster's arrivals that is to be kept now: 0..1. */
  #share(slot: number, total: number): number {
    const { ledger, learned } = this.#history
    const { sizes, kept } = ledger
    const { level, extraFrom, ceiling } = this.#plan
    const popularity = this.#popularity
    const ahead = this.#ahead(total)
    const size = sizes[slot]!
    const seen = total + learned.total
    const count = popularity.effective(slot, size + learned.counts[slot]!, seen)
    const coming = ahead * popularity.share(count, seen)
    // Where clusters end all at once, one that has just begun says nothing of how large it will be.
    const isSmall = this.#hasEnd && this.#ending === 0 && staysSmall(size, coming)
    if (kept[slot]! >= ceiling || isSmall) return 0
    const isFew = this.#hasEnd && coming <= FEW
    const quota = isFew ? Math.floor(level) + (size + coming >= extraFrom ? 1 : 0) : level
    const { early, slack, soft, softPart, priceMax } = this.#control
    const softness = soft + softPart * level
    const need = quota - kept[slot]! + softness * Math.min(1, level / (size + coming))
    if (need <= 0) return 0
    const wanted = this.#pace(total) * (need + early * Math.min(1, need))
    const scenarios = popularity.scenarios(count, seen)
    let price = 0
    let weight = 0
    for (let i = 0; i < scenarios; i++) {
      const arrivals = ahead * popularity.shares[i]!
      const isMissing = size + arrivals <= quota
      const asked = isMissing ? 1 : wanted / (arrivals + slack + softness)
      price += popularity.weights[i]! * priceOf(asked, priceMax)
      weight += popularity.weights[i]!
    }
    const mean = price / weight
    return 1 - Math.exp(-Math.sqrt(mean + this.#ending * (priceMax - mean)))
  }

  /** Above 1 where the count lags behind the budget, below 1 where it leads, behind a baseline. */
  #pace(total: number): number {
    const { baseline, keptTotal } = this.#history.ledger
    if (baseline === 0) return 1
    const budget = this.#budgetOf(total)
    const lead = (keptTotal - budget) / (PACE_BAND * budget)
    return lead < 0 ? 1 - 2 * lead : Math.max(0, 1 - lead)
  }

  save(): Saved {
    const popularity = this.#popularity.save()
    const [plan, planAt] = [this.#plan, this.#planAt]
    return { popularity, plan, planAt, meanRank: this.#meanRank, ending: this.#ending }
  }

  restore(saved: unknown): void {
    const { popularity, plan, planAt, meanRank, ending = 0 } = saved as Saved
    this.#popularity.restore(popularity)
    this.#plan = plan
    this.#planAt = planAt
    this.#meanRank = meanRank
    this.#ending = ending
  }
}

/** How dear it is to drop where `share` of what comes is wanted: from 0 for none to `most`. */
function priceOf(share: number, most: number): number {
  if (share >= 1) return most
  const logarithm = Math.log(1 - share)
  return Math.min(most, logarithm * logarithm)
}

function reasonOf(isKept: boolean, share: number): Reason {
  if (!isKept) return 'over_quota'
  return share >= WHOLE_SHARE ? 'below_level' : 'within_quota'
}
