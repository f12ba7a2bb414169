/**
 * What a broker's death, or a failing network, may do to transactions. `STORM_ROUNDS=40 npm run test:kafka -- storm`
 * goes on for long; what is found is in the log of the broker and in `__transaction_state` and `__consumer_offsets`.
 */

import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { Brokers } from '../../../src/kafka/link/brokers.ts'
import { BatchWriter, recordBytes } from '../../../src/kafka/wire/batch.ts'
import { checkCode } from '../../../src/kafka/wire/model.ts'
import { commitPositionsRequest, produceRequest } from '../../../src/kafka/wire/requests.ts'
import {
  begin,
  end,
  initProducer,
  type ProducerSession,
} from '../../../src/kafka/write/transaction.ts'
import type { Log } from '../../../src/log/log.ts'
import { bytes, numbered, pollCount, readAll, step } from '../../log/helpers.ts'
import { Broker } from '../broker.ts'
import { Relay } from '../relay.ts'
import { until } from '../scene.ts'
import { kafkaOptions, logsOn } from '../setup.ts'

/** Deaths, or failures of the network. */
const ROUNDS = Number(process.env.STORM_ROUNDS ?? 5)
const MEMBERS = 4
const PARTITIONS = 12
const OUT_PARTITIONS = 3
/** So many wait to be copied at all times, as near as may be. */
const WAITING = 40_000
const FED = 10_000
const PAUSE_MS_MAX = 3_000
const REQUEST_MS_MAX = 3_000

/** `hurt` is what happens in each round: members copy on, all of them, and what they copy is there once. */
async function storm(t: TestContext, address: string, hurt: () => Promise<void>): Promise<void> {
  const { connection } = kafkaOptions(address, '')
  const logs = logsOn(t, address, {
    sessionMsMax: 3_000,
    connection: { ...connection, requestMsMax: REQUEST_MS_MAX },
  })
  const log = await logs.open()
  await log.ensureTopics([
    { name: 'in', partitions: PARTITIONS },
    { name: 'out', partitions: OUT_PARTITIONS },
  ])
  const others = await Promise.all(Array.from({ length: MEMBERS }, () => logs.open()))
  t.after(() => Promise.all([log, ...others].map(one => one.close())))
  for (const one of others) await one.ensureTopics([{ name: 'out', partitions: OUT_PARTITIONS }])
  const copied = others.map(() => 0)
  let isOver = false
  const member = async (one: Log, i: number): Promise<void> => {
    const consumer = await one.consume({ group: 'g', topics: ['in'] })
    while (!isOver) copied[i]! += await step(consumer, 'out', 15)
  }
  const feed = async (): Promise<void> => {
    for (let fed = 0; !isOver; ) {
      const isEnough = fed - copied.reduce((a, b) => a + b) > WAITING
      if (isEnough) await setTimeout(20)
      else await log.append(numbered('in', FED, fed)).then(() => (fed += FED))
    }
  }
  const working = Promise.all([feed(), ...others.map(member)])
  working.catch(() => {})
  for (let round = 0; round < ROUNDS; round++) {
    await setTimeout(500 + (PAUSE_MS_MAX - 500) * Math.random())
    await hurt()
    const before = [...copied]
    const goOn = (): boolean => copied.every((count, i) => count > before[i]!)
    await Promise.race([until('all members go on', 60_000, goOn), working])
  }
  isOver = true
  await working
  await assertCopiedAsCommitted(log)
}

test('a broker that dies again and again under many small commits: nothing lost, nothing doubled', async t => {
  const broker = await Broker.start()
  t.after(() => broker.close())
  await storm(t, broker.address, async () => {
    await broker.kill()
    await broker.start()
  })
})

test('a network that fails again and again under many small commits: nothing lost, nothing doubled', async t => {
  const relay = await Relay.start()
  t.after(() => relay.close())
  const broker = await Broker.start({ relay })
  t.after(() => broker.close())
  const failures = [
    () => relay.cut(),
    () => relay.swallow('answers'),
    () => relay.swallow('all'),
    () => relay.cutAfter(1 + Math.floor(200 * Math.random())),
    () => relay.cutAfter(20_000),
  ]
  let round = 0
  await storm(t, relay.address, async () => failures[round++ % failures.length]!())
})

/** What was copied is what the positions say, each record once. */
async function assertCopiedAsCommitted(log: Log): Promise<void> {
  const wanted: string[] = []
  for (const [partition, to] of (await log.committed('g', 'in')).entries()) {
    for await (const { key } of log.read('in', { partition, to })) wanted.push(key!)
  }
  const keys = (await readAll(log, 'out')).map(({ key }) => key!)
  assert.ok(wanted.length > 0)
  assert.deepEqual(keys.sort(), wanted.sort())
}

/** Leaves a transaction as KAFKA-20734 does: ended for its coordinator, open in a topic and in a position. */
async function forgottenEnd(
  t: TestContext,
  broker: Broker,
  isCommitted: boolean,
  id: string,
): Promise<void> {
  const { connection } = kafkaOptions(broker.address, '')
  const cluster = new Brokers({ ...connection, logger: undefined })
  t.after(() => cluster.close())
  await cluster.connect()
  const session = await initProducer(cluster, id, 30_000)
  await begin(cluster, session, [{ topic: 'elsewhere', partition: 0 }], undefined)
  await writeUnannounced(cluster, session)
  await end(cluster, session, isCommitted)
}

/** With verification switched off a broker takes what the coordinator was told nothing of. */
async function writeUnannounced(cluster: Brokers, session: ProducerSession): Promise<void> {
  const { transactionalId, producerId, producerEpoch: epoch } = session
  const batch = new BatchWriter(1_000)
  const record = { topic: 'out', key: 'forgotten', value: bytes('') }
  batch.add(record, recordBytes(record, 0))
  const stamp = { producerId: Number(producerId), epoch, sequence: 0 }
  const place = { topic: 'out', partition: 1, batch: batch.stamped(stamp) }
  const [leader] = (await cluster.allLeaders([place])).keys()
  const request = produceRequest(transactionalId, [place], 5_000)
  for (const { code } of await cluster.send(leader!, request)) checkCode(code, 'out/1')
  const coordinator = await cluster.coordinator('group', 'g')
  const anybody = { group: 'g', memberId: '', generation: -1 }
  const moved = commitPositionsRequest(session, anybody, [{ topic: 'in', partition: 0, offset: 6 }])
  for (const { code } of await coordinator.connectionPool.send(moved)) checkCode(code, 'in/0')
}

const OWNERS = {
  'g-0': 'the member that comes next',
  'g-3': 'a member that is gone for good',
  'g-in-0': 'a version that had one id a partition',
}

for (const [id, owner] of Object.entries(OWNERS)) {
  for (const isCommitted of [true, false]) {
    const how = isCommitted ? 'committed' : 'aborted'
    test(`a transaction of ${owner} whose end a broker forgot: ${how}, as it was`, async t => {
      await assertForgottenEnd(t, isCommitted, id)
    })
  }
}

async function assertForgottenEnd(t: TestContext, isCommitted: boolean, id: string): Promise<void> {
  const properties = { 'transaction.partition.verification.enable': 'false' }
  const broker = await Broker.start({ properties })
  t.after(() => broker.close())
  const log = await logsOn(t, broker.address).open()
  t.after(() => log.close())
  await log.ensureTopics([
    { name: 'in', partitions: 1 },
    { name: 'out', partitions: 2 },
    { name: 'elsewhere', partitions: 1 },
  ])
  await log.append(numbered('in', 10))
  assert.deepEqual(await log.committed('g', 'in'), [0])
  await forgottenEnd(t, broker, isCommitted, id)
  const consumer = await log.consume({ group: 'g', topics: ['in'] })
  const left = await pollCount(consumer, isCommitted ? 4 : 10)
  assert.equal(left[0]!.offset, isCommitted ? 6 : 0)
  await log.append([{ topic: 'out', partition: 1, key: 'after', value: bytes('') }])
  const keys = (await readAll(log, 'out')).map(({ key }) => key)
  assert.deepEqual(keys, isCommitted ? ['forgotten', 'after'] : ['after'])
}
