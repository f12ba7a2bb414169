/**
 * The forecast of the `final` policy: how often each cluster will come until the horizon (`ArrivalRates`),
 * and where quotas will end (`planFor`).
 *
 * Rates. Clusters share a prior over shares of the stream: a mixture on a grid, fitted to the counts of
 * all clusters by one step of expectation-maximisation at a time (empirical Bayes, Robbins 1956). A count
 * below 16 has a posterior on that grid; a larger one a gamma posterior, by its quantiles (the cube-root
 * normal approximation, Wilson and Hilferty 1931). Rates may change: the latest arrivals are one to two
 * spans of at least 250 and a sixteenth of the stream. Where they disagree with the whole by more than
 * three standard deviations they count in its place; likewise for a cluster that only they hold, where
 * more such clusters appear than chance explains.
 *
 * Plan. The batch rule's quotas at the horizon, by water-filling over what can still be reached: a cluster
 * that keeps k and expects a more ends between k and k + a, and the level is where these ends, each as
 * near to it as it can be, add up to the budget. Clusters never seen are taken to be like those seen.
 */
import { grown } from '../../math/vectors.ts'
import { SMALL_CLUSTER_SIZE_MAX } from '../rule/quotas.ts'

const GRID_LENGTH = 40
const GRID_RATIO = 1.4
/** The largest share of the grid is all. */
const GRID_FIRST = GRID_RATIO ** (1 - GRID_LENGTH)
/** Counts below it have their posterior on the grid. */
const SMALL_COUNT = 16
/** Pseudo-counts of the prior, in clusters, a cluster. */
const PRIOR_WEIGHT = 0.02
const WEIGHT_MIN = 1e-3
/** Standard normal quantiles, one for each sixth of the probability. */
const SIXTHS = [-1.6, -0.8, -0.25, 0.25, 0.8, 1.6] as const
const SPAN_MIN = 250
const SPAN_PART = 16
const DISAGREEMENT = 9
/** Standard deviations granted to chance; how much rarer a cluster may become without being gone. */
const CHANCE = 3
const RARER = 4

const GRID = Float64Array.from({ length: GRID_LENGTH }, (_, j) => GRID_FIRST * GRID_RATIO ** j)
const GRID_LOG = GRID.map(Math.log)

export class ArrivalRates {
  /** Arrivals of each slot in the span before the current one, and in the current one. */
  #before = new Int32Array(1)
  #current = new Int32Array(1)
  /** Arrivals in all when the span before, and the current one, began. */
  #beforeFrom = 0
  #currentFrom = 0
  /** Whether clusters that came only lately are new, and not rare ones that were due some time. */
  #areAppearing = false
  readonly #prior = new Float64Array(GRID_LENGTH).fill(1 / GRID_LENGTH)
  /** Expected share of a cluster by its count. */
  readonly #expected = new Float64Array(SMALL_COUNT)
  /** Posterior weights by count, [SMALL_COUNT, GRID_LENGTH]. */
  readonly #posterior = new Float64Array(SMALL_COUNT * GRID_LENGTH)
  /** The result of `scenarios`: shares of the stream and their probabilities. */
  readonly shares = new Float64Array(GRID_LENGTH)
  readonly weights = new Float64Array(GRID_LENGTH)

  reserve(slots: number): void {
    this.#before = grown(this.#before, slots)
    this.#current = grown(this.#current, slots)
  }

  /** One more arrival in `slot`, the `total`th of all. */
  add(slot: number, total: number): void {
    if (total - this.#currentFrom > Math.max(SPAN_MIN, total / SPAN_PART)) {
      this.#before = this.#current
      this.#current = new Int32Array(this.#before.length)
      this.#beforeFrom = this.#currentFrom
      this.#currentFrom = total - 1
    }
    this.#current[slot]!++
  }

  /** The count, out of `total` arrivals, that predicts what will come. */
  effective(slot: number, count: number, total: number): number {
    const span = total - this.#beforeFrom
    if (span >= total) return count
    const recent = this.#before[slot]! + this.#current[slot]!
    const expected = (count * span) / total
    const isNew = this.#areAppearing && recent === count
    const isChanged = isNew || (recent - expected) ** 2 > DISAGREEMENT * Math.max(expected, 1)
    return isChanged ? Math.round((recent * total) / span) : count
  }

  /**
   * Compares the latest arrivals with the earlier ones. Notes whether more clusters appeared than chance
   * explains, and returns the share of the earlier clusters that are gone: how likely one that comes now is
   * to end all at once.
   */
  turnover(counts: Int32Array, total: number): number {
    const part = (total - this.#beforeFrom) / total
    this.#areAppearing = false
    if (part >= 1) return 0
    const fresh = { found: 0, expected: 0, variance: 0 }
    const gone = { found: 0, expected: 0, variance: 0 }
    let earlier = 0
    counts.forEach((count, slot) => {
      if (count === 0) return
      const recent = this.#before[slot]! + this.#current[slot]!
      tally(fresh, recent === count, part ** count)
      if (recent === count) return
      earlier++
      tally(gone, recent === 0, (1 - part) ** (count / RARER))
    })
    this.#areAppearing = excessOf(fresh) > 0
    const excess = excessOf(gone)
    return excess === 0 ? 0 : excess / (earlier - gone.expected)
  }

  /** Fits the prior, one step, to the counts of all clusters after `total` arrivals. */
  fit(counts: Int32Array, total: number): void {
    const small = new Float64Array(SMALL_COUNT)
    const found = new Float64Array(GRID_LENGTH).fill((PRIOR_WEIGHT * counts.length) / GRID_LENGTH)
    for (const count of counts) {
      if (count < SMALL_COUNT) small[count]!++
      else found[nearestOnGrid(count / total)]!++
    }
    for (let count = 0; count < SMALL_COUNT; count++) {
      this.#fitPosterior(count, total)
      const weight = small[count]!
      const row = count * GRID_LENGTH
      for (let j = 0; j < GRID_LENGTH; j++) found[j]! += weight * this.#posterior[row + j]!
    }
    const sum = found.reduce((a, b) => a + b, 0)
    for (let j = 0; j < GRID_LENGTH; j++) this.#prior[j] = found[j]! / sum
  }

  #fitPosterior(count: number, total: number): void {
    const posterior = this.#posterior
    const row = count * GRID_LENGTH
    let most = Number.NEGATIVE_INFINITY
    for (let j = 0; j < GRID_LENGTH; j++) {
      const likelihood = Math.log(this.#prior[j]!) - GRID[j]! * total + count * GRID_LOG[j]!
      posterior[row + j] = likelihood
      if (likelihood > most) most = likelihood
    }
    let sum = 0
    for (let j = 0; j < GRID_LENGTH; j++) {
      posterior[row + j] = Math.exp(posterior[row + j]! - most)
      sum += posterior[row + j]!
    }
    let expected = 0
    for (let j = 0; j < GRID_LENGTH; j++) {
      posterior[row + j]! /= sum
      expected += posterior[row + j]! * GRID[j]!
    }
    this.#expected[count] = expected
  }

  /** Expected share of the stream of a cluster that came `count` times in `total`. */
  share(count: number, total: number): number {
    return count < SMALL_COUNT ? this.#expected[count]! : count / total
  }

  /** Fills `shares` and `weights` with the cluster's possible shares. Returns how many. */
  scenarios(count: number, total: number): number {
    if (count >= SMALL_COUNT) return this.#quantiles(count, total)
    let length = 0
    for (let j = 0; j < GRID_LENGTH; j++) {
      const weight = this.#posterior[count * GRID_LENGTH + j]!
      if (weight < WEIGHT_MIN) continue
      this.shares[length] = GRID[j]!
      this.weights[length++] = weight
    }
    return length
  }

  #quantiles(count: number, total: number): number {
    const variance = 1 / count
    const deviation = Math.sqrt(variance) / 3
    SIXTHS.forEach((quantile, index) => {
      const root = Math.max(0, 1 - variance / 9 + quantile * deviation)
      this.shares[index] = (count / total) * root * root * root
      this.weights[index] = 1 / SIXTHS.length
    })
    return SIXTHS.length
  }

  save() {
    return {
      before: this.#before,
      current: this.#current,
      from: [this.#beforeFrom, this.#currentFrom],
      areAppearing: this.#areAppearing,
      prior: this.#prior,
      expected: this.#expected,
      posterior: this.#posterior,
    }
  }

  restore(saved: ReturnType<ArrivalRates['save']>): void {
    this.#before = saved.before.slice()
    this.#current = saved.current.slice()
    this.#beforeFrom = saved.from[0]!
    this.#currentFrom = saved.from[1]!
    // Absent in states of earlier versions.
    this.#areAppearing = saved.areAppearing ?? false
    this.#prior.set(saved.prior)
    this.#expected.set(saved.expected)
    this.#posterior.set(saved.posterior)
  }
}

type Tally = { found: number; expected: number; variance: number }

function tally(to: Tally, isFound: boolean, chance: number): void {
  if (isFound) to.found++
  to.expected += chance
  to.variance += chance * (1 - chance)
}

/** How many more were found than expected; 0 where that may be chance. */
function excessOf({ found, expected, variance }: Tally): number {
  const excess = found - expected
  return excess > CHANCE * Math.sqrt(variance) ? excess : 0
}

function nearestOnGrid(share: number): number {
  const at = Math.round(Math.log(share / GRID_FIRST) / Math.log(GRID_RATIO))
  return Math.min(GRID_LENGTH - 1, Math.max(0, at))
}

/* The plan. */

export type Forecast = {
  /** Clusters: slots 0..slots-1 of the arrays. */
  slots: number
  sizes: Int32Array
  kept: Int32Array
  /** Arrivals expected of each until the horizon. */
  coming: Float64Array
  /** All arrivals until the horizon. */
  ahead: number
  /** n at the horizon. */
  budget: number
  /** The share of the clusters seen that are gone. */
  gone: number
  /** Whether the horizon is a fixed place, at which quotas go to clusters by their size there. */
  hasEnd: boolean
}

export type Plan = {
  /** The water-filling level at the horizon; its fraction is the share of clusters that give one more. */
  level: number
  /** The final size from which a cluster gives one more than the level's whole part. */
  extraFrom: number
  /** No cluster is filled above it while clusters never seen may still come. */
  ceiling: number
}

const STEPS = 30
/** A small cluster that expects fewer arrivals stays too small to give any. */
const HARDLY = 0.5
const EPSILON = 1e-6

export function planFor(forecast: Forecast): Plan {
  const { ahead, gone } = forecast
  const { unseen, part, hasSeen } = countUnseen(forecast)
  const level = levelIf(forecast, unseen, ahead * gone)
  const cautious = levelIf(forecast, unseen, ahead * (gone + (1 - gone) * part))
  // With text-only arrivals alone, nothing says what numbered clusters would be like, or that any come.
  const isOpen = unseen === 0 || !hasSeen
  const ceiling = isOpen ? Infinity : Math.max(1, Math.ceil(cautious + EPSILON))
  return { level, extraFrom: extraFrom(forecast, level), ceiling }
}

/** The level if clusters never seen got `mass` of the arrivals to come. */
function levelIf(forecast: Forecast, unseen: number, mass: number): number {
  const have = unseen === 0 ? 0 : mass
  return levelOf(have === 0 ? forecast : displaced(forecast, have), unseen, have)
}

/** The largest level that spends no more than the budget, if `unseen` clusters took `mass` between them. */
function levelOf(forecast: Forecast, unseen: number, mass: number): number {
  let low = 0
  let high = forecast.budget + 1
  for (let step = 0; step < STEPS; step++) {
    const middle = (low + high) / 2
    const taken = mass === 0 ? 0 : Math.min(unseen * takenByUnseen(forecast, middle), mass)
    const spent = spentAt(forecast, middle) + taken
    if (spent < forecast.budget) low = middle
    else high = middle
  }
  return low
}

function spentAt({ slots, sizes, kept, coming, hasEnd }: Forecast, level: number): number {
  let spent = 0
  for (let slot = 0; slot < slots; slot++) {
    const k = kept[slot]!
    const more = coming[slot]!
    spent += k
    if (level <= k || (hasEnd && staysSmall(sizes[slot]!, more))) continue
    spent += Math.min(level - k, more)
  }
  return spent
}

/** The forecast of the seen clusters if others got `mass` of the arrivals. */
function displaced(forecast: Forecast, mass: number): Forecast {
  const expected = forecast.coming.reduce((a, b) => a + b, 0)
  const left = expected === 0 ? 0 : Math.min(1, (forecast.ahead - mass) / expected)
  return { ...forecast, coming: forecast.coming.map(more => left * more) }
}

/** What a cluster never seen would give if it became like the seen ones: as gone ones were, else as the others will be. */
function takenByUnseen({ slots, sizes, coming, gone }: Forecast, level: number): number {
  let [seen, taken] = [0, 0]
  for (let slot = 1; slot < slots; slot++) {
    if (sizes[slot] === 0) continue
    seen++
    taken += Math.min(level, gone * sizes[slot]! + (1 - gone) * coming[slot]!)
  }
  return seen === 0 ? level : taken / seen
}

/** Whether the cluster will give nothing to the batch rule. */
export function staysSmall(size: number, coming: number): boolean {
  return size <= SMALL_CLUSTER_SIZE_MAX && coming < HARDLY
}

/** Numbered clusters never seen: how many, their part of all, and whether any other has been seen. */
function countUnseen({ slots, sizes }: Forecast) {
  let unseen = 0
  for (let slot = 1; slot < slots; slot++) if (sizes[slot] === 0) unseen++
  const all = slots - 1
  return { unseen, part: unseen / Math.max(1, all), hasSeen: unseen < all }
}

/** The batch rule gives the remainder to its largest clusters. */
function extraFrom({ slots, sizes, coming }: Forecast, level: number): number {
  const whole = Math.floor(level)
  const finalSizes = Float64Array.from({ length: slots }, (_, slot) => sizes[slot]! + coming[slot]!)
  const capped = finalSizes.filter(size => size > whole + 0.5).sort()
  const extra = Math.round((level - whole) * capped.length)
  return extra === 0 ? Infinity : capped[capped.length - extra]!
}
