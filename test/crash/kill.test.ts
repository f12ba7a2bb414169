import assert from 'node:assert/strict'
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { demoStream } from '../../src/demo/stream.ts'
import { openLocalLog } from '../../src/log/local/log.ts'
import { seededRandom } from '../../src/math/random.ts'
import { makeSite, readTopic, type Site, start, succeed } from '../e2e/command.ts'

const EXAMPLES = 1_000
const KILLS = 20
const RUN = ['--until-idle', '--json'] as const
const SMALL_BATCHES = { XMASD_SCORE_BATCH_EXAMPLES_MAX: '8', XMASD_LOGGING_LEVEL: 'info' }

test('kill -9 at 20 random moments leaves the decisions and the subset of an uninterrupted run', async t => {
  const [calm, killed] = await twoSites(t)
  await succeed(['run', '--config', calm.config, ...RUN])
  const random = seededRandom(20_251_123)
  let kills = 0
  for (let runs = 0; kills < KILLS; runs++) {
    assert.ok(runs < 3 * KILLS, `only ${kills} kills in ${runs} runs: the run ends too soon`)
    if (await killedOnce(killed, random)) kills++
  }
  await succeed(['run', '--config', killed.config, ...RUN])
  for (const topic of ['assignments', 'dead-letters', 'decisions', 'subset']) {
    const [expected, actual] = [await contents(calm, topic), await contents(killed, topic)]
    assert.ok(expected.length > 0, `${topic} holds something`)
    assert.deepEqual(actual, expected, topic)
  }
})

/** Two folders with the same examples in their logs. */
async function twoSites(t: TestContext): Promise<[Site, Site]> {
  const [calm, killed] = [makeSite(t), makeSite(t)]
  const log = await openLocalLog({ path: calm.log })
  await log.ensureTopics([{ name: 'examples', partitions: 1 }])
  const records = []
  for await (const { key, value } of demoStream({ seed: 7 })) {
    records.push({ topic: 'examples', key, value })
    if (records.length === EXAMPLES) break
  }
  await log.append(records)
  await log.close()
  cpSync(calm.log, join(killed.folder, 'log'), { recursive: true })
  return [calm, killed]
}

/** One in four dies while it starts, the others some moments after their first batch. */
async function killedOnce(site: Site, random: () => number): Promise<boolean> {
  const { child, ended } = start(['run', '--config', site.config, ...RUN], SMALL_BATCHES)
  const kill = (): void => {
    child.kill('SIGKILL')
  }
  if (random() < 0.25) setTimeout(kill, 100 + 900 * random())
  else {
    const delayMs = 250 * random()
    child.stderr!.on('data', (text: string) => {
      if (text.includes('"batch"')) setTimeout(kill, delayMs)
    })
  }
  return (await ended).signal === 'SIGKILL'
}

/** Everything of a topic that does not depend on the clock. */
async function contents(site: Site, topic: string): Promise<unknown[]> {
  const records = await readTopic(site.log, topic)
  return records.map(({ offset, key, value, headers }) => ({
    offset,
    key,
    headers,
    value: value === null ? null : Buffer.from(value).toString(),
  }))
}
