/** Members of a group in one process: who gets what, when it is given up, and what long work does to it. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { Kafka, logLevel, type Transaction } from 'kafkajs'
import type { Consumer, Log, LogRecord, Position } from '../../../src/log/log.ts'
import type { LogEvents } from '../../../src/observe/logger.ts'
import { after, isCode, numbered, pollCount, readAll, unique } from '../../log/helpers.ts'
import { ROOT } from '../../support.ts'
import { until } from '../scene.ts'
import { kafkaOptions, logsOn, sharedBroker } from '../setup.ts'

const SESSION_MS = 2_000

/** A log that counts the rebalances of its members. */
async function countingLog(
  t: TestContext,
  more: Parameters<typeof logsOn>[2] = {},
): Promise<{ log: Log; rebalances: () => number }> {
  let rebalances = 0
  const events: LogEvents = {
    onTransaction: () => {},
    onRetry: () => {},
    onRebalance: () => {
      rebalances++
    },
  }
  const log = await logsOn(t, sharedBroker().plain, {
    sessionMsMax: SESSION_MS,
    events,
    ...more,
  }).open()
  t.after(() => log.close())
  return { log, rebalances: () => rebalances }
}

async function owned(consumer: Consumer): Promise<number> {
  return (await consumer.positions()).length
}

test('a batch that takes three times the session causes no rebalance and no redelivery', async t => {
  const [one, two] = [await countingLog(t), await countingLog(t)]
  const [topic, out, group] = [unique('in'), unique('out'), unique('g')]
  await one.log.ensureTopics([
    { name: topic, partitions: 2 },
    { name: out, partitions: 1 },
  ])
  const members = [
    await one.log.consume({ group, topics: [topic] }),
    await two.log.consume({ group, topics: [topic] }),
  ]
  await until('each has one partition', 10_000, async () =>
    (await Promise.all(members.map(owned))).every(count => count === 1),
  )
  await one.log.append(numbered(topic, 40))
  const before = one.rebalances() + two.rebalances()
  const batches = await Promise.all(
    members.map(member => member.poll({ recordsMax: 40, waitMsMax: 5_000 })),
  )
  assert.ok(batches.every(records => records.length > 0))
  await setTimeout(3 * SESSION_MS)
  for (const [i, records] of batches.entries()) {
    const outputs = records.map(({ key, value }) => ({ topic: out, key, value }))
    await members[i]!.commit({ positions: after(records), outputs })
  }
  assert.equal(one.rebalances() + two.rebalances(), before)
  const again = await Promise.all(
    members.map(member => member.poll({ recordsMax: 40, waitMsMax: 1_000 })),
  )
  const polled = [...batches, ...again].flat().map(({ key }) => key)
  assert.deepEqual(
    [...polled].sort(),
    numbered(topic, 40)
      .map(({ key }) => key)
      .sort(),
  )
  assert.equal(new Set((await readAll(one.log, out)).map(({ key }) => key)).size, 40)
})

test('a new member gets its share once what is in hand is committed, and nothing is done twice', async t => {
  const [one, two] = [await countingLog(t), await countingLog(t)]
  const [topic, out, group] = [unique('in'), unique('out'), unique('g')]
  await one.log.ensureTopics([
    { name: topic, partitions: 4 },
    { name: out, partitions: 1 },
  ])
  await one.log.append(numbered(topic, 200))
  const first = await one.log.consume({ group, topics: [topic] })
  const held = await pollCount(first, 200)
  const second = await two.log.consume({ group, topics: [topic] })
  assert.equal(await owned(second), 0)
  await setTimeout(2 * SESSION_MS)
  assert.equal(await owned(second), 0, 'what the first has in hand is not given away')
  const outputs = held.map(({ key, value }) => ({ topic: out, key, value }))
  await first.commit({ positions: after(held), outputs })
  await until('the second has its share', 10_000, async () => (await owned(second)) === 2)
  assert.equal(await owned(first), 2)
  await one.log.append(numbered(topic, 100, 200))
  const rest = await Promise.all(
    [first, second].map(member => member.poll({ recordsMax: 200, waitMsMax: 5_000 })),
  )
  assert.ok(rest.every(records => records.length > 0))
  assert.ok(rest.flat().every(({ key }) => Number(key!.slice(1)) >= 200))
})

/** A member that has everything of a topic in hand, and a log for another. */
async function busyMember(
  t: TestContext,
  more: Parameters<typeof logsOn>[2] = {},
): Promise<{
  first: Consumer
  other: Log
  log: Log
  held: LogRecord[]
  topic: string
  group: string
}> {
  const [one, two] = [await countingLog(t, more), await countingLog(t, more)]
  const [topic, group] = [unique('in'), unique('g')]
  await one.log.ensureTopics([{ name: topic, partitions: 2 }])
  await one.log.append(numbered(topic, 40))
  const first = await one.log.consume({ group, topics: [topic] })
  const held = await pollCount(first, 40)
  return { first, other: two.log, log: one.log, held, topic, group }
}

test('a batch that takes longer than a minute beside a new member is not refused', async t => {
  const { first, other, log, held, topic, group } = await busyMember(t)
  const second = await other.consume({ group, topics: [topic] })
  await setTimeout(65_000)
  await first.commit({ positions: after(held), outputs: [] })
  assert.deepEqual(
    (await log.lag(group, topic)).map(({ behind }) => behind),
    [0, 0],
  )
  await until('the second has its share', 10_000, async () => (await owned(second)) === 1)
})

test('work that takes longer than handoverMsMax loses its partition to the new member', async t => {
  const { first, other, held, topic, group } = await busyMember(t, { handoverMsMax: 3_000 })
  const second = await other.consume({ group, topics: [topic] })
  const started = performance.now()
  await until('the second has its share', 10_000, async () => (await owned(second)) === 1)
  assert.ok(performance.now() - started > 2_000)
  await assert.rejects(first.commit({ positions: after(held), outputs: [] }), isCode('LOG_FENCED'))
})

test('a partition that was wanted elsewhere before, and came back, is held as long as any other', async t => {
  const { first, other, held, topic, group } = await busyMember(t, { handoverMsMax: 5_000 })
  const gone = await other.consume({ group, topics: [topic] })
  await setTimeout(2_000)
  await gone.close()
  await until('the first has both again', 5_000, async () => (await owned(first)) === 2)
  const second = await other.consume({ group, topics: [topic] })
  await setTimeout(3_500)
  assert.equal(await owned(second), 0)
  await first.commit({ positions: after(held), outputs: [] })
  await until('the second has its share', 10_000, async () => (await owned(second)) === 1)
})

test('what a member had in hand when it left is refused once another has claimed it, and is done by that one', async t => {
  const [one, two] = [await countingLog(t), await countingLog(t)]
  const [topic, out, group] = [unique('in'), unique('out'), unique('g')]
  await one.log.ensureTopics([
    { name: topic, partitions: 1 },
    { name: out, partitions: 1 },
  ])
  await one.log.append(numbered(topic, 10))
  const first = await one.log.consume({ group, topics: [topic] })
  const held = await pollCount(first, 10)
  await first.commit({ positions: after(held.slice(0, 4)), outputs: [] })
  await first.close()
  const second = await two.log.consume({ group, topics: [topic] })
  const taken = await pollCount(second, 6)
  assert.deepEqual(
    taken.map(({ key }) => key),
    held.slice(4).map(({ key }) => key),
  )
  await assert.rejects(first.commit({ positions: after(held), outputs: [] }), /closed/)
  await second.commit({ positions: after(taken), outputs: [] })
  assert.deepEqual(await one.log.committed(group, topic), [held[9]!.offset + 1])
})

test('a partition that comes back as it went is news, too: whoever stood by reads it from the start', async t => {
  const { log } = await countingLog(t)
  const [topic, group] = [unique('in'), unique('g')]
  await log.ensureTopics([{ name: topic, partitions: 2 }])
  const consumer = await log.consume({ group, topics: [topic] })
  const has = (count: number) => async () => {
    await consumer.poll({ recordsMax: 1, waitMsMax: 50 })
    return (await consumer.positions()).length === count
  }
  const other = await logsOn(t, sharedBroker().plain).open()
  t.after(() => other.close())
  const second = await other.consume({ group, topics: [topic] })
  await until('one is gone', 20_000, has(1))
  const without = consumer.epoch
  await second.close()
  await until('it is back', 20_000, has(2))
  assert.notEqual(consumer.epoch, without)
  await consumer.close()
})

test('a position that another client moves is seen by the next commit, which is refused', async t => {
  const { log } = await countingLog(t)
  const [topic, group] = [unique('in'), unique('g')]
  await log.ensureTopics([{ name: topic, partitions: 1 }])
  await log.append(numbered(topic, 10))
  const consumer = await log.consume({ group, topics: [topic] })
  const held = await pollCount(consumer, 10)
  await consumer.commit({ positions: after(held.slice(0, 2)), outputs: [] })
  // Whoever takes this id fences the consumer, as another member would.
  const other = logsOn(t, sharedBroker().plain)
  const thief = await other.open()
  t.after(() => thief.close())
  const theft = await moving(t, `${group}-0`, {
    group,
    topic,
    partition: 0,
    offset: held[5]!.offset,
  })
  await theft.commit()
  const epoch = consumer.epoch
  await assert.rejects(
    consumer.commit({ positions: after(held), outputs: [] }),
    isCode('LOG_FENCED'),
  )
  assert.notEqual(consumer.epoch, epoch)
  await consumer.rewind()
  assert.deepEqual(await pollCount(consumer, 5), held.slice(5))
  await consumer.close()
})

test('positions are told where they are hardly ever all settled at one moment', async t => {
  const { log } = await countingLog(t)
  const [topic, group] = [unique('in'), unique('g')]
  await log.ensureTopics([{ name: topic, partitions: 2 }])
  const first = await moving(t, unique('id'), { group, topic, partition: 0, offset: 5 })
  const asked = log.committed(group, topic)
  await setTimeout(300)
  const second = await moving(t, unique('id'), { group, topic, partition: 1, offset: 7 })
  await first.commit()
  assert.deepEqual(await asked, [5, 0])
  await second.commit()
  assert.deepEqual(await log.committed(group, topic), [5, 7])
})

/** A transaction that moves a position, as a member elsewhere would. */
async function moving(
  t: TestContext,
  transactionalId: string,
  { group, topic, ...position }: Position & { group: string },
): Promise<Transaction> {
  const kafka = new Kafka({ brokers: [sharedBroker().plain], logLevel: logLevel.NOTHING })
  const producer = kafka.producer({ transactionalId, maxInFlightRequests: 1, idempotent: true })
  await producer.connect()
  t.after(() => producer.disconnect())
  const transaction = await producer.transaction()
  const partitions = [{ ...position, offset: String(position.offset) }]
  await transaction.sendOffsets({ consumerGroupId: group, topics: [{ topic, partitions }] })
  return transaction
}

const ROUNDS = 15

test('64 partitions in one commit: one transaction, below 100 ms', async t => {
  let transactions = 0
  const events: LogEvents = {
    onTransaction: () => void transactions++,
    onRetry: () => {},
    onRebalance: () => {},
  }
  const log = await logsOn(t, sharedBroker().plain, { events }).open()
  t.after(() => log.close())
  const [topic, out] = [unique('in'), unique('out')]
  await log.ensureTopics([
    { name: topic, partitions: 64 },
    { name: out, partitions: 1 },
  ])
  const consumer = await log.consume({ group: unique('g'), topics: [topic] })
  const times: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const records = Array.from({ length: 64 }, (_, partition) => {
      return { topic, partition, key: `${round}`, value: null }
    })
    await log.append(records)
    const positions = after(await pollCount(consumer, 64))
    const started = performance.now()
    await consumer.commit({ positions, outputs: numbered(out, 64, 64 * round) })
    times.push(performance.now() - started)
  }
  assert.equal(transactions, ROUNDS)
  t.diagnostic(`${times.map(Math.round).join(' ')} ms`)
  // The fastest: what else runs on this machine is no part of a commit.
  assert.ok(Math.min(...times) < 100, `${times}`)
})

const LEFT_OPEN = {
  'a version that had one id a partition': (group: string, topic: string) => `${group}-${topic}-0`,
  'a member that is gone for good': (group: string) => `${group}-3`,
}

for (const [owner, idOf] of Object.entries(LEFT_OPEN)) {
  test(`a transaction that ${owner} left open is ended, its owner fenced`, async t => {
    const { log } = await countingLog(t)
    const [topic, group] = [unique('in'), unique('g')]
    await log.ensureTopics([{ name: topic, partitions: 1 }])
    await log.append(numbered(topic, 10))
    assert.deepEqual(await log.committed(group, topic), [0])
    const move = { group, topic, partition: 0, offset: 5 }
    const transaction = await moving(t, idOf(group, topic), move)
    const started = performance.now()
    const consumer = await log.consume({ group, topics: [topic] })
    const records = await pollCount(consumer, 10)
    assert.ok(performance.now() - started < 20_000, 'it was not left to its timeout of 60 s')
    await assert.rejects(transaction.commit())
    await consumer.commit({ positions: after(records), outputs: [] })
    assert.deepEqual(
      await log.committed(group, topic),
      after(records).map(({ offset }) => offset),
    )
  })
}

/** Joins a group, which has numbers to sweep then, and closes at once. */
const CLOSING = `
import { openKafkaLog } from '${ROOT}/.build/src/log/kafka/log.js'
const [options, group, topic] = JSON.parse(process.argv[1])
const log = await openKafkaLog(options)
await log.consume({ group, topics: [topic], isStateless: true })
await log.close()
process.stdout.write('closed')
`

test('a process whose consumer is closed ends, whatever it was completing', async t => {
  const { log } = await countingLog(t)
  const [topic, group] = [unique('in'), unique('g')]
  await log.ensureTopics([{ name: topic, partitions: 64 }])
  const options = kafkaOptions(sharedBroker().plain, '')
  const argument = JSON.stringify([options, group, topic])
  const child = spawn(process.execPath, ['--input-type=module', '-e', CLOSING, argument], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.after(() => child.kill('SIGKILL'))
  const ended = once(child, 'exit')
  await once(child.stdout, 'data')
  const closed = performance.now()
  assert.deepEqual(await ended, [0, null])
  assert.ok(performance.now() - closed < 10_000, `${performance.now() - closed} ms`)
})
