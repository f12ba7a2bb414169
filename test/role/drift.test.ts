import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../src/math/random.ts'
import { DriftWindow, stabilityIndex } from '../../src/role/selection-gauges.ts'

/** `sizes` examples a cell, drawn by weight. */
function drawn(weights: readonly number[], examples: number, random: () => number): Float64Array {
  const counts = new Float64Array(weights.length)
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  for (let i = 0; i < examples; i++) {
    counts[firstBelow(weights, random() * total)]!++
  }
  return counts
}

function firstBelow(weights: readonly number[], target: number): number {
  let sum = 0
  return weights.findIndex(weight => {
    sum += weight
    return sum > target
  })
}

test('the index is that of the formula, 0 for equal shares, and counts an empty cell', () => {
  const { stabilityIndex: index } = stabilityIndex(
    Float64Array.of(500, 500),
    Float64Array.of(800, 200),
  )
  assert.ok(Math.abs(index - (0.3 * Math.log(0.8 / 0.5) - 0.3 * Math.log(0.2 / 0.5))) < 0.003)
  assert.equal(stabilityIndex(Float64Array.of(30, 10), Float64Array.of(30, 10)).stabilityIndex, 0)
  const empty = stabilityIndex(Float64Array.of(50, 50, 50), Float64Array.of(75, 75, 0))
  assert.ok(empty.stabilityIndex > 0.25 && Number.isFinite(empty.stabilityIndex))
  const none = { stabilityIndex: 0, stabilityNoise: 0 }
  assert.deepEqual(stabilityIndex(Float64Array.of(0, 0), Float64Array.of(1, 2)), none)
})

test('without drift the index is its noise, whatever the number of clusters', () => {
  const random = seededRandom(7)
  for (const cells of [10, 60, 300]) {
    const weights = Array.from({ length: cells }, (_, i) => (i + 1) ** -0.5)
    const excess = Array.from({ length: 8 }, () => {
      const found = stabilityIndex(drawn(weights, 8000, random), drawn(weights, 4000, random))
      return found.stabilityIndex - found.stabilityNoise
    })
    const mean = excess.reduce((sum, value) => sum + value, 0) / excess.length
    assert.ok(Math.abs(mean) < 0.01, `${cells} cells: ${mean}`)
    assert.ok(Math.max(...excess) < 0.03, `${cells} cells: ${Math.max(...excess)}`)
  }
})

test('the window holds the last examples, and reacts when the stream changes', () => {
  const random = seededRandom(8)
  const baseline = { examples: 4200, textOnly: 200, sizes: [1000, 1000, 2000] }
  const window = new DriftWindow({ clusters: 3, baseline, radii: [1, 2, 3] }, 1000)
  assert.deepEqual(window.measure(), {
    examples: 0,
    stabilityIndex: 0,
    stabilityNoise: 0,
    beyondShare: 0,
  })
  const feed = (weights: readonly number[], distance: (cluster: number) => number): void => {
    for (let i = 0; i < 1000; i++) {
      const cell = drawn(weights, 1, random).indexOf(1)
      if (cell === 3) window.add('text', null)
      else window.add(cell, distance(cell))
    }
  }
  feed([1000, 1000, 2000, 200], cluster => (random() < 0.01 ? 1.1 : 1) * (cluster + 1))
  const calm = window.measure()
  assert.equal(calm.examples, 1000)
  assert.ok(calm.stabilityIndex - calm.stabilityNoise < 0.02)
  assert.ok(Math.abs(calm.beyondShare - 0.01) < 0.01)
  feed([3000, 500, 500, 200], () => 2.5)
  const changed = window.measure()
  assert.ok(changed.stabilityIndex - changed.stabilityNoise > 0.25)
  assert.ok(changed.beyondShare > 0.8 && changed.beyondShare < 0.95)
  const direct = new DriftWindow({ clusters: 3, baseline, radii: [1, 2, 3] }, 1000)
  for (let i = 0; i < 1000; i++) for (const one of [window, direct]) one.add(i % 3, 2.5)
  assert.deepEqual(window.measure(), direct.measure())
})

test('a bundle without radii has no example beyond them', () => {
  const baseline = { examples: 2, textOnly: 0, sizes: [1, 1] }
  const window = new DriftWindow({ clusters: 2, baseline }, 10)
  window.add(0, 1e300)
  assert.equal(window.measure().beyondShare, 0)
})
