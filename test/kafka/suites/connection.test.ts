/** Connections that break as networks break them, between the client and a real broker. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { Log, LogRecord } from '../../../src/log/log.ts'
import { after, numbered, pollCount, readAll } from '../../log/helpers.ts'
import { Broker } from '../broker.ts'
import { Relay } from '../relay.ts'
import { kafkaOptions, logsOn } from '../setup.ts'

const REQUEST_MS_MAX = 2_000

async function openThrough(t: TestContext): Promise<{ relay: Relay; log: Log }> {
  const relay = await Relay.start()
  t.after(() => relay.close())
  const broker = await Broker.start({ relay })
  t.after(() => broker.close())
  const { connection } = kafkaOptions(relay.address, '')
  const more = { connection: { ...connection, requestMsMax: REQUEST_MS_MAX } }
  const log = await logsOn(t, relay.address, more).open()
  t.after(() => log.close())
  await log.ensureTopics([
    { name: 'in', partitions: 1 },
    { name: 'out', partitions: 1 },
  ])
  return { relay, log }
}

test('an answer that breaks off half way is asked for again, whole', async t => {
  const { relay, log } = await openThrough(t)
  const value = Buffer.alloc(10_000, 'x')
  const records = Array.from({ length: 50 }, (_, i) => ({ topic: 'in', key: `k${i}`, value }))
  await log.append(records)
  relay.cutAfter(5_000)
  const started = performance.now()
  const read = await readAll(log, 'in')
  assert.ok(relay.isCut)
  assert.deepEqual(
    read.map(({ key }) => key),
    records.map(({ key }) => key),
  )
  assert.ok(performance.now() - started < REQUEST_MS_MAX)
})

test('where nothing comes through any more, requests time out, and go on over new connections', async t => {
  const { relay, log } = await openThrough(t)
  await log.append(numbered('in', 20))
  const consumer = await log.consume({ group: 'g', topics: ['in'] })
  const first = await pollCount(consumer, 10)
  relay.swallow('all')
  await log.append(numbered('in', 10, 20))
  await consumer.commit({ positions: after(first), outputs: [] })
  const rest = await pollCount(consumer, 20)
  await consumer.commit({ positions: after(rest), outputs: [] })
  assert.deepEqual(await log.committed('g', 'in'), [rest.at(-1)!.offset + 1])
})

test('many that find no connection at the same time share one', async t => {
  const { relay, log } = await openThrough(t)
  await log.append(numbered('in', 10))
  await log.ends('in')
  const before = relay.opened
  const first = async (): Promise<LogRecord> => {
    for await (const record of log.read('in', { to: 10 })) return record
    throw new Error('nothing there')
  }
  const found = await Promise.all(Array.from({ length: 10 }, first))
  for (const { key } of found) assert.equal(key, 'k0')
  assert.equal(relay.opened - before, 1)
})
