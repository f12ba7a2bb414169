import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { MAIN } from '../support.ts'

const BENCH = join(dirname(fileURLToPath(import.meta.url)), '../../bench/replay.js')

test('bench:replay runs and ends in one JSON object', () => {
  const args = [BENCH, '--examples', '2000', '--clusters', '20', '--main', MAIN]
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  const report = JSON.parse(stdout.trim().split('\n').at(-1)!)
  assert.equal(report.examples, 2000)
  assert.ok(report.median > 0)
})
