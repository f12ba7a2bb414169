import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { readTrajectories, readTrajectoriesMeta } from '../../src/cluster/trajectories.ts'
import { temporaryFolder } from '../support.ts'

function fileOf(t: TestContext, lines: string[]): string {
  const file = join(temporaryFolder(t), 'trajectories.jsonl')
  writeFileSync(file, lines.join('\n'))
  return file
}

test('lines become columns: ids, keys, points, instability; failed lines are counted', async t => {
  const file = fileOf(t, [
    '{"id":"a\u2028b","key":"a@00","trajectory":[1,3,2],"instability":3.5}',
    '{"id":7,"trajectory":[1,3,2]}',
    '',
    '{"id":"bad","key":null,"trajectory":null,"error":{"code":"NOT_JSON"}}',
    '{"error":"no id"}',
    '{"id":"text","key":"text@11","trajectory":null,"instability":null}\r',
    '{"id":"é","trajectory":[0,0,1e15],"error":null}',
  ])
  const read = await readTrajectories(file)
  assert.deepEqual(read.ids, ['a\u2028b', '7', 'text', 'é'])
  assert.deepEqual(read.keys, ['a@00', '7', 'text@11', 'é'])
  assert.deepEqual(read.rows, [0, 1, -1, 2])
  assert.deepEqual(read.instability, [3.5, 3, Number.NaN, 1e15])
  assert.deepEqual([...read.points.data], [1, 3, 2, 1, 3, 2, 0, 0, 1e15])
  assert.deepEqual([read.points.count, read.points.dimensions, read.failed], [3, 3, 2])
  assert.deepEqual(read.lines, [0, 1, 4, 5])
  assert.deepEqual(read.lineIds, ['a\u2028b', '7', 'bad', undefined, 'text', 'é'])
})

test('a line that is not of the form is an error that names it', async t => {
  const good = '{"id":"a","trajectory":[1,2]}'
  const bad: [string, RegExp][] = [
    ['{"id":"b","trajectory":[1,2,3]}', /line 3: 3 scores where lines before have 2/],
    ['{"id":"b","trajectory":[1,null]}', /line 3: trajectory\.1/],
    ['{"id":"b","trajectory":[1,NaN]}', /line 3: /],
    ['{"id":"b","trajectory":[1,1e999]}', /line 3: trajectory\.1/],
    ['{"id":"b","trajectory":[1,1e300]}', /line 3: trajectory\.1: .*not a score/],
    ['{"id":"b","trajectory":[]}', /line 3: trajectory/],
    ['{"trajectory":[1,2]}', /line 3: id/],
    ['[1]', /line 3/],
    ['{"id":"b","trajectory":[1,2]', /line 3/],
  ]
  for (const [line, message] of bad) {
    const file = fileOf(t, [good, '', line, good])
    await assert.rejects(readTrajectories(file), { code: 'DATA_INVALID', message })
  }
  await assert.rejects(readTrajectories('/nonexistent'), { code: 'FILE_UNREADABLE' })
})

test('the sidecar is read where there is one', async t => {
  const file = fileOf(t, [])
  assert.equal(await readTrajectoriesMeta(file), undefined)
  const meta = {
    v: 1,
    schedule: { fingerprint: 'f', steps: [10, 20] },
    mode: 'paper',
    template: 'x',
  }
  writeFileSync(`${file}.meta.json`, JSON.stringify(meta))
  assert.deepEqual(await readTrajectoriesMeta(file), {
    ...meta,
    metric: 'attention',
    precision: 'float32',
  })
  writeFileSync(`${file}.meta.json`, '{"v":2}')
  await assert.rejects(readTrajectoriesMeta(file), { code: 'DATA_INVALID' })
})
