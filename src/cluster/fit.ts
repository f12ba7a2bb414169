/**
 * Clusterings: from raw signatures to standardisation, centroids, sizes and radii.
 *
 * Legend: N points, K clusters, D dimensions of the signature.
 */
import type { Centroids } from '../bundle/hnsw.ts'
import { type Signature, type Standardisation, standardisedPoints } from '../bundle/signature.ts'
import { type Points, squaredDistance } from '../math/vectors.ts'
import { type Learned, learnSignature } from './joint.ts'
import { assignAll, type KmeansOptions, kmeans, moveToMeans } from './kmeans.ts'

export type Clustering = {
  centroids: Centroids
  /** Undefined for `sum`. */
  standardisation: Standardisation | undefined
  /** Of `joint`: the weights that were tried. */
  shares?: Learned['shares']
  /** [N], the nearest of `centroids`. */
  assignment: Int32Array
  /** [K] */
  sizes: number[]
  /** [K], see `radiiOf`. */
  radii: number[]
  /** Sum of squared distances. */
  objective: number
  iterations: number
  isConverged: boolean
}

/** The default number of clusters: one for so many trajectories, up to a limit. */
export const EXAMPLES_A_CLUSTER = 20
export const CLUSTERS_MAX = 1_000

export function usualClusters(trajectories: number): number {
  return Math.min(CLUSTERS_MAX, Math.max(1, Math.floor(trajectories / EXAMPLES_A_CLUSTER)))
}

export type FitOptions = KmeansOptions & {
  signature: Signature
  /** Default: learned from the points. */
  learned?: Learned | undefined
}

/** K-means on standardised points; the same points, seed and K give the same result. */
export function fitClusters(raw: Points, options: FitOptions): Clustering {
  const { standardisation, shares } = options.learned ?? learnSignature(raw, options)
  const points = standardisedPoints(raw, standardisation)
  const found = kmeans(points, options)
  const count = found.centroids.length / points.dimensions
  const centroids = {
    data: Float32Array.from(found.centroids),
    count,
    dimensions: points.dimensions,
  }
  const how = { iterations: found.objectives.length, isConverged: found.isConverged }
  return { ...describe(points, centroids), standardisation, shares, ...how }
}

/** Takes given centroids of the signature `sum`. */
export function fitGiven(points: Points, centroids: Centroids): Clustering {
  const how = { iterations: 0, isConverged: true }
  return { ...describe(points, centroids), standardisation: undefined, ...how }
}

/**
 * Centroids of given clusters: the mean of each one's points. `labels` [N] are any numbers; clusters are
 * numbered in their order. `agreement` is the share of points whose nearest centroid is their own.
 */
export function fitLabelled(
  points: Points,
  labels: readonly number[],
): Clustering & { agreement: number } {
  const { count, dimensions } = points
  const numbers = [...new Set(labels)].sort((a, b) => a - b)
  const clusterOf = new Map(numbers.map((label, cluster) => [label, cluster]))
  const own = Int32Array.from(labels, label => clusterOf.get(label)!)
  const means = new Float64Array(numbers.length * dimensions)
  moveToMeans(points, { centroids: means, assignment: own })
  const centroids = { data: Float32Array.from(means), count: numbers.length, dimensions }
  const fitted = fitGiven(points, centroids)
  const agreeing = own.filter((cluster, point) => cluster === fitted.assignment[point]).length
  return { ...fitted, agreement: agreeing / count }
}

function describe(points: Points, centroids: Centroids) {
  const { assignment, objective } = assignAll(points, Float64Array.from(centroids.data))
  const sizes = new Array<number>(centroids.count).fill(0)
  for (const cluster of assignment) sizes[cluster]!++
  const radii = radiiOf(points, centroids, assignment, sizes)
  return { centroids, assignment, objective, sizes, radii }
}

const WITHIN_SHARE = 0.99
/** The 99th percentile of fewer examples is their largest, which 1 in n new ones exceed. */
const RADIUS_EXAMPLES_MIN = 100

/**
 * The squared distance to the centroid within which 99 % of each cluster's examples lie [K]. An example's
 * distance is corrected by n / (n - 1) to that from the mean of the others, as for a new example, because
 * it has pulled the centroid towards itself. A cluster of fewer than 100 examples gets at least the radius
 * of all examples together.
 */
function radiiOf(
  { data, dimensions }: Points,
  centroids: Centroids,
  assignment: Int32Array,
  sizes: readonly number[],
): number[] {
  const groups = sizes.map(size => new Float64Array(size))
  const filled = new Int32Array(sizes.length)
  const distances = Float64Array.from(assignment, (cluster, point) => {
    const [from, to] = [point * dimensions, cluster * dimensions]
    const distance = squaredDistance(data, from, centroids.data, to, dimensions)
    const others = sizes[cluster]! - 1
    const whenNew = others === 0 ? distance : distance * ((others + 1) / others) ** 2
    groups[cluster]![filled[cluster]!++] = whenNew
    return whenNew
  })
  const overall = percentile(distances, WITHIN_SHARE)
  return groups.map(group => {
    const own = percentile(group, WITHIN_SHARE)
    return group.length >= RADIUS_EXAMPLES_MIN ? own : Math.max(overall, own)
  })
}

/** By nearest rank: the least value that a share of the values does not exceed; 0 of none. */
export function percentile(values: Float64Array, share: number): number {
  const sorted = values.toSorted()
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0
}
