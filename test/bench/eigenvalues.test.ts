import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import test from 'node:test'
import { ROOT } from '../support.ts'

test('bench:eigenvalues compares equal values and gives its ratios as one JSON object', () => {
  const script = join(ROOT, '.build/bench/eigenvalues.js')
  const output = execFileSync(process.execPath, [script, '--sizes', '6,9', '--rounds', '1'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const { cells } = JSON.parse(output.trim().split('\n').at(-1)!)
  assert.deepEqual(
    cells.map(({ size }: { size: number }) => size),
    [6, 9],
  )
  for (const { difference, ratio } of cells) assert.ok(difference < 1e-12 && ratio > 0)
})
