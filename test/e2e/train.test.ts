import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { demoExamples } from '../../src/demo/stream.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import { MAIN, temporaryFolder } from '../support.ts'

const TINY = ['--image-size', '16', '--width', '16', '--steps', '6', '--batch', '4']

test('train leaves a schedule, spares what it did not write, and replaces its own when told', async t => {
  const folder = temporaryFolder(t)
  const at = (name: string): string => join(folder, name)
  const examples = await demoExamples(1, 12)
  writeFileSync(at('data.jsonl'), examples.map(example => `${JSON.stringify(example)}\n`).join(''))
  const renamed = examples.map(
    ({ conversations, ...rest }: object & { conversations?: object }) => {
      return `${JSON.stringify({ ...rest, dialog: conversations })}\n`
    },
  )
  writeFileSync(at('renamed.jsonl'), renamed.join(''))
  const train = (...args: string[]) => trainOn('data.jsonl', {}, ...args)
  const trainOn = (data: string, more: NodeJS.ProcessEnv, ...args: string[]) => {
    const common = ['--data', at(data), '--images', folder, '--out', at('proxy')]
    return spawnSync(process.execPath, [MAIN, 'train', ...common, ...TINY, ...args], {
      encoding: 'utf8',
      env: { ...process.env, ...more },
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

  const fields = { XMASD_DATA_FIELDS_COLUMNS_MESSAGES: 'dialog' }
  const replaced = trainOn('renamed.jsonl', fields, '--force', '--checkpoints', '5')
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

test('train on data of which more than half is too long says how many fit which --length', async t => {
  const folder = temporaryFolder(t)
  const at = (name: string): string => join(folder, name)
  const talk = (words: number) => [
    { from: 'human', value: `Say this: ${'word '.repeat(words)}` },
    { from: 'gpt', value: 'word' },
  ]
  const examples = [5, 400, 400, 900].map((words, i) => ({ id: i, conversations: talk(words) }))
  writeFileSync(at('data.jsonl'), examples.map(example => `${JSON.stringify(example)}\n`).join(''))
  const { status, stderr } = spawnSync(
    process.execPath,
    [MAIN, 'train', '--data', at('data.jsonl'), '--images', folder, '--out', at('proxy'), ...TINY],
    { encoding: 'utf8' },
  )
  assert.equal(status, 1)
  assert.match(stderr, /3 of 4 examples cannot be trained on \(3 NO_TEXT_ROWS\) \[DATA_INVALID\]/)
  const counts = [...stderr.matchAll(/--length (\d+) fits (\d+)/g)].map(([, , n]) => Number(n))
  assert.equal(counts[0], 1)
  assert.equal(counts.at(-1), 4)
  assert.ok(counts.includes(3), stderr)
  assert.ok(!existsSync(at('proxy')))
})

test('train says cost and time before the first step, and replaces what an unfinished run left', async t => {
  const folder = temporaryFolder(t)
  const at = (name: string): string => join(folder, name)
  const examples = await demoExamples(1, 12)
  writeFileSync(at('data.jsonl'), examples.map(example => `${JSON.stringify(example)}\n`).join(''))
  mkdirSync(at('proxy/.checkpoint-4.partial'), { recursive: true })
  mkdirSync(at('proxy/checkpoint-2'))
  writeFileSync(at('proxy/.unfinished'), '')
  writeFileSync(at('proxy/template.json'), '{}')
  const args = ['train', '--data', at('data.jsonl'), '--images', folder, '--out', at('proxy')]
  const { status, stderr } = spawnSync(
    process.execPath,
    [MAIN, ...args, ...TINY, '--steps', '20', '--checkpoints', '10,20'],
    { encoding: 'utf8' },
  )
  assert.equal(status, 0, stderr)
  const cost =
    /training \d+ parameters on 12 examples: 20 steps of 4 \(6\.7 epochs\), 2 checkpoints; about \d+ s\n/
  assert.ok(stderr.search(cost) >= 0 && stderr.search(cost) < stderr.indexOf('step 20/20'), stderr)
  assert.deepEqual(
    ['checkpoint-2', '.unfinished', 'checkpoint-20'].map(name => existsSync(at(`proxy/${name}`))),
    [false, false, true],
  )
})
