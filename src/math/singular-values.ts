/** The largest singular values of a cross-modal attention matrix, exact. */
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
  const sides = Math.min(rows, columns)
  const gram =
    rows <= columns ? gramOfRows(matrix, rows, columns) : gramOfColumns(matrix, rows, columns)
  const largest = largestEigenvalues(gram, sides, VALUES)
  const noise = sides * Number.EPSILON * Math.max(0, largest[0] ?? 0)
  const values = largest.map(value => (value > noise ? Math.sqrt(value) : 0))
  return [...values, ...Array<number>(VALUES - values.length).fill(0)]
}

/** A A^T [rows, rows] */
function gramOfRows(matrix: Float32Array, rows: number, columns: number): Float64Array {
  const wide = Float64Array.from(matrix)
  const gram = new Float64Array(rows * rows)
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j <= i; j += GROUP) products(wide, columns, i, j, gram, rows)
  }
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < i; j++) gram[j * rows + i] = gram[i * rows + j]!
  }
  return gram
}

/** Rows that one row is multiplied by at a time: each of its values is read once for all. */
const GROUP = 4

/** Row `i` times rows `j` to `j + 3`; those that are not there count as the last. */
function products(
  wide: Float64Array,
  columns: number,
  i: number,
  j: number,
  gram: Float64Array,
  rows: number,
): void {
  const last = (rows - 1) * columns
  const own = i * columns
  const a = j * columns
  const b = Math.min(a + columns, last)
  const c = Math.min(b + columns, last)
  const d = Math.min(c + columns, last)
  let [sumA, sumB, sumC, sumD] = [0, 0, 0, 0]
  for (let at = 0; at < columns; at++) {
    const x = wide[own + at]!
    sumA += x * wide[a + at]!
    sumB += x * wide[b + at]!
    sumC += x * wide[c + at]!
    sumD += x * wide[d + at]!
  }
  const to = i * rows + j
  gram[to] = sumA
  if (j + 1 <= i) gram[to + 1] = sumB
  if (j + 2 <= i) gram[to + 2] = sumC
  if (j + 3 <= i) gram[to + 3] = sumD
}

/** A^T A [columns, columns] */
function gramOfColumns(matrix: Float32Array, rows: number, columns: number): Float64Array {
  const transposed = new Float32Array(matrix.length)
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) transposed[c * rows + r] = matrix[r * columns + c]!
  }
  return gramOfRows(transposed, columns, rows)
}

/*
 * The largest eigenvalues of a symmetric matrix, no vectors: Householder's reduction to a tridiagonal
 * one, then bisection on the number of eigenvalues above a point (Sturm; Golub and Van Loan, *Matrix
 * Computations*, 8.3 and 8.4). 5 times as fast as all values and vectors at the sizes of the score.
 */

/** `diagonal` [n] and, between neighbours, `beside` [n - 1]. */
type Tridiagonal = { diagonal: Float64Array; beside: Float64Array }

/**
 * The `count` largest eigenvalues of `matrix` [n, n], descending, all where n is smaller. Destroys
 * `matrix`. Errors are a few n * 2.2e-16 of the largest in size.
 */
export function largestEigenvalues(matrix: Float64Array, n: number, count: number): number[] {
  const tridiagonal = tridiagonalOf(matrix, n)
  let [low, high] = boundsOf(tridiagonal)
  const bottom = low
  const width = Number.EPSILON * Math.max(Math.abs(low), Math.abs(high))
  const values: number[] = []
  for (let k = 1; k <= Math.min(count, n); k++) {
    low = bottom
    while (high - low > width) {
      const middle = low + (high - low) / 2
      if (middle === low || middle === high) break // neighbours: only among the smallest floats
      if (countAbove(tridiagonal, middle, width) >= k) low = middle
      else high = middle
    }
    values.push(low + (high - low) / 2)
  }
  return values
}

/** Mirrors one column after the other onto its first entry, from both sides. */
function tridiagonalOf(a: Float64Array, n: number): Tridiagonal {
  const diagonal = new Float64Array(n)
  const beside = new Float64Array(Math.max(0, n - 1))
  const mirror = new Float64Array(n)
  const image = new Float64Array(n)
  for (let k = 0; k < n - 1; k++) {
    diagonal[k] = a[k * n + k]!
    let largest = 0
    for (let i = k + 1; i < n; i++) largest = Math.max(largest, Math.abs(a[i * n + k]!))
    beside[k] = a[(k + 1) * n + k]!
    if (largest === 0 || k === n - 2) continue
    // A power of two: squares neither vanish nor overflow, and nothing is rounded.
    const scale = 2 ** Math.floor(Math.log2(largest))
    let squares = 0
    for (let i = k + 1; i < n; i++) {
      mirror[i] = a[i * n + k]! / scale
      squares += mirror[i]! ** 2
    }
    const first = mirror[k + 1]!
    const norm = Math.sqrt(squares)
    const mirrored = first > 0 ? -norm : norm
    beside[k] = scale * mirrored
    mirror[k + 1] = first - mirrored
    reflect(a, n, k + 1, { mirror, image, factor: 1 / (norm * (norm + Math.abs(first))) })
  }
  diagonal[n - 1] = a[n * n - 1]!
  return { diagonal, beside }
}

/** A -> H A H on rows and columns from `from`, H = 1 - factor * mirror mirror^T, symmetric A. */
function reflect(
  a: Float64Array,
  n: number,
  from: number,
  { mirror, image, factor }: { mirror: Float64Array; image: Float64Array; factor: number },
): void {
  let along = 0
  for (let i = from; i < n; i++) {
    let sum = 0
    for (let j = from, at = i * n + from; j < n; j++, at++) sum += a[at]! * mirror[j]!
    image[i] = factor * sum
    along += image[i]! * mirror[i]!
  }
  for (let i = from; i < n; i++) image[i]! -= (factor * along * mirror[i]!) / 2
  for (let i = from; i < n; i++) {
    const [m, p] = [mirror[i]!, image[i]!]
    for (let j = from, at = i * n + from; j < n; j++, at++) {
      a[at]! -= m * image[j]! + p * mirror[j]!
    }
  }
}

/** An interval that holds all eigenvalues (Gershgorin's circles). */
function boundsOf({ diagonal, beside }: Tridiagonal): [low: number, high: number] {
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
  for (const [i, centre] of diagonal.entries()) {
    const radius = Math.abs(beside[i - 1] ?? 0) + Math.abs(beside[i] ?? 0)
    low = Math.min(low, centre - radius)
    high = Math.max(high, centre + radius)
  }
  return [low, high]
}

/** How many eigenvalues are above `x`: the positive pivots of T - x. One below `smallest` counts as -it. */
function countAbove({ diagonal, beside }: Tridiagonal, x: number, smallest: number): number {
  let count = 0
  let pivot = 1
  for (let i = 0; i < diagonal.length; i++) {
    const taken = i === 0 ? 0 : (beside[i - 1]! * beside[i - 1]!) / pivot
    pivot = diagonal[i]! - x - taken
    if (Math.abs(pivot) < smallest) pivot = -smallest
    if (pivot > 0) count++
  }
  return count
}
