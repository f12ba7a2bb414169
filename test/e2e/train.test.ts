import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { demoExamples } from '../../src/demo/stream.ts'
import { openSchedule } from '../../src/proxy/schedule.ts'
import { MAIN, temporaryFolder } from '../support.ts'

const TINY = ['--image-size', '16', '--width', '16', '--steps', '6', '--batch', '4']

test('train leaves a schedule, spares what it did not write, and replaces its own when told', async t => {
  const folder = temporaryFolder(t)
  const at = (name: string): string => join(folder, name)
  const examples = await demoExamples(1, 12)
  writeFileSync(at('data.jsonl'), examples.map(example => `${JSON.stringify(example)}\n`).join(''))
  const train = (...args: string[]) => {
    const common = ['--data', at('data.jsonl'), '--images', folder, '--out', at('proxy')]
    return spawnSync(process.execPath, [MAIN, 'train', ...common, ...TINY, ...args], {
      encoding: 'utf8',
    })
  }
  const first = train('--checkpoints', '4,6', '--limit', '10', '--json')
  assert.equal(first.status, 0, first.stderr)
  const report = JSON.parse(first.stdout)
  assert.deepEqual([report.v, report.samples, report.checkpoints], [1, 10, [4, 6]])
  assert.equal(openSchedule(at('proxy')).checkpoints.length, 2)

  const refused = train()
  assert.equal(refused.status, 1)
  assert.match(refused.stderr, /FILE_EXISTS/)

  const replaced = train('--force', '--checkpoints', '5')
  assert.equal(replaced.status, 0, replaced.stderr)
  assert.match(replaced.stdout, /xmasd score --proxy/)
  assert.deepEqual(
    [existsSync(at('proxy/checkpoint-4')), existsSync(at('proxy/checkpoint-5'))],
    [false, true],
  )

  mkdirSync(at('proxy/notes'))
  const spared = train('--force')
  assert.equal(spared.status, 1)
  assert.match(spared.stderr, /notes/)
  assert.ok(existsSync(at('proxy/checkpoint-5')))

  assert.equal(train('--steps', 'many').status, 2)
})
