import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ClusterIndex } from '../../src/bundle/hnsw.ts'
import { fitClusters, fitGiven, percentile } from '../../src/cluster/fit.ts'
import { normalDeviates, seededRandom } from '../../src/math/random.ts'

test('99 % of a cluster lie within its radius; a small cluster has at least that of all', () => {
  const random = seededRandom(1)
  const data = Float64Array.from(normalDeviates(random, 3050))
  for (let i = 1000; i < 3000; i++) data[i] = 100 + 3 * data[i]!
  for (let i = 3000; i < 3050; i++) data[i] = -100 + 0.01 * data[i]!
  const centroids = { data: Float32Array.of(0, 100, -100), count: 3, dimensions: 1 }
  const { sizes, radii, assignment } = fitGiven({ data, count: 3050, dimensions: 1 }, centroids)
  assert.deepEqual(sizes, [1000, 2000, 50])
  const whenNew = Float64Array.from(data, (x, i) => {
    const size = sizes[assignment[i]!]!
    return ((x - centroids.data[assignment[i]!]!) * (size / (size - 1))) ** 2
  })
  const within = radii.map(
    (radius, cluster) =>
      whenNew.filter((d, i) => assignment[i] === cluster && d <= 1.000001 * radius).length,
  )
  assert.deepEqual(within, [990, 1980, 50])
  const all = percentile(whenNew, 0.99)
  assert.ok(Math.abs(radii[2]! - all) < 1e-9 * all)
})

test('the radii hold for examples that no cluster was fitted to', () => {
  const random = seededRandom(9)
  const points = (count: number) => {
    return { data: Float64Array.from(normalDeviates(random, 4 * count)), count, dimensions: 4 }
  }
  const fitted = fitClusters(points(3000), { signature: 'sum', clusters: 150, seed: 1 })
  const { data, count } = points(3000)
  const index = new ClusterIndex(fitted.centroids)
  let beyond = 0
  for (let i = 0; i < count; i++) {
    const { cluster, distance } = index.nearest(data.subarray(4 * i, 4 * i + 4))
    beyond += Number(distance > fitted.radii[cluster]!)
  }
  assert.ok(beyond / count > 0.003 && beyond / count < 0.02, `${beyond} of ${count}`)
})

test('percentiles are by nearest rank', () => {
  const values = Float64Array.from({ length: 200 }, (_, i) => (i * 37) % 200)
  assert.deepEqual(
    [0, 0.005, 0.5, 0.99, 1].map(share => percentile(values, share)),
    [0, 0, 99, 197, 199],
  )
  assert.equal(percentile(new Float64Array(0), 0.99), 0)
})

test('spectrum is clustered by all its dimensions alike, whatever their scale', () => {
  const random = seededRandom(2)
  const data = new Float64Array(2 * 400)
  for (let i = 0; i < 400; i++) {
    data[2 * i] = 1e6 * random()
    data[2 * i + 1] = (i % 2) + 0.01 * random()
  }
  const points = { data, count: 400, dimensions: 2 }
  const groupsOf = (signature: 'sum' | 'spectrum'): Set<number>[] => {
    const { assignment } = fitClusters(points, { signature, clusters: 2, seed: 1 })
    return [0, 1].map(side => new Set(assignment.filter((_, i) => i % 2 === side)))
  }
  assert.deepEqual(
    groupsOf('spectrum').map(({ size }) => size),
    [1, 1],
  )
  assert.deepEqual(
    groupsOf('sum').map(({ size }) => size),
    [2, 2],
  )
})
