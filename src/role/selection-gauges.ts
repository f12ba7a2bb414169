/**
 * The gauges of the active selection, and the drift of the stream from the data that its bundle was fitted
 * to. Metrics only: no decision depends on them.
 */
import type { Manifest } from '../bundle/bundle.ts'
import type { Config } from '../config.ts'
import { shareOf, sum } from '../math/vectors.ts'
import { hideSelection, type Metrics } from '../observe/metrics.ts'
import { PARTS } from '../observe/segments.ts'
import type { Cluster } from '../record.ts'
import type { Budget } from '../select/rule/quotas.ts'
import type { FoldedRecord, Selections } from './bundle-swap.ts'

type DriftBaseline = Pick<Manifest, 'clusters' | 'baseline' | 'radii'>
export type GaugeBundle = DriftBaseline & Pick<Manifest, 'id'>

const COMPARE_EVERY_MS = 10_000

export class SelectionGauges {
  readonly #config: Config
  readonly #metrics: Metrics
  /** For the active bundle, or the configured one until another is active; each starts a new window. */
  #drift: { bundle: string; window: DriftWindow }
  #comparedAt = Number.NEGATIVE_INFINITY
  /** Whether nothing was folded since the shadow was compared. */
  #isCompared = false

  constructor({
    config,
    metrics,
    bundle,
  }: { config: Config; metrics: Metrics; bundle: GaugeBundle }) {
    this.#config = config
    this.#metrics = metrics
    this.#drift = { bundle: bundle.id, window: new DriftWindow(bundle) }
  }

  /** Throws BUNDLE_INVALID, BUNDLE_ALTERED. */
  async opened(selections: Selections): Promise<void> {
    await this.#followActive(selections)
    this.show(selections)
  }

  /** Returns a promise after a swap. Throws BUNDLE_INVALID, BUNDLE_ALTERED. */
  folded(selections: Selections, record: FoldedRecord): Promise<void> | undefined {
    const following = this.#followActive(selections)
    if (following !== undefined) return following.then(() => this.#count(record))
    this.#count(record)
    return undefined
  }

  #count({ folded, assignment }: FoldedRecord): void {
    if (folded.outcome !== 'assigned' || assignment === undefined) return
    this.#drift.window.add(assignment.cluster, assignment.distance)
  }

  #followActive(selections: Selections): Promise<void> | undefined {
    const { active } = selections.bundles
    if (active === null || active === this.#drift.bundle) return undefined
    return selections.bundle(active).then(({ manifest }) => {
      this.#drift = { bundle: active, window: new DriftWindow(manifest) }
    })
  }

  show(selections: Selections): void {
    const metrics = this.#metrics
    const { state } = selections
    metrics.subset.set(state.kept)
    metrics.history.set(state.examples)
    for (const part of PARTS) {
      const { examples, kept } = state.parts[part]
      metrics.parts.set({ part, state: 'kept' }, kept)
      metrics.parts.set({ part, state: 'not_kept' }, examples - kept)
    }
    metrics.pending.set(state.pending)
    metrics.budget.set(budgetShare(this.#config.select, state.examples))
    const { examples, stabilityIndex, stabilityNoise, beyondShare } = this.#drift.window.measure()
    metrics.driftWindow.set(examples)
    metrics.driftStability.set(stabilityIndex)
    metrics.driftNoise.set(stabilityNoise)
    metrics.driftBeyond.set(beyondShare)
    metrics.redundant.set(shareOf(state.duplicates, state.duplicates + state.examples))
    this.#showBundles(selections)
  }

  #showBundles(selections: Selections): void {
    const { active, shadow } = selections.bundles
    this.#metrics.bundleInForce.reset()
    this.#metrics.bundleInForce.set({ bundle: active ?? '', shadow: shadow ?? '' }, 1)
    this.#isCompared = false
    if (shadow === null) {
      this.#comparedAt = Number.NEGATIVE_INFINITY
      this.#metrics.shadowDifference.set(0)
    } else this.compareShadow(selections)
  }

  /** A pass over both subsets: at most every 10 s, and only after something was folded. */
  compareShadow(selections: Selections): void {
    const now = performance.now()
    if (this.#isCompared || now - this.#comparedAt < COMPARE_EVERY_MS) return
    const difference = selections.shadowDifference
    if (difference === undefined) return
    this.#comparedAt = now
    this.#isCompared = true
    this.#metrics.shadowDifference.set(difference)
  }

  /** For a member that stands by. */
  hide(): void {
    this.#comparedAt = Number.NEGATIVE_INFINITY
    hideSelection(this.#metrics)
  }
}

/** The share of the history that the budget allows. */
function budgetShare({ percent, budgetExamples }: Budget, examples: number): number {
  return budgetExamples === undefined ? percent / 100 : Math.min(1, budgetExamples / examples)
}

/* Drift. Legend: K clusters; their counts have one entry more, for text-only examples. */

export const WINDOW_EXAMPLES = 10_000

export type Drift = {
  /** Examples in the window. */
  examples: number
  /** Population stability index of the window against the baseline; 0 is no difference. */
  stabilityIndex: number
  /** The index that chance alone gives where nothing has changed. */
  stabilityNoise: number
  /** Share of numbered examples beyond their cluster's radius, 0..1. */
  beyondShare: number
}

export class DriftWindow {
  /** Examples by cluster number, K for text-only: of the baseline, and of the window. */
  readonly baseline: Float64Array
  readonly counts: Float64Array
  readonly #radii: readonly number[] | undefined
  /** Cluster numbers of the window, K for text-only; -1 - number where it lies beyond the radius. */
  readonly #ring: Int32Array
  #seen = 0
  #beyond = 0

  constructor({ clusters, baseline, radii }: DriftBaseline, windowExamples = WINDOW_EXAMPLES) {
    this.baseline = Float64Array.from([...baseline.sizes, baseline.textOnly])
    this.#radii = radii
    this.#ring = new Int32Array(windowExamples)
    this.counts = new Float64Array(clusters + 1)
  }

  /** Replaces the oldest example of the window. `distance` is squared, as in assignments. */
  add(cluster: Cluster, distance: number | null): void {
    const at = this.#seen++ % this.#ring.length
    if (this.#seen > this.#ring.length) this.#count(this.#ring[at]!, -1)
    const number = cluster === 'text' ? this.counts.length - 1 : cluster
    const isBeyond = distance !== null && distance > (this.#radii?.[number] ?? Infinity)
    this.#ring[at] = isBeyond ? -1 - number : number
    this.#count(this.#ring[at]!, 1)
  }

  #count(entry: number, by: 1 | -1): void {
    this.counts[entry < 0 ? -1 - entry : entry]! += by
    if (entry < 0) this.#beyond += by
  }

  measure(): Drift {
    const examples = Math.min(this.#seen, this.#ring.length)
    const clustered = examples - this.counts.at(-1)!
    return {
      examples,
      ...stabilityIndex(this.baseline, this.counts),
      beyondShare: clustered === 0 ? 0 : this.#beyond / clustered,
    }
  }
}

/** Added to every count, so that an empty cell has a finite logarithm (Jeffreys' prior). */
const PRIOR_COUNT = 0.5

/**
 * The population stability index Σ (q - p) ln(q / p) of the shares q of `counts` against the shares p of
 * `baseline`. Counts of n and m examples from the same distribution over B cells give (B - 1)(1/n + 1/m)
 * on average (Yurdakul and Naranjo 2020), which is `stabilityNoise`. Both are 0 where either is empty.
 */
export function stabilityIndex(
  baseline: Float64Array,
  counts: Float64Array,
): { stabilityIndex: number; stabilityNoise: number } {
  const [m, n] = [sum(baseline), sum(counts)]
  if (m === 0 || n === 0) return { stabilityIndex: 0, stabilityNoise: 0 }
  const cells = counts.length
  let index = 0
  for (let cell = 0; cell < cells; cell++) {
    const p = (baseline[cell]! + PRIOR_COUNT) / (m + PRIOR_COUNT * cells)
    const q = (counts[cell]! + PRIOR_COUNT) / (n + PRIOR_COUNT * cells)
    index += (q - p) * Math.log(q / p)
  }
  return { stabilityIndex: index, stabilityNoise: (cells - 1) * (1 / n + 1 / m) }
}
