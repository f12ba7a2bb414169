import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { XmasdError } from '../../../src/errors.ts'
import {
  CHUNK_ROWS,
  decodeBlock,
  decodeChunk,
  decodeRow,
  emptyChunk,
  encodeBlock,
  encodeChunk,
  pushRow,
} from '../../../src/select/columns/stored.ts'

test('a chunk comes back as it was, and other bytes are refused', () => {
  const chunk = emptyChunk(CHUNK_ROWS)
  for (let i = 0; i < 1000; i++) {
    const cluster = i % 7 === 0 ? 'text' : i % 5
    const instability = cluster === 'text' ? Number.NaN : i / 3
    const content = { high: i * 4_000_000, low: ~i >>> 0 }
    pushRow(chunk, { cluster, instability, id: `é${i}`, content })
  }
  const found = decodeChunk(encodeChunk(chunk))
  const { count, ids, ...columns } = chunk
  assert.deepEqual([found.count, found.ids], [count, ids])
  for (const name of Object.keys(columns) as (keyof typeof columns)[]) {
    assert.deepEqual(found[name], chunk[name].slice(0, count))
  }
  const bytes = encodeChunk(chunk)
  assert.throws(() => decodeChunk(bytes.subarray(0, bytes.length - 1)), XmasdError)
  assert.throws(() => decodeChunk(encodeBlock([])), XmasdError)
})

test('a block keeps what orders its rows, and which are misaligned, beside protected ones', () => {
  const rows = [0, 1, 2, 3].map(i => ({
    offset: i,
    instability: i / 2,
    content: { high: i, low: 7 },
    cluster: 3 * i,
    id: `id${i}`,
    bundle: 'b1',
    ...(i === 1 ? { isProtected: true } : {}),
    ...(i === 2 ? { isMisaligned: true } : {}),
  }))
  assert.deepEqual(decodeBlock(encodeBlock(rows)), rows)
  const ordered = rows.map((row, i) => ({ ...row, order: i - 1.5 }))
  const block = encodeBlock(ordered)
  assert.deepEqual(decodeBlock(block), ordered)
  assert.deepEqual(decodeRow(block, 2), ordered[2])
  const chunk = emptyChunk(4)
  for (const row of ordered) pushRow(chunk, row)
  assert.deepEqual([...chunk.instability], [-1.5, -0.5, 0.5, 1.5])
  assert.deepEqual([...chunk.cluster], [0, -2, -3, 9])
})

test('a block gives back its rows, whole and one by one', () => {
  const row = fc
    .tuple(
      fc.nat(),
      fc.oneof(fc.double(), fc.constant(Number.NaN)),
      fc.nat(2 ** 32 - 1),
      fc.oneof(fc.nat(5), fc.constant('text' as const)),
      fc.string({ unit: 'grapheme' }),
      fc.constantFrom('b1', 'b2', 'é'),
    )
    .map(([offset, instability, high, cluster, id, bundle]) => {
      return { offset, instability, content: { high, low: ~high >>> 0 }, cluster, id, bundle }
    })
  fc.assert(
    fc.property(fc.array(row, { maxLength: 20 }), rows => {
      const block = encodeBlock(rows)
      assert.deepEqual(decodeBlock(block), rows)
      rows.forEach((expected, index) => {
        assert.deepEqual(decodeRow(block, index), expected)
      })
      assert.throws(() => decodeRow(block, rows.length), XmasdError)
      assert.throws(() => decodeBlock(block.subarray(0, block.length - 1)), XmasdError)
    }),
  )
})
