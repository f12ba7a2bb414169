import assert from 'node:assert/strict'
import test from 'node:test'
import { seededRandom } from '../../src/math/random.ts'

test('the generator is uniform and repeats itself for a seed', () => {
  const random = seededRandom(42)
  const again = seededRandom(42)
  const bins = new Array<number>(10).fill(0)
  for (let i = 0; i < 100_000; i++) {
    const value = random()
    assert.equal(again(), value)
    bins[Math.floor(value * 10)]!++
  }
  for (const bin of bins) assert.ok(Math.abs(bin - 10_000) < 500, `${bins}`)
  assert.notEqual(seededRandom(1)(), seededRandom(2)())
})
