/** Which files of scored examples a bundle takes, and the assignments that they become. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { type Bundle, openBundle } from '../../src/bundle/bundle.ts'
import { loadConfig } from '../../src/config.ts'
import { XmasdError } from '../../src/errors.ts'
import { checkScoredFile, scoredExamples } from '../../src/history/scored-file.ts'
import { openLocalLog } from '../../src/log/local/log.ts'
import { topicSpecs } from '../../src/log/open.ts'
import { DEMO_BUNDLE } from '../e2e/command.ts'
import { temporaryFolder } from '../support.ts'

async function scene(t: TestContext) {
  const folder = temporaryFolder(t)
  const config = loadConfig(undefined, {}, { 'log.path': join(folder, 'log') })
  const log = await openLocalLog({ path: config.log.path })
  t.after(() => log.close())
  await log.ensureTopics(topicSpecs(config.log))
  const bundle = await openBundle(DEMO_BUNDLE)
  return { folder, config, log, bundle }
}

function metaOf({ manifest }: Bundle) {
  const { schedule, mode, metric, precision } = manifest
  const { fingerprint, T } = schedule
  const steps = Array.from({ length: T }, (_, i) => i)
  return { v: 1, schedule: { fingerprint, steps }, mode, metric, precision }
}

test('scored examples of another schedule, mode, precision or metric are refused, the difference named', async t => {
  const { folder, config, log, bundle } = await scene(t)
  const file = join(folder, 'history.jsonl')
  const check = (meta: object | undefined) => {
    if (meta !== undefined) writeFileSync(`${file}.meta.json`, JSON.stringify(meta))
    return checkScoredFile(log, config, file, bundle)
  }
  writeFileSync(file, '')
  await assert.rejects(check(undefined), /DATA_INVALID|meta\.json is missing/)
  const same = metaOf(bundle)
  await check(same)
  const { steps, fingerprint } = same.schedule
  const others: [object, RegExp][] = [
    [
      { schedule: { steps, fingerprint: 'f'.repeat(64) } },
      /is for schedule .*, the file has schedule f/,
    ],
    [{ schedule: { steps: [...steps, 99], fingerprint } }, /checkpoints/],
    [{ mode: 'paper' }, /is for mode "?reference.*the file has mode "?paper/],
    [{ precision: 'bfloat16' }, /is for precision "?float32.*the file has precision "?bfloat16/],
    [{ metric: 'loss', mode: null }, /is for metric "?attention.*the file has metric "?loss/],
  ]
  for (const [other, message] of others) {
    await assert.rejects(check({ ...same, ...other }), error => {
      assert.equal(error instanceof XmasdError && error.code, 'BUNDLE_MISMATCH')
      assert.match(String(error), message)
      return true
    })
  }
  await assert.rejects(check({ ...same, schedule: { steps, fingerprint: null } }), /not of xmasd/)
})

test('scored examples keep their keys; copies come last, failed ones are told, a broken line is named', async t => {
  const { folder, bundle } = await scene(t)
  const file = join(folder, 'history.jsonl')
  const { T } = bundle.manifest.schedule
  const line = (id: string, content: string, trajectory: number[] | null) => {
    const singularValues = trajectory?.map(() => [1, 0, 0, 0, 0]) ?? null
    return { id, key: `${id}@${content.slice(0, 16)}`, content, trajectory, singularValues }
  }
  const [a, b, c] = ['a', 'b', 'c'].map(digit => digit.repeat(64))
  const scores = Array.from({ length: T }, (_, i) => i / 10)
  const lines = [
    line('copied', a!, scores),
    line('text-z', b!, null),
    line('copy', a!, scores),
    { id: 'failed', error: { code: 'NOT_JSON' } },
    line('text-a', c!, null),
  ]
  const write = (some: readonly object[]) =>
    writeFileSync(file, some.map(one => `${JSON.stringify(one)}\n`).join(''))
  const read = async () => {
    const found = []
    let failed = 0
    for await (const one of scoredExamples(file, bundle, () => failed++)) found.push(one)
    return { found, failed }
  }
  write(lines)
  const { found, failed } = await read()
  assert.deepEqual(
    found.map(({ key, source }) => [key, source.topic, source.offset]),
    [
      [`copied@${a!.slice(0, 16)}`, 'file:history.jsonl', 0],
      [`text-a@${c!.slice(0, 16)}`, 'file:history.jsonl', 4],
      [`text-z@${b!.slice(0, 16)}`, 'file:history.jsonl', 1],
      [`copy@${a!.slice(0, 16)}`, 'file:history.jsonl', 2],
    ],
  )
  assert.equal(failed, 1)
  assert.ok(found.every(one => !('question' in one)))
  write([{ ...lines[0]!, question: 'AQ==' }])
  assert.equal((await read()).found[0]!.question, 'AQ==')
  write([lines[0]!, { ...lines[1]!, key: 'text-z' }])
  await assert.rejects(read(), /history\.jsonl, line 2: the key "text-z" is not the id "text-z"/)
  write([line('short', a!, scores.slice(1))])
  await assert.rejects(read(), new RegExp(`line 1: ${T - 1} scores where the bundle has ${T}`))
})
