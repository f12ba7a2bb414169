/** Members of a group in one process: who gets what, when it is given up, and what long work does to it. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { Kafka, logLevel, type Transaction } from 'kafkajs'
import type { Consumer, Log } from '../../src/log/log.ts'
import type { LogEvents } from '../../src/observe/log-events.ts'
import { after, isCode, numbered, pollCount, readAll, unique } from '../log/helpers.ts'
import { until } from './scene.ts'
import { logsOn, sharedBroker } from './setup.ts'

const SESSION_MS = 2_000

/** A log that counts the rebalances of its members. */
async function countingLog(t: TestContext): Promise<{ log: Log; rebalances: () => number }> {
  let rebalances = 0
  const events: LogEvents = {
    onTransaction: () => {},
    onRetry: () => {},
    onRebalance: () => {
      rebalances++
    },
  }
  const log = await logsOn(t, sharedBroker().plain, { sessionMsMax: SESSION_MS, events }).open()
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
  const outputs = held.map(({ key, value, topic: of, partition }) => {
    return { topic: out, key, value, source: { topic: of, partition } }
  })
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
  const theft = await moving(t, group, topic, 0, held[5]!.offset)
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
  const first = await moving(t, group, topic, 0, 5)
  const asked = log.committed(group, topic)
  await setTimeout(300)
  const second = await moving(t, group, topic, 1, 7)
  await first.commit()
  assert.deepEqual(await asked, [5, 0])
  await second.commit()
  assert.deepEqual(await log.committed(group, topic), [5, 7])
})

/** A transaction that moves a position, under the id that a member uses, as a member elsewhere would. */
async function moving(
  t: TestContext,
  group: string,
  topic: string,
  partition: number,
  offset: number,
): Promise<Transaction> {
  const kafka = new Kafka({ brokers: [sharedBroker().plain], logLevel: logLevel.NOTHING })
  const producer = kafka.producer({
    transactionalId: `${group}-${topic}-${partition}`,
    maxInFlightRequests: 1,
    idempotent: true,
  })
  await producer.connect()
  t.after(() => producer.disconnect())
  const transaction = await producer.transaction()
  const partitions = [{ partition, offset: String(offset) }]
  await transaction.sendOffsets({ consumerGroupId: group, topics: [{ topic, partitions }] })
  return transaction
}
