import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { generate } from '../../bench/study/scenes.ts'
import type { Run } from '../../src/study/run.ts'
import { MAIN, temporaryFolder } from '../support.ts'

const TINY = [
  ...['--image-size', '16', '--patch-size', '8', '--width', '16', '--layers', '1'],
  ...['--steps', '4', '--batch', '4', '--threads', '1', '--clusters', '4'],
  ...['--arms', 'sum,source+clean', '--percents', '50', '--seeds', '1', '--measure', 'loss'],
]

test('study writes a line a run, goes on where it was stopped, and draws its page', async t => {
  const folder = temporaryFolder(t)
  const at = (name: string): string => join(folder, name)
  const { pool } = await generate(1, { pool: 40, heldOut: 0 })
  writeFileSync(at('data.jsonl'), pool.map(example => `${JSON.stringify(example)}\n`).join(''))
  const study = (...args: string[]) => {
    const common = ['study', '--data', at('data.jsonl'), '--images', folder, '--out', at('study')]
    const run = [...common, ...TINY, ...args]
    return spawnSync(process.execPath, [MAIN, ...run], { encoding: 'utf8' })
  }
  const runs = (): Run[] => {
    const lines = readFileSync(at('study/runs.jsonl'), 'utf8').trimEnd().split('\n')
    return lines.map(line => ({ ...JSON.parse(line), seconds: 0 }))
  }

  const first = study('--json')
  assert.equal(first.status, 0, first.stderr)
  const report = JSON.parse(first.stdout)
  assert.match(report.sentence, /^Not enough seeds to tell whether `sum` at 50 % pays/)
  const made = runs()
  assert.deepEqual(
    made.map(({ arm, percent }) => `${arm} ${percent}`),
    ['full 100', 'random 50', 'sum 50', 'source+clean 50'],
  )
  const [full, random, sum, oracle] = made
  assert.equal(full!.selected, full!.pool)
  assert.equal(random!.selected, Math.floor(random!.pool / 2))
  assert.ok(sum!.selected <= random!.selected)
  assert.deepEqual(oracle!.faults, {})
  assert.ok(!existsSync(at('study/seed-1')), 'scratch is removed')
  const page = readFileSync(at('study/index.html'), 'utf8')
  assert.match(page, /Not enough seeds to tell whether <code>sum<\/code>/)
  assert.equal(page.match(/<svg/g)!.length >= 2, true)
  assert.ok(!page.includes('<script'))

  const text = readFileSync(at('study/runs.jsonl'), 'utf8').trimEnd().split('\n')
  writeFileSync(at('study/runs.jsonl'), `${text.slice(0, 3).join('\n')}\n${text[3]!.slice(0, 40)}`)
  const resumed = study()
  assert.equal(resumed.status, 0, resumed.stderr)
  assert.match(resumed.stderr, /run 4 of 4: seed 1, source\+clean at 50 %/)
  assert.ok(!resumed.stderr.includes('run 3 of 4'), 'what is known is not run again')
  assert.deepEqual(runs(), made, 'the same seed gives the same results')

  const other = study('--steps', '5')
  assert.equal(other.status, 1)
  assert.match(other.stderr, /has runs of other settings/)
  assert.equal(study('--arms', 'nonsense').status, 2)
})
