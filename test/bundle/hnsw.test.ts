import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { readCentroids } from '../../src/bundle/bundle.ts'
import { type Centroids, ClusterIndex } from '../../src/bundle/hnsw.ts'
import { seededRandom } from '../../src/math/random.ts'
import { readHeader, readTensorFloat64 } from '../../src/proxy/checkpoint/safetensors.ts'
import { shared } from '../support.ts'

function centroidsOf(rows: readonly (readonly number[])[]): Centroids {
  const dimensions = rows[0]!.length
  return { data: Float32Array.from(rows.flat()), count: rows.length, dimensions }
}

test('the golden assignment and distances come out of the HNSW index exactly', t => {
  const folder = shared(t, 'goldens/selection')
  if (folder === undefined) return
  const file = join(folder, 'data.safetensors')
  const entry = readHeader(file).tensors.get('trajectories')!
  const points = readTensorFloat64(file, entry)
  const dimensions = entry.shape[1]!
  const index = new ClusterIndex(readCentroids(file))
  const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'))
  ;(expected.assignment as number[]).forEach((cluster, row) => {
    const point = points.subarray(row * dimensions, (row + 1) * dimensions)
    const found = index.nearest(point)
    assert.equal(found.cluster, cluster)
    assert.deepEqual(index.nearestExact(point), found)
    const distance = expected.squared_distance[row]
    assert.ok(Math.abs(found.distance - distance) <= 1e-8 * Math.max(1, distance))
  })
})

test('the index agrees with the exact scan at K = 1000, and is the same when built again', () => {
  const random = seededRandom(7)
  const rows = Array.from({ length: 1000 }, () => Array.from({ length: 8 }, () => random()))
  const built = new ClusterIndex(centroidsOf(rows))
  const again = new ClusterIndex(built.centroids)
  let agreed = 0
  for (let i = 0; i < 2000; i++) {
    const point = Array.from({ length: 8 }, () => random())
    const found = built.nearest(point)
    assert.deepEqual(again.nearest(point), found)
    if (built.nearestExact(point).cluster === found.cluster) agreed++
  }
  assert.ok(agreed >= 1999, `${agreed} of 2000 agree`)
})

test('few, equal and one-dimensional centroids give what the exact scan gives', () => {
  const rows = fc.integer({ min: 1, max: 3 }).chain(dimensions =>
    fc.array(
      fc.array(fc.integer({ min: -2, max: 2 }), {
        minLength: dimensions,
        maxLength: dimensions,
      }),
      { minLength: 1, maxLength: 40 },
    ),
  )
  fc.assert(
    fc.property(
      rows,
      fc.array(fc.integer({ min: -5, max: 5 }), { minLength: 3, maxLength: 3 }),
      (centroids, values) => {
        const index = new ClusterIndex(centroidsOf(centroids))
        const point = values.slice(0, centroids[0]!.length)
        assert.equal(index.nearest(point).distance, index.nearestExact(point).distance)
        const own = centroids.at(-1)!
        const first = centroids.findIndex(row => row.join() === own.join())
        assert.deepEqual(index.nearest(own), { cluster: first, distance: 0 })
      },
    ),
  )
})

test('hundreds of equal centroids answer with the lowest number', () => {
  const rows = Array.from({ length: 500 }, (_, i) => [i < 100 ? i : 7, 1])
  const index = new ClusterIndex(centroidsOf(rows))
  assert.deepEqual(index.nearest([7.1, 1]).cluster, 7)
  assert.throws(() => index.nearest([1]), RangeError)
})
