/**
 * From raw signatures to what a bundle says of them: standardisation, centroids, sizes, radii.
 *
 * Legend: N points, K clusters, D dimensions of the signature.
 */
import type { Centroids } from './hnsw.ts'
import { assignAll, type KmeansOptions, kmeans, type Points, squaredDistance } from './kmeans.ts'
import {
  learnStandardisation,
  type Signature,
  type Standardisation,
  standardisedPoints,
} from './signature.ts'

export type Fitted = {
  centroids: Centroids
  /** Undefined for `sum`. */
  standardisation: Standardisation | undefined
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

/** K-means on standardised points. The same points, seed and K give the same result. */
export function fitClusters(
  raw: Points,
  { signature, ...options }: KmeansOptions & { signature: Signature },
): Fitted {
  const standardisation = learnStandardisation(signature, raw)
  const points = standardisedPoints(raw, standardisation)
  const found = kmeans(points, options)
  const count = found.centroids.length / points.dimensions
  const centroids = {
    data: Float32Array.from(found.centroids),
    count,
    dimensions: points.dimensions,
  }
  const how = { iterations: found.objectives.length, isConverged: found.isConverged }
  return { ...describe(points, centroids), standardisation, ...how }
}

/** Given centroids of `sum` as they are. */
export function fitGiven(points: Points, centroids: Centroids): Fitted {
  const how = { iterations: 0, isConverged: true }
  return { ...describe(points, centroids), standardisation: undefined, ...how }
}

function describe(points: Points, centroids: Centroids) {
  const { assignment, objective } = assignAll(points, Float64Array.from(centroids.data))
  const sizes = new Array<number>(centroids.count).fill(0)
  for (const cluster of assignment) sizes[cluster]!++
  const distances = Float64Array.from(assignment, (cluster, point) => {
    const { dimensions } = points
    const at = cluster * dimensions
    return squaredDistance(points.data, point * dimensions, centroids.data, at, dimensions)
  })
  return { centroids, assignment, objective, sizes, radii: radiiOf(assignment, distances, sizes) }
}

const WITHIN_SHARE = 0.99
/** A 99th percentile of fewer examples is their largest, which as many new ones as 1 in n exceed. */
const RADIUS_EXAMPLES_MIN = 100

/**
 * Squared distance to its centroid that 99 % of each cluster's examples keep within [K]. A cluster of
 * under 100 examples gets at least that of all examples together.
 */
export function radiiOf(
  assignment: Int32Array,
  distances: Float64Array,
  sizes: readonly number[],
): number[] {
  const groups = sizes.map(size => new Float64Array(size))
  const filled = new Int32Array(sizes.length)
  assignment.forEach((cluster, point) => {
    groups[cluster]![filled[cluster]!++] = distances[point]!
  })
  const overall = percentile(distances, WITHIN_SHARE)
  return groups.map(group => {
    if (group.length >= RADIUS_EXAMPLES_MIN) return percentile(group, WITHIN_SHARE)
    return Math.max(overall, percentile(group, WITHIN_SHARE))
  })
}

/** By nearest rank: the least value that a share of the values does not exceed; 0 of none. */
export function percentile(values: Float64Array, share: number): number {
  const sorted = values.toSorted()
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0
}
