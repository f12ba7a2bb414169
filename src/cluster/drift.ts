/**
 * Has the stream moved away from what a bundle was fitted to: cluster shares against the baseline's, and
 * examples farther from their centroid than 99 % of the baseline. Over the last examples, so that it
 * reacts. Metrics only: no decision depends on it.
 *
 * Legend: K clusters; their counts have one entry more, the text-only examples.
 */
import type { Cluster } from '../record.ts'
import type { Manifest } from './bundle.ts'

/** Examples that are looked back on. */
export const WINDOW_EXAMPLES = 10_000

export type Drift = {
  /** Examples in the window. */
  examples: number
  /** Population stability index of the window against the baseline; 0 is no difference. */
  stabilityIndex: number
  /** What the index comes to where nothing has changed, of chance alone. */
  stabilityNoise: number
  /** Of examples with a cluster number, how many lie beyond their cluster's radius, 0..1. */
  beyondShare: number
}

export class DriftWindow {
  readonly #baseline: Float64Array
  readonly #radii: readonly number[] | undefined
  /** Cluster numbers of the window, K for text-only; -1 - number where it lies beyond the radius. */
  readonly #ring: Int32Array
  readonly #counts: Float64Array
  #seen = 0
  #beyond = 0

  constructor(
    { clusters, baseline, radii }: Pick<Manifest, 'clusters' | 'baseline' | 'radii'>,
    windowExamples = WINDOW_EXAMPLES,
  ) {
    this.#baseline = Float64Array.of(...baseline.sizes, baseline.textOnly)
    this.#radii = radii
    this.#ring = new Int32Array(windowExamples)
    this.#counts = new Float64Array(clusters + 1)
  }

  /** Takes one more example in, and the oldest out. `distance` is squared, as in assignments. */
  add(cluster: Cluster, distance: number | null): void {
    const at = this.#seen++ % this.#ring.length
    if (this.#seen > this.#ring.length) this.#count(this.#ring[at]!, -1)
    const number = cluster === 'text' ? this.#counts.length - 1 : cluster
    const isBeyond = distance !== null && distance > (this.#radii?.[number] ?? Infinity)
    this.#ring[at] = isBeyond ? -1 - number : number
    this.#count(this.#ring[at]!, 1)
  }

  #count(entry: number, by: 1 | -1): void {
    this.#counts[entry < 0 ? -1 - entry : entry]! += by
    if (entry < 0) this.#beyond += by
  }

  measure(): Drift {
    const examples = Math.min(this.#seen, this.#ring.length)
    const clustered = examples - this.#counts.at(-1)!
    return {
      examples,
      ...stabilityIndex(this.#baseline, this.#counts),
      beyondShare: clustered === 0 ? 0 : this.#beyond / clustered,
    }
  }
}

/** Added to every count, so that an empty cell has a logarithm (Jeffreys' prior). */
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
  const [m, n] = [total(baseline), total(counts)]
  if (m === 0 || n === 0) return { stabilityIndex: 0, stabilityNoise: 0 }
  const cells = counts.length
  let sum = 0
  for (let cell = 0; cell < cells; cell++) {
    const p = (baseline[cell]! + PRIOR_COUNT) / (m + PRIOR_COUNT * cells)
    const q = (counts[cell]! + PRIOR_COUNT) / (n + PRIOR_COUNT * cells)
    sum += (q - p) * Math.log(q / p)
  }
  return { stabilityIndex: sum, stabilityNoise: (cells - 1) * (1 / n + 1 / m) }
}

function total(counts: Float64Array): number {
  return counts.reduce((sum, count) => sum + count, 0)
}
