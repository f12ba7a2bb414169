/** What is left of a transaction whose end a broker forgot (KAFKA-20734), and who ends it, whatever dies meanwhile. */

import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { Brokers } from '../../../src/kafka/link/brokers.ts'
import { withRetry } from '../../../src/kafka/link/retry.ts'
import { BatchWriter, recordBytes } from '../../../src/kafka/wire/batch.ts'
import { checkCode, type Place } from '../../../src/kafka/wire/model.ts'
import { commitPositionsRequest, produceRequest } from '../../../src/kafka/wire/requests.ts'
import { openSession, transactionState } from '../../../src/kafka/write/recovery.ts'
import {
  begin,
  end,
  initProducer,
  type ProducerSession,
} from '../../../src/kafka/write/transaction.ts'
import type { Log } from '../../../src/log/log.ts'
import { NO_EVENTS } from '../../../src/observe/logger.ts'
import { bytes, numbered, pollCount, readAll, unique } from '../../log/helpers.ts'
import { Broker, type BrokerOptions } from '../broker.ts'
import { Relay } from '../relay.ts'
import { connected, until } from '../scene.ts'
import { kafkaOptions, logsOn } from '../setup.ts'

/** Topics and a group, in which a record `forgotten` and a position of 6 belong to one transaction of `id`. */
type Names = { group: string; input: string; out: string; elsewhere: string; id: string }

function namesFor(word: string): Names {
  const [group, input, out, elsewhere] = ['g', 'in', 'out', 'elsewhere'].map(
    name => `${word}-${name}`,
  ) as [string, string, string, string]
  return { group, input, out, elsewhere, id: `${group}-0` }
}

async function make(log: Log, { group, input, out, elsewhere }: Names): Promise<void> {
  await log.ensureTopics([
    { name: input, partitions: 1 },
    { name: out, partitions: 2 },
    { name: elsewhere, partitions: 1 },
  ])
  await log.append(numbered(input, 10))
  assert.deepEqual(await log.committed(group, input), [0])
}

/** With verification switched off a broker takes what the coordinator was told nothing of. */
const UNVERIFIED = { 'transaction.partition.verification.enable': 'false' }

const RETRY = { address: '', events: NO_EVENTS, logger: undefined, msMax: 30_000 }

/** The first one that asks a new broker waits for its coordinator. */
function sessionOf(cluster: Brokers, { id }: Names): Promise<ProducerSession> {
  return withRetry(RETRY, cluster, () => initProducer(cluster, id, 60_000))
}

async function start(
  t: TestContext,
  options: BrokerOptions = {},
): Promise<{ broker: Broker; log: Log; cluster: Brokers }> {
  const broker = await Broker.start({ properties: UNVERIFIED, ...options })
  t.after(() => broker.close())
  const log = await logsOn(t, broker.address).open()
  t.after(() => log.close())
  return { broker, log, cluster: await connected(t, broker.address) }
}

/** Leaves a transaction as KAFKA-20734 does: ended for its coordinator, open in a topic and in a position. */
async function forgottenEnd(cluster: Brokers, names: Names, isCommitted: boolean): Promise<void> {
  const session = await sessionOf(cluster, names)
  await begin(cluster, session, [{ topic: names.elsewhere, partition: 0 }], undefined)
  await write(cluster, session, names)
  await end(cluster, session, isCommitted)
}

async function write(
  cluster: Brokers,
  session: ProducerSession,
  names: Names,
  partition = 1,
): Promise<void> {
  const { transactionalId, producerId, producerEpoch: epoch } = session
  const { group, input, out: topic } = names
  const batch = new BatchWriter(1_000)
  const record = { topic, key: 'forgotten', value: bytes('') }
  batch.add(record, recordBytes(record, 0))
  const stamp = { producerId: Number(producerId), epoch, sequence: 0 }
  const place = { topic, partition, batch: batch.stamped(stamp) }
  const [leader] = (await cluster.allLeaders([place])).keys()
  const request = produceRequest(transactionalId, [place], 5_000)
  await until('the leader knows that it is one', 10_000, async () => {
    const [produced] = await cluster.send(leader!, request)
    if (produced!.code !== NOT_LEADER) checkCode(produced!.code, `${topic}/${partition}`)
    return produced!.code === 0
  })
  const coordinator = await cluster.coordinator('group', group)
  const anybody = { group, memberId: '', generation: -1 }
  const moved = commitPositionsRequest(session, anybody, [
    { topic: input, partition: 0, offset: 6 },
  ])
  for (const { code } of await coordinator.connectionPool.send(moved)) checkCode(code, input)
}

const NOT_LEADER = 6

/** Readers see it as it was ended, and what comes after it. */
async function assertEnded(log: Log, names: Names, isCommitted: boolean): Promise<void> {
  const { group, input, out: topic } = names
  await log.append([{ topic, partition: 1, key: 'after', value: bytes('') }])
  const keys = (await readAll(log, topic)).map(({ key }) => key)
  assert.deepEqual(keys, isCommitted ? ['forgotten', 'after'] : ['after'])
  assert.deepEqual(await log.committed(group, input), [isCommitted ? 6 : 0])
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
      const { log, cluster } = await start(t)
      const names = { group: 'g', input: 'in', out: 'out', elsewhere: 'elsewhere', id }
      await make(log, names)
      await forgottenEnd(cluster, names, isCommitted)
      const consumer = await log.consume({ group: 'g', topics: ['in'] })
      const left = await pollCount(consumer, isCommitted ? 4 : 10)
      assert.equal(left[0]!.offset, isCommitted ? 6 : 0)
      await assertEnded(log, names, isCommitted)
    })
  }
}

/** The requests that change something: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, EndTxn. */
const CHANGING = [22, 24, 25, 26]
/** `RECOVERY_DEATHS=2`: whoever comes after the first dies, too, at each of its requests. */
const DEATHS = Number(process.env.RECOVERY_DEATHS ?? 1)

function openFor(names: Names, cluster: Brokers, signal?: AbortSignal): Promise<ProducerSession> {
  const { group, input, id, out, elsewhere } = names
  const state = transactionState(id, { group, places: [{ topic: input, partition: 0 }] })
  const topics = [
    { name: out, partitions: 2, compacted: false },
    { name: elsewhere, partitions: 1, compacted: false },
  ]
  const retry = { ...RETRY, signal }
  const context = { brokers: cluster, retry, topics: () => topics, transactionMsMax: 30_000 }
  return openSession(context, state)
}

/** A process that opens a session. False where it has died first. */
async function opens(
  address: string,
  names: Names,
  death: Promise<unknown> = new Promise<never>(() => {}),
): Promise<boolean> {
  const { connection } = kafkaOptions(address, '')
  const cluster = new Brokers({ ...connection, logger: undefined })
  const dead = new AbortController()
  try {
    await cluster.connect()
    const opening = openFor(names, cluster, dead.signal)
    opening.catch(() => {})
    return await Promise.race([opening.then(() => true), death.then(() => false)])
  } finally {
    dead.abort()
    await cluster.close()
  }
}

/** How many processes died, one after the other. `die`: which of its requests each does not live to send; true when the last has lived. */
async function deaths(
  die: (at: readonly number[]) => Promise<boolean>,
  before: readonly number[] = [],
): Promise<number> {
  let died = 0
  for (let nth = 1; ; nth++) {
    const at = [...before, nth]
    if (await die(at)) return died
    died++
    if (at.length < DEATHS) died += await deaths(die, at)
  }
}

for (const isCommitted of [true, false]) {
  const how = isCommitted ? 'committed' : 'aborted'
  test(`whoever completes a transaction dies before any of its requests: ${how}, as it was`, async t => {
    const relay = await Relay.start()
    t.after(() => relay.close())
    const { broker, log, cluster } = await start(t, { relay })
    const die = async (at: readonly number[]): Promise<boolean> => {
      const names = namesFor(unique(at.join('-')))
      await make(log, names)
      await forgottenEnd(cluster, names, isCommitted)
      let hasDone = false
      for (const nth of at) {
        hasDone = await opens(relay.address, names, relay.dieAt(nth, CHANGING))
        relay.revive()
      }
      assert.ok(await opens(broker.address, names))
      t.diagnostic(`died before request ${at.join(', then ')}`)
      await assertEnded(log, names, isCommitted)
      return hasDone
    }
    const died = await deaths(die)
    t.diagnostic(`${died} processes died`)
    assert.ok(died >= (isCommitted ? 7 : 4), `${died} died`)
  })
}

test('a process that had completed a transaction dies in one of its own: that one is aborted', async t => {
  const { broker, log, cluster } = await start(t)
  const names = namesFor('completed')
  await make(log, names)
  await forgottenEnd(cluster, names, true)
  const session = await openFor(names, cluster)
  await begin(cluster, session, [{ topic: names.out, partition: 1 }], names.group)
  await write(cluster, session, names)
  assert.ok(await opens(broker.address, names))
  await assertEnded(log, names, true)
})

/** Two brokers: the second leads partition 1 of the outputs, the first all else. */
async function twoBrokers(
  t: TestContext,
  names: Names,
): Promise<{ first: Broker; second: Broker; log: Log; cluster: Brokers }> {
  const { broker: first, log, cluster } = await start(t)
  const { group, input, out, elsewhere } = names
  await log.ensureTopics([{ name: input, partitions: 1 }])
  await log.append(numbered(input, 10))
  assert.deepEqual(await log.committed(group, input), [0])
  // Before the second joins: what coordinates groups and transactions stays with the first.
  await sessionOf(cluster, names)
  const second = await Broker.start({ joins: first, properties: UNVERIFIED })
  t.after(() => second.close())
  const admin = first.client().admin()
  await admin.connect()
  const replicaAssignment = [1, 2].map((broker, partition) => ({ partition, replicas: [broker] }))
  await admin.createTopics({
    topics: [
      { topic: out, replicaAssignment },
      { topic: elsewhere, replicaAssignment: replicaAssignment.slice(0, 1) },
    ],
  })
  await admin.disconnect()
  await until('it has leaders', 20_000, async () => (await log.ends(out)).length === 2)
  return { first, second, log, cluster }
}

async function untilLeaderless(cluster: Brokers, place: Place): Promise<void> {
  await until('the partition has no leader', 20_000, async () => {
    await cluster.refresh()
    return (await cluster.leaders([place])).leaderless.length > 0
  })
}

test('a process died in a transaction, the leader of a partition of it is away, and the next process dies, too: aborted', async t => {
  const names = namesFor('away')
  const { first, second, log, cluster } = await twoBrokers(t, names)
  const place = { topic: names.out, partition: 1 }
  const session = await sessionOf(cluster, names)
  await begin(cluster, session, [place], names.group)
  await write(cluster, session, names)
  await second.kill()
  await untilLeaderless(cluster, place)
  // Nothing is given that could commit what the partition still has open.
  assert.equal(await opens(first.address, names, setTimeout(5_000)), false)
  await second.start()
  assert.ok(await opens(first.address, names))
  await assertEnded(log, names, false)
})

test('a transaction breaks off beside a partition without a leader that holds a committed one: none takes the end of the other', async t => {
  const names = namesFor('beside')
  const { first, second, log, cluster } = await twoBrokers(t, names)
  await forgottenEnd(cluster, names, true)
  await second.kill()
  await untilLeaderless(cluster, { topic: names.out, partition: 1 })
  const session = await openFor(names, cluster)
  await begin(cluster, session, [{ topic: names.out, partition: 0 }], names.group)
  await write(cluster, session, names, 0)
  // It has not written to the partition that can't be asked: nobody waits for it.
  assert.ok(await opens(first.address, names))
  await second.start()
  assert.ok(await opens(first.address, names))
  await assertEnded(log, names, true)
})
