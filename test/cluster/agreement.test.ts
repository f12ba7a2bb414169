import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { adjustedRand } from '../../src/cluster/agreement.ts'
import { compareSignatures } from '../../src/cluster/compare.ts'
import { seededRandom } from '../../src/math/random.ts'

test('adjusted Rand equals the published example and scikit-learn documents', () => {
  assert.ok(Math.abs(adjustedRand([0, 0, 1, 2], [0, 0, 1, 1]) - 4 / 7) < 1e-12)
  assert.equal(adjustedRand([0, 0, 1, 1], [1, 1, 0, 0]), 1)
  assert.equal(adjustedRand([0, 0, 0, 0], [0, 1, 2, 3]), 0)
  assert.throws(() => adjustedRand([0], [0, 1]), RangeError)
})

/** By its definition: over all pairs of points. */
function adjustedRandByPairs(a: readonly number[], b: readonly number[]): number {
  let [both, inA, inB, all] = [0, 0, 0, 0]
  for (let i = 0; i < a.length; i++) {
    for (let j = 0; j < i; j++) {
      const [sameA, sameB] = [a[i] === a[j], b[i] === b[j]]
      all++
      both += Number(sameA && sameB)
      inA += Number(sameA)
      inB += Number(sameB)
    }
  }
  const expected = (inA * inB) / all
  const most = (inA + inB) / 2
  return most === expected ? 1 : (both - expected) / (most - expected)
}

test('adjusted Rand equals its definition over pairs of points, names of clusters aside', () => {
  const points = fc.array(fc.tuple(fc.nat(3), fc.nat(3)), { minLength: 2, maxLength: 30 })
  fc.assert(
    fc.property(points, list => {
      const [a, b] = [list.map(([x]) => x), list.map(([, y]) => y)]
      assert.ok(Math.abs(adjustedRand(a, b) - adjustedRandByPairs(a, b)) < 1e-9)
      assert.equal(
        adjustedRand(
          a.map(x => 7 - x),
          b,
        ),
        adjustedRand(a, b),
      )
    }),
  )
})

test('signatures that show the same groups agree and are stable, noise is not', () => {
  const random = seededRandom(4)
  const points = (value: (i: number) => number) => ({
    data: Float64Array.from({ length: 600 }, (_, i) => value(i)),
    count: 600,
    dimensions: 1,
  })
  const signatures = new Map([
    ['sum', points(i => 100 * (i % 3) + random())],
    ['spectrum', points(i => -7 * (i % 3) + 0.1 * random())],
    ['embedding', points(() => random())],
  ] as const)
  const found = compareSignatures(signatures, { clusters: 3, seeds: [1, 2, 3] })
  assert.deepEqual(
    found.signatures.map(({ sizes }) => sizes.reduce((sum, size) => sum + size, 0)),
    [600, 600, 600],
  )
  const [sum, spectrum] = found.signatures
  assert.deepEqual([sum!.stability, spectrum!.stability], [1, 1])
  const [same, ...others] = found.agreement.map(({ adjustedRand }) => adjustedRand)
  assert.equal(same, 1)
  for (const other of others) assert.ok(Math.abs(other) < 0.05, String(other))
})
