import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { browser, MAIN } from '../support.ts'

const BENCH = join(dirname(fileURLToPath(import.meta.url)), '../../bench/dashboard.js')

test('bench:dashboard runs and ends in one JSON object (needs Chromium)', t => {
  const executable = browser(t)
  if (executable === undefined) return
  const args = [BENCH, '--examples', '1000', '--clusters', '20', '--pages', '3', '--rounds', '1']
  args.push('--main', MAIN)
  const env = { ...process.env, CHROMIUM: executable }
  const { status, stdout, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', env })
  assert.equal(status, 0, stderr)
  const report = JSON.parse(stdout.trim().split('\n').at(-1)!)
  assert.ok(report.firstPaintMs > 0)
  for (const rate of ['galleryFps', 'mapFps', 'share']) assert.ok(report[rate] > 0, rate)
})
