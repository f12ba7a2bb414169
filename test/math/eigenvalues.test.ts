import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { EigenvalueDecomposition, Matrix } from 'ml-matrix'
import { normalDeviates, seededRandom } from '../../src/math/random.ts'
import { largestEigenvalues } from '../../src/math/singular-values.ts'

function byMlMatrix(matrix: Float64Array, n: number): number[] {
  const whole = Matrix.from1DArray(n, n, [...matrix])
  const { realEigenvalues } = new EigenvalueDecomposition(whole, { assumeSymmetric: true })
  return [...realEigenvalues].sort((a, b) => b - a)
}

/** Of the largest eigenvalue in size. */
function assertClose(actual: number[], matrix: Float64Array, n: number): void {
  const expected = byMlMatrix(matrix, n)
  const scale = Math.max(Math.abs(expected[0]!), Math.abs(expected.at(-1)!))
  assert.equal(actual.length, Math.min(n, 5))
  for (const [k, value] of actual.entries()) {
    const apart = Math.abs(value - expected[k]!)
    assert.ok(apart <= 4 * n * Number.EPSILON * scale, `${value}, not ${expected[k]}`)
  }
}

function symmetric(n: number, entry: (i: number, j: number) => number): Float64Array {
  return Float64Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n]
    return entry(Math.max(i, j), Math.min(i, j))
  })
}

test('the five largest are those of a whole decomposition, whatever the matrix', () => {
  const entry = fc.oneof(
    fc.constant(0),
    fc.integer({ min: -3, max: 3 }),
    fc.double({ min: -9, max: 9, noNaN: true }).filter(value => Math.abs(value) > 1e-100),
  )
  const matrices = fc
    .integer({ min: 1, max: 12 })
    .chain(n => fc.tuple(fc.constant(n), fc.array(entry, { minLength: n * n, maxLength: n * n })))
  fc.assert(
    fc.property(matrices, ([n, entries]) => {
      const matrix = symmetric(n, (i, j) => entries[i * n + j]!)
      assertClose(largestEigenvalues(matrix.slice(), n, 5), matrix, n)
    }),
    { numRuns: 1_000 },
  )
})

test('so they are at the sizes of the score, close together and far apart', () => {
  const random = seededRandom(5)
  for (const [n, columns] of [
    [100, 196],
    [196, 60],
  ] as const) {
    const rows = normalDeviates(random, n * columns).map(value => 0.07 + 0.001 * value)
    const gram = symmetric(n, (i, j) => {
      let sum = 0
      for (let c = 0; c < columns; c++) sum += rows[i * columns + c]! * rows[j * columns + c]!
      return sum
    })
    assertClose(largestEigenvalues(gram.slice(), n, 5), gram, n)
  }
})

test('entries whose squares vanish are no zeros', () => {
  for (const small of [1e-100, 1e-86, 1e-170, 1e-300, 5e-324]) {
    const [far, near] = [
      symmetric(5, (i, j) => small * (1 + i + j)),
      symmetric(5, (i, j) => 1 + i + j),
    ]
    far[3] = far[15] = 1
    near[4] = near[20] = small
    for (const matrix of [far, near])
      assertClose(largestEigenvalues(matrix.slice(), 5, 5), matrix, 5)
  }
})

test('equal eigenvalues come as often as they are there', () => {
  const identity = symmetric(7, (i, j) => (i === j ? 2 : 0))
  assert.deepEqual(largestEigenvalues(identity, 7, 5), [2, 2, 2, 2, 2])
  const ones = symmetric(6, () => 1)
  const [first, ...rest] = largestEigenvalues(ones.slice(), 6, 3)
  assert.ok(Math.abs(first! - 6) < 1e-14 && rest.every(value => Math.abs(value) < 1e-14))
})
