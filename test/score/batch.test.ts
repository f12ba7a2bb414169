import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { seededRandom } from '../../src/random.ts'
import { ownPart, packBatch, planBatches, type Sequence } from '../../src/score/batch.ts'
import { randomSequence } from '../fixtures-tiny-proxy.ts'

const IMAGE = { imageTokens: 4, patchValues: 24 }

function sequenceOf(before: number, after: number, seed = 1, hash?: string): Sequence {
  const image = hash === undefined ? IMAGE : { ...IMAGE, hash }
  return randomSequence(seededRandom(seed), { before, after, ...image })
}

test('every sequence runs exactly once, within the limits', () => {
  const parts = fc.array(fc.tuple(fc.nat(50), fc.integer({ min: 2, max: 90 })), { maxLength: 60 })
  const limits = fc.record({
    tokensMax: fc.integer({ min: 1, max: 600 }),
    examplesMax: fc.integer({ min: 1, max: 9 }),
  })
  fc.assert(
    fc.property(parts, limits, (lengths, { tokensMax, examplesMax }) => {
      const sequences = lengths.map(([before, after]) => sequenceOf(before, after))
      const batches = planBatches(sequences, { tokensMax, examplesMax })
      assert.deepEqual(
        batches.flat().sort((a, b) => a - b),
        sequences.map((_, i) => i),
      )
      for (const batch of batches) {
        const longest = Math.max(...batch.map(i => sequences[i]!.ids.length))
        assert.ok(batch.length <= examplesMax)
        assert.ok(batch.length === 1 || batch.length * longest <= tokensMax)
      }
    }),
  )
})

test('sequences of a batch are neighbours in length', () => {
  const sequences = [60, 3, 59, 4, 61, 2].map(after => sequenceOf(0, after))
  const batches = planBatches(sequences, { tokensMax: 1000, examplesMax: 3 })
  assert.deepEqual(batches, [
    [5, 1, 3],
    [2, 0, 4],
  ])
})

test('padding is masked, images are counted once, image positions point to their rows', () => {
  const [a, b, c] = [sequenceOf(1, 3, 1, 'x'), sequenceOf(2, 5, 2, 'y'), sequenceOf(0, 2, 3, 'x')]
  const { patches, inputs } = packBatch([a, b, c], { imageTokens: 4, patchCount: 4 })
  assert.deepEqual(patches.shape, [2, 4, 6])
  assert.deepEqual([...patches.data], [...a.image.patches, ...b.image.patches])
  const { ids, imageRows, isImage, padding, rows, columns } = inputs
  assert.deepEqual(ids.shape, [3, 11])
  assert.deepEqual([...imageRows.data.subarray(0, 11)], [0, 0, 1, 2, 3, 0, 0, 0, 0, 0, 0])
  assert.deepEqual([...imageRows.data.subarray(11, 22)], [0, 0, 4, 5, 6, 7, 0, 0, 0, 0, 0])
  assert.deepEqual([...imageRows.data.subarray(22, 33)], [0, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0])
  assert.deepEqual([...isImage.data.subarray(0, 11)], [0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
  const real = [...padding.data].map(value => (value === 0 ? 1 : 0))
  assert.deepEqual(real.slice(0, 11), [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0])
  assert.deepEqual(rows.shape, [3, 4])
  assert.deepEqual([...rows.data.subarray(0, 4)], [6, 7, 0, 0])
  assert.deepEqual(columns.shape, [3, 4])
})

test('of a padded result only the own rows and columns are read back', () => {
  const sequence = { ...sequenceOf(0, 3), columns: Int32Array.of(0, 1) } // 2 columns, 2 rows
  const data = Float32Array.from({ length: 2 * 3 * 4 }, (_, i) => i) // [B 2, I 3, R 4]
  assert.deepEqual([...ownPart({ data, shape: [2, 3, 4] }, 1, sequence)], [12, 13, 16, 17])
})
