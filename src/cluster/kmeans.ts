/**
 * K-means in float64 on flat arrays: k-means++ seeding and Lloyd's iterations.
 *
 * Legend: N points, K clusters, T dimensions (one a checkpoint).
 */
import { seededRandom } from '../math/random.ts'
import { type Points, squaredDistance } from '../math/vectors.ts'

export type KmeansResult = {
  /** [K, T]. */
  centroids: Float64Array
  /** [N], the nearest of `centroids`. */
  assignment: Int32Array
  /** Sum of squared distances at each iteration's assignment. */
  objectives: number[]
  /** Sum of squared distances to `centroids`. */
  objective: number
  isConverged: boolean
}

export type KmeansOptions = {
  clusters: number
  seed: number
  onProgress?: (step: { phase: 'seeding' | 'iterating'; done: number; total: number }) => void
}

const ITERATIONS_MAX = 50
/** Stops where an iteration lowers the objective by less than this share. */
const TOLERANCE_SHARE = 1e-5

/**
 * k-means++ seeding (Arthur and Vassilvitskii 2007), then Lloyd's iterations with empty cells seeded
 * again at the point farthest from its centroid. The result has fewer than `clusters` centroids
 * where there are fewer distinct points. The same points and seed give the same result.
 *
 * @throws RangeError on no points
 */
export function kmeans(points: Points, options: KmeansOptions): KmeansResult {
  if (points.count === 0) throw new RangeError('no points')
  const centroids = seedCentroids(points, options)
  const state = startLloyd(points, centroids)
  const objectives: number[] = []
  let isConverged = false
  for (let done = 0; done < ITERATIONS_MAX && !isConverged; done++) {
    const { objective, moved } = assignNearest(points, state)
    objectives.push(objective)
    const last = objectives.at(-2) ?? Number.POSITIVE_INFINITY
    const isStill = moved === 0 || last - objective < TOLERANCE_SHARE * last
    const reseeded = reseedEmpty(points, state)
    isConverged = done > 0 && reseeded === 0 && isStill
    moveToMeans(points, state)
    options.onProgress?.({ phase: 'iterating', done: done + 1, total: ITERATIONS_MAX })
  }
  const { objective } = assignNearest(points, state)
  return { centroids, assignment: state.assignment, objectives, objective, isConverged }
}

/** Nearest centroid of each point, ties to the lower number, and the sum of squared distances. */
export function assignAll(
  points: Points,
  centroids: Float64Array,
): { assignment: Int32Array; objective: number } {
  const state = startLloyd(points, centroids)
  const { objective } = assignNearest(points, state)
  return { assignment: state.assignment, objective }
}

type Lloyd = {
  centroids: Float64Array
  assignment: Int32Array
  /** Squared distance of each point to its centroid. */
  distances: Float64Array
}

export function startLloyd({ count }: Points, centroids: Float64Array): Lloyd {
  return { centroids, assignment: new Int32Array(count), distances: new Float64Array(count) }
}

/** Starts at a point's previous cluster: most other distances exceed that bound after a few terms. */
export function assignNearest(points: Points, state: Lloyd): { objective: number; moved: number } {
  const { data, count, dimensions } = points
  const { centroids, assignment, distances } = state
  const clusters = centroids.length / dimensions
  let objective = 0
  let moved = 0
  for (let point = 0; point < count; point++) {
    const at = point * dimensions
    const before = assignment[point]!
    let nearest = before
    let least = squaredDistance(data, at, centroids, before * dimensions, dimensions)
    for (let cluster = 0, from = 0; cluster < clusters; cluster++, from += dimensions) {
      let sum = 0
      for (let d = 0; d < dimensions && sum <= least; d++) {
        const difference = data[at + d]! - centroids[from + d]!
        sum += difference * difference
      }
      if (sum < least || (sum === least && cluster < nearest)) {
        least = sum
        nearest = cluster
      }
    }
    if (nearest !== before) moved++
    assignment[point] = nearest
    distances[point] = least
    objective += least
  }
  return { objective, moved }
}

/** An empty cell keeps its place. */
export function moveToMeans(
  { data, count, dimensions }: Points,
  { centroids, assignment }: Pick<Lloyd, 'centroids' | 'assignment'>,
): void {
  const clusters = centroids.length / dimensions
  const sums = new Float64Array(centroids.length)
  const sizes = new Int32Array(clusters)
  for (let point = 0; point < count; point++) {
    const cluster = assignment[point]!
    sizes[cluster]!++
    for (let d = 0; d < dimensions; d++) {
      sums[cluster * dimensions + d]! += data[point * dimensions + d]!
    }
  }
  for (let cluster = 0; cluster < clusters; cluster++) {
    const size = sizes[cluster]!
    if (size === 0) continue
    for (let d = 0; d < dimensions; d++) {
      centroids[cluster * dimensions + d] = sums[cluster * dimensions + d]! / size
    }
  }
}

/**
 * Gives each empty cell the point farthest from its centroid, ties to the earlier point; a cell's last
 * point stays. Returns how many cells got one.
 */
function reseedEmpty({ count, dimensions }: Points, state: Lloyd): number {
  const { centroids, assignment, distances } = state
  const sizes = new Int32Array(centroids.length / dimensions)
  for (const cluster of assignment) sizes[cluster]!++
  let reseeded = 0
  for (let cluster = 0; cluster < sizes.length; cluster++) {
    if (sizes[cluster]! > 0) continue
    let farthest = -1
    for (let point = 0; point < count; point++) {
      const distance = farthest < 0 ? 0 : distances[farthest]!
      if (distances[point]! > distance && sizes[assignment[point]!]! > 1) farthest = point
    }
    if (farthest < 0) break
    sizes[assignment[farthest]!]!--
    sizes[cluster] = 1
    assignment[farthest] = cluster
    distances[farthest] = 0
    reseeded++
  }
  return reseeded
}

/** [K', T] with K' <= clusters: the first at random, each next with chance proportional to D². */
function seedCentroids(points: Points, options: KmeansOptions): Float64Array {
  const { clusters, seed, onProgress } = options
  const { data, count, dimensions } = points
  const random = seededRandom(seed)
  const centroids = new Float64Array(Math.min(clusters, count) * dimensions)
  const least = new Float64Array(count).fill(Number.POSITIVE_INFINITY)
  let chosen = Math.floor(random() * count)
  let seeded = 0
  for (; seeded * dimensions < centroids.length && chosen >= 0; seeded++) {
    const from = chosen * dimensions
    centroids.set(data.subarray(from, from + dimensions), seeded * dimensions)
    const total = lowerDistances(points, from, least)
    chosen = total > 0 ? draw(least, random() * total) : -1
    if (seeded % 50 === 0) onProgress?.({ phase: 'seeding', done: seeded, total: clusters })
  }
  return centroids.slice(0, seeded * dimensions)
}

/** Lowers each point's squared distance to its nearest centroid by a new one; returns their sum. */
function lowerDistances(points: Points, from: number, least: Float64Array): number {
  const { data, count, dimensions } = points
  let total = 0
  for (let point = 0; point < count; point++) {
    const bound = least[point]!
    let sum = 0
    for (let d = 0; d < dimensions && sum < bound; d++) {
      const difference = data[point * dimensions + d]! - data[from + d]!
      sum += difference * difference
    }
    if (sum < bound) least[point] = sum
    total += least[point]!
  }
  return total
}

/** The first index at which the running sum exceeds `target`; never one of weight 0. */
function draw(weights: Float64Array, target: number): number {
  let sum = 0
  let last = -1
  for (let index = 0; index < weights.length; index++) {
    if (weights[index] === 0) continue
    sum += weights[index]!
    last = index
    if (sum > target) break
  }
  return last
}
