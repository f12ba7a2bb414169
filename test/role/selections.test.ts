import assert from 'node:assert/strict'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { type Bundle, openBundle, writeBundle } from '../../src/cluster/bundle.ts'
import { publishBundle } from '../../src/cluster/published.ts'
import { type Config, loadConfig } from '../../src/config.ts'
import { openLocalLog } from '../../src/log/local.ts'
import type { Log, LogRecord, OutRecord } from '../../src/log/log.ts'
import { createLogger } from '../../src/observe/logger.ts'
import { type Assignment, type Decision, keyOf } from '../../src/record.ts'
import { Selections } from '../../src/role/selections.ts'
import { temporaryFolder } from '../support.ts'

const EXAMPLES = 900
const SWAP_AT = 400

/** `count` clusters of scores between 0 and 1, each with ten members of its own. */
async function bundleOf(t: TestContext, count: number): Promise<Bundle> {
  const dir = join(temporaryFolder(t), 'bundle')
  await writeBundle(dir, {
    schedule: { fingerprint: 'abc', steps: null, T: 2 },
    mode: 'reference',
    signature: 'sum',
    baseline: { examples: 10 * count, textOnly: 0, sizes: new Array<number>(count).fill(10) },
    centroids: {
      data: Float32Array.from({ length: 2 * count }, (_, i) => ((i >> 1) + 0.5) / count),
      count,
      dimensions: 2,
    },
    members: {
      cluster: Int32Array.from({ length: 10 * count }, (_, i) => i % count),
      instability: Float32Array.from({ length: 10 * count }, (_, i) => ((i * 7) % 11) / 10),
    },
  })
  return openBundle(dir)
}

function assignmentOf(i: number, bundle: Bundle): Assignment {
  const score = ((i * 0.618) % 1) ** 2
  const content = (i * 2654435761).toString(16).padStart(16, '0').padEnd(64, 'a')
  const { cluster, distance } = bundle.index.nearest([score, score])
  return {
    v: 1,
    key: keyOf(`id${i}`, content),
    id: `id${i}`,
    cluster,
    singularValues: null,
    trajectory: [score, score],
    instability: ((i * 31) % 97) / 97,
    distance,
    content,
    bundle: bundle.id,
    source: { topic: 'examples', partition: 0, offset: i },
  }
}

/** A log with assignments of one bundle and a swap to another one on the way. */
async function site(t: TestContext): Promise<{ log: Log; config: Config }> {
  const path = temporaryFolder(t)
  const log = await openLocalLog({ path })
  t.after(() => log.close())
  await log.ensureTopics([
    { name: 'assignments', partitions: 1 },
    { name: 'bundles', partitions: 1, compacted: true },
  ])
  const [first, second] = [await bundleOf(t, 7), await bundleOf(t, 5)]
  for (const bundle of [first, second]) await publishBundle(log, 'bundles', bundle)
  const values: unknown[] = Array.from({ length: EXAMPLES }, (_, i) => assignmentOf(i, first))
  values.splice(SWAP_AT, 0, { v: 1, control: 'swap', bundle: second.id })
  const topic = 'assignments'
  const toRecord = (value: unknown): OutRecord => {
    return { topic, key: null, value: Buffer.from(JSON.stringify(value)), partition: 0 }
  }
  await log.append(values.map(toRecord))
  const config = loadConfig(undefined, {}, { 'log.path': path, 'select.policy': 'final' })
  return { log, config }
}

type Played = { decisions: Decision[]; kept: string[]; clusterCount: number | undefined }

/** Folds the topic; commits and opens the state again wherever `isBreak` says so. */
async function play(
  { log, config }: { log: Log; config: Config },
  group: string,
  isBreak: (offset: number) => boolean,
): Promise<Played> {
  const consumer = await log.consume({ group, topics: ['assignments'] })
  const parts = { config, log, consumer, logger: createLogger('silent') }
  const decisions: Decision[] = []
  let selections = new Selections(parts)
  for await (const record of log.read('assignments')) {
    decisions.push(...(await foldOne(selections, record)))
    if (!isBreak(record.offset)) continue
    const written = selections
    await consumer.commit({ positions: [], outputs: [], state: w => written.write(w) })
    selections = new Selections(parts)
  }
  const kept = [...selections.state.subset()].map(({ key }) => key)
  const { clusterCount } = selections
  await consumer.close()
  return { decisions, kept, clusterCount }
}

async function foldOne(selections: Selections, record: LogRecord): Promise<Decision[]> {
  return (await selections.fold(record)).folded.decisions
}

test('decisions for good stand when bundles are swapped, and are the same whenever the state is opened again', async t => {
  const parts = await site(t)
  const straight = await play(parts, 'straight', () => false)
  assert.equal(straight.decisions.length, EXAMPLES)
  assert.ok(straight.decisions.every(({ action }) => action === 'keep' || action === 'drop'))
  const kept = straight.decisions.filter(({ action }) => action === 'keep').map(({ key }) => key)
  assert.deepEqual(straight.kept.sort(), kept.sort())
  const share = kept.length / EXAMPLES
  assert.ok(Math.abs(share - 0.2) < 0.05, `${share} kept`)
  assert.equal(straight.clusterCount, 5, 'of the bundle that was swapped in')
  const clusters = new Set(straight.decisions.slice(SWAP_AT).map(({ cluster }) => cluster))
  assert.deepEqual([...clusters].sort(), [0, 1, 2, 3, 4])
  for (const every of [1, 97]) {
    const broken = await play(parts, `every ${every}`, offset => offset % every === 0)
    assert.deepEqual(broken.decisions, straight.decisions)
    assert.deepEqual(broken.kept.sort(), kept.sort())
  }
})
