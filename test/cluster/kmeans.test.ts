import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  assignAll,
  assignNearest,
  kmeans,
  moveToMeans,
  startLloyd,
} from '../../src/cluster/kmeans.ts'
import { seededRandom } from '../../src/math/random.ts'
import { type Points, squaredDistance } from '../../src/math/vectors.ts'
import { readHeader, readTensorFloat64 } from '../../src/proxy/checkpoint/safetensors.ts'
import { shared } from '../support.ts'

function pointsOf(rows: readonly (readonly number[])[]): Points {
  const dimensions = rows[0]!.length
  return { data: Float64Array.from(rows.flat()), count: rows.length, dimensions }
}

/** Gaussian-like blobs around few centres. */
function blobs(count: number, dimensions: number, centres: number, seed: number): Points {
  const random = seededRandom(seed)
  const at = Array.from({ length: centres * dimensions }, () => 50 * random())
  const data = Float64Array.from({ length: count * dimensions }, (_, i) => {
    const centre = Math.floor(i / dimensions) % centres
    const noise = random() + random() + random() - 1.5
    return at[centre * dimensions + (i % dimensions)]! + noise
  })
  return { data, count, dimensions }
}

test('plain Lloyd gives the golden centroids, assignments and objectives', t => {
  const folder = shared(t, 'goldens/selection')
  if (folder === undefined) return
  const { tensors, file } = readHeader(join(folder, 'data.safetensors'))
  const tensor = (name: string): Float64Array => readTensorFloat64(file, tensors.get(name)!)
  const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8')).lloyd
  const [count = 0, dimensions = 0] = tensors.get('trajectories')!.shape
  const points = { data: tensor('trajectories'), count, dimensions }
  const start = Float64Array.from(
    (expected.start_rows as number[]).flatMap(row => [
      ...points.data.subarray(row * dimensions, (row + 1) * dimensions),
    ]),
  )
  for (const iterations of [1, 20]) {
    const found = startLloyd(points, Float64Array.from(start))
    const objectives: number[] = []
    for (let done = 0; done < iterations; done++) {
      objectives.push(assignNearest(points, found).objective)
      moveToMeans(points, found)
    }
    assignNearest(points, found)
    const centroids = tensor(`lloyd.centroids_${iterations}`)
    const worst = found.centroids.reduce(
      (most, value, i) => Math.max(most, Math.abs(value - centroids[i]!)),
      0,
    )
    assert.ok(worst <= 1e-9, `centroids differ by ${worst}`)
    assert.deepEqual([...found.assignment], expected[`assignment_after_${iterations}`])
    objectives.forEach((objective, i) => {
      const relative = objective / expected[`objective_${iterations}`][i] - 1
      assert.ok(Math.abs(relative) < 1e-11, `objective ${i} differs by ${relative}`)
    })
  }
})

test('the assignment is the nearest centroid by a plain scan, ties to the lower number', () => {
  const rows = fc.array(fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 3, maxLength: 3 }), {
    minLength: 1,
    maxLength: 30,
  })
  fc.assert(
    fc.property(rows, rows, (points, centroids) => {
      const { assignment, objective } = assignAll(pointsOf(points), pointsOf(centroids).data)
      let sum = 0
      points.forEach((point, i) => {
        const distances = centroids.map(centroid => squaredDistance(point, 0, centroid, 0, 3))
        sum += Math.min(...distances)
        assert.equal(assignment[i], distances.indexOf(Math.min(...distances)))
      })
      assert.equal(objective, sum)
    }),
  )
})

test('k-means finds well separated blobs, the same for the same seed', () => {
  const points = blobs(2000, 5, 10, 3)
  const found = kmeans(points, { clusters: 20, seed: 1 })
  assert.ok(found.isConverged)
  assert.ok(found.objective / points.count < 5 * 0.3, `${found.objective / points.count}`)
  assert.deepEqual(kmeans(points, { clusters: 20, seed: 1 }), found)
  assert.notDeepEqual(kmeans(points, { clusters: 20, seed: 2 }).centroids, found.centroids)
  for (let i = 1; i < found.objectives.length; i++) {
    assert.ok(found.objectives[i]! <= found.objectives[i - 1]! * (1 + 1e-12))
  }
})

test('no cell stays empty while there are distinct points', () => {
  const points = blobs(300, 2, 7, 9)
  const { assignment } = kmeans(points, { clusters: 150, seed: 5 })
  assert.equal(new Set(assignment).size, 150)
})

test('more clusters than distinct points give as many clusters as there are distinct points', () => {
  const points = pointsOf([[1], [1], [2], [2], [5]])
  const found = kmeans(points, { clusters: 1000, seed: 0 })
  assert.deepEqual([...found.centroids].sort(), [1, 2, 5])
  assert.equal(found.objective, 0)
})

test('one cluster is the mean', () => {
  const found = kmeans(
    pointsOf([
      [0, 0],
      [2, 4],
      [4, 2],
    ]),
    { clusters: 1, seed: 0 },
  )
  assert.deepEqual([...found.centroids], [2, 2])
  assert.throws(
    () => kmeans({ data: new Float64Array(0), count: 0, dimensions: 1 }, { clusters: 1, seed: 0 }),
    RangeError,
  )
})
