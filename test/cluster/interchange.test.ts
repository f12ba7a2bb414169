import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import {
  readClusterIndices,
  readMetricFiles,
  readStability,
  writeById,
} from '../../src/cluster/interchange.ts'
import { hasCode } from '../ingest/fixtures.ts'
import { temporaryFolder } from '../support.ts'

/** A folder with these files; values are JSON or the text itself. */
function folderWith(t: TestContext, files: Record<string, unknown>): string {
  const dir = join(temporaryFolder(t), 'metrics')
  mkdirSync(dir)
  for (const [name, value] of Object.entries(files)) {
    writeFileSync(join(dir, name), typeof value === 'string' ? value : JSON.stringify(value))
  }
  return dir
}

const ATTENTION = {
  'run-checkpoint-20_attn_svd_full_vals.json': {
    'a::x': [1, 6, 5, 4, 3, 2],
    'b::y': [2, 2, 2, 2, 2],
  },
  'run-checkpoint-100_attn_svd_full_vals.json': {
    'b::y': [1, 1, 1, 1, 1],
    'a::x': [5, 4, 3, 2, 1],
  },
}

test('a folder of singular values gives scores of the largest five, checkpoints by number', t => {
  const dir = folderWith(t, { ...ATTENTION, 'notes.txt': 'x' })
  const { metric, steps, ids, scores, singularValues } = readMetricFiles(dir)
  assert.deepEqual([metric, steps, ids], ['attention', [20, 100], ['a::x', 'b::y']])
  assert.deepEqual(
    scores.map(one => [...one]),
    [
      [20, 10],
      [15, 5],
    ],
  )
  assert.deepEqual([...singularValues![0]!.subarray(0, 5)], [6, 5, 4, 3, 2])
})

test('the parts of several processes are one checkpoint; an id in two of them is refused', t => {
  const part = (...ids: string[]) => Object.fromEntries(ids.map(id => [id, [1, 1, 1, 1, 1]]))
  const name = (rank: number) => `checkpoint-5_attn_svd_partial_vals_top5_${rank}.json`
  const dir = folderWith(t, { [name(0)]: part('a::x'), [name(1)]: part('b::y') })
  assert.deepEqual(readMetricFiles(dir).ids, ['a::x', 'b::y'])
  writeFileSync(join(dir, name(2)), JSON.stringify(part('b::y')))
  assert.throws(() => readMetricFiles(dir), /"b::y" twice/)
})

test('fewer values than five are scores without a spectrum', t => {
  const dir = folderWith(t, { 'checkpoint-1_attn_svd_full_vals_top2.json': { 'a::x': [1, 3] } })
  const { scores, singularValues } = readMetricFiles(dir)
  assert.deepEqual([[...scores[0]!], singularValues], [[4], null])
})

test('losses are scores; where both metrics lie together one must be named', t => {
  const loss = {
    'checkpoint-20_loss_0.json': { 'a::x': 1.5 },
    'checkpoint-3_loss_0.json': { 'a::x': 2 },
  }
  const dir = folderWith(t, loss)
  const { metric, steps, scores } = readMetricFiles(dir)
  assert.deepEqual([metric, steps, scores.map(one => [...one])], ['loss', [3, 20], [[2], [1.5]]])
  const both = folderWith(t, { ...loss, ...ATTENTION })
  assert.throws(() => readMetricFiles(both), /two metrics.*--metric/)
  assert.deepEqual(readMetricFiles(both, 'attention').steps, [20, 100])
})

test("Python's words for what is not finite are NaN, and stand untouched in ids", t => {
  const dir = folderWith(t, {
    'checkpoint-1_loss.json': '{"NaN \\"Infinity": NaN, "b": -Infinity, "c": 1.0}',
  })
  const { ids, scores } = readMetricFiles(dir)
  assert.deepEqual(ids, ['NaN "Infinity', 'b', 'c'])
  assert.deepEqual([...scores[0]!], [Number.NaN, Number.NaN, 1])
})

test('a checkpoint that lacks an id, a malformed file, vectors, nothing: each is refused by name', t => {
  const refused = (files: Record<string, unknown>, message: RegExp): void => {
    const dir = folderWith(t, files)
    assert.throws(() => readMetricFiles(dir), hasCode('DATA_INVALID'))
    assert.throws(() => readMetricFiles(dir), message)
  }
  const { 'run-checkpoint-20_attn_svd_full_vals.json': first } = ATTENTION
  const second = 'run-checkpoint-100_attn_svd_full_vals.json'
  refused({ ...ATTENTION, [second]: { 'b::y': [1] } }, /checkpoint-100.* lacks "a::x"/)
  refused({ [second]: { 'a::x': [] } }, /checkpoint-100.*not a file of this kind/)
  refused({ [second]: '{' }, /checkpoint-100.*not a file of this kind/)
  refused({ 'checkpoint-1_attn_svd_full_vecs_top5.json': first }, /singular vectors/)
  refused({ 'other.json': first }, /holds no checkpoint-N_attn_svd/)
  refused({ [second]: {} }, /holds no example/)
  assert.throws(() => readMetricFiles('/nowhere'), hasCode('FILE_UNREADABLE'))
})

test('what is written by id is laid out as Python lays it out, and read back', t => {
  const file = join(temporaryFolder(t), 'deep', 'cluster_idxs.json')
  writeById(file, [
    ['b::y', 3],
    ['7', 0],
  ])
  assert.equal(readFileSync(file, 'utf8'), '{\n    "b::y": 3,\n    "7": 0\n}')
  assert.deepEqual(
    readClusterIndices(file),
    new Map([
      ['7', 0],
      ['b::y', 3],
    ]),
  )
  writeById(file, [['a', [1, 0.5]]])
  assert.equal(readFileSync(file, 'utf8'), '{\n    "a": [\n        1,\n        0.5\n    ]\n}')
  writeById(file, [['a', 0.25]])
  assert.deepEqual(readStability(file), new Map([['a', 0.25]]))
  writeFileSync(file, '{"a": 1.5}')
  assert.throws(() => readClusterIndices(file), hasCode('DATA_INVALID'))
})
