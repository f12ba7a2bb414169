/**
 * The 5 largest eigenvalues of a Gram matrix, ours against ml-matrix's: all values without vectors from the
 * same symmetric matrix, by turns in one run.
 *
 *   npm run bench:eigenvalues -- [--sizes 32,128,576] [--rounds N]
 *
 * Sizes are the smaller side of a cross-modal attention matrix: text rows or image columns. The last line
 * is one JSON object: milliseconds of each (the median), their ratio, and the largest relative difference.
 */
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { EigenvalueDecomposition, Matrix } from 'ml-matrix'
import { normalDeviates, seededRandom } from '../src/math/random.ts'
import { largestEigenvalues, VALUES } from '../src/math/singular-values.ts'
import { median } from './score/sides.ts'

const { values: options } = parseArgs({
  options: {
    sizes: { type: 'string', default: '32,128,576' },
    rounds: { type: 'string', default: '7' },
  },
})

/** A A^T of normal deviates, [size, size] row-major. */
function gramOf(size: number, seed: number): Float64Array {
  const a = new Matrix(size, size + 8)
  const deviates = normalDeviates(seededRandom(seed), a.size)
  a.apply((row, column) => a.set(row, column, deviates[row * a.columns + column]!))
  return Float64Array.from(a.mmul(a.transpose()).to1DArray())
}

function theirs(gram: Float64Array, size: number): number[] {
  const matrix = Matrix.from1DArray(size, size, gram)
  const found = new EigenvalueDecomposition(matrix, { assumeSymmetric: true }).realEigenvalues
  return found.toSorted((a, b) => b - a).slice(0, VALUES)
}

function timed<T>(work: () => T): { result: T; ms: number } {
  const started = performance.now()
  const result = work()
  return { result, ms: performance.now() - started }
}

function cellOf(size: number, rounds: number): object {
  const times = { ours: [] as number[], mlMatrix: [] as number[] }
  let worst = 0
  for (let round = 0; round <= rounds; round++) {
    const gram = gramOf(size, round + 1)
    const other = timed(() => theirs(gram, size))
    const own = timed(() => largestEigenvalues(gram.slice(), size, VALUES))
    for (const [i, value] of own.result.entries()) {
      worst = Math.max(worst, Math.abs(value - other.result[i]!) / other.result[0]!)
    }
    if (round === 0) continue // warm-up
    times.ours.push(own.ms)
    times.mlMatrix.push(other.ms)
  }
  const [ours, mlMatrix] = [median(times.ours), median(times.mlMatrix)]
  return { size, oursMs: ours, mlMatrixMs: mlMatrix, ratio: mlMatrix / ours, difference: worst }
}

const cells = options.sizes.split(',').map(size => cellOf(Number(size), Number(options.rounds)))
for (const cell of cells) process.stderr.write(`${JSON.stringify(cell)}\n`)
process.stdout.write(`${JSON.stringify({ cells, cpu: cpus()[0]?.model })}\n`)
