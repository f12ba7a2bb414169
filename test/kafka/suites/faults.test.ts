/** Faults of brokers, each with the outcome that docs/operating.md promises. Every test has brokers of its own. */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import type { Consumer, Log } from '../../../src/log/log.ts'
import type { LogEvents, RetryCause } from '../../../src/observe/logger.ts'
import { after, isCode, numbered, pollCount, readAll, unique } from '../../log/helpers.ts'
import { Broker, type BrokerOptions } from '../broker.ts'
import { Relay } from '../relay.ts'
import { until } from '../scene.ts'
import { kafkaOptions, logsOn } from '../setup.ts'

async function startBroker(t: TestContext, options: BrokerOptions = {}): Promise<Broker> {
  const broker = await Broker.start(options)
  t.after(() => broker.close())
  return broker
}

type Scene = {
  log: Log
  topic: string
  out: string
  group: string
  consumer: Consumer
  retries: RetryCause[]
}

/** A log with a topic of some records and a consumer of it; what is tried again is counted. */
async function open(
  t: TestContext,
  broker: Broker,
  more: Parameters<typeof kafkaOptions>[2] = {},
): Promise<Scene> {
  const retries: RetryCause[] = []
  const events: LogEvents = {
    onTransaction: () => {},
    onRebalance: () => {},
    onRetry: cause => retries.push(cause),
  }
  const { defaults } = kafkaOptions(broker.address, '')
  const options = { sessionMsMax: 3_000, events, defaults, ...more }
  const log = await logsOn(t, broker.address, options).open()
  t.after(() => log.close())
  const [topic, out] = [unique('in'), unique('out')]
  await log.ensureTopics([
    { name: topic, partitions: 2 },
    { name: out, partitions: 1 },
  ])
  await log.append(numbered(topic, 200))
  const group = unique('g')
  const consumer = await log.consume({ group, topics: [topic] })
  return { log, topic, out, group, consumer, retries }
}

/** Copies everything to `out`, ten records a commit, until `count` have been copied. */
async function copy({ consumer, out }: Scene, count: number): Promise<void> {
  for (let copied = 0; copied < count; ) {
    const records = await consumer.poll({ recordsMax: 10, waitMsMax: 200 })
    if (records.length === 0) continue
    const outputs = records.map(({ key, value }) => ({ topic: out, key, value }))
    await consumer.commit({ positions: after(records), outputs })
    copied += records.length
    await setTimeout(20)
  }
}

async function assertCopiedOnce({ log, out }: Scene, count: number): Promise<void> {
  const keys = (await readAll(log, out)).map(({ key }) => key)
  assert.deepEqual(
    [...keys].sort(),
    numbered(out, count)
      .map(({ key }) => key)
      .sort(),
  )
}

test('a broker that dies and comes back: tried again until it is there, nothing lost or doubled', async t => {
  const broker = await startBroker(t)
  const scene = await open(t, broker)
  const copying = copy(scene, 200)
  await setTimeout(100)
  await broker.kill()
  await setTimeout(1_500)
  await broker.start()
  await copying
  await assertCopiedOnce(scene, 200)
  assert.ok(scene.retries.includes('connection'), scene.retries.join(' '))
})

test('a broker that stands still for longer than the session: work goes on when it does', async t => {
  const broker = await startBroker(t)
  const scene = await open(t, broker)
  const copying = copy(scene, 200)
  await setTimeout(100)
  broker.freeze(true)
  await setTimeout(5_000)
  broker.freeze(false)
  await copying
  await assertCopiedOnce(scene, 200)
})

test('a full disk ends the broker: tried again until it has room, nothing lost or doubled', async t => {
  const broker = await startBroker(t)
  const scene = await open(t, broker)
  await scene.consumer.close()
  await scene.log.close()
  await broker.stop()
  // The segment of the offsets or of the output reaches the limit soon: writing fails as on a full disk.
  await broker.start({ fileBytesMax: 11 << 20 })
  const again = { ...scene, ...(await reopen(t, broker, scene)) }
  const value = Buffer.alloc(900_000, 'x')
  const filling = again.log
    .append(Array.from({ length: 30 }, () => ({ topic: scene.topic, key: 'filler', value })))
    .then(() => 'appended')
  await broker.ended()
  assert.match(broker.log(), /File too large|No space|KafkaStorageException/)
  await broker.start()
  assert.equal(await filling, 'appended')
  const fillers = (await readAll(again.log, scene.topic)).filter(({ key }) => key === 'filler')
  assert.ok(fillers.length >= 30)
})

async function reopen(t: TestContext, broker: Broker, scene: Scene): Promise<{ log: Log }> {
  const events: LogEvents = {
    onTransaction: () => {},
    onRebalance: () => {},
    onRetry: cause => scene.retries.push(cause),
  }
  const log = await logsOn(t, broker.address, { events }).open()
  t.after(() => log.close())
  return { log }
}

test('a leader that dies: its partition goes on under the other broker', async t => {
  const first = await startBroker(t)
  // Before the second joins: what coordinates groups and transactions stays with the first.
  const scene = await open(t, first)
  const second = await startBroker(t, { joins: first })
  const admin = first.client().admin()
  await admin.connect()
  const [topic, out] = [unique('led'), unique('led-out')]
  const configEntries = [{ name: 'min.insync.replicas', value: '1' }]
  await admin.createTopics({
    topics: [
      { topic, replicaAssignment: [{ partition: 0, replicas: [2, 1] }], configEntries },
      { topic: out, replicaAssignment: [{ partition: 0, replicas: [2, 1] }], configEntries },
    ],
  })
  await admin.disconnect()
  await until('both are in sync', 20_000, async () => (await scene.log.ends(topic))[0] === 0)
  await scene.log.append(numbered(topic, 200))
  const consumer = await scene.log.consume({ group: unique('g'), topics: [topic] })
  const led = { ...scene, topic, out, consumer }
  const copying = copy(led, 200)
  await setTimeout(300)
  await second.kill()
  await copying
  await assertCopiedOnce(led, 200)
})

test('brokers that stay away: the end after unreachableMsMax, with a code', async t => {
  const broker = await startBroker(t)
  const scene = await open(t, broker, { unreachableMsMax: 3_000 })
  const records = await pollCount(scene.consumer, 10)
  await broker.kill()
  const positions = after(records)
  const commit = scene.consumer.commit({ positions, outputs: [] })
  await assert.rejects(commit, error => isCode('LOG_UNAVAILABLE')(error))
  await assert.rejects(scene.log.append(numbered(scene.topic, 1)), isCode('LOG_UNAVAILABLE'))
  await assert.rejects(
    (async () => {
      for (;;) await scene.consumer.poll({ recordsMax: 1, waitMsMax: 100 })
    })(),
    isCode('LOG_UNAVAILABLE'),
  )
})

test('a topic that takes less than we write: the end with a code, nothing half written', async t => {
  const broker = await startBroker(t)
  const scene = await open(t, broker)
  const admin = broker.client().admin()
  await admin.connect()
  await admin.alterConfigs({
    validateOnly: false,
    resources: [
      { type: 2, name: scene.out, configEntries: [{ name: 'max.message.bytes', value: '10000' }] },
    ],
  })
  const records = await pollCount(scene.consumer, 10)
  const { partition } = records[0]!
  const mine = records.filter(record => record.partition === partition)
  const outputs = [{ topic: scene.out, key: 'k', value: Buffer.alloc(50_000) }]
  const commit = scene.consumer.commit({ positions: after(mine), outputs })
  await assert.rejects(commit, isCode('RECORD_TOO_LARGE'))
  assert.deepEqual(await readAll(scene.log, scene.out), [])
  await assert.rejects(
    scene.log.ensureTopics([{ name: scene.out, partitions: 1 }]),
    error => isCode('TOPIC_MISMATCH')(error) && String(error).includes('max.message.bytes'),
  )
  const records2 = [{ name: scene.topic, partitions: 2, retentionMs: 3_600_000 }]
  await assert.rejects(scene.log.ensureTopics(records2), isCode('TOPIC_MISMATCH'))
  await admin.disconnect()
})

test('records deleted before they were read: the end with a code; a new group begins at the oldest', async t => {
  const broker = await startBroker(t)
  const scene = await open(t, broker)
  const records = await pollCount(scene.consumer, 100)
  const [first] = records
  const { topic, partition } = first!
  await scene.consumer.commit({ positions: after([first!]), outputs: [] })
  await scene.consumer.close()
  const admin = broker.client().admin()
  await admin.connect()
  await admin.fetchTopicOffsets(topic)
  await admin.deleteTopicRecords({ topic, partitions: [{ partition, offset: '20' }] })
  await admin.disconnect()
  const fresh = await scene.log.consume({ group: unique('g'), topics: [topic] })
  const seen = await pollCount(fresh, 100)
  const offsets = seen.filter(record => record.partition === partition).map(({ offset }) => offset)
  assert.equal(Math.min(...offsets), 20)
  const again = await scene.log.consume({ group: scene.group, topics: [topic] })
  const polling = (async () => {
    for (;;) await again.poll({ recordsMax: 1, waitMsMax: 100 })
  })()
  await assert.rejects(polling, isCode('POSITION_LOST'))
})

test('a partition without a leader is left out: the others go on, and so does it when it has one again', async t => {
  const first = await startBroker(t)
  const scene = await open(t, first)
  const second = await startBroker(t, { joins: first })
  const admin = first.client().admin()
  await admin.connect()
  const replicaAssignment = [
    { partition: 0, replicas: [1] },
    { partition: 1, replicas: [2] },
  ]
  const [topic, out] = [unique('led'), unique('led-out')]
  await admin.createTopics({
    topics: [topic, out].map(name => ({ topic: name, replicaAssignment })),
  })
  await until('both have leaders', 20_000, async () => (await scene.log.ends(topic)).length === 2)
  // Longer than a dead broker keeps its partitions.
  const more = { sessionMsMax: 3_000, unreachableMsMax: 8_000 }
  const log = await logsOn(t, first.address, more).open()
  t.after(() => log.close())
  const record = (partition: number, key: string) => ({ topic, partition, key, value: null })
  await log.append([record(0, 'before 0'), record(1, 'before 1')])
  const consumer = await log.consume({ group: unique('g'), topics: [topic] })
  const before = await pollCount(consumer, 2)
  await consumer.commit({ positions: after(before), outputs: [] })
  await second.kill()
  await until('the partition has no leader', 20_000, async () => {
    const { topics } = await admin
      .fetchTopicMetadata({ topics: [topic] })
      .catch(() => ({ topics: [] }))
    return topics.length === 0
  })
  const started = performance.now()
  for (let i = 0; performance.now() - started < 1.5 * more.unreachableMsMax; i++) {
    await log.append([record(0, `without ${i}`)])
    const [found] = await pollCount(consumer, 1)
    assert.equal(found!.key, `without ${i}`)
    const outputs = [{ topic: out, partition: 0, key: found!.key, value: null }]
    await consumer.commit({ positions: after([found!]), outputs })
    await setTimeout(200)
  }
  const late = await logsOn(t, first.address, more).open()
  t.after(() => late.close())
  await late.ensureTopics([{ name: topic, partitions: 2 }])
  await second.start()
  await log.append([record(1, 'again')])
  assert.equal((await pollCount(consumer, 1))[0]!.key, 'again')
  await admin.disconnect()
})

test('a topic that is gone holds up no other on the same broker', async t => {
  const broker = await startBroker(t)
  const { log } = await open(t, broker)
  const [topic, doomed] = [unique('in'), unique('doomed')]
  await log.ensureTopics([topic, doomed].map(name => ({ name, partitions: 1 })))
  await log.append([...numbered(topic, 10), ...numbered(doomed, 10)])
  const consumer = await log.consume({ group: unique('g'), topics: [topic, doomed] })
  await pollCount(consumer, 20)
  const admin = broker.client().admin()
  await admin.connect()
  await admin.deleteTopics({ topics: [doomed] })
  await admin.disconnect()
  await setTimeout(1_000)
  await log.append(numbered(topic, 10, 10))
  const records = await pollCount(consumer, 10, { waitMsMax: 5_000 })
  assert.deepEqual([...new Set(records.map(one => one.topic))], [topic])
})

test('a batch that was damaged on the disk of a broker: its partition waits, the others go on, and then it ends', async t => {
  const broker = await startBroker(t)
  const scene = await open(t, broker)
  const topic = unique('damaged')
  await scene.log.ensureTopics([{ name: topic, partitions: 2 }])
  const value = Buffer.from('to be damaged')
  for (const partition of [0, 1]) await scene.log.append([{ topic, partition, key: 'k', value }])
  await broker.stop()
  const file = join(broker.place.folder, 'log', `${topic}-0`, '00000000000000000000.log')
  const bytes = readFileSync(file)
  bytes[bytes.indexOf(value)]! ^= 1
  writeFileSync(file, bytes)
  await broker.start()
  const log = await logsOn(t, broker.address, { unreachableMsMax: 5_000 }).open()
  t.after(() => log.close())
  const consumer = await log.consume({ group: unique('g'), topics: [topic] })
  const [found] = await pollCount(consumer, 1)
  assert.equal(found!.partition, 1)
  const polling = (async () => {
    for (;;) assert.deepEqual(await consumer.poll({ recordsMax: 1, waitMsMax: 100 }), [])
  })()
  await assert.rejects(polling, error => {
    assert.match(String(error), /\/0: the batch at offset \d+ .*checksum/)
    return isCode('LOG_UNAVAILABLE')(error)
  })
})

for (const [what, request, partitions] of [
  ['the end of a transaction', 26, 2],
  ['a batch that is appended alone', 0, 1],
] as const) {
  test(`the answer to ${what} is lost: what was appended is there once`, async t => {
    const relay = await Relay.start()
    t.after(() => relay.close())
    await startBroker(t, { relay })
    const log = await logsOn(t, relay.address).open()
    t.after(() => log.close())
    await log.ensureTopics([{ name: 'in', partitions }])
    for (const from of [0, 100]) {
      relay.loseAnswerTo(request)
      await log.append(numbered('in', 100, from))
      assert.ok(relay.isLost)
    }
    assert.equal((await readAll(log, 'in')).length, 200)
  })
}
