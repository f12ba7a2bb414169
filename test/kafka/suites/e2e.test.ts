import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { type TestContext, test } from 'node:test'
import { demoStream } from '../../../src/demo/stream.ts'
import { run, succeed } from '../../e2e/command.ts'
import { ROOT } from '../../support.ts'
import { assertExactlyOnce, isDone, type KafkaSite, kafkaSite, Member, until } from '../scene.ts'
import { SESSION_MS_MAX, sharedBroker } from '../setup.ts'

const NLVR = resolve(ROOT, '../shared/data/nlvr')
const EXAMPLES = 600
const PARTITIONS = 6

/** Real pictures where they are at hand, else the demo's stream. */
async function writeData(site: KafkaSite): Promise<string> {
  const file = join(site.folder, 'data.jsonl')
  if (existsSync(NLVR)) {
    const lines = readFileSync(join(NLVR, 'data.jsonl'), 'utf8').split('\n').slice(0, EXAMPLES)
    writeFileSync(file, `${lines.join('\n')}\n`)
    return file
  }
  assert.notEqual(process.env.REQUIRE_SHARED, '1', `missing: ${NLVR}`)
  const lines: string[] = []
  for await (const { value } of demoStream({ seed: 11 })) {
    lines.push(Buffer.from(value).toString())
    if (lines.length === EXAMPLES) break
  }
  writeFileSync(file, `${lines.join('\n')}\n`)
  return file
}

function site(t: TestContext, log: string[] = []): KafkaSite {
  const images = existsSync(NLVR) ? [`images: { root: ${NLVR} }`] : []
  return kafkaSite(t, sharedBroker().plain, { partitions: PARTITIONS, log, more: images })
}

test('3 score processes share 6 partitions, select has a standby: everything once, the standby takes over within the session', async t => {
  const here = site(t)
  const data = await writeData(here)
  const log = await here.open()
  t.after(() => log.close())
  const first = new Member(here, 'select')
  await first.said('"started"')
  const standby = new Member(here, 'select', { XMASD_LOG_PATH: join(here.folder, 'other-state') })
  const scores = [1, 2, 3].map(() => new Member(here, 'score'))
  t.after(() => {
    for (const member of [first, standby, ...scores]) member.signal('SIGKILL')
  })
  await Promise.all([
    standby.said('standing by'),
    ...scores.map(member => member.said('"started"')),
  ])
  await succeed(['produce', '--config', here.config, '--data', data])
  await until('half of it is decided', 60_000, async () => {
    const [lag] = await log.lag(here.groups.select, here.topics.assignments)
    return lag!.offset > EXAMPLES / 2
  })
  first.signal('SIGKILL')
  const killedAt = performance.now()
  await standby.said('folding the gap')
  const takenOverMs = performance.now() - killedAt
  assert.ok(takenOverMs < SESSION_MS_MAX + 4_000, `taken over after ${takenOverMs} ms`)
  await until('everything is decided', 120_000, () => isDone(log, here))
  await Promise.all(scores.map(member => member.stop()))
  const { history } = await standby.stop()
  for (const member of scores) assert.ok(member.logged('batch').length > 0)
  const { assigned, deadLetters } = await assertExactlyOnce(log, here)
  assert.equal(assigned + deadLetters, EXAMPLES)
  assert.ok(history <= assigned)
})

test('every command works on Kafka: doctor, produce, run --until-idle, export, explain, replay under another group', async t => {
  const here = site(t)
  const data = await writeData(here)
  const config = ['--config', here.config]
  const before = await succeed(['doctor', ...config])
  assert.match(before.stdout, /log +Kafka at .* has no topics: the first run/)
  await succeed(['produce', ...config, '--data', data, '--limit', '80'])
  const ended = await succeed(['run', ...config, '--until-idle', '--json'])
  const { examples, subset, history } = JSON.parse(ended.stdout)
  assert.equal(
    examples.assigned + examples.dead_letter + examples.redelivered + examples.duplicate,
    80,
  )
  const out = join(here.folder, 'keys.json')
  await succeed(['export', ...config, '--out', out])
  const keys = JSON.parse(readFileSync(out, 'utf8')) as string[]
  assert.equal(keys.length, subset)
  const explained = JSON.parse((await succeed(['explain', keys[0]!, ...config, '--json'])).stdout)
  assert.equal(explained.keptNow, true)
  assert.match((await succeed(['doctor', ...config])).stdout, /backlog score 0, select 0/)
  const half = {
    XMASD_SELECT_PERCENT: '50',
    XMASD_SELECT_GROUP: `${here.groups.select}-half`,
    XMASD_LOG_TOPICS_DECISIONS: `${here.topics.decisions}-half`,
    XMASD_LOG_TOPICS_SUBSET: `${here.topics.subset}-half`,
  }
  await succeed(['run', ...config, '--roles', 'select', '--until-idle'], half)
  await succeed(['export', ...config, '--out', out], half)
  const replayed = (JSON.parse(readFileSync(out, 'utf8')) as string[]).length
  assert.ok(replayed > subset && replayed <= history / 2)
  const other = await run(['run', ...config], { XMASD_LOG_EXAMPLES_PARTITIONS: '7' })
  assert.equal(other.code, 1)
  assert.match(other.stderr, /partitions: 6 on the brokers.*asks for 7 \[TOPIC_MISMATCH\]/)
})

/** Outlasts a start on a busy machine. */
const KILLED_SESSION_MS = 20_000

for (const role of ['score', 'select'] as const) {
  test(`the ${role} role says while it waits for the session of one that was killed`, async t => {
    const here = site(t, [`sessionMsMax: ${KILLED_SESSION_MS}`])
    const members = [new Member(here, role)]
    t.after(() => {
      for (const member of members) member.signal('SIGKILL')
    })
    const [first] = members as [Member]
    await first.said('"started"')
    first.signal('SIGKILL')
    await first.ended
    const next = new Member(here, role)
    members.push(next)
    const seconds = KILLED_SESSION_MS / 1000
    const text = `waiting up to ${seconds} s for the previous member's session to end`
    await next.said(text)
    assert.equal(next.logged('started').length, 0, 'it says so while it waits')
    await next.said('"started"')
    await next.stop()
  })
}
