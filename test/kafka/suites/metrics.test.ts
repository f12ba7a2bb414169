/** What processes on Kafka show of themselves: each role apart, and when the broker is gone. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { loadConfig } from '../../../src/config.ts'
import { demoStream } from '../../../src/demo/stream.ts'
import type { OutRecord } from '../../../src/log/log.ts'
import { openLog, topicSpecs } from '../../../src/log/open.ts'
import { makeSite, servedAt, start } from '../../e2e/command.ts'
import { Broker } from '../broker.ts'

const PARTITIONS = 4
const EXAMPLES = 200

test('score and select processes show both backlogs, their partitions and transactions; without a broker the scrape still answers', async t => {
  const broker = await Broker.start()
  t.after(() => broker.close())
  const log = `{ kind: kafka, brokers: ['${broker.address}'], path: ./state, examplesPartitions: ${PARTITIONS} }`
  const site = makeSite(t, `log: ${log}\nhttp: { port: 0 }`)
  await produce(site.config)
  const open = async (role: string) => {
    const { child, ended } = start(['run', '--config', site.config, '--roles', role])
    t.after(() => child.kill('SIGKILL'))
    return { child, ended, url: await servedAt(child) }
  }
  const select = await open('select')
  const before = await scrape(select.url)
  assert.ok(before('xmasd_backlog_records', 'role="score"')! >= EXAMPLES)
  assert.equal(before('xmasd_backlog_seconds', 'role="score"'), undefined)

  const scores = await Promise.all([open('score'), open('score')])
  await until(async () => {
    const now = await scrape(select.url)
    return [...ROLES].every(role => now('xmasd_backlog_records', `role="${role}"`) === 0)
  })
  // A partition that changes hands is free in between: it is dealt in a second round.
  const owned = async (): Promise<number> => {
    const shown = await Promise.all(scores.map(({ url }) => scrape(url)))
    return shown.reduce((sum, one) => sum + (one('xmasd_owned_partitions', 'role="score"') ?? 0), 0)
  }
  await until(async () => (await owned()) === PARTITIONS)
  const [a, b, c] = await Promise.all([...scores, select].map(({ url }) => scrape(url)))
  for (const shown of [a!, b!]) {
    assert.ok(shown('xmasd_rebalances_total', 'role="score"')! >= 1)
    assert.equal(shown('xmasd_backlog_seconds', 'role="score"'), 0)
    assert.equal(shown('xmasd_check_ok', 'check="engine"'), 1)
    assert.equal(shown('xmasd_regret_recovered_ratio'), undefined)
  }
  assert.equal(c!('xmasd_regret_recovered_ratio'), 1)
  assert.ok(c!('xmasd_transactions_total', 'outcome="committed"')! >= 1)
  const decided = ['assigned', 'duplicate', 'redelivered'].map(
    outcome => c!('xmasd_examples_total', `outcome="${outcome}"`)!,
  )
  const dead = [a!, b!].map(shown => shown('xmasd_examples_total', 'outcome="dead_letter"')!)
  assert.equal(
    [...decided, ...dead].reduce((sum, n) => sum + n, 0),
    EXAMPLES,
  )

  await broker.kill()
  await setTimeout(1_000) // a scrape is served again for a second
  const started = performance.now()
  const without = await scrape(select.url)
  assert.ok(performance.now() - started < 5_000)
  assert.equal(without('xmasd_check_ok', 'check="log"'), 0)
  assert.equal(without('xmasd_backlog_records', 'role="select"'), undefined)
  assert.ok(without('xmasd_subset_examples')! > 0)
  assert.equal((await fetch(`${select.url}/readyz`)).status, 503)
})

const ROLES = ['score', 'select'] as const

async function produce(config: string): Promise<void> {
  const loaded = loadConfig(config, {})
  const log = await openLog(loaded.log)
  await log.ensureTopics(topicSpecs(loaded.log))
  const records: OutRecord[] = []
  for await (const { key, value } of demoStream({ seed: 2 })) {
    if (records.length === EXAMPLES) break
    records.push({ topic: 'examples', key, value })
  }
  await log.append(records)
  await log.close()
}

/** Reads a process' metrics: the value of a series, or undefined where there is none. */
async function scrape(url: string): Promise<(name: string, labels?: string) => number | undefined> {
  const text = await (await fetch(`${url}/metrics`)).text()
  return (name, labels) => {
    const series = labels === undefined ? name : `${name}{${labels}}`
    const line = text.split('\n').find(one => one.startsWith(`${series} `))
    return line === undefined ? undefined : Number(line.slice(series.length + 1))
  }
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 90_000
  while (!(await condition())) {
    assert.ok(performance.now() < deadline, 'it did not come within 90 s')
    await setTimeout(200)
  }
}
