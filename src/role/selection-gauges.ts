/**
 * What the select role shows of its selection, by the bundle in force: its gauges, drift, and how far a shadow
 * is away. Metrics only: no decision depends on it.
 */
import type { Manifest } from '../cluster/bundle.ts'
import { DriftWindow } from '../cluster/drift.ts'
import type { Config } from '../config.ts'
import { hideSelection, type Metrics } from '../observe/metrics.ts'
import { PARTS } from '../observe/parts.ts'
import type { Budget } from '../select/quotas.ts'
import type { FoldedRecord, Selections } from './selections.ts'

/** What drift is measured by. */
export type Fitted = Pick<Manifest, 'id' | 'clusters' | 'baseline' | 'radii'>

const COMPARE_EVERY_MS = 10_000

export class SelectionGauges {
  readonly #config: Config
  readonly #metrics: Metrics
  /** Of the bundle in force, the configured one until another is known to be; begins anew with each. */
  #drift: { bundle: string; window: DriftWindow }
  #comparedAt = Number.NEGATIVE_INFINITY
  /** Nothing was folded since the shadow was compared. */
  #isCompared = false

  constructor({ config, metrics, bundle }: { config: Config; metrics: Metrics; bundle: Fitted }) {
    this.#config = config
    this.#metrics = metrics
    this.#drift = { bundle: bundle.id, window: new DriftWindow(bundle) }
  }

  /** Throws BUNDLE_INVALID, BUNDLE_ALTERED. */
  async opened(selections: Selections): Promise<void> {
    await this.#followInForce(selections)
    this.show(selections)
  }

  /** To be awaited where it is a promise: after a swap. Throws BUNDLE_INVALID, BUNDLE_ALTERED. */
  folded(selections: Selections, record: FoldedRecord): Promise<void> | undefined {
    const following = this.#followInForce(selections)
    if (following !== undefined) return following.then(() => this.#count(record))
    this.#count(record)
    return undefined
  }

  #count({ folded, seen }: FoldedRecord): void {
    if (folded.outcome !== 'assigned' || seen === undefined) return
    this.#drift.window.add(seen.cluster, seen.distance)
  }

  #followInForce(selections: Selections): Promise<void> | undefined {
    const bundle = selections.bundles.inForce
    if (bundle === null || bundle === this.#drift.bundle) return undefined
    return selections.manifest(bundle).then(manifest => {
      this.#drift = { bundle, window: new DriftWindow(manifest) }
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
    const { inForce, shadow } = selections.bundles
    this.#metrics.bundleInForce.reset()
    this.#metrics.bundleInForce.set({ bundle: inForce ?? '', shadow: shadow ?? '' }, 1)
    this.#isCompared = false
    if (shadow === null) {
      this.#comparedAt = Number.NEGATIVE_INFINITY
      this.#metrics.shadowDifference.set(0)
    } else this.compareShadow(selections)
  }

  /** At most every 10 s, and where something was folded: it is a pass over both subsets. */
  compareShadow(selections: Selections): void {
    const now = performance.now()
    if (this.#isCompared || now - this.#comparedAt < COMPARE_EVERY_MS) return
    const difference = selections.shadowDifference
    if (difference === undefined) return
    this.#comparedAt = now
    this.#isCompared = true
    this.#metrics.shadowDifference.set(difference)
  }

  /** Another member decides. */
  hide(): void {
    this.#comparedAt = Number.NEGATIVE_INFINITY
    hideSelection(this.#metrics)
  }
}

/** What share of the history the subset is to hold. */
function budgetShare({ percent, budgetExamples }: Budget, examples: number): number {
  return budgetExamples === undefined ? percent / 100 : Math.min(1, budgetExamples / examples)
}

function shareOf(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}
