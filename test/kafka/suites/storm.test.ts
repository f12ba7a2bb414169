/**
 * What a broker's death, or a failing network, may do to transactions. `STORM_ROUNDS=40 npm run test:kafka -- storm`
 * goes on for long; what is found is in the log of the broker and in `__transaction_state` and `__consumer_offsets`.
 */

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { dirname, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Log } from '../../../src/log/log.ts'
import { numbered, readAll, step } from '../../log/helpers.ts'
import { temporaryFolder } from '../../support.ts'
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

test('members and their broker die together, again and again: nothing lost, nothing doubled', async t => {
  const broker = await Broker.start()
  t.after(() => broker.close())
  const log = await logsOn(t, broker.address, { unreachableMsMax: 120_000 }).open()
  t.after(() => log.close())
  await log.ensureTopics([
    { name: 'in', partitions: PARTITIONS },
    { name: 'out', partitions: OUT_PARTITIONS },
  ])
  const members = Array.from({ length: MEMBERS }, () => new Copier(t, broker))
  t.after(() => Promise.all(members.map(member => member.kill())))
  const copied = async (): Promise<number> =>
    (await log.committed('g', 'in')).reduce((sum, position) => sum + position, 0)
  for (let round = 0, fed = 0; round < ROUNDS; round++) {
    const before = await copied()
    for (; fed < before + WAITING; fed += FED) await log.append(numbered('in', FED, fed))
    await until('members go on', 60_000, async () => (await copied()) > before + FED / 2)
    await setTimeout(500 * Math.random())
    const victims = members.filter(() => Math.random() < 0.5)
    await Promise.all([...victims.map(member => member.kill()), broker.kill()])
    for (const victim of victims) victim.start()
    await broker.start()
  }
  await Promise.all(members.map(member => member.kill()))
  const last = new Copier(t, broker)
  t.after(() => last.kill())
  const ends = async (): Promise<boolean> =>
    (await log.lag('g', 'in')).every(({ behind }) => behind === 0)
  await until('all is copied', 120_000, ends)
  await last.kill()
  await assertCopiedAsCommitted(log)
})

/** A member in a process of its own. */
class Copier {
  readonly #arguments: string[]
  #child: ChildProcess | undefined

  constructor(t: TestContext, broker: Broker) {
    const main = join(dirname(fileURLToPath(import.meta.url)), '..', 'copier.js')
    this.#arguments = [main, broker.address, temporaryFolder(t), 'in', 'out', `${OUT_PARTITIONS}`]
    this.start()
  }

  start(): void {
    this.#child = spawn(process.execPath, this.#arguments, {
      stdio: ['ignore', 'inherit', 'inherit'],
    })
  }

  async kill(): Promise<void> {
    const child = this.#child!
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
}

/** What is left of `all` without one of each of `taken`. */
function less(all: readonly string[], taken: readonly string[]): string[] {
  const counts = new Map<string, number>()
  for (const key of taken) counts.set(key, (counts.get(key) ?? 0) + 1)
  return all.filter(key => {
    const count = counts.get(key) ?? 0
    if (count > 0) counts.set(key, count - 1)
    return count === 0
  })
}

/** What was copied is what the positions say, each record once. */
async function assertCopiedAsCommitted(log: Log): Promise<void> {
  const wanted: string[] = []
  for (const [partition, to] of (await log.committed('g', 'in')).entries()) {
    for await (const { key } of log.read('in', { partition, to })) wanted.push(key!)
  }
  const keys = (await readAll(log, 'out')).map(({ key }) => key!)
  assert.ok(wanted.length > 0)
  assert.deepEqual({ more: less(keys, wanted), lost: less(wanted, keys) }, { more: [], lost: [] })
}
