/** The membership of a group by itself: what ends it, what it outlives, what it says. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import type { Log } from '../../../src/log/log.ts'
import { createLogger } from '../../../src/observe/logger.ts'
import { after, isCode, numbered, pollCount, unique } from '../../log/helpers.ts'
import { Broker, type BrokerOptions } from '../broker.ts'
import { Relay } from '../relay.ts'
import { connected, until } from '../scene.ts'
import { logsOn, sharedBroker } from '../setup.ts'

const SESSION_MS = 3_000

async function brokerWith(t: TestContext, options: BrokerOptions): Promise<Broker> {
  const broker = await Broker.start(options)
  t.after(() => broker.close())
  return broker
}

async function logWith(
  t: TestContext,
  address: string,
  more: Parameters<typeof logsOn>[2] = {},
): Promise<Log> {
  const log = await logsOn(t, address, { sessionMsMax: SESSION_MS, ...more }).open()
  t.after(() => log.close())
  return log
}

/** Puts another in the place of a group's only member, as if its session had ended. */
async function replaceMember(t: TestContext, broker: Broker, group: string): Promise<void> {
  const memberId = (await membersOf(broker, group))[0]!
  const brokers = await connected(t, broker.address)
  const coordinator = await brokers.coordinator('group', group)
  await coordinator.leaveGroup({ groupId: group, memberId })
  await rawMember(coordinator, group)
}

test('a commit that is refused after the membership has failed ends with the failure', async t => {
  const broker = await brokerWith(t, { properties: { 'group.max.size': '1' } })
  const one = await logWith(t, broker.address)
  const [topic, group] = [unique('in'), unique('g')]
  await one.ensureTopics([{ name: topic, partitions: 1 }])
  await one.append(numbered(topic, 10))
  const first = await one.consume({ group, topics: [topic] })
  const held = await pollCount(first, 10)
  await replaceMember(t, broker, group)
  const commit = first.commit({ positions: after(held), outputs: [] })
  const late = setTimeout(20_000, 'it hangs', { ref: false })
  await assert.rejects(Promise.race([commit, late]), error => {
    assert.match(String(error), /GROUP_MAX_SIZE_REACHED/)
    return isCode('LOG_FORBIDDEN')(error)
  })
  await assert.rejects(first.poll({ recordsMax: 1, waitMsMax: 0 }), isCode('LOG_FORBIDDEN'))
  assert.deepEqual(await one.committed(group, topic), [0])
})

test('a heartbeat that is swallowed costs no session', async t => {
  const relay = await Relay.start()
  t.after(() => relay.close())
  const broker = await brokerWith(t, { relay })
  let rebalances = 0
  const log = await logWith(t, relay.address, {
    sessionMsMax: 2 * SESSION_MS,
    events: { onTransaction: () => {}, onRetry: () => {}, onRebalance: () => void rebalances++ },
  })
  await log.ensureTopics([{ name: 'in', partitions: 1 }])
  await log.consume({ group: 'g', topics: ['in'] })
  const members = await membersOf(broker, 'g')
  relay.swallow('all')
  await setTimeout(5 * SESSION_MS)
  assert.deepEqual(await membersOf(broker, 'g'), members)
  assert.equal(rebalances, 1)
})

/** Their ids, new ones where they have come again. */
async function membersOf(broker: Broker, group: string): Promise<string[]> {
  const admin = broker.client().admin()
  await admin.connect()
  const { groups } = await admin.describeGroups([group])
  await admin.disconnect()
  return groups[0]!.members.map(({ memberId }) => memberId)
}

for (const [setting, properties, more] of [
  ['log.sessionMsMax', { 'group.min.session.timeout.ms': '10000' }, {}],
  ['log.transactionMsMax', { 'transaction.max.timeout.ms': '20000' }, {}],
] as const) {
  test(`a broker that refuses ${setting}: the end with a message that names it`, async t => {
    const broker = await brokerWith(t, { properties })
    const log = await logWith(t, broker.address, more)
    await log.ensureTopics([{ name: 'in', partitions: 1 }])
    const consuming = (async () => {
      await log.append(numbered('in', 1))
      const consumer = await log.consume({ group: 'g', topics: ['in'] })
      const records = await pollCount(consumer, 1)
      await consumer.commit({ positions: after(records), outputs: numbered('in', 1) })
    })()
    await assert.rejects(consuming, error => {
      assert.ok(isCode('CONFIG_INVALID')(error), String(error))
      assert.ok((error as { hint: string }).hint.includes(setting))
      return true
    })
  })
}

test('a group of another kind of consumer: the end with a message that names the key', async t => {
  const { plain } = sharedBroker()
  const log = await logWith(t, plain)
  const [topic, group] = [unique('in'), unique('g')]
  await log.ensureTopics([{ name: topic, partitions: 1 }])
  assert.deepEqual(await log.committed(group, topic), [0]) // the coordinator is there
  const brokers = await connected(t, plain)
  await rawMember(await brokers.coordinator('group', group), group)
  await assert.rejects(log.consume({ group, topics: [topic] }), error => {
    assert.match((error as { hint: string }).hint, /score\.group/)
    return isCode('CONFIG_INVALID')(error)
  })
})

test('joining a group whose member was killed says what it waits for', async t => {
  const { plain } = sharedBroker()
  const lines: string[] = []
  const logger = createLogger({ level: 'info', forward: line => void lines.push(line) })
  const log = await logWith(t, plain, { logger })
  const [topic, group] = [unique('in'), unique('g')]
  await log.ensureTopics([{ name: topic, partitions: 1 }])
  assert.deepEqual(await log.committed(group, topic), [0])
  const brokers = await connected(t, plain)
  await rawMember(await brokers.coordinator('group', group), group, 'xmasd-cooperative')
  const consumer = await log.consume({ group, topics: [topic] })
  await until('it has the partition', 10_000, async () => (await consumer.positions()).length === 1)
  const text = lines.join('')
  assert.match(text, /waiting up to 3 s for the previous member's session to end/)
  assert.ok(text.indexOf('waiting up to') < text.indexOf('"assigned"'))
})

type Coordinator = Awaited<ReturnType<Awaited<ReturnType<typeof connected>>['coordinator']>>

/** Joins and is never heard of again. */
async function rawMember(node: Coordinator, groupId: string, name = 'range'): Promise<void> {
  const metadata = Buffer.alloc(6)
  const { memberId, generationId } = await node.joinGroup({
    groupId,
    sessionTimeout: SESSION_MS,
    rebalanceTimeout: SESSION_MS,
    memberId: '',
    groupProtocols: [{ name, metadata }],
  })
  const groupAssignment = [{ memberId, memberAssignment: Buffer.alloc(0) }]
  await node.syncGroup({ groupId, generationId, memberId, groupAssignment })
}
