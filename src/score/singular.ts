/** The largest singular values of a cross-modal attention matrix, exact. */
import { EigenvalueDecomposition, Matrix } from 'ml-matrix'
import { XmasdError } from '../errors.ts'

/** How many singular values make the score. */
export const VALUES = 5

/**
 * The 5 largest singular values of `matrix` [rows, columns] (row-major float32), descending, zeros
 * where the matrix has fewer. Square roots of the eigenvalues of the smaller Gram matrix, in
 * float64: an error of at most sqrt((rows + columns) * 2.2e-16) of the largest value,
 * 4e-7 at 200 × 576; what is smaller is 0. Throws SCORE_NOT_FINITE.
 */
export function largestSingularValues(
  matrix: Float32Array,
  rows: number,
  columns: number,
): number[] {
  if (matrix.length !== rows * columns) {
    throw new RangeError(`[${rows}, ${columns}] does not hold ${matrix.length} values`)
  }
  if (!matrix.every(Number.isFinite)) {
    throw new XmasdError(
      'SCORE_NOT_FINITE',
      'the cross-modal attention holds a value that is not finite',
      'The checkpoint overflows on this example; check its weights for NaN and infinities.',
    )
  }
  const gram =
    rows <= columns ? gramOfRows(matrix, rows, columns) : gramOfColumns(matrix, rows, columns)
  const { realEigenvalues } = new EigenvalueDecomposition(gram, { assumeSymmetric: true })
  const descending = realEigenvalues.sort((a, b) => b - a).slice(0, VALUES)
  const noise = gram.rows * Number.EPSILON * Math.max(0, descending[0] ?? 0)
  const values = descending.map(value => (value > noise ? Math.sqrt(value) : 0))
  return [...values, ...Array<number>(VALUES - values.length).fill(0)]
}

/** A A^T [rows, rows] */
function gramOfRows(matrix: Float32Array, rows: number, columns: number): Matrix {
  const wide = Float64Array.from(matrix)
  const gram = new Matrix(rows, rows)
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = 0
      for (let c = 0; c < columns; c++) sum += wide[i * columns + c]! * wide[j * columns + c]!
      gram.set(i, j, sum)
      gram.set(j, i, sum)
    }
  }
  return gram
}

/** A^T A [columns, columns] */
function gramOfColumns(matrix: Float32Array, rows: number, columns: number): Matrix {
  const transposed = new Float32Array(matrix.length)
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) transposed[c * rows + r] = matrix[r * columns + c]!
  }
  return gramOfRows(transposed, columns, rows)
}
