/**
 * What a broker's death may do to transactions. `STORM_KILLS=40 npm run test:kafka -- storm` goes on for long; what
 * is found is in the log of the broker and in `__transaction_state` and `__consumer_offsets`.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { BatchWriter, recordBytes } from '../../src/log/kafka-batch.ts'
import { Cluster } from '../../src/log/kafka-cluster.ts'
import { checkCode } from '../../src/log/kafka-errors.ts'
import { produceRequest } from '../../src/log/kafka-requests.ts'
import { begin, type Claim, claimId, end } from '../../src/log/kafka-transactions.ts'
import type { Log } from '../../src/log/log.ts'
import { bytes, numbered, pollCount, readAll, step } from '../log/helpers.ts'
import { Broker } from './broker.ts'
import { until } from './scene.ts'
import { kafkaOptions, logsOn } from './setup.ts'

const KILLS = Number(process.env.STORM_KILLS ?? 4)
const MEMBERS = 4
const PARTITIONS = 12
const OUT_PARTITIONS = 3
/** More than are copied from one death to the next. */
const RECORDS = 40_000
const PAUSE_MS_MAX = 3_000

type Work = { copied: number; isOver: boolean }

async function member(log: Log, work: Work): Promise<void> {
  const consumer = await log.consume({ group: 'g', topics: ['in'] })
  while (!work.isOver) work.copied += await step(consumer, 'out', 15)
}

test('a broker that dies again and again under many small commits: nothing lost, nothing doubled', async t => {
  const broker = await Broker.start()
  t.after(() => broker.close())
  const logs = logsOn(t, broker.address, { sessionMsMax: 3_000 })
  const log = await logs.open()
  await log.ensureTopics([
    { name: 'in', partitions: PARTITIONS },
    { name: 'out', partitions: OUT_PARTITIONS },
  ])
  const others = await Promise.all(Array.from({ length: MEMBERS }, () => logs.open()))
  t.after(() => Promise.all([log, ...others].map(one => one.close())))
  for (const one of others) await one.ensureTopics([{ name: 'out', partitions: OUT_PARTITIONS }])
  const work: Work = { copied: 0, isOver: false }
  const working = Promise.all(others.map(one => member(one, work)))
  working.catch(() => {})
  for (let kills = 0; kills < KILLS; kills++) {
    await log.append(numbered('in', RECORDS, kills * RECORDS))
    await setTimeout(500 + (PAUSE_MS_MAX - 500) * Math.random())
    await broker.kill()
    await broker.start()
    const before = work.copied
    await Promise.race([until('copying goes on', 60_000, () => work.copied > before), working])
  }
  work.isOver = true
  await working
  await assertCopiedAsCommitted(log)
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
async function forgottenEnd(t: TestContext, broker: Broker, isCommitted: boolean): Promise<void> {
  const { connection } = kafkaOptions(broker.address, '')
  const cluster = new Cluster({ ...connection, logger: undefined })
  t.after(() => cluster.close())
  await cluster.connect()
  const claim = await claimId(cluster, 'g-in-0', 30_000)
  await begin(cluster, claim, [{ topic: 'elsewhere', partition: 0 }], undefined)
  await writeUnannounced(cluster, claim)
  await end(cluster, claim, isCommitted)
}

/** With verification switched off a broker takes what the coordinator was told nothing of. */
async function writeUnannounced(cluster: Cluster, claim: Claim): Promise<void> {
  const { transactionalId, producerId, producerEpoch: epoch } = claim
  const batch = new BatchWriter(1_000)
  const record = { topic: 'out', key: 'forgotten', value: bytes('') }
  batch.add(record, recordBytes(record, 0))
  const stamp = { producerId: Number(producerId), epoch, sequence: 0 }
  const place = { topic: 'out', partition: 1, batch: batch.stamped(stamp) }
  const [leader] = (await cluster.leaders([place])).keys()
  const request = produceRequest(transactionalId, [place], 5_000)
  for (const { code } of await cluster.send(leader!, request)) checkCode(code, 'out/1')
  const coordinator = await cluster.coordinator('group', 'g')
  await coordinator.txnOffsetCommit({
    transactionalId,
    producerId,
    producerEpoch: epoch,
    groupId: 'g',
    topics: [{ topic: 'in', partitions: [{ partition: 0, offset: '6' }] }],
  })
}

for (const isCommitted of [true, false]) {
  const how = isCommitted ? 'committed' : 'aborted'
  test(`a transaction whose end a broker forgot: ${how}, as it was, by the next claim`, async t => {
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
    await forgottenEnd(t, broker, isCommitted)
    const consumer = await log.consume({ group: 'g', topics: ['in'] })
    const left = await pollCount(consumer, isCommitted ? 4 : 10)
    assert.equal(left[0]!.offset, isCommitted ? 6 : 0)
    await log.append([{ topic: 'out', partition: 1, key: 'after', value: bytes('') }])
    const keys = (await readAll(log, 'out')).map(({ key }) => key)
    assert.deepEqual(keys, isCommitted ? ['forgotten', 'after'] : ['after'])
  })
}
