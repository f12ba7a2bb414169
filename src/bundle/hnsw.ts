/**
 * The nearest centroid through an HNSW graph (hnswlib, squared L2). The graph gives a few candidates in
 * float32; the nearest of them is decided exactly, in float64 on the float32 centroids, ties to the lower
 * number. Equal centroids stand in the graph once, under the lowest of their numbers. The graph is built
 * from the centroids and never read from a file: hnswlib does not check what it reads.
 *
 * Legend: K centroids, D dimensions of the signature.
 */
import hnswlib from 'hnswlib-node'
import { squaredDistance } from '../math/vectors.ts'

export type Found = {
  cluster: number
  /** Squared Euclidean. */
  distance: number
}

/** [K, D] in rows. */
export type Centroids = { data: Float32Array; count: number; dimensions: number }

const CANDIDATES = 16
const SEARCH_BREADTH = 128
const LINKS = 24
const BUILD_BREADTH = 400
const GRAPH_SEED = 100

export class ClusterIndex {
  readonly centroids: Centroids
  readonly #graph: hnswlib.HierarchicalNSW

  /** Builds the graph: the same centroids give the same graph. Throws RangeError on no centroids. */
  constructor(centroids: Centroids) {
    const { data, count, dimensions } = centroids
    if (count === 0) throw new RangeError('no centroids')
    this.centroids = centroids
    const distinct = new Map<string, number>()
    for (let cluster = 0; cluster < count; cluster++) {
      const name = rowOf(data, cluster, dimensions).join()
      if (!distinct.has(name)) distinct.set(name, cluster)
    }
    this.#graph = new hnswlib.HierarchicalNSW('l2', dimensions)
    this.#graph.initIndex(distinct.size, LINKS, BUILD_BREADTH, GRAPH_SEED)
    for (const cluster of distinct.values()) {
      this.#graph.addPoint(Array.from(rowOf(data, cluster, dimensions)), cluster)
    }
    this.#graph.setEf(SEARCH_BREADTH)
  }

  /** The nearest centroid of a signature [D]. */
  nearest(signature: ArrayLike<number>): Found {
    this.#checkLength(signature)
    const wanted = Math.min(CANDIDATES, this.#graph.getCurrentCount())
    const { neighbors, distances } = this.#graph.searchKnn(Array.from(signature), wanted)
    // Where float32 overflows, the graph's order means nothing.
    if (!distances.every(Number.isFinite)) return this.nearestExact(signature)
    return nearestOf(this.centroids, signature, neighbors)
  }

  /** The same by a scan of all centroids: the oracle of `nearest`. */
  nearestExact(signature: ArrayLike<number>): Found {
    this.#checkLength(signature)
    return nearestOf(this.centroids, signature, Array(this.centroids.count).keys())
  }

  #checkLength(signature: ArrayLike<number>): void {
    const { dimensions } = this.centroids
    if (signature.length === dimensions) return
    throw new RangeError(`a signature of ${signature.length} where ${dimensions} are expected`)
  }
}

function nearestOf(
  { data, dimensions }: Centroids,
  signature: ArrayLike<number>,
  candidates: Iterable<number>,
): Found {
  const found = { cluster: -1, distance: Number.POSITIVE_INFINITY }
  for (const cluster of candidates) {
    const distance = squaredDistance(signature, 0, data, cluster * dimensions, dimensions)
    const isTie = distance === found.distance && cluster < found.cluster
    if (distance < found.distance || isTie || found.cluster < 0) {
      found.cluster = cluster
      found.distance = distance
    }
  }
  return found
}

function rowOf(data: Float32Array, row: number, dimensions: number): Float32Array {
  return data.subarray(row * dimensions, (row + 1) * dimensions)
}
