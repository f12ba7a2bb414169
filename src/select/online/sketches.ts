/**
 * The rank of an example's instability within its cluster, from one sketch a cluster and one of all.
 * Instabilities are counted in bins of their logarithm, 4 % wide, 256 a cluster around its first example
 * (DDSketch's bins; Masson, Rim, Lee 2019): a factor of 167 each way, 1 kB a cluster whatever its size.
 *
 * A cluster with few examples borrows the common shape: the deviations of all examples from their cluster's
 * mean logarithm, counted as `SHARED_WEIGHT` examples of its own. Its mean is shrunk towards the mean of all
 * (empirical Bayes for a normal mean).
 */
import { grown } from '../../math/vectors.ts'

const BINS = 256
const BIN_WIDTH = 0.04
const SHARED_BINS = 512
const SHARED_WEIGHT = 50
/** With no more examples than this, means and their spread are these guesses. */
const GUESS_EXAMPLES = 50
const GUESS_WITHIN = 0.36
const GUESS_BETWEEN = 0.25
const BETWEEN_MIN = 1e-4
/** Stands for an instability of 0. */
const INSTABILITY_MIN = 1e-12

export class Sketches {
  #bins = new Int32Array(BINS)
  /** Examples, and the mean of their logarithms, of each slot; the bin that is its first. */
  #counts = new Float64Array(1)
  #means = new Float64Array(1)
  #origins = new Int32Array(1)
  readonly #shared = new Float64Array(SHARED_BINS)
  /** Results of `refresh`: sums over `#shared` up to each bin; mean and variances. */
  readonly #below = new Float64Array(SHARED_BINS + 1)
  #mean = 0
  #within = GUESS_WITHIN
  #between = GUESS_BETWEEN
  #examples = 0
  #sum = 0
  #squaresWithin = 0

  reserve(slots: number): void {
    this.#counts = grown(this.#counts, slots)
    this.#means = grown(this.#means, slots)
    this.#origins = grown(this.#origins, slots)
    this.#bins = grown(this.#bins, slots * BINS)
  }

  /** The share of the cluster's examples that are steadier, 0..1; `draw` in [0, 1) decides ties. */
  rank(slot: number, instability: number, draw: number): number {
    const logarithm = Math.log(Math.max(instability, INSTABILITY_MIN))
    const count = this.#counts[slot]!
    const shared = this.#sharedRank(logarithm - this.#location(slot), draw)
    if (count === 0) return shared
    const at = slot * BINS + this.#binOf(slot, logarithm)
    let below = 0
    for (let bin = slot * BINS; bin < at; bin++) below += this.#bins[bin]!
    return (SHARED_WEIGHT * shared + below + draw * this.#bins[at]!) / (SHARED_WEIGHT + count)
  }

  #sharedRank(deviation: number, draw: number): number {
    const bin = sharedBin(deviation)
    const below = this.#below[bin]!
    const within = this.#below[bin + 1]! - below
    const all = this.#below[SHARED_BINS]!
    return (below + draw * (within + 1)) / (all + 1)
  }

  #location(slot: number): number {
    const weight = this.#counts[slot]! * this.#between
    return this.#mean + (weight / (weight + this.#within)) * (this.#means[slot]! - this.#mean)
  }

  #binOf(slot: number, logarithm: number): number {
    const bin = Math.floor(logarithm / BIN_WIDTH) - this.#origins[slot]!
    return Math.min(BINS - 1, Math.max(0, bin))
  }

  add(slot: number, instability: number): void {
    const logarithm = Math.log(Math.max(instability, INSTABILITY_MIN))
    this.#shared[sharedBin(logarithm - this.#location(slot))]!++
    if (this.#counts[slot] === 0) {
      this.#origins[slot] = Math.floor(logarithm / BIN_WIDTH) - BINS / 2
    }
    this.#bins[slot * BINS + this.#binOf(slot, logarithm)]!++
    const count = ++this.#counts[slot]!
    const deviation = logarithm - this.#means[slot]!
    this.#means[slot]! += deviation / count
    this.#squaresWithin += deviation * (logarithm - this.#means[slot]!)
    this.#examples++
    this.#sum += logarithm
  }

  /** Recomputes the common shape. A pass over the clusters. */
  refresh(): void {
    for (let bin = 0; bin < SHARED_BINS; bin++) {
      this.#below[bin + 1] = this.#below[bin]! + this.#shared[bin]!
    }
    const examples = this.#examples
    if (examples === 0) return
    this.#mean = this.#sum / examples
    if (examples <= GUESS_EXAMPLES) return
    let seen = 0
    let squaresBetween = 0
    let squaredCounts = 0
    for (const [slot, count] of this.#counts.entries()) {
      if (count === 0) continue
      seen++
      squaresBetween += count * (this.#means[slot]! - this.#mean) ** 2
      squaredCounts += count * count
    }
    this.#within = Math.max(BETWEEN_MIN, this.#squaresWithin / Math.max(1, examples - seen))
    const excess = squaresBetween - (seen - 1) * this.#within
    const divisor = examples - squaredCounts / examples
    this.#between = Math.max(BETWEEN_MIN, divisor > 0 ? excess / divisor : 0)
  }

  /** The sum of the `count` lowest instabilities of a cluster, each as the middle of its bin. */
  lowest(slot: number, count: number): number {
    let sum = 0
    let left = count
    for (let bin = 0; bin < BINS && left > 0; bin++) {
      const taken = Math.min(left, this.#bins[slot * BINS + bin]!)
      if (taken === 0) continue
      sum += taken * Math.exp((this.#origins[slot]! + bin + 0.5) * BIN_WIDTH)
      left -= taken
    }
    return sum
  }

  save() {
    return {
      bins: this.#bins,
      counts: this.#counts,
      means: this.#means,
      origins: this.#origins,
      shared: this.#shared,
      below: this.#below,
      numbers: [
        this.#mean,
        this.#within,
        this.#between,
        this.#examples,
        this.#sum,
        this.#squaresWithin,
      ],
    }
  }

  restore(saved: ReturnType<Sketches['save']>): void {
    this.#bins = saved.bins.slice()
    this.#counts = saved.counts.slice()
    this.#means = saved.means.slice()
    this.#origins = saved.origins.slice()
    this.#shared.set(saved.shared)
    this.#below.set(saved.below)
    const [mean, within, between, examples, sum, squaresWithin] = saved.numbers
    this.#mean = mean!
    this.#within = within!
    this.#between = between!
    this.#examples = examples!
    this.#sum = sum!
    this.#squaresWithin = squaresWithin!
  }
}

function sharedBin(deviation: number): number {
  const bin = Math.floor(deviation / BIN_WIDTH) + SHARED_BINS / 2
  return Math.min(SHARED_BINS - 1, Math.max(0, bin))
}
