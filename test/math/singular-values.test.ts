import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Matrix, SVD } from 'ml-matrix'
import { XmasdError } from '../../src/errors.ts'
import { largestSingularValues } from '../../src/math/singular-values.ts'
import { instabilityOf, trajectoryOf } from '../../src/score/metric.ts'

function bySvd(data: Float32Array, rows: number, columns: number): number[] {
  const matrix = Matrix.from1DArray(rows, columns, [...data])
  const values = [...new SVD(matrix, { autoTranspose: true }).diagonal]
  const descending = values.sort((a, b) => b - a).slice(0, 5)
  return [...descending, 0, 0, 0, 0, 0].slice(0, 5)
}

/** Squaring loses half the digits of what is far below the largest: sqrt(sides * epsilon) of it. */
function assertClose(actual: number[], expected: number[], sides = 8): void {
  assert.equal(actual.length, 5)
  const bound = Math.sqrt(sides * Number.EPSILON) * Math.max(expected[0]!, Number.MIN_VALUE)
  for (const [i, value] of actual.entries()) {
    assert.ok(Math.abs(value - expected[i]!) <= bound, `${actual} and ${expected}`)
  }
}

const entry = fc.float({ noNaN: true, min: -8, max: 8 })

test('the Gram matrix gives what the SVD gives, for every shape', () => {
  const shape = fc.tuple(fc.integer({ min: 1, max: 14 }), fc.integer({ min: 1, max: 14 }))
  const matrix = shape.chain(([rows, columns]) =>
    fc.tuple(
      fc.constant(rows),
      fc.constant(columns),
      fc.array(entry, { minLength: rows * columns, maxLength: rows * columns }),
    ),
  )
  fc.assert(
    fc.property(matrix, ([rows, columns, values]) => {
      const data = Float32Array.from(values)
      const found = largestSingularValues(data, rows, columns)
      assertClose(found, bySvd(data, rows, columns), rows + columns)
    }),
    { numRuns: 1_000 },
  )
})

test('a matrix and its transpose have the same values', () => {
  const data = Float32Array.from({ length: 24 }, (_, i) => Math.sin(i * i))
  const transposed = Float32Array.from({ length: 24 }, (_, i) => data[(i % 4) * 6 + (i >> 2)]!)
  assertClose(largestSingularValues(data, 4, 6), largestSingularValues(transposed, 6, 4))
})

test('a matrix of low rank ends in zeros, exactly', () => {
  const [rows, columns] = [20, 9]
  const data = new Float32Array(rows * columns)
  for (let i = 0; i < data.length; i++) {
    const [r, c] = [Math.floor(i / columns), i % columns]
    data[i] = ((r % 4) + 1) * 0.25 * (c + 1) // one outer product, exact in float32
  }
  const [first, ...rest] = largestSingularValues(data, rows, columns)
  assertClose([first!, ...rest], bySvd(data, rows, columns))
  assert.deepEqual(rest, [0, 0, 0, 0])
})

test('a row alone has its length as the one value; zeros have none', () => {
  assert.deepEqual(largestSingularValues(Float32Array.of(3, 4), 1, 2), [5, 0, 0, 0, 0])
  assert.deepEqual(largestSingularValues(new Float32Array(12), 3, 4), [0, 0, 0, 0, 0])
})

test('a value that is not finite is SCORE_NOT_FINITE', () => {
  for (const value of [Number.NaN, Infinity, -Infinity]) {
    assert.throws(
      () => largestSingularValues(Float32Array.of(1, value, 2, 3), 2, 2),
      (error: unknown) => error instanceof XmasdError && error.code === 'SCORE_NOT_FINITE',
    )
  }
})

test('a trajectory is the sums, its instability the sum of absolute differences', () => {
  assert.deepEqual(
    trajectoryOf([
      [1, 2, 3, 0, 0],
      [4, 0, 0, 0, 0],
      [9, 0, 0, 0, 0],
    ]),
    [6, 4, 9],
  )
  assert.equal(instabilityOf([6, 4, 9]), 7)
  assert.equal(instabilityOf([6]), 0)
})
