/** The whole daemon on schedules of other families, killed at random moments. */
import assert from 'node:assert/strict'
import { cpSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { writeBundle } from '../../src/bundle/bundle.ts'
import { loadConfig } from '../../src/config.ts'
import { openLocalLog } from '../../src/log/local/log.ts'
import { seededRandom } from '../../src/math/random.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import type { Example } from '../../src/record.ts'
import { describeScores } from '../../src/score/pipeline.ts'
import { makeSite, readTopic, type Site, start, succeed } from '../e2e/command.ts'
import { shared } from '../support.ts'

/** Of each schedule. Raise it for a long test. */
const KILLS = Number(process.env.FAMILY_KILLS ?? 1)
/** Copies of a set's examples, each with a question of its own. */
const COPIES = 4
const RUN = ['--until-idle', '--json'] as const

for (const [seed, name] of ['smolvlm', 'qwen3-vl', 'lora-pattern'].entries()) {
  test(`kill -9 of a daemon that scores by ${name} leaves the decisions of an uninterrupted run`, async t => {
    const set = shared(t, 'goldens/families', name)
    if (set === undefined) return
    const [calm, killed] = await twoSites(t, set)
    await succeed(['run', '--config', calm.config, ...RUN])
    const random = seededRandom(seed)
    for (let kills = 0; kills < KILLS; kills++) await killedOnce(killed, random)
    const before = (await contents(killed, 'assignments')).length
    t.diagnostic(`${before} examples were assigned before the last run`)
    await succeed(['run', '--config', killed.config, ...RUN])
    for (const topic of ['assignments', 'decisions', 'subset']) {
      const [expected, actual] = [await contents(calm, topic), await contents(killed, topic)]
      assert.ok(expected.length > 0, `${topic} holds something`)
      assert.deepEqual(actual, expected, topic)
    }
    assert.equal((await contents(calm, 'assignments')).length, (await dataOf(set)).length * COPIES)
    assert.deepEqual(await contents(killed, 'dead-letters'), [])
  })
}

async function dataOf(set: string): Promise<Example[]> {
  return JSON.parse(readFileSync(join(set, 'data.json'), 'utf8')) as Example[]
}

/** Two folders with the same bundle, and the same examples in their logs. */
async function twoSites(t: TestContext, set: string): Promise<[Site, Site]> {
  const settings = [
    `images: { root: ${set} }`,
    `proxy: { path: ${join(set, 'run')}, workers: 1, threads: 1, device: cpu }`,
    'bundle: ./bundle',
    'score: { ingestWorkers: 1, batchExamplesMax: 3, batchesInFlightMax: 2 }',
    'logging: { level: info }',
  ].join('\n')
  const [calm, killed] = [makeSite(t, settings), makeSite(t, settings)]
  await fitExpected(set, calm)
  const log = await openLocalLog({ path: calm.log })
  await log.ensureTopics([{ name: 'examples', partitions: 1 }])
  const data = await dataOf(set)
  const copies = Array.from({ length: COPIES }, (_, n) => data.map(one => asked(one, n))).flat()
  const records = copies.map(one => ({
    key: String(one.id),
    value: Buffer.from(JSON.stringify(one)),
  }))
  await log.append(records.map(record => ({ topic: 'examples', ...record })))
  await log.close()
  cpSync(join(calm.folder, 'bundle'), join(killed.folder, 'bundle'), { recursive: true })
  cpSync(calm.log, killed.log, { recursive: true })
  return [calm, killed]
}

/** The same example with another question. */
function asked({ id, conversations: [first, ...rest], ...one }: Example, n: number): Example {
  const question = { ...first!, value: `${first!.value} Look ${n} times.` }
  return { ...one, id: `${id}-${n}`, conversations: [question, ...rest] }
}

/** A bundle whose two centroids are the first two trajectories that the set expects. */
async function fitExpected(set: string, { folder, config }: Site): Promise<void> {
  const expected = JSON.parse(readFileSync(join(set, 'expected.json'), 'utf8'))
  const trajectories: (number[] | null)[] = expected.modes.reference.trajectory
  const centroids = trajectories.filter(one => one !== null).slice(0, 2)
  const { proxy } = loadConfig(config)
  const schedule = openSchedule(proxy.path)
  const { schedule: of, preparation } = describeScores(proxy, schedule).scores
  const T = of.steps.length
  await writeBundle(join(folder, 'bundle'), {
    schedule: { ...of, T },
    preparation,
    mode: 'reference',
    signature: 'sum',
    baseline: { examples: 0, textOnly: 0, sizes: [0, 0] },
    centroids: { data: Float32Array.from(centroids.flat()), count: 2, dimensions: T },
  })
}

/** Dies some moments after one of its first batches. */
async function killedOnce(site: Site, random: () => number): Promise<void> {
  const { child, ended } = start(['run', '--config', site.config, ...RUN])
  const batches = 1 + Math.floor(4 * random())
  const delayMs = 20 * random()
  let seen = 0
  child.stderr!.on('data', (text: string) => {
    seen += text.split('"msg":"batch"').length - 1
    if (seen >= batches) setTimeout(() => child.kill('SIGKILL'), delayMs)
  })
  const { signal, stderr } = await ended
  assert.equal(signal, 'SIGKILL', `it ended before it was killed:\n${stderr}`)
}

/** Everything of a topic that does not depend on the clock. */
async function contents(site: Site, topic: string): Promise<unknown[]> {
  const records = await readTopic(site.log, topic)
  return records.map(({ offset, key, value, headers }) => {
    return { offset, key, headers, value: value === null ? null : Buffer.from(value).toString() }
  })
}
