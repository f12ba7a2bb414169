import assert from 'node:assert/strict'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { openBundle, writeBundle } from '../../src/bundle/bundle.ts'
import { fetchBundle, publishBundle, publishedIds } from '../../src/bundle/publication.ts'
import { XmasdError } from '../../src/errors.ts'
import { openLocalLog } from '../../src/log/local/log.ts'
import type { Log } from '../../src/log/log.ts'
import { temporaryFolder } from '../support.ts'

async function logWithTopic(t: TestContext): Promise<Log> {
  const log = await openLocalLog({ path: temporaryFolder(t) })
  t.after(() => log.close())
  await log.ensureTopics([{ name: 'bundles', partitions: 1, compacted: true }])
  return log
}

/** `count` centroids of 8 scores. */
async function newBundle(t: TestContext, count: number) {
  const dir = join(temporaryFolder(t), 'bundle')
  const data = Float32Array.from({ length: count * 8 }, (_, i) => Math.sin(i * i))
  await writeBundle(dir, {
    schedule: { fingerprint: 'abc', steps: null, T: 8 },
    mode: 'reference',
    signature: 'sum',
    baseline: { examples: count, textOnly: 0, sizes: new Array<number>(count).fill(1) },
    ...(count > 3 && {
      members: {
        cluster: Int32Array.from({ length: count }, (_, i) => i),
        instability: Float32Array.from({ length: count }, Math.sqrt),
      },
    }),
    centroids: { data, count, dimensions: 8 },
  })
  return openBundle(dir)
}

test('a bundle comes back from the log as it was, also where its files take several records', async t => {
  const log = await logWithTopic(t)
  for (const count of [3, 9_000]) {
    const bundle = await newBundle(t, count)
    assert.equal(await publishBundle(log, 'bundles', bundle), true)
    assert.equal(await publishBundle(log, 'bundles', bundle), false)
    const found = await fetchBundle(log, 'bundles', bundle.id)
    assert.deepEqual(found.manifest, bundle.manifest)
    assert.deepEqual(found.index.centroids, bundle.index.centroids)
    assert.deepEqual(found.members, bundle.members)
    const point = [0.1, -0.2, 0.3, 0.9, 0, 0, -1, 0.5]
    assert.deepEqual(found.index.nearest(point), bundle.index.nearest(point))
  }
  let largest = 0
  for await (const { value } of log.read('bundles')) largest = Math.max(largest, value!.length)
  assert.ok(largest < 1_000_000, 'every record fits the default limit of a broker')
})

test('a bundle that is not on the log, or not as it was, is refused', async t => {
  const log = await logWithTopic(t)
  const bundle = await newBundle(t, 3)
  const refused = (code: string) => (error: unknown) =>
    error instanceof XmasdError && error.code === code
  await assert.rejects(fetchBundle(log, 'bundles', bundle.id), refused('BUNDLE_INVALID'))
  await publishBundle(log, 'bundles', bundle)
  assert.deepEqual(await publishedIds(log, 'bundles'), new Set([bundle.id]))
  const key = `${bundle.id}/centroids.safetensors/0`
  await log.append([{ topic: 'bundles', key, value: Buffer.from('other'), partition: 0 }])
  await assert.rejects(fetchBundle(log, 'bundles', bundle.id), refused('BUNDLE_ALTERED'))
})
