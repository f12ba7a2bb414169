/**
 * Learns the similarity model of near-duplicates from a history: radii within which a given share of its
 * examples has another one. Samples bound the work; the same history and seed give the same model.
 *
 * Legend: N examples, A axes of pictures, D dimensions of a state.
 */
import { EigenvalueDecomposition, Matrix } from 'ml-matrix'
import { learnStandardisation } from '../bundle/signature.ts'
import {
  type Layouts,
  layoutsDistance,
  readLayouts,
  type SimilarityModel,
  stateDistance,
  stateOf,
} from '../bundle/similarity.ts'
import { LAYOUT_VALUES } from '../ingest/image/layout.ts'
import { permutation, seededRandom } from '../math/random.ts'
import type { Points } from '../math/vectors.ts'
import { decodeDirection, unitOf } from '../math/vectors.ts'
import { percentile } from './fit.ts'
import type { Compared } from './trajectories.ts'

/** Examples that have an image [N]. */
export type History = { trajectories: Points; compared: readonly Compared[] }

/** Re-encoding, resizing and brightening a picture give smaller distances, which are left out. */
export const LAYOUT_RADIUS_MIN = 0.1
/** Larger distances are other pictures of the same things. */
export const LAYOUT_RADIUS_MAX = 0.35
/** Bits of a picture's code: a million pictures fall into cells of about ten. */
const LAYOUT_AXES = 20
const QUERIES_MAX = 2_000
const OTHERS_MAX = 20_000
/** Fewer neighbours do not support a percentile. */
const NEIGHBOURS_MIN = 100

/**
 * `share` [0..1] of the examples may have another one within a radius. Pairs with the same words closer than
 * `LAYOUT_RADIUS_MIN` are taken for duplicates and left out.
 *
 * @throws RangeError on no examples, or embeddings of different lengths
 */
export function learnSimilarity(
  { trajectories, compared }: History,
  { share, seed }: { share: number; seed: number },
): SimilarityModel {
  const order = permutation(seededRandom(seed), compared.length)
  const layouts = compared.map(({ layout }) => readLayouts(layout)!)
  const layoutRadius = learnLayoutRadius(compared, layouts, order, share)
  const sampled = order.slice(0, OTHERS_MAX)
  const { states, ...standardisation } = statesOf({ trajectories, compared }, sampled)
  const isDuplicate = (a: number, b: number): boolean =>
    compared[a]!.words === compared[b]!.words &&
    layoutsDistance(layouts[a]!, layouts[b]!) <= layoutRadius
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

/** The states of some examples, and their standardisation. */
function statesOf(
  { trajectories, compared }: History,
  rows: readonly number[],
): Pick<SimilarityModel, 'scores' | 'mean' | 'deviation'> & { states: Int16Array[] } {
  const scores = trajectories.dimensions
  const trajectoryOf = (row: number): Float64Array =>
    trajectories.data.subarray(row * scores, (row + 1) * scores)
  const raw = rows.map(row => [...trajectoryOf(row), ...decodeDirection(compared[row]!.embedding!)])
  const data = Float64Array.from(raw.flat())
  const points = { data, count: rows.length, dimensions: raw[0]!.length }
  const { mean, deviation } = learnStandardisation('embedding', points)!
  const states = rows.map(row => {
    const { embedding } = compared[row]!
    const state = stateOf({ scores, mean, deviation }, trajectoryOf(row), embedding!)
    if (state === undefined) throw new RangeError('embeddings differ in length')
    return state
  })
  return { scores, mean, deviation, states }
}

/**
 * From the distances to the nearest picture among the examples with the same words; where there are too
 * few, among all.
 */
function learnLayoutRadius(
  compared: readonly Compared[],
  layouts: readonly Layouts[],
  order: readonly number[],
  share: number,
): number {
  const groups = new Map<string, number[]>()
  for (const index of order) {
    const group = groups.get(compared[index]!.words)
    if (group === undefined) groups.set(compared[index]!.words, [index])
    else group.push(index)
  }
  const distance = (a: number, b: number): number => {
    const found = layoutsDistance(layouts[a]!, layouts[b]!)
    return found < LAYOUT_RADIUS_MIN ? Number.POSITIVE_INFINITY : found
  }
  const sameWords = nearestOf(order, index => groups.get(compared[index]!.words)!, distance)
  const nearest =
    sameWords.length >= NEIGHBOURS_MIN ? sameWords : nearestOf(order, () => order, distance)
  const learned = nearest.length === 0 ? 0 : percentile(nearest, share)
  return Math.min(LAYOUT_RADIUS_MAX, Math.max(LAYOUT_RADIUS_MIN, learned))
}

/** The distance of each query to the nearest of its others, where any is finite. */
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

/** The principal axes of pictures, and the median along each. */
function layoutAxesOf(
  layouts: readonly Layouts[],
): Pick<SimilarityModel, 'layoutAxes' | 'layoutMiddles'> {
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
