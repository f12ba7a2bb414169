/** import-metrics and export-metrics: the files of the published code, in and out. */
import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { openBundle } from '../../src/bundle/bundle.ts'
import { uniqueIds } from '../../src/cluster/interchange.ts'
import { seededRandom } from '../../src/math/random.ts'
import { temporaryFolder } from '../support.ts'
import { readJson, succeed, writeLines, xmasd } from './xmasd.ts'

const STEPS = [200, 400, 1000]

/** As json.dump(obj, f, indent=4) writes it. */
function dump(file: string, entries: [string, unknown][]): void {
  writeFileSync(file, JSON.stringify(Object.fromEntries(entries), null, 4))
}

type Example = { id: string; image?: string; conversations: object[] }

/** 200 examples, some text-only, some of one id and image; metrics as two processes left them. */
function publishedRun(t: TestContext) {
  const work = temporaryFolder(t)
  const random = seededRandom(5)
  const data: Example[] = Array.from({ length: 200 }, (_, i) => {
    const id = `${Math.floor(i / 2)}`.padStart(6, '0')
    if (i % 9 === 0) return { id: `text${i}`, conversations: [] }
    return { id, image: `coco/${Math.floor(i / 4)}.jpg`, conversations: [] }
  })
  const ids = uniqueIds(data)
  const kinds = ids.map(() => Math.floor(random() * 8))
  const dir = join(work, 'attn_svd_files')
  mkdirSync(dir)
  const table = STEPS.map(step => {
    const values = kinds.map(kind =>
      Array.from({ length: 5 }, () => Math.fround(kind * (step / 200) + random())).sort(
        (a, b) => b - a,
      ),
    )
    for (const rank of [0, 1]) {
      const own = ids.flatMap((id, i): [string, unknown][] =>
        Math.floor(i / 100) === rank ? [[id, values[i]!]] : [],
      )
      dump(join(dir, `checkpoint-${step}_attn_svd_partial_vals_top5_${rank}.json`), own)
    }
    return values
  })
  const file = join(work, 'data.json')
  writeFileSync(file, JSON.stringify(data))
  return { work, dir, data, file, ids, kinds, table }
}

const linesOf = (file: string) =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line))

test('metric files become trajectories, one line an example of the data, in its order', t => {
  const { work, dir, data, file, ids, table } = publishedRun(t)
  const out = join(work, 'trajectories.jsonl')
  const report = succeed('import-metrics', '--metrics', dir, '--data', file, '--out', out, '--json')
  const textOnly = data.filter(({ image }) => image === undefined).length
  assert.deepEqual(JSON.parse(report), {
    v: 1,
    metric: 'attention',
    checkpoints: STEPS,
    ...{ scored: 200 - textOnly, textOnly, failed: 0 },
    out,
  })
  for (const [i, line] of linesOf(out).entries()) {
    assert.deepEqual([line.id, line.key], [data[i]!.id, ids[i]])
    if (data[i]!.image === undefined) {
      assert.deepEqual([line.trajectory, line.singularValues], [null, null])
      continue
    }
    assert.deepEqual(
      line.singularValues,
      table.map(values => values[i]),
    )
    const sums = table.map(values => values[i]!.reduce((sum, value) => sum + value, 0))
    assert.deepEqual(line.trajectory, sums)
    const steadiness = Math.abs(sums[1]! - sums[0]!) + Math.abs(sums[2]! - sums[1]!)
    assert.equal(line.instability, steadiness)
  }
  const meta = readJson(`${out}.meta.json`)
  const schedule = { fingerprint: null, steps: STEPS }
  assert.deepEqual(meta, { v: 1, schedule, mode: 'reference', metric: 'attention' })
})

test('what is exported is imported again as it was, clusters and instabilities included', async t => {
  const { work, dir, file, ids } = publishedRun(t)
  const first = join(work, 'first.jsonl')
  succeed('import-metrics', '--metrics', dir, '--data', file, '--out', first)
  const bundle = join(work, 'bundle')
  succeed('fit', '--trajectories', first, '--clusters', '8', '--out', bundle)
  const out = join(work, 'published')
  const args = ['--trajectories', first, '--data', file, '--bundle', bundle, '--out', out]
  const { examples, files } = JSON.parse(succeed('export-metrics', ...args, '--json'))
  assert.equal(examples, linesOf(first).filter(line => line.trajectory !== null).length)
  const names = [...readdirSync(out), ...readdirSync(join(out, 'attn_svd_files'))]
  assert.ok(files.every((name: string) => names.includes(name.split('/').at(-1)!)))
  assert.deepEqual(
    Object.entries(readJson(join(out, 'unique2orig.json'))).sort(),
    ids.map((id, i) => [id, i]).sort(),
  )
  const again = join(work, 'again.jsonl')
  const stability = join(out, 'attn_svd_stability_vals_top-5_singular_vals.json')
  const metrics = ['--metrics', join(out, 'attn_svd_files'), '--data', file]
  succeed('import-metrics', ...metrics, '--stability', stability, '--out', again)
  assert.deepEqual(readFileSync(again), readFileSync(first))

  const indices = join(out, 'attn_svd_cluster_idxs.json')
  const back = join(work, 'back')
  const labelled = ['fit', '--trajectories', again, '--cluster-idxs', indices, '--out', back]
  assert.equal(JSON.parse(succeed(...labelled, '--json')).agreement, 1)
  const [a, b] = [await openBundle(bundle), await openBundle(back)]
  assert.deepEqual(b.manifest.baseline, a.manifest.baseline)
  const apart = a.index.centroids.data.map((value, i) =>
    Math.abs(value - b.index.centroids.data[i]!),
  )
  assert.ok(Math.max(...apart) < 1e-5)
})

test('without the data file ids are keys, and instabilities are taken as they stand', t => {
  const { work, dir, data, ids } = publishedRun(t)
  const stability = join(work, 'attn_svd_stability_vals_top-5_singular_vals.json')
  dump(
    stability,
    ids.map((id, i) => [id, i / 3]),
  )
  const out = join(work, 'trajectories.jsonl')
  const args = ['--metrics', dir, '--stability', stability, '--out', out]
  const { scored, textOnly } = JSON.parse(succeed('import-metrics', ...args, '--json'))
  const images = data.filter(({ image }) => image !== undefined).length
  assert.deepEqual([scored, textOnly], [images, 200 - images])
  for (const line of linesOf(out)) {
    assert.equal(line.id, line.key)
    if (line.trajectory !== null) assert.equal(line.instability, ids.indexOf(line.id) / 3)
  }
})

test('metric files of two schedules never lie in one folder', t => {
  const { work, dir, file } = publishedRun(t)
  const trajectories = join(work, 'trajectories.jsonl')
  succeed('import-metrics', '--metrics', dir, '--data', file, '--out', trajectories)
  const bundle = join(work, 'bundle')
  succeed('fit', '--trajectories', trajectories, '--clusters', '8', '--out', bundle)
  const out = join(work, 'published')
  const other = join(work, 'other.jsonl')
  writeLines(
    other,
    linesOf(trajectories).map(line => ({
      ...line,
      trajectory: line.trajectory?.slice(1) ?? null,
      singularValues: line.singularValues?.slice(1) ?? null,
    })),
  )
  const steps = [1, 1000]
  const meta = { v: 1, schedule: { fingerprint: null, steps }, mode: 'reference' }
  writeLines(`${other}.meta.json`, [meta])
  succeed('export-metrics', '--trajectories', trajectories, '--bundle', bundle, '--out', out)
  writeFileSync(join(out, 'notes.txt'), 'mine')
  const again = ['export-metrics', '--trajectories', other, '--out', out]
  const refused = (args: string[], message: RegExp): void => {
    const before = readdirSync(out, { recursive: true })
    const { status, stderr } = xmasd(...args)
    assert.equal(status, 1, stderr)
    assert.match(stderr, message)
    assert.deepEqual(readdirSync(out, { recursive: true }), before)
  }
  refused(again, /published is not empty: .*\[FILE_EXISTS\]\n.*--force/)
  const foreign = join(out, 'attn_svd_files', 'checkpoint-5_attn_svd_partial_vals_top5_0.json')
  writeFileSync(foreign, '{}')
  refused([...again, '--force'], /attn_svd_files .*partial_vals_top5_0.*\[FILE_EXISTS\]\n/)
  rmSync(foreign)
  succeed(...again, '--force')
  const metrics = join(out, 'attn_svd_files')
  const imported = ['import-metrics', '--metrics', metrics, '--out', join(work, 'again.jsonl')]
  assert.deepEqual(JSON.parse(succeed(...imported, '--json')).checkpoints, steps)
  const stability = 'attn_svd_stability_vals_top-5_singular_vals.json'
  assert.deepEqual(readdirSync(out).sort(), ['attn_svd_files', stability, 'notes.txt'])
})

test('a subset of imported trajectories is the one that the published rule takes', t => {
  const { work, dir, data, file, ids, kinds, table } = publishedRun(t)
  const out = join(work, 'trajectories.jsonl')
  succeed('import-metrics', '--metrics', dir, '--data', file, '--out', out)
  const indices = join(work, 'attn_svd_cluster_idxs.json')
  dump(
    indices,
    ids.map((id, i) => [id, kinds[i]]),
  )
  const bundle = join(work, 'bundle')
  const fit = ['fit', '--trajectories', out, '--cluster-idxs', indices, '--out', bundle]
  assert.equal(JSON.parse(succeed(...fit, '--json')).agreement, 1)
  const subset = join(work, 'subset.json')
  const select = ['select', '--trajectories', out, '--bundle', bundle, '--percent', '20']
  succeed(...select, '--out', subset)
  const score = (i: number) => table.map(values => values[i]!.reduce((sum, value) => sum + value))
  const unsteady = (i: number) => {
    const [a, b, c] = score(i) as [number, number, number]
    return Math.abs(b - a) + Math.abs(c - b)
  }
  const clusters = new Map<number, number[]>()
  for (const i of ids.keys()) {
    const cluster = data[i]!.image === undefined ? 8 : kinds[i]!
    clusters.set(cluster, [...(clusters.get(cluster) ?? []), i])
  }
  const order = [...clusters].sort(([a, x], [b, y]) => x.length - y.length || a - b)
  let left = 40
  const expected: string[] = []
  for (const [at, [cluster, members]] of order.entries()) {
    const share = Math.floor(left / (order.length - at))
    const sorted =
      cluster === 8
        ? members.toSorted((a, b) => (data[a]!.id < data[b]!.id ? -1 : 1))
        : members.toSorted((a, b) => unsteady(a) - unsteady(b))
    const taken = sorted.slice(0, share)
    expected.push(...taken.map(i => ids[i]!))
    left -= taken.length
  }
  assert.deepEqual(readJson(subset).toSorted(), expected.toSorted())
})

test('losses go in and out, and a bundle of one metric is refused for the other', t => {
  const { work, dir, file, ids } = publishedRun(t)
  const losses = join(work, 'loss_files')
  mkdirSync(losses)
  const loss = (i: number, step: number) => i / 7 + step / 1000
  for (const step of STEPS) {
    dump(
      join(losses, `checkpoint-${step}_loss.json`),
      ids.map((id, i) => [id, loss(i, step)]),
    )
  }
  const [byLoss, byAttention] = ['loss', 'attention'].map(name => join(work, `${name}.jsonl`))
  succeed('import-metrics', '--metrics', losses, '--data', file, '--out', byLoss!)
  succeed('import-metrics', '--metrics', dir, '--data', file, '--out', byAttention!)
  const out = join(work, 'published')
  const bundle = join(work, 'bundle')
  succeed('fit', '--trajectories', byLoss!, '--clusters', '5', '--out', bundle)
  succeed('export-metrics', '--trajectories', byLoss!, '--data', file, '--out', out)
  const again = join(work, 'again.jsonl')
  succeed('import-metrics', '--metrics', join(out, 'loss_files'), '--data', file, '--out', again)
  assert.deepEqual(readFileSync(again), readFileSync(byLoss!))
  const select = ['select', '--trajectories', byAttention!, '--bundle', bundle, '--percent', '10']
  const { status, stderr } = xmasd(...select, '--out', join(work, 'subset.json'))
  assert.equal(status, 1)
  assert.match(stderr, /metric loss, the file has metric attention.*BUNDLE_MISMATCH/)
})

test('metrics of other data, a cluster that is missing and a file without its meta are refused', t => {
  const { work, dir, file, ids, kinds } = publishedRun(t)
  const out = join(work, 'trajectories.jsonl')
  const refused = (args: string[], message: RegExp): void => {
    const { status, stderr } = xmasd(...args)
    assert.equal(status, 1, stderr)
    assert.match(stderr, message)
  }
  const other = join(work, 'other.json')
  writeFileSync(other, JSON.stringify([{ id: 'a', conversations: [] }]))
  refused(
    ['import-metrics', '--metrics', dir, '--data', other, '--out', out],
    /no example of the unique id .*DATA_INVALID/,
  )
  succeed('import-metrics', '--metrics', dir, '--data', file, '--out', out)
  const indices = join(work, 'cluster_idxs.json')
  dump(
    indices,
    ids.slice(0, 100).map((id, i) => [id, kinds[i]]),
  )
  const bundle = join(work, 'bundle')
  refused(
    ['fit', '--trajectories', out, '--cluster-idxs', indices, '--out', bundle],
    /no cluster for .*DATA_INVALID/,
  )
  const bare = join(work, 'bare.jsonl')
  writeLines(bare, [{ id: 'a', trajectory: [1, 2, 3] }])
  const exported = ['export-metrics', '--out', join(work, 'published'), '--trajectories']
  refused([...exported, bare], /bare\.jsonl\.meta\.json is missing/)
  const meta = { v: 1, schedule: { fingerprint: null, steps: STEPS }, mode: 'reference' }
  writeFileSync(`${bare}.meta.json`, JSON.stringify(meta))
  refused([...exported, bare], /lacks the values of signature spectrum in line 1/)
  refused([...exported, out, '--data', other], /has 1 examples, the file 200/)
})
