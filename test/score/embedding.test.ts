import assert from 'node:assert/strict'
import { test } from 'node:test'
import { normalDeviates, seededRandom } from '../../src/math/random.ts'
import { decodeDirection } from '../../src/math/vectors.ts'
import { EMBEDDING_VALUES, embeddingOf, projected } from '../../src/score/checkpoint-score.ts'

test("an embedding is the mean of the example's own rows, whatever stands behind them", () => {
  const data = Float32Array.of(1, 2, 3, 4, 9, 9, 9, 9, /**/ 1, 0, 9, 9, 9, 9, 9, 9)
  const states = { data, shape: [2, 4, 2] }
  const close = (text: string, x: number, y: number): void => {
    const [a, b] = decodeDirection(text)
    assert.ok(Math.abs(a! - x) < 0.005 && Math.abs(b! - y) < 0.005, `${a}, ${b}`)
  }
  close(embeddingOf(states, 0, 2), 2 / Math.hypot(2, 3), 3 / Math.hypot(2, 3))
  close(embeddingOf(states, 4, 1), 1, 0)
  close(embeddingOf(states, 2, 0), 0, 0)
})

test('large states are projected to 64 values that keep distances; the signs never change', () => {
  const random = seededRandom(3)
  const points = Array.from({ length: 40 }, () => Float64Array.from(normalDeviates(random, 896)))
  const distance = (a: Float64Array, b: Float64Array): number =>
    Math.hypot(...a.map((value, i) => value - b[i]!))
  const ratios = points.slice(1).map((point, i) => {
    const before = distance(point, points[i]!)
    return (
      distance(projected(point), projected(points[i]!)) / (before * Math.sqrt(EMBEDDING_VALUES))
    )
  })
  for (const ratio of ratios) assert.ok(ratio > 0.7 && ratio < 1.3, String(ratio))
  const one = projected(Float64Array.from({ length: 65 }, (_, i) => Number(i === 0)))
  assert.deepEqual([...one].slice(0, 8), [1, -1, 1, -1, 1, 1, 1, -1])
  assert.deepEqual([...projected(Float64Array.of(3, 4))], [3, 4])
})
