/**
 * How popular each cluster is: from how often it came, how often will it come? Clusters share a prior over
 * shares of the stream: a mixture on a grid that one step of expectation-maximisation fits at a time to
 * the counts of all clusters (an empirical Bayes estimate, after Robbins 1956). A count below 16 has a
 * posterior on that grid; a larger one says enough by itself: a gamma posterior, by its quantiles (the
 * cube-root normal approximation, Wilson and Hilferty 1931).
 *
 * Popularity may change. Where the latest arrivals, one to two spans of at least 250 and a sixteenth of
 * the stream, disagree with the whole by more than three standard deviations, they count instead; so they do of
 * a cluster that they alone hold, where more such appear than chance explains.
 */
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
/** Standard deviations that chance is granted, and how much rarer clusters may have become without being gone. */
const CHANCE = 3
const RARER = 4

const GRID = Float64Array.from({ length: GRID_LENGTH }, (_, j) => GRID_FIRST * GRID_RATIO ** j)
const GRID_LOG = GRID.map(Math.log)

export class Popularity {
  /** Arrivals of each slot in the span before the current one, and in the current one. */
  #before: Int32Array
  #current: Int32Array
  /** Arrivals in all when the span before, and the current one, began. */
  #beforeFrom = 0
  #currentFrom = 0
  /** Whether clusters that came of late alone are new, and not rare ones that were to be found some time. */
  #areAppearing = false
  readonly #prior = new Float64Array(GRID_LENGTH).fill(1 / GRID_LENGTH)
  /** Expected share of a cluster by its count. */
  readonly #expected = new Float64Array(SMALL_COUNT)
  /** Posterior weights by count, [SMALL_COUNT, GRID_LENGTH]. */
  readonly #posterior = new Float64Array(SMALL_COUNT * GRID_LENGTH)
  /** What `scenarios` found: shares of the stream and their probabilities, `length` of them. */
  readonly shares = new Float64Array(GRID_LENGTH)
  readonly weights = new Float64Array(GRID_LENGTH)

  constructor(slots: number) {
    this.#before = new Int32Array(slots)
    this.#current = new Int32Array(slots)
  }

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

  /** The count of `total` arrivals that speaks for what is to come. */
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
   * Compares the latest arrivals with the earlier ones, as clusters come and go. Notes whether more appeared of late
   * than chance would have it, and returns the share of the earlier ones that are gone: it says how likely one that
   * comes now is to end all at once.
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

  /** Fills `shares` and `weights` with what the cluster's share may be. Returns how many. */
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

  restore(saved: ReturnType<Popularity['save']>): void {
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

/** How many more were found than expected; none where that may be chance. */
function excessOf({ found, expected, variance }: Tally): number {
  const excess = found - expected
  return excess > CHANCE * Math.sqrt(variance) ? excess : 0
}

function nearestOnGrid(share: number): number {
  const at = Math.round(Math.log(share / GRID_FIRST) / Math.log(GRID_RATIO))
  return Math.min(GRID_LENGTH - 1, Math.max(0, at))
}

function grown(values: Int32Array, length: number): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(length)
  larger.set(values)
  return larger
}
