import assert from 'node:assert/strict'
import test from 'node:test'
import { paceOf } from '../../src/dashboard/pace.ts'

test('with a backlog of the select role the reader rests most of the time, and frames are rare', () => {
  const behind = paceOf({ isFoldBehind: true, isCaughtUp: false })
  const abreast = paceOf({ isFoldBehind: false, isCaughtUp: false })
  assert.deepEqual([behind.records, behind.frameMs], [1_000, 2_000])
  assert.deepEqual([abreast.records, abreast.frameMs], [undefined, 250])
  assert.ok(behind.restMs(10) > 20 * abreast.restMs(10))
  assert.ok(behind.restMs(10_000) <= 1_000, 'a page hears of what comes')
})

test('a reader at the end of the log looks again after a tenth of a second', () => {
  const pace = paceOf({ isFoldBehind: false, isCaughtUp: true })
  assert.equal(pace.restMs(0), 100)
  assert.equal(pace.frameMs, 250)
})
