import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { generate } from '../../bench/study/scenes.ts'
import type { Run } from '../../src/study/runs.ts'
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
  assert.match(page, /1 seed, 4 runs\. This comparison is the default/)
  assert.match(page, /Of the other comparison with random/)
  assert.match(first.stderr, /4 runs: 1 seed, at 50 % of a pool of \d+ and \d+ held-out examples/)
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
  assert.match(other.stderr, /has runs of other settings \(steps 4, now 5\)/)
  assert.match(study('--limit', '39').stderr, /other settings \(examples 40, now 39; content /)
  assert.match(study('--held-out-percent', '30').stderr, /\(heldOut 20 %, now 30 %\)/)
  assert.equal(study('--arms', 'nonsense').status, 2)
})

test('study reads fields under the names of the configuration', async t => {
  const folder = temporaryFolder(t)
  const { pool } = await generate(1, { pool: 40, heldOut: 0 })
  const results = [{}, { XMASD_DATA_FIELDS_COLUMNS_MESSAGES: 'dialog' }].map((env, i) => {
    const file = join(folder, `${i}.jsonl`)
    const lines = pool.map(({ conversations, ...rest }) =>
      JSON.stringify(i === 0 ? { conversations, ...rest } : { dialog: conversations, ...rest }),
    )
    writeFileSync(file, lines.map(line => `${line}\n`).join(''))
    const out = join(folder, `study-${i}`)
    const where = ['--data', file, '--images', folder, '--out', out, '--arms', 'length']
    const done = spawnSync(process.execPath, [MAIN, 'study', ...TINY, ...where], {
      encoding: 'utf8',
      env: { ...process.env, ...env },
    })
    assert.equal(done.status, 0, done.stderr)
    const runs = readFileSync(join(out, 'runs.jsonl'), 'utf8').trimEnd().split('\n')
    return runs.map(line => (JSON.parse(line) as Run).families)
  })
  assert.deepEqual(results[1], results[0])
})

test('study refuses what could not be compared before it trains anything', async t => {
  const folder = temporaryFolder(t)
  const file = join(folder, 'data.jsonl')
  const { pool } = await generate(1, { pool: 40, heldOut: 0 })
  writeFileSync(file, pool.map(example => `${JSON.stringify(example)}\n`).join(''))
  const study = (...args: string[]) => {
    const common = ['study', '--data', file, '--images', folder, '--out', join(folder, 'study')]
    const run = [...common, ...TINY, ...args]
    const { status, stderr } = spawnSync(process.execPath, [MAIN, ...run], {
      encoding: 'utf8',
      timeout: 60_000,
    })
    assert.ok(!stderr.includes('run 1 of'), stderr)
    return `${status} ${stderr}`
  }
  assert.match(study('--percents', '0'), /^2 .*above 0 and below 100/)
  assert.match(study('--percents', '100'), /^2 .*above 0 and below 100/)
  assert.match(study('--percents', '1'), /^2 .*1 % of a pool of \d+ examples is no example/)
  assert.match(study('--primary', 'random@50'), /^2 .*names random, which the other arms/)
  assert.match(study('--data', folder), /^1 .*it is a folder \[FILE_UNREADABLE\]\n.*\*\.jsonl/)
})

test('study says on an interrupt how to go on, and goes on', async t => {
  const folder = temporaryFolder(t)
  const file = join(folder, 'data.jsonl')
  const { pool } = await generate(1, { pool: 40, heldOut: 0 })
  writeFileSync(file, pool.map(example => `${JSON.stringify(example)}\n`).join(''))
  const common = ['study', '--data', file, '--images', folder, '--out', join(folder, 'study')]
  const args = [MAIN, ...common, ...TINY, '--arms', 'length']
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said += text
    if (said.includes('run 2 of 3') && !child.killed) child.kill('SIGINT')
  })
  const [code] = await once(child, 'close')
  assert.equal(code, 130, said)
  assert.match(said, /stopped; the same command goes on behind the runs in .*runs\.jsonl/)
  const resumed = spawnSync(process.execPath, args, { encoding: 'utf8' })
  assert.equal(resumed.status, 0, resumed.stderr)
  assert.match(resumed.stderr, /3 runs, 1 of them done|3 runs, 2 of them done/)
  assert.ok(!resumed.stderr.includes('run 1 of 3'))
  assert.match(resumed.stdout, /`length` at 50 % pays/, 'the first arm answers where sum is none')
})
