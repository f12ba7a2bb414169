import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  learnStandardisation,
  signatureOf,
  standardisedPoints,
} from '../../src/bundle/signature.ts'
import { seededRandom } from '../../src/math/random.ts'
import { decodeDirection, encodeDirection } from '../../src/math/vectors.ts'

const EXAMPLE = {
  trajectory: [15, 20],
  singularValues: [
    [5, 4, 3, 2, 1],
    [8, 6, 4, 2, 0],
  ],
  embedding: encodeDirection([3, -4]),
}

test('sum is the trajectory, spectrum all singular values, embedding the pooled state', () => {
  const identity = (length: number) => ({
    mean: Array<number>(length).fill(0),
    deviation: Array<number>(length).fill(1),
  })
  assert.deepEqual(signatureOf({ signature: 'sum' })(EXAMPLE), [15, 20])
  const spectrum = signatureOf({ signature: 'spectrum', standardisation: identity(10) })(EXAMPLE)
  assert.deepEqual([...Array.from(spectrum)], EXAMPLE.singularValues.flat())
  const embedding = signatureOf({ signature: 'embedding', standardisation: identity(2) })(EXAMPLE)
  assert.ok(Math.abs(embedding[0]! - 0.6) < 0.004 && Math.abs(embedding[1]! + 0.8) < 0.004)
  assert.throws(() => signatureOf({ signature: 'embedding' })({ trajectory: [1] }), /no embedding/)
})

test('standardised dimensions have mean 0 and deviation 1, constant ones are 0', () => {
  const random = seededRandom(3)
  const data = Float64Array.from({ length: 300 }, (_, i) => (i % 3 === 2 ? 7 : 50 + i * random()))
  const points = { data, count: 100, dimensions: 3 }
  const by = learnStandardisation('spectrum', points)!
  const found = standardisedPoints(points, by)
  for (const d of [0, 1, 2]) {
    const values = Array.from({ length: 100 }, (_, i) => found.data[3 * i + d]!)
    const mean = values.reduce((sum, value) => sum + value, 0) / 100
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 100
    assert.ok(Math.abs(mean) < 1e-12)
    assert.ok(Math.abs(variance - (d === 2 ? 0 : 1)) < 1e-12)
  }
  assert.equal(learnStandardisation('sum', points), undefined)
  assert.equal(standardisedPoints(points, undefined), points)
})

test('an embedding comes back within half a byte, at unit length; zeros and no values too', () => {
  const random = seededRandom(5)
  const values = Array.from({ length: 96 }, () => 40 * (random() - 0.5))
  const norm = Math.hypot(...values)
  const found = decodeDirection(encodeDirection(values))
  assert.ok(Math.abs(Math.hypot(...found) - 1) < 1e-12)
  const cosine = values.reduce((sum, value, i) => sum + (value / norm) * found[i]!, 0)
  assert.ok(cosine > 0.9999, String(cosine))
  assert.deepEqual([...decodeDirection(encodeDirection([0, 0]))], [0, 0])
  assert.equal(encodeDirection([]), '')
})
