import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Assignment, Source } from '../../src/record.ts'
import {
  distinct,
  example,
  jsonOf,
  makeSite,
  picture,
  readTopic,
  run,
  type Site,
  succeed,
  writeLines,
} from '../e2e/command.ts'

const SOUND = 6
const MENDED = 20
const BROKEN = 5
const RUN = ['--until-idle', '--json'] as const
const HOOK = pathToFileURL(join(fileURLToPath(import.meta.url), '../kill-at-write.js')).href

/** A log with examples whose pictures came too late, and others that nothing can mend. */
async function siteWithLetters(t: TestContext): Promise<Site> {
  const site = makeSite(t)
  const mended = Array.from({ length: MENDED }, (_, i) =>
    example(`late${i}`, `${i}.png`, `what is in picture ${i}?`),
  )
  const broken = Array.from({ length: BROKEN }, (_, i) => ({ id: `broken${i}` }))
  const data = writeLines(site, 'data.jsonl', [...(await distinct(SOUND)), ...mended, ...broken])
  await succeed(['produce', '--config', site.config, '--data', data])
  await succeed(['run', '--config', site.config, ...RUN])
  for (let i = 0; i < MENDED; i++) {
    writeFileSync(join(site.images, `${i}.png`), await picture(100 + i))
  }
  return site
}

const redrive = (site: Site, ...more: string[]) =>
  succeed(['redrive', '--config', site.config, '--json', ...more])

test('redrive under kill -9 before, during and after each commit gives every dead letter one outcome', async t => {
  const site = await siteWithLetters(t)
  const flags = ['redrive', '--config', site.config, '--rate', '10']
  const dry = await succeed([...flags, '--dry-run', '--limit', '3', '--since', '1h'])
  assert.match(dry.stdout, /^25 dead letters in dead-letters, 3 to redrive at 10\/s\n/)
  assert.match(dry.stdout, /22 stay: beyond --limit\n/)
  for (const moment of ['before', 'during', 'after'] as const) {
    const env = { NODE_OPTIONS: `--import=${HOOK}`, KILL_AT: `${moment} 1` }
    const { signal, stdout, stderr } = await run(flags, env)
    assert.equal(signal, 'SIGKILL', stderr)
    assert.match(stdout, /^25 dead letters in dead-letters, \d+ to redrive at 10\/s\n/)
  }
  const { sent, left } = JSON.parse((await redrive(site)).stdout)
  assert.ok(left.redriven >= 10, `${left.redriven} redriven before they were killed`)
  assert.equal(sent, MENDED + BROKEN - left.redriven)
  assert.equal(JSON.parse((await redrive(site)).stdout).sent, 0)
  const examples = await readTopic(site.log, 'examples')
  assert.equal(examples.length, SOUND + 2 * (MENDED + BROKEN))
  await succeed(['run', '--config', site.config, ...RUN])
  const ids = (await readTopic(site.log, 'assignments')).map(one => jsonOf<Assignment>(one).id)
  assert.deepEqual(ids.filter(id => id.startsWith('late')).sort(), lateIds())
  const letters = await readTopic(site.log, 'dead-letters')
  const again = letters.filter(({ headers }) => headers.tries !== undefined)
  assert.deepEqual(again.map(({ key }) => key).sort(), brokenIds())
  for (const { headers, key, value } of again) {
    assert.equal(headers.tries, '1')
    const { offset } = JSON.parse(headers.origin!) as Source
    const first = examples.find(one => one.offset === offset)
    assert.equal(first?.key, key)
    assert.deepEqual(value, first?.value, 'the bytes are those of the first record')
  }
})

function lateIds(): string[] {
  return Array.from({ length: MENDED }, (_, i) => `late${i}`).sort()
}

function brokenIds(): string[] {
  return Array.from({ length: BROKEN }, (_, i) => `broken${i}`).sort()
}

test('redrive refuses a time that is none', async t => {
  const site = makeSite(t)
  const bad = await run(['redrive', '--config', site.config, '--since', 'yesterday'])
  assert.equal(bad.code, 2)
  assert.match(bad.stderr, /ISO date, or an age/)
})
