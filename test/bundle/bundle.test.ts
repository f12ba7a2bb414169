import assert from 'node:assert/strict'
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { type NewBundle, openBundle, readCentroids, writeBundle } from '../../src/bundle/bundle.ts'
import { XmasdError } from '../../src/errors.ts'
import { writeSafetensors } from '../../src/proxy/checkpoint/safetensors.ts'
import { temporaryFolder } from '../support.ts'
import { addIndexFile } from './hostile.ts'

const NEW: NewBundle = {
  schedule: { fingerprint: 'abc', steps: [1, 2, 3], T: 3 },
  mode: 'reference',
  signature: 'sum',
  baseline: { examples: 12, textOnly: 2, sizes: [4, 6] },
  centroids: { data: Float32Array.from([1, 2, 3, 4, 5, 6]), count: 2, dimensions: 3 },
}

const MEMBERS = {
  cluster: Int32Array.from([0, 1, 1, 0, 1, 1, 0, 0, 1, 1]),
  instability: Float32Array.from({ length: 10 }, (_, i) => i / 7),
}

async function refused(dir: string, code: string, message: RegExp): Promise<void> {
  await assert.rejects(openBundle(dir), (error: unknown) => {
    assert.ok(error instanceof XmasdError, String(error))
    assert.equal(error.code, code)
    assert.match(error.message, message)
    return true
  })
}

test('a bundle opens as it was written, and the same input gives the same bytes', async t => {
  const [a, b] = [temporaryFolder(t), join(temporaryFolder(t), 'deep/er')]
  const manifest = await writeBundle(a, NEW)
  await writeBundle(b, NEW)
  const names = ['bundle.json', 'centroids.safetensors']
  assert.deepEqual(readdirSync(a).sort(), names)
  for (const name of names)
    assert.deepEqual(readFileSync(join(a, name)), readFileSync(join(b, name)))
  const bundle = await openBundle(a)
  assert.equal(bundle.id, manifest.id)
  assert.match(bundle.id, /^[0-9a-f]{12}$/)
  assert.deepEqual(bundle.manifest, manifest)
  assert.deepEqual(bundle.manifest.schedule, NEW.schedule)
  assert.deepEqual(bundle.index.nearest([4, 5, 7]), { cluster: 1, distance: 1 })
  const other = await writeBundle(a, { ...NEW, mode: 'paper' })
  assert.notEqual(other.id, manifest.id)
})

test('a bundle says its signature, how it is standardised and its radii; one without them keeps its id', async t => {
  const dir = temporaryFolder(t)
  assert.equal((await writeBundle(dir, NEW)).id, '1fcbe5258e88')
  const standardisation = { mean: [1, 2, 3], deviation: [1, 0.5, 1 / 3] }
  const other: NewBundle = { ...NEW, signature: 'embedding', standardisation, radii: [0.5, 1e-17] }
  const { id } = await writeBundle(dir, other)
  const { manifest } = await openBundle(dir)
  assert.deepEqual(manifest.standardisation, standardisation)
  assert.deepEqual(
    [manifest.id, manifest.signature, manifest.radii],
    [id, 'embedding', other.radii],
  )
  const wrong: Partial<NewBundle>[] = [
    { signature: 'spectrum' },
    { signature: 'embedding' },
    { signature: 'embedding', standardisation: { mean: [1], deviation: [1] } },
    { standardisation },
    { radii: [1] },
  ]
  for (const one of wrong) await assert.rejects(writeBundle(dir, { ...NEW, ...one }), RangeError)
})

test('a bundle may hold the examples it was fitted to, as many as its baseline says', async t => {
  const dir = temporaryFolder(t)
  const members = MEMBERS
  const { id } = await writeBundle(dir, { ...NEW, members })
  assert.notEqual(id, '1fcbe5258e88')
  assert.deepEqual((await openBundle(dir)).members, members)
  await writeBundle(dir, NEW)
  const names = ['bundle.json', 'centroids.safetensors']
  assert.deepEqual(readdirSync(dir).sort(), names)
  assert.equal((await openBundle(dir)).members, undefined)
  const wrong = [{ cluster: members.cluster.slice(1) }, { instability: Float32Array.of(1) }]
  for (const one of wrong) {
    await assert.rejects(writeBundle(dir, { ...NEW, members: { ...members, ...one } }), RangeError)
  }
})

test('one altered byte anywhere is refused, with the file and both checksums', async t => {
  const dir = temporaryFolder(t)
  await writeBundle(dir, { ...NEW, members: MEMBERS })
  for (const name of ['centroids.safetensors', 'baseline.safetensors']) {
    const good = readFileSync(join(dir, name))
    for (const at of [0, good.length >> 1, good.length - 1]) {
      const bad = Buffer.from(good)
      bad[at]! ^= 1
      writeFileSync(join(dir, name), bad)
      await refused(
        dir,
        'BUNDLE_ALTERED',
        new RegExp(`${name} .*[0-9a-f]{64} expected, [0-9a-f]{64}`),
      )
    }
    writeFileSync(join(dir, name), good.subarray(1))
    await refused(dir, 'BUNDLE_ALTERED', /expected/)
    writeFileSync(join(dir, name), good)
  }
  const manifest = readFileSync(join(dir, 'bundle.json'), 'utf8')
  const edits = [manifest.replace('"examples": 12', '"examples": 13'), `${manifest}\n`]
  for (const edited of edits) {
    writeFileSync(join(dir, 'bundle.json'), edited)
    await refused(dir, 'BUNDLE_ALTERED', /bundle\.json .*expected/)
  }
})

test('what is missing, of another version or no bundle at all is refused with the reason', async t => {
  const dir = temporaryFolder(t)
  await refused(dir, 'BUNDLE_INVALID', /cannot read bundle\.json/)
  await writeBundle(dir, NEW)
  const manifest = readFileSync(join(dir, 'bundle.json'), 'utf8')
  const write = (text: string): void => writeFileSync(join(dir, 'bundle.json'), text)
  write(manifest.replace('"v": 1', '"v": 2'))
  await refused(dir, 'BUNDLE_INVALID', /version 2/)
  write('{}')
  await refused(dir, 'BUNDLE_INVALID', /format/)
  write('null')
  await refused(dir, 'BUNDLE_INVALID', /format/)
  write('{')
  await refused(dir, 'BUNDLE_INVALID', /not JSON/)
  write(manifest.replace('"clusters": 2', '"clusters": "2"'))
  await refused(dir, 'BUNDLE_INVALID', /clusters/)
  write(manifest)
  rmSync(join(dir, 'centroids.safetensors'))
  await refused(dir, 'BUNDLE_INVALID', /cannot read centroids\.safetensors/)
})

test('given centroids must be one finite tensor [K, T]', t => {
  const file = join(temporaryFolder(t), 'c.safetensors')
  const write = (name: string, shape: number[], data: number[]): void =>
    writeSafetensors(file, { [name]: { shape, data: Float64Array.from(data) } })
  write('centroids', [2, 1], [1, 2])
  assert.deepEqual(readCentroids(file), {
    data: Float32Array.from([1, 2]),
    count: 2,
    dimensions: 1,
  })
  const refuse = (message: RegExp): void => {
    assert.throws(() => readCentroids(file), { code: 'DATA_INVALID', message })
  }
  write('other', [1], [1])
  refuse(/no tensor "centroids"/)
  write('centroids', [2], [1, 2])
  refuse(/centroids \[2\]/)
  write('centroids', [2, 2], [1, 2, Number.NaN, 3])
  refuse(/centroid 1 holds NaN/)
})

test('an index.hnsw with right checksums and any content is never read', async t => {
  const dir = temporaryFolder(t)
  for (const bytes of [Buffer.alloc(0), Buffer.alloc(200, 0xff), Buffer.alloc(9_000, 1)]) {
    await writeBundle(dir, NEW)
    const id = addIndexFile(dir, bytes)
    const bundle = await openBundle(dir)
    assert.equal(bundle.id, id)
    assert.deepEqual(bundle.index.nearest([4, 5, 7]), { cluster: 1, distance: 1 })
  }
  await writeBundle(dir, NEW)
  assert.deepEqual(readdirSync(dir).sort(), ['bundle.json', 'centroids.safetensors'])
})
