import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { test } from 'node:test'
import { ROOT } from '../../support.ts'

test('bench:pipeline runs and ends in one JSON object', () => {
  const args = [
    join(ROOT, '.build/bench/pipeline.js'),
    '--examples',
    '600',
    '--assignments',
    '2000',
  ]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  const report = JSON.parse(stdout.trim().split('\n').at(-1)!)
  for (const name of ['examples', 'assignments', 'rawConsume', 'rawTransactional']) {
    assert.ok(report[`${name}PerSecond`] > 0, stdout)
  }
  for (const name of [
    'assignmentsToRawConsume',
    'rssDriftPercent',
    'rssDriftPercentOfSelect',
    'ownBytesPerAssignment',
  ]) {
    assert.ok(Number.isFinite(report[name]), stdout)
  }
})
