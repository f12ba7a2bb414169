/** Views of the whole: the map of signatures, the drift of the stream, the shadow bundle's differences. */
import { covariance, EVD } from 'ml-matrix'
import { sum } from '../math/vectors.ts'
import { DriftWindow, stabilityIndex, WINDOW_EXAMPLES } from '../role/selection-gauges.ts'
import type { Answers } from './answers.ts'
import type { Model } from './model.ts'
import type { Drift, Shadow, TrajectoryMap } from './schemas.ts'

/** Examples of the map, the newest; and of the sample that its axes are fitted to. */
const MAP_EXAMPLES_MAX = 100_000
const FITTED_MAX = 10_000
/** Coordinates are whole numbers below it. */
const CELLS = 4_096
const MARGIN = 0.04
const FAR_MAX = 60
const SHADOW_MAX = 120
const DRIFT_CLUSTERS_MAX = 200

/** Two principal axes of signatures: they stay until there are twice as many examples. */
type Axes = {
  fittedTo: number
  mean: number[]
  directions: [number[], number[]]
  low: [number, number]
  span: [number, number]
  explained: number[]
}

export class Landscape {
  readonly #model: Model
  readonly #answers: Answers
  #axes: Axes | undefined

  constructor(model: Model, answers: Answers) {
    this.#model = model
    this.#answers = answers
  }

  /**
   * `row`, `x`, `y`, `cluster`, `state` are arrays of little-endian numbers in base64: Uint32, Uint16,
   * Uint16, Int32 and Uint8 (see `stateOf`). Only rows above `after`, with the axes of all; coordinates of
   * another `fit` cannot be compared.
   */
  map(after: number): TrajectoryMap {
    const { columns } = this.#model
    const rows: number[] = []
    for (let row = columns.count - 1; row >= 0 && rows.length < MAP_EXAMPLES_MAX; row--) {
      if (columns.hasSignature(row)) rows.push(row)
    }
    rows.reverse()
    const axes = rows.length < 3 ? undefined : this.#axesFor(rows)
    const shown = rows.filter(row => row > after)
    const [x, y] = [new Uint16Array(shown.length), new Uint16Array(shown.length)]
    if (axes !== undefined) {
      shown.forEach((row, i) => {
        const signature = columns.signature(row)!
        x[i] = cellOf(signature, axes, 0)
        y[i] = cellOf(signature, axes, 1)
      })
    }
    const cluster = Int32Array.from(shown, row => Number(columns.cluster(row)))
    const state = Uint8Array.from(shown, row => this.#stateOf(row))
    return {
      ...{
        v: 1,
        signature: this.#model.signature,
        examples: rows.length,
        fit: axes?.fittedTo ?? 0,
        explained: axes?.explained ?? [],
      },
      ...{ row: base64(Uint32Array.from(shown)), x: base64(x), y: base64(y) },
      ...{ cluster: base64(cluster), state: base64(state) },
    }
  }

  /** 0 waits, 1 kept, 2 not kept, 3 duplicate. */
  #stateOf(row: number): number {
    const { columns } = this.#model
    if (columns.action(row) === undefined) return 0
    if (columns.isCopy(row)) return 3
    return columns.isKept(row) ? 1 : 2
  }

  #axesFor(rows: readonly number[]): Axes {
    const known = this.#axes
    if (
      known !== undefined &&
      rows.length < 2 * known.fittedTo &&
      rows.length >= known.fittedTo / 2
    )
      return known
    const step = Math.max(1, Math.floor(rows.length / FITTED_MAX))
    const sample = rows
      .filter((_, i) => i % step === 0)
      .map(row => this.#model.columns.signature(row)!)
    this.#axes = { ...axesOf(sample), fittedTo: rows.length }
    return this.#axes
  }

  /** The window's shares against the baseline of the active bundle, and the examples farthest out. */
  async drift(): Promise<Drift> {
    const { active, bundles } = this.#model
    if (active === undefined) return { v: 1, examples: 0, clusters: [], far: [] }
    const { manifest } = await bundles.get(active)
    const rows = this.#window()
    const window = new DriftWindow(manifest)
    const { columns } = this.#model
    for (const row of rows) window.add(columns.cluster(row), columns.distance(row))
    return {
      ...{ v: 1, bundle: active, ...window.measure() },
      ...(manifest.radii === undefined ? { beyondShare: undefined } : {}),
      clusters: clusterDrift(window).slice(0, DRIFT_CLUSTERS_MAX),
      far: await this.#far(rows, manifest.radii),
    }
  }

  /** The newest counted examples, oldest first. */
  #window(): number[] {
    const { columns } = this.#model
    const rows: number[] = []
    for (let row = columns.count - 1; row >= 0 && rows.length < WINDOW_EXAMPLES; row--) {
      if (!columns.isCopy(row) && columns.action(row) !== undefined) rows.push(row)
    }
    return rows.reverse()
  }

  /** Beyond their cluster's radius, farthest first; of a bundle without radii those farthest out. */
  async #far(rows: readonly number[], radii: readonly number[] | undefined) {
    const { columns } = this.#model
    type Far = { row: number; far: number; times: number | null }
    const far = rows.flatMap((row): Far[] => {
      const [cluster, distance] = [columns.cluster(row), columns.distance(row)]
      if (cluster === 'text' || distance === null) return []
      if (radii === undefined) return [{ row, far: distance, times: null }]
      const times = Math.sqrt(distance / Math.max(radii[cluster]!, Number.MIN_VALUE))
      return times > 1 ? [{ row, far: times, times }] : []
    })
    far.sort((a, b) => b.far - a.far)
    const shown = far.slice(0, FAR_MAX)
    const examples = await this.#answers.rows(shown.map(({ row }) => row))
    return examples.map((example, i) => ({ ...example, times: shown[i]!.times }))
  }

  /** Examples that exactly one of the active and the shadow bundle keeps, since the shadow began. */
  async shadow(): Promise<Shadow> {
    const { shadow, shadowBundle, columns } = this.#model
    const differing = [...shadow].filter(([row, { action }]) => {
      return (action === 'keep' || action === 'restore') !== columns.isKept(row)
    })
    const newest = differing.slice(-SHADOW_MAX).reverse()
    const rows = await this.#answers.rows(newest.map(([row]) => row))
    const examples = rows.map((row, i) => ({ ...row, shadow: newest[i]![1].action }))
    return {
      v: 1,
      bundle: shadowBundle,
      differing: differing.length,
      decided: shadow.size,
      examples,
    }
  }
}

function axesOf(sample: readonly number[][]): Omit<Axes, 'fittedTo'> {
  const [first] = sample
  const length = first!.length
  const mean = Array.from(
    { length },
    (_, t) => sample.reduce((sum, s) => sum + s[t]!, 0) / sample.length,
  )
  const { realEigenvalues: values, eigenvectorMatrix: vectors } = new EVD(
    covariance(sample as number[][]),
    { assumeSymmetric: true },
  )
  const largest = values.map((_, at) => at).sort((a, b) => values[b]! - values[a]!)
  const direction = (at: number): number[] => {
    const column = largest[at]
    return column === undefined ? new Array<number>(length).fill(0) : vectors.getColumn(column)
  }
  const directions: Axes['directions'] = [direction(0), direction(1)]
  const range = (axis: 0 | 1): [low: number, span: number] => {
    const places = sample.map(scores => along(scores, mean, directions[axis])).sort((a, b) => a - b)
    // A few examples far out must not squeeze all others: they lie at the edge.
    const [low, high] = [
      places[Math.floor(0.002 * places.length)]!,
      places[Math.ceil(0.998 * places.length) - 1]!,
    ]
    const span = high - low || 1
    return [low - MARGIN * span, span * (1 + 2 * MARGIN)]
  }
  const [a, b] = [range(0), range(1)]
  const total = values.reduce((sum, value) => sum + value, 0) || 1
  const explained = largest.slice(0, 2).map(at => values[at]! / total)
  return { mean, directions, low: [a[0], b[0]], span: [a[1], b[1]], explained }
}

function along(
  scores: readonly number[],
  mean: readonly number[],
  direction: readonly number[],
): number {
  return scores.reduce((sum, score, t) => sum + (score - mean[t]!) * direction[t]!, 0)
}

function cellOf(scores: readonly number[], axes: Axes, axis: 0 | 1): number {
  const at = (along(scores, axes.mean, axes.directions[axis]) - axes.low[axis]) / axes.span[axis]
  return Math.max(0, Math.min(CELLS - 1, Math.floor(CELLS * at)))
}

function base64(values: Uint8Array | Uint16Array | Uint32Array | Int32Array): string {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('base64')
}

/** Of each cluster its share in baseline and window, and its term of the index; the largest terms first. */
function clusterDrift({ baseline, counts }: DriftWindow) {
  const [before, now] = [sum(baseline), sum(counts)]
  const rows = Array.from(counts, (count, cluster) => {
    const size = baseline[cluster]!
    // Two cells, this cluster and all others, have the index of the cluster alone.
    const pair = (part: number, all: number): Float64Array => Float64Array.of(part, all - part)
    const { stabilityIndex: index } = stabilityIndex(pair(size, before), pair(count, now))
    return {
      cluster: cluster === counts.length - 1 ? ('text' as const) : cluster,
      before: before === 0 ? 0 : size / before,
      now: now === 0 ? 0 : count / now,
      index,
    }
  })
  return rows.filter(one => one.before + one.now > 0).sort((a, b) => b.index - a.index)
}
