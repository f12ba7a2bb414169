import assert from 'node:assert/strict'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { demoStream } from '../../../src/demo/stream.ts'
import type { Log } from '../../../src/log/log.ts'
import { seededRandom } from '../../../src/math/random.ts'
import { DEMO_PROXY, succeed } from '../../e2e/command.ts'
import { temporaryFolder } from '../../support.ts'
import { Broker } from '../broker.ts'
import {
  assertExactlyOnce,
  isDone,
  type KafkaSite,
  kafkaSite,
  Member,
  readTopic,
  until,
} from '../scene.ts'

const EXAMPLES = 5_000
const KILLS = 22
const ZOMBIES = 5
/** After so many kills the broker is killed, too. */
const BROKER_KILLS_AFTER = [7, 14]
const SESSION_MS = 3_000
const PAUSE_MS_MAX = 3_000
const END_MS_MAX = 150_000

/** One place of a process: when it is killed, another takes it, on the same disk. */
class Slot {
  readonly #site: KafkaSite
  readonly #env: NodeJS.ProcessEnv
  readonly role: 'score' | 'select'
  readonly all: Member[] = []
  member: Member
  isFrozen = false

  constructor(site: KafkaSite, role: 'score' | 'select', number: number) {
    this.#site = site
    this.role = role
    this.#env = { XMASD_LOG_PATH: join(site.folder, `state-${role}-${number}`) }
    this.member = this.#start()
  }

  #start(): Member {
    const member = new Member(this.#site, this.role, this.#env)
    this.all.push(member)
    member.ended.then(({ code, signal, stderr }) => {
      if (signal === null && code !== 0)
        process.stderr.write(`${this.role}: ${stderr.slice(-2000)}\n`)
    })
    return member
  }

  /** False where it had not even started. */
  async kill(): Promise<boolean> {
    const wasStarted = this.member.isStarted
    this.member.signal('SIGKILL')
    await this.member.ended
    this.member = this.#start()
    return wasStarted
  }

  /** It stands still until its partitions are another's, and wakes up with what it had in hand. */
  async freeze(): Promise<void> {
    this.isFrozen = true
    this.member.signal('SIGSTOP')
    await setTimeout(SESSION_MS + 2_000)
    this.member.signal('SIGCONT')
    this.isFrozen = false
  }
}

/** The demo's proxy at two of its checkpoints, and a bundle for it: a third of the time to score. */
async function smallDemo(t: TestContext): Promise<{ proxy: string; bundle: string }> {
  const folder = temporaryFolder(t)
  const [proxy, data, out, bundle] = ['proxy', 'data.jsonl', 'scored.jsonl', 'bundle'].map(name =>
    join(folder, name),
  ) as [string, string, string, string]
  mkdirSync(proxy)
  for (const name of ['template.json', 'checkpoint-150', 'checkpoint-500']) {
    symlinkSync(join(DEMO_PROXY, name), join(proxy, name))
  }
  const values = await demoValues(3, 200)
  writeFileSync(data, values.map(value => `${Buffer.from(value).toString()}\n`).join(''))
  await succeed(['score', '--proxy', proxy, '--data', data, '--out', out])
  await succeed(['fit', '--trajectories', out, '--out', bundle, '--clusters', '20'])
  return { proxy, bundle }
}

async function demoValues(seed: number, count: number): Promise<Uint8Array[]> {
  const values: Uint8Array[] = []
  for await (const { value } of demoStream({ seed })) {
    values.push(value)
    if (values.length === count) break
  }
  return values
}

async function produce(log: Log, { topics }: KafkaSite): Promise<void> {
  const records = []
  for await (const { key, value } of demoStream({ seed: 5 })) {
    records.push({ topic: topics.examples, key, value })
    if (records.length === EXAMPLES) break
  }
  await log.append(records)
}

/** Kills, zombies and dead brokers at random moments; most zombies are of the score role, with work in hand. */
async function fire(broker: Broker, slots: readonly Slot[], seed: number): Promise<void> {
  const random = seededRandom(seed)
  const choose = (role?: Slot['role']): Slot | undefined => {
    const awake = slots.filter(slot => !slot.isFrozen && slot.member.isStarted)
    const wanted = awake.filter(slot => role === undefined || slot.role === role)
    return wanted[Math.floor(random() * wanted.length)]
  }
  const zombies: Promise<void>[] = []
  for (let kills = 0; kills < KILLS; ) {
    await setTimeout(PAUSE_MS_MAX * random())
    const isZombiesTurn = zombies.length < Math.min(ZOMBIES, (kills * ZOMBIES) / (KILLS - 4))
    if (isZombiesTurn) {
      const zombie = choose(zombies.length === 2 ? 'select' : 'score')
      if (zombie !== undefined) zombies.push(zombie.freeze())
      continue
    }
    if (!(await choose()?.kill())) continue
    kills++
    if (BROKER_KILLS_AFTER.includes(kills)) await killBroker(broker)
  }
  await Promise.all(zombies)
  assert.equal(zombies.length, ZOMBIES)
}

async function killBroker(broker: Broker): Promise<void> {
  await broker.kill()
  await broker.start()
}

/** The decisions as the client library's own consumer reads them, committed. */
async function readByLibrary(broker: Broker, topic: string, count: number): Promise<string[]> {
  const consumer = broker.client().consumer({ groupId: `reader-of-${topic}` })
  const values: string[] = []
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  await consumer.run({
    eachMessage: async ({ message }) => {
      values.push(String(message.value))
    },
  })
  await until('the library has read all decisions', 30_000, () => values.length >= count)
  await setTimeout(500)
  await consumer.disconnect()
  return values
}

async function assertLibraryAgrees(broker: Broker, log: Log, topic: string): Promise<void> {
  const ours = (await readTopic(log, topic)).map(({ value }) => String(value))
  assert.deepEqual(await readByLibrary(broker, topic, ours.length), ours)
}

async function open(t: TestContext, broker: Broker): Promise<{ site: KafkaSite; slots: Slot[] }> {
  const { proxy, bundle } = await smallDemo(t)
  const site = kafkaSite(t, broker.address, {
    partitions: 6,
    log: [`sessionMsMax: ${SESSION_MS}`],
    more: [`proxy: { path: ${proxy}, workers: 1 }`, `bundle: ${bundle}`],
  })
  const slots = (['score', 'score', 'score', 'select', 'select'] as const).map(
    (role, number) => new Slot(site, role, number),
  )
  t.after(() => {
    for (const { member } of slots) member.signal('SIGKILL')
  })
  return { site, slots }
}

test('exactly once under fire: 5,000 examples, 22 kills, 5 zombies, 2 dead brokers', async t => {
  const seed = Number(process.env.FIRE_SEED ?? Date.now() % 1e6)
  t.diagnostic(`FIRE_SEED=${seed}`)
  const broker = await Broker.start()
  t.after(() => broker.close())
  const { site, slots } = await open(t, broker)
  await Promise.all(slots.map(({ member }) => member.said('"started"')))
  const log = await site.open()
  t.after(() => log.close())
  await produce(log, site)
  const started = performance.now()
  await fire(broker, slots, seed)
  t.diagnostic(`${Math.round((performance.now() - started) / 1000)} s of fire`)
  await until('all is decided', END_MS_MAX, () => isDone(log, site))
  t.diagnostic(`${Math.round((performance.now() - started) / 1000)} s until all is decided`)
  // The last one killed may have only just been started again: a process ends orderly once it listens to signals.
  await Promise.all(slots.map(({ member }) => member.said('"started"')))
  await Promise.all(slots.map(({ member }) => member.stop()))
  const { assigned, deadLetters, kept } = await assertExactlyOnce(log, site)
  t.diagnostic(`${assigned} assigned, ${deadLetters} dead letters, ${kept} kept`)
  const fences = slots.flatMap(({ all }) => all).map(member => member.fences)
  t.diagnostic(`${fences.reduce((sum, count) => sum + count, 0)} commits refused`)
  await assertLibraryAgrees(broker, log, site.topics.decisions)
})
