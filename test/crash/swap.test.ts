import assert from 'node:assert/strict'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { openBundle, writeBundle } from '../../src/bundle/bundle.ts'
import { demoStream } from '../../src/demo/stream.ts'
import { openLocalLog } from '../../src/log/local/log.ts'
import { seededRandom } from '../../src/math/random.ts'
import type { Assignment, Control, Decision } from '../../src/record.ts'
import { selectBatch } from '../../src/select/rule/quotas.ts'
import {
  DEMO_BUNDLE,
  jsonOf,
  makeSite,
  REPLAY,
  readTopic,
  type Site,
  start,
  succeed,
} from '../e2e/command.ts'

const EXAMPLES = 900
const SMALL_BATCHES = { XMASD_SCORE_BATCH_EXAMPLES_MAX: '16' }
/** A process lives for as many at most: most of its life is its start. */
const BATCHES_MAX = 12

test('bundles are shadowed, swapped and rolled back while examples flow and processes are killed; a replay gives the same bytes', async t => {
  const site = await siteWithExamples(t)
  const other = await otherBundle(site)
  const at = (assigned: number, ...args: string[]) => ({ assigned, args })
  const plan = [
    at(150, 'shadow', '--bundle', other),
    at(350, 'swap', '--bundle', other),
    at(550, 'rollback'),
  ]
  let kills = 0
  const random = seededRandom(11)
  for (const { assigned, args } of plan) {
    kills += await runUntil(site, assigned, random)
    kills += await runAndKill(site, random, () =>
      succeed(['bundle', ...args, '--config', site.config]),
    )
  }
  kills += await runUntil(site, 750, random)
  await succeed(['run', '--config', site.config, '--until-idle'])
  t.diagnostic(`${kills} processes killed`)
  assert.ok(kills >= 6)

  const reasons = (await readTopic(site.log, 'decisions')).map(one => jsonOf<Decision>(one).reason)
  assert.ok(reasons.includes('bundle_swapped'))
  await checkSubset(site)
  await checkShadow(site, other)
  await succeed(['run', '--config', site.config, '--roles', 'select', '--until-idle'], REPLAY)
  for (const topic of ['decisions', 'subset', 'shadow']) {
    const [first, second] = [await bytesOf(site, topic), await bytesOf(site, `replayed-${topic}`)]
    assert.ok(first.length > 0, `${topic} holds something`)
    assert.deepEqual(second, first, topic)
  }
})

/** A site whose `examples` topic holds part of the demo's stream. */
async function siteWithExamples(t: TestContext): Promise<Site> {
  const site = makeSite(t)
  const log = await openLocalLog({ path: site.log })
  await log.ensureTopics([{ name: 'examples', partitions: 1 }])
  const records = []
  for await (const { key, value } of demoStream({ seed: 5 })) {
    records.push({ topic: 'examples', key, value })
    if (records.length === EXAMPLES) break
  }
  await log.append(records)
  await log.close()
  return site
}

/** Every third cluster of the demo's bundle. */
async function otherBundle(site: Site): Promise<string> {
  const { manifest, index } = await openBundle(DEMO_BUNDLE)
  const { data, count, dimensions } = index.centroids
  const wanted = Array.from({ length: Math.ceil(count / 3) }, (_, i) => 3 * i)
  const rows = wanted.flatMap(row => [...data.subarray(row * dimensions, (row + 1) * dimensions)])
  const dir = join(site.folder, 'other')
  const sizes = wanted.map(row => manifest.baseline.sizes[row]!)
  const { radii: _, ...kept } = manifest
  await writeBundle(dir, {
    ...kept,
    baseline: { ...manifest.baseline, sizes },
    centroids: { data: Float32Array.from(rows), count: wanted.length, dimensions },
  })
  return dir
}

/** Runs and kills the daemon until that many examples are assigned. Returns how often. */
async function runUntil(site: Site, assigned: number, random: () => number): Promise<number> {
  let kills = 0
  do kills += await runAndKill(site, random)
  while ((await assignedOf(site)) < assigned)
  return kills
}

/** Runs the daemon; kills it some moments after one of its first batches and after what happens `meanwhile`. */
async function runAndKill(
  site: Site,
  random: () => number,
  meanwhile: () => Promise<unknown> = async () => {},
): Promise<number> {
  const { child, ended } = start(['run', '--config', site.config, '--until-idle'], SMALL_BATCHES)
  let left = 1 + Math.floor(BATCHES_MAX * random())
  const isFlowing = new Promise<void>(resolve => {
    child.stderr!.on('data', (text: string) => {
      left -= text.split('"batch"').length - 1
      if (left <= 0) resolve()
    })
    child.on('close', () => resolve())
  })
  await isFlowing
  await meanwhile()
  await new Promise(resolve => setTimeout(resolve, 300 * random()))
  child.kill('SIGKILL')
  return (await ended).signal === 'SIGKILL' ? 1 : 0
}

async function assignedOf(site: Site): Promise<number> {
  const log = await openLocalLog({ path: site.log })
  try {
    await log.ensureTopics([{ name: 'assignments', partitions: 1 }])
    return (await log.ends('assignments'))[0]!
  } finally {
    await log.close()
  }
}

/** After the rollback the first bundle is in force: the subset is the batch rule over its clusters. */
async function checkSubset(site: Site): Promise<void> {
  const examples = await countedExamples(site)
  const { selected } = selectBatch(examples, 20)
  const expected = selected.map(index => examples[index]!.key).sort()
  const kept = new Set<string>()
  for (const { key, value } of await readTopic(site.log, 'subset')) {
    if (value === null) kept.delete(key!)
    else kept.add(key!)
  }
  assert.deepEqual([...kept].sort(), expected)
  const byDecisions = new Set<string>()
  for (const record of await readTopic(site.log, 'decisions')) {
    const { key, action } = jsonOf<Decision>(record)
    if (action === 'keep' || action === 'restore') byDecisions.add(key)
    if (action === 'evict') byDecisions.delete(key)
  }
  assert.deepEqual([...byDecisions].sort(), expected)
}

async function countedExamples(site: Site): Promise<Assignment[]> {
  const seen = new Set<string>()
  const counted: Assignment[] = []
  for (const record of await readTopic(site.log, 'assignments')) {
    const value = jsonOf<Assignment | Control>(record)
    if ('control' in value || seen.has(value.content)) continue
    seen.add(value.content)
    counted.push(value)
  }
  return counted
}

/** The shadow decided by its own clusters, and only while it was one. */
async function checkShadow(site: Site, other: string): Promise<void> {
  const { id, manifest } = await openBundle(other)
  for (const record of await readTopic(site.log, 'shadow')) {
    const { bundle, cluster } = jsonOf<Decision>(record)
    assert.equal(bundle, id)
    assert.ok(cluster === 'text' || cluster < manifest.clusters)
  }
}

async function bytesOf(site: Site, topic: string): Promise<unknown[]> {
  const records = await readTopic(site.log, topic)
  return records.map(({ key, value }) => [key, value === null ? null : Buffer.from(value)])
}
