import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const BENCH = join(dirname(fileURLToPath(import.meta.url)), '../../bench/select.js')

test('bench:select runs and ends in one JSON object', () => {
  const args = [BENCH, '--examples', '3000', '--clusters', '20', '--percent', '12.5', '--T', '2']
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  const report = JSON.parse(stdout.trim().split('\n').at(-1)!)
  assert.ok(report.assignmentsPerSecond > 0)
  assert.ok(report.bytesPerExample > 0)
  assert.ok(report.restartMs > 0 && report.restartHeapMb > 0)
  assert.equal(report.percent, 12.5)
})
