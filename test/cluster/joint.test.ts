import assert from 'node:assert/strict'
import { test } from 'node:test'
import { signatureOf, standardisedPoints } from '../../src/bundle/signature.ts'
import { fitClusters } from '../../src/cluster/fit.ts'
import { learnSignature } from '../../src/cluster/joint.ts'
import { readTrajectoryLines } from '../../src/cluster/trajectories.ts'
import { seededRandom } from '../../src/math/random.ts'
import { encodeDirection, type Points } from '../../src/math/vectors.ts'

const COUNT = 600
const GROUPS = 20
const FIRST = 10
const DIMENSIONS = 13

/** Two parts, of which one shows groups and the other nothing. */
function points(grouped: 'first' | 'second'): Points {
  const random = seededRandom(4)
  const centres = Array.from({ length: GROUPS }, () => Array.from({ length: DIMENSIONS }, random))
  const data = Float64Array.from({ length: COUNT * DIMENSIONS }, (_, at) => {
    const [i, d] = [Math.floor(at / DIMENSIONS), at % DIMENSIONS]
    const isGrouped = d < FIRST === (grouped === 'first')
    return isGrouped ? centres[i % GROUPS]![d]! + 0.02 * random() : random()
  })
  return { data, count: COUNT, dimensions: DIMENSIONS, first: FIRST }
}

const OPTIONS = { signature: 'joint' as const, clusters: GROUPS, seed: 1 }

test('a joint signature gives the more weight to the part whose clusters are stable', () => {
  for (const [grouped, expected] of [
    ['first', 0.25],
    ['second', 0.75],
  ] as const) {
    const raw = points(grouped)
    const { standardisation, shares } = learnSignature(raw, OPTIONS)
    assert.equal(shares![0]!.share, expected)
    assert.deepEqual(
      shares!.map(({ stability }) => stability),
      shares!.map(({ stability }) => stability).sort((a, b) => b - a),
    )
    const { data } = standardisedPoints(raw, standardisation)
    const variances = [0, 0]
    for (const [at, value] of data.entries()) {
      variances[Number(at % DIMENSIONS >= FIRST)]! += value ** 2 / COUNT
    }
    assert.ok(Math.abs(variances[0]! - (1 - expected)) < 1e-9, String(variances))
    assert.ok(Math.abs(variances[1]! - expected) < 1e-9, String(variances))
    assert.deepEqual(learnSignature(raw, OPTIONS), { standardisation, shares })
  }
})

test('an example has the joint signature that it was fitted by, read from a file or a record', async () => {
  const random = seededRandom(8)
  const examples = Array.from({ length: 60 }, (_, i) => {
    const singularValues = [0, 1].map(() => [20 + (i % 3) + random(), 3, 2 * random(), 1, 0])
    const trajectory = singularValues.map(row => row.reduce((sum, value) => sum + value, 0))
    const embedding = encodeDirection(Array.from({ length: 6 }, () => random() - 0.5))
    return { id: `e${i}`, trajectory, singularValues, embedding }
  })
  const lines = (async function* () {
    for (const example of examples) yield JSON.stringify(example)
  })()
  const read = await readTrajectoryLines(lines, 'file', { signatures: ['joint', 'question'] })
  assert.deepEqual([...read.lacking], [['question', 1]])
  const raw = read.signatures.get('joint')!
  assert.deepEqual([raw.first, raw.dimensions], [10, 16])
  const { standardisation } = fitClusters(raw, { ...OPTIONS, clusters: 3 })
  const found = standardisedPoints(raw, standardisation)
  const signature = signatureOf({ signature: 'joint', standardisation })
  for (const [i, example] of examples.entries()) {
    assert.deepEqual(
      [...Array.from(signature(example))],
      [...found.data.subarray(16 * i, 16 * i + 16)],
    )
  }
  const { embedding: _, ...old } = examples[0]!
  assert.throws(() => signature(old), /no joint/)
})
