import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import { type Config, loadConfig } from '../../src/config.ts'
import { openLocalLog } from '../../src/log/local/log.ts'
import type { Log } from '../../src/log/log.ts'
import { topicSpecs } from '../../src/log/open.ts'
import { planRedrive, type RedriveFilter, redrive, redriveGroup } from '../../src/role/redrive.ts'
import { readAll } from '../log/helpers.ts'
import { temporaryFolder } from '../support.ts'

const LETTERS = 30
const ALL: RedriveFilter = { triesMax: 3 }

/** A log with 30 dead letters of 2 codes, the last of which were redriven twice before. */
async function logWithLetters(t: TestContext): Promise<{ log: Log; config: Config }> {
  const config = loadConfig(undefined, {}, { 'log.path': temporaryFolder(t) })
  const log = await openLocalLog({ path: config.log.path })
  t.after(() => log.close())
  await log.ensureTopics(topicSpecs(config.log))
  await log.append(Array.from({ length: LETTERS }, (_, i) => letter(i)))
  return { log, config }
}

function letter(i: number) {
  const headers = {
    code: i % 3 === 0 ? 'NOT_JSON' : 'IMAGE_NOT_FOUND',
    hint: '',
    message: '',
    source: JSON.stringify({ topic: 'examples', partition: 0, offset: i }),
    traceparent: `trace${i}`,
    ...(i >= 28 ? { tries: '2', origin: '{"topic":"examples","partition":0,"offset":3}' } : {}),
    ...(i === 1 ? { cut: '4 of 9 bytes' } : {}),
    ...(i === 3 ? { app: 'camera', 'original.code': '7' } : {}),
  }
  const rawHeaders = [
    ['tag', Buffer.from([0, 255])],
    ['tag', null],
  ] as const
  return {
    ...(i === 29 ? { rawHeaders } : {}),
    topic: 'dead-letters',
    key: i === 0 ? null : `k${i}`,
    value: Buffer.from(`{${i}`),
    headers,
  }
}

async function send(
  log: Log,
  config: Config,
  filter: Partial<RedriveFilter> = {},
): Promise<number> {
  const options = { rate: 100_000, onPlan: () => {}, onSent: () => {} }
  return redrive(log, config, { ...options, filter: { ...ALL, ...filter } })
}

test('redrive sends the bytes, the key and the trace, with the first origin and the count of tries', async t => {
  const { log, config } = await logWithLetters(t)
  assert.equal(await send(log, config), LETTERS - 1)
  const examples = await readAll(log, 'examples')
  const byTrace = new Map(examples.map(one => [one.headers.traceparent, one]))
  assert.equal(byTrace.size, LETTERS - 1)
  const [first, third, last] = [0, 3, 29].map(i => byTrace.get(`trace${i}`)!)
  assert.deepEqual([first!.key, third!.key], [null, 'k3'])
  assert.equal(Buffer.from(third!.value!).toString(), '{3')
  const origin = '{"topic":"examples","partition":0,"offset":3}'
  const own = { app: 'camera', code: '7' }
  assert.deepEqual(third!.headers, { traceparent: 'trace3', ...own, origin, tries: '1' })
  assert.deepEqual(last!.headers, { traceparent: 'trace29', origin, tries: '3', tag: '' })
  const tags = last!.rawHeaders!.filter(([name]) => name === 'tag')
  assert.deepEqual(
    tags.map(([, value]) => value && [...value]),
    [[0, 255], null],
  )
})

test('redrive obeys code, key, time, limit and tries, and tells why letters stay', async t => {
  const { log, config } = await logWithLetters(t)
  const later = await planRedrive(log, config, { ...ALL, since: Date.now() + 60_000 })
  assert.deepEqual([later.wanted, later.left.otherwise], [{}, LETTERS])
  assert.equal(await send(log, config, { key: 'k4' }), 1)
  assert.equal(await send(log, config, { code: 'NOT_JSON' }), 10)
  assert.equal(await send(log, config, { limit: 5 }), 5)
  const left = await planRedrive(log, config, { triesMax: 2, limit: 7 })
  assert.deepEqual(left, {
    letters: LETTERS,
    wanted: { IMAGE_NOT_FOUND: 7 },
    left: { redriven: 16, otherwise: 0, tries: 2, unsound: 1, limit: 4 },
  })
})

test('redrives one after the other and at the same time send no letter twice', async t => {
  const { log, config } = await logWithLetters(t)
  const other = await openLocalLog({ path: config.log.path })
  t.after(() => other.close())
  const options = { filter: ALL, rate: 7, onPlan: () => {}, onSent: () => {} }
  const slow = redrive(log, config, { ...options, filter: { ...ALL, limit: 7 } })
  const rest = await send(other, config)
  assert.equal((await slow) + rest, LETTERS - 1)
  assert.equal(await send(log, config), 0)
  const traces = (await readAll(log, 'examples')).map(({ headers }) => headers.traceparent)
  assert.equal(traces.length, LETTERS - 1)
  assert.equal(new Set(traces).size, LETTERS - 1)
})

test('a redrive whose group was moved by hand is refused, and says what to remove', async t => {
  const { log, config } = await logWithLetters(t)
  const consumer = await log.consume({ group: redriveGroup(config), topics: ['dead-letters'] })
  await consumer.commit({
    positions: [{ topic: 'dead-letters', partition: 0, offset: LETTERS }],
    outputs: [],
  })
  await consumer.close()
  await assert.rejects(send(log, config), {
    code: 'STATE_INVALID',
    message: 'group xmasd-score-redrive is at 30 of dead-letters, where no redrive has left it',
  })
})
