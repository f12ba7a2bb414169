/**
 * What `fit` learns of a history about near-duplicates: radii that a given share of its examples would
 * not keep. Samples bound the work; the same history and seed give the same.
 *
 * Legend: N examples, A axes of pictures, D dimensions of a state.
 */
import { EigenvalueDecomposition, Matrix } from 'ml-matrix'
import { decodeDirection, unitOf } from '../direction.ts'
import { LAYOUT_VALUES } from '../ingest/layout.ts'
import { permutation, seededRandom } from '../random.ts'
import { percentile } from './fit.ts'
import type { Points } from './kmeans.ts'
import {
  farthestPicture,
  type Layouts,
  type Nearness,
  readLayouts,
  stateDistance,
  stateOf,
} from './nearness.ts'
import { learnStandardisation } from './signature.ts'
import type { Likeness } from './trajectories.ts'

/** What is learned of: examples that have an image [N]. */
export type History = { trajectories: Points; likeness: readonly Likeness[] }

/** Nearer is what re-encoding, resizing and brightening do to any picture; nothing is learned of that. */
export const LAYOUT_RADIUS_MIN = 0.1
/** Farther are other pictures of the same things. */
export const LAYOUT_RADIUS_MAX = 0.35
/** Bits of a picture's code: a million pictures fall into cells of some ten each. */
const LAYOUT_AXES = 20
const QUERIES_MAX = 2_000
const OTHERS_MAX = 20_000
/** Fewer neighbours say nothing of a percentile. */
const NEIGHBOURS_MIN = 100

/**
 * `share` [0..1] of the examples may have another one within a radius. The history is taken to hold each
 * example once: what is nearer than `LAYOUT_RADIUS_MIN` with the same words is left out.
 *
 * @throws RangeError on no examples, or embeddings of different lengths
 */
export function learnNearness(
  { trajectories, likeness }: History,
  { share, seed }: { share: number; seed: number },
): Nearness {
  const order = permutation(seededRandom(seed), likeness.length)
  const layouts = likeness.map(({ layout }) => readLayouts(layout)!)
  const layoutRadius = learnLayoutRadius(likeness, layouts, order, share)
  const sampled = order.slice(0, OTHERS_MAX)
  const { states, ...standardisation } = statesOf({ trajectories, likeness }, sampled)
  const isDuplicate = (a: number, b: number): boolean =>
    likeness[a]!.words === likeness[b]!.words &&
    farthestPicture(layouts[a]!, layouts[b]!) <= layoutRadius
  const distance = (i: number, j: number): number => {
    if (isDuplicate(sampled[i]!, sampled[j]!)) return Number.POSITIVE_INFINITY
    return stateDistance(states[i]!, 0, states[j]!, 0, states[i]!.length)
  }
  const indices = sampled.map((_, i) => i)
  const stateRadius = percentile(
    nearestOf(indices, () => indices, distance),
    share,
  )
  const axes = layoutAxesOf(sampled.map(row => layouts[row]!))
  return { layoutRadius, stateRadius, ...standardisation, ...axes }
}

/** The states of some examples, and what they are standardised with. */
function statesOf(
  { trajectories, likeness }: History,
  rows: readonly number[],
): Pick<Nearness, 'scores' | 'mean' | 'deviation'> & { states: Int16Array[] } {
  const scores = trajectories.dimensions
  const trajectoryOf = (row: number): Float64Array =>
    trajectories.data.subarray(row * scores, (row + 1) * scores)
  const raw = rows.map(row => [...trajectoryOf(row), ...decodeDirection(likeness[row]!.embedding!)])
  const data = Float64Array.from(raw.flat())
  const points = { data, count: rows.length, dimensions: raw[0]!.length }
  const { mean, deviation } = learnStandardisation('embedding', points)!
  const states = rows.map(row => {
    const { embedding } = likeness[row]!
    const state = stateOf({ scores, mean, deviation }, trajectoryOf(row), embedding!)
    if (state === undefined) throw new RangeError('embeddings differ in length')
    return state
  })
  return { scores, mean, deviation, states }
}

/**
 * Of the examples that share their words with another one, how far is the nearest picture among those;
 * where hardly any do, among all.
 */
function learnLayoutRadius(
  likeness: readonly Likeness[],
  layouts: readonly Layouts[],
  order: readonly number[],
  share: number,
): number {
  const groups = new Map<string, number[]>()
  for (const index of order) {
    const group = groups.get(likeness[index]!.words)
    if (group === undefined) groups.set(likeness[index]!.words, [index])
    else group.push(index)
  }
  const distance = (a: number, b: number): number => {
    const found = farthestPicture(layouts[a]!, layouts[b]!)
    return found < LAYOUT_RADIUS_MIN ? Number.POSITIVE_INFINITY : found
  }
  const sameWords = nearestOf(order, index => groups.get(likeness[index]!.words)!, distance)
  const nearest =
    sameWords.length >= NEIGHBOURS_MIN ? sameWords : nearestOf(order, () => order, distance)
  const learned = nearest.length === 0 ? 0 : percentile(nearest, share)
  return Math.min(LAYOUT_RADIUS_MAX, Math.max(LAYOUT_RADIUS_MIN, learned))
}

/** The distance of each query to the nearest of its others, where it has any at a finite distance. */
function nearestOf(
  queries: readonly number[],
  othersOf: (query: number) => readonly number[],
  distance: (a: number, b: number) => number,
): Float64Array {
  const found: number[] = []
  for (const query of queries) {
    if (found.length === QUERIES_MAX) break
    let nearest = Number.POSITIVE_INFINITY
    const others = othersOf(query)
    for (let i = 0; i < Math.min(others.length, OTHERS_MAX); i++) {
      if (others[i] !== query) nearest = Math.min(nearest, distance(query, others[i]!))
    }
    if (Number.isFinite(nearest)) found.push(nearest)
  }
  return Float64Array.from(found)
}

/** The directions in which pictures differ most: principal axes, and the median along each. */
function layoutAxesOf(layouts: readonly Layouts[]): Pick<Nearness, 'layoutAxes' | 'layoutMiddles'> {
  const pictures = layouts.map(({ bytes }) => {
    return unitOf(Float64Array.from(bytes.subarray(0, LAYOUT_VALUES)))
  })
  const matrix = new Matrix(pictures).center('column')
  const { realEigenvalues, eigenvectorMatrix } = new EigenvalueDecomposition(
    matrix.transpose().mmul(matrix),
    { assumeSymmetric: true },
  )
  const layoutAxes = realEigenvalues
    .map((value, column) => ({ value, column }))
    .sort((a, b) => b.value - a.value)
    .slice(0, LAYOUT_AXES)
    .map(({ column }) => eigenvectorMatrix.getColumn(column))
  const layoutMiddles = layoutAxes.map(axis => {
    const along = pictures.map(picture => picture.reduce((sum, v, at) => sum + v * axis[at]!, 0))
    return percentile(Float64Array.from(along), 0.5)
  })
  return { layoutAxes, layoutMiddles }
}
