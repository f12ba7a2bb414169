import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../src/math/random.ts'
import { ownPart, type PackedBatch, packBatch, type Sequence } from '../../src/score/batch.ts'
import { randomSequence } from '../fixtures-tiny-proxy.ts'

const IMAGE = { imageTokens: 4, patchValues: 24 }

function sequenceOf(before: number, after: number, seed = 1, hash?: string): Sequence {
  const image = hash === undefined ? IMAGE : { ...IMAGE, hash }
  return randomSequence(seededRandom(seed), { before, after, ...image })
}

/** Of every sequence: the ids of its tokens, in order, as the packed arrays give them. */
function unpacked(packed: PackedBatch): number[][] {
  const { ids, sequences, padding } = packed.inputs
  const [count, width] = sequences.shape as [number, number]
  return Array.from({ length: count }, (_, b) => {
    const isReal = (t: number): boolean => padding.data[b * width + t] === 0
    const tokens = [...sequences.data.subarray(b * width, (b + 1) * width)]
    return tokens.filter((_, t) => isReal(t)).map(token => ids.data[token]!)
  })
}

const ropeScaling = { kind: 'default' } as const
const PACKING = { imageTokens: 4, text: { ropeTheta: 10, rotaryDims: 2, ropeScaling } }

test('what sequences share stands there once; each still reads as it was', () => {
  const head = Int32Array.of(7, 8)
  const alike = [3, 5, 2].map((after, i) => {
    const sequence = sequenceOf(2, after, i + 1, i < 2 ? 'x' : 'y')
    sequence.ids.set(head)
    return sequence
  })
  const other = sequenceOf(0, 4, 9, 'x')
  const batch = [...alike, other]
  const packed = packBatch(batch, PACKING)
  // The head, 3 prefixes (x and y behind the head, x alone) of 4 image tokens, and the suffixes.
  assert.deepEqual(packed.inputs.ids.shape, [1, 2 + 3 * 4 + 3 + 5 + 2 + 4])
  assert.deepEqual(packed.inputs.prefixes.shape, [3, 6])
  assert.deepEqual(
    packed.images.map(image => image.hash),
    ['x', 'y'],
  )
  const expected = batch.map(({ ids, columns }) =>
    [...ids].map((id, at) => (columns.includes(at) ? 0 : id)),
  )
  assert.deepEqual(unpacked(packed), expected)
})

test('image tokens point to the rows of their image, text rows to their tokens', () => {
  const batch = [sequenceOf(1, 3, 1, 'x'), sequenceOf(2, 5, 2, 'y'), sequenceOf(0, 2, 3, 'x')]
  const { inputs, positions: all } = packBatch(batch, PACKING)
  const width = inputs.sequences.shape[1]!
  for (const [b, { columns, rows }] of batch.entries()) {
    const tokens = inputs.sequences.data.subarray(b * width, (b + 1) * width)
    const images = [...columns].map(at => inputs.imageRows.data[tokens[at]!])
    assert.deepEqual(images, b === 1 ? [4, 5, 6, 7] : [0, 1, 2, 3])
    assert.ok([...columns].every(at => inputs.isImage.data[tokens[at]!] === 1))
    const textRows = inputs.rows.data.subarray(b * 4, b * 4 + rows.length)
    assert.deepEqual(
      [...textRows],
      [...rows].map(at => tokens[at]),
    )
    const positions = [...tokens].slice(0, 5).map(token => all[token])
    assert.deepEqual(positions, [0, 1, 2, 3, 4])
  }
})

test('a suffix sees its own prefix and what stands before it, nothing else', () => {
  const batch = [sequenceOf(1, 3, 1, 'x'), sequenceOf(2, 5, 2, 'y')]
  const { seen, padding } = packBatch(batch, PACKING).inputs
  assert.deepEqual(seen.shape, [2, 1, 5, 11])
  const visible = [...seen.data].map(value => (value === 0 ? 1 : 0))
  assert.deepEqual(visible.slice(0, 11), [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0])
  assert.deepEqual(visible.slice(11, 22), [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
  assert.deepEqual(visible.slice(9 * 11), [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
  const real = [...padding.data].map(value => (value === 0 ? 1 : 0))
  assert.deepEqual(real.slice(0, 11), [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0])
})

test('every token takes its attention from where it was a query', () => {
  const batch = [sequenceOf(1, 3, 1, 'x'), sequenceOf(2, 5, 2, 'y'), sequenceOf(1, 4, 1, 'x')]
  const { origin, prefixes, suffixes } = packBatch(batch, PACKING).inputs
  const queries = [...prefixes.data, ...suffixes.data]
  for (const [token, row] of origin.data.entries()) assert.equal(queries[row], token)
})

test('of a padded result only the own rows and columns are read back', () => {
  const sequence = { ...sequenceOf(0, 3), columns: Int32Array.of(0, 1) } // 2 columns, 2 rows
  const data = Float32Array.from({ length: 2 * 3 * 4 }, (_, i) => i) // [B 2, I 3, R 4]
  assert.deepEqual([...ownPart({ data, shape: [2, 3, 4] }, 1, sequence)], [12, 13, 16, 17])
})
