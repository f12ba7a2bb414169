import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import { openBundle } from '../../src/bundle/bundle.ts'
import type { Share } from '../../src/cluster/joint.ts'
import { seededRandom } from '../../src/math/random.ts'
import { encodeDirection } from '../../src/math/vectors.ts'
import {
  readHeader,
  readTensorFloat64,
  writeSafetensors,
} from '../../src/proxy/checkpoint/safetensors.ts'
import { countOnce } from '../../src/select/dedup/duplicates.ts'
import { SelectState } from '../../src/select/state.ts'
import { MemoryState, recordOf } from '../select/stream.ts'
import { shared, temporaryFolder } from '../support.ts'
import { readJson, succeed, writeLines, xmasd } from './xmasd.ts'

test('fit with the golden centroids and select give the golden subsets, to the id', t => {
  const folder = shared(t, 'goldens/selection')
  if (folder === undefined) return
  const work = temporaryFolder(t)
  const tensors = join(folder, 'data.safetensors')
  const entry = readHeader(tensors).tensors.get('trajectories')!
  const points = readTensorFloat64(tensors, entry)
  const T = entry.shape[1]!
  const dataset: { id: string; image?: string }[] = readJson(join(folder, 'dataset.json'))
  let row = 0
  const lines = dataset.map(({ id, image }) => {
    if (image === undefined) return { id, trajectory: null }
    const at = row++ * T
    return { id: `${id}::${image}`, trajectory: [...points.subarray(at, at + T)] }
  })
  const file = join(work, 'trajectories.jsonl')
  writeLines(file, lines)
  const bundle = join(work, 'bundle')
  const fitted = succeed(
    'fit',
    '--trajectories',
    file,
    '--centroids',
    tensors,
    '--out',
    bundle,
    '--json',
  )
  assert.equal(JSON.parse(fitted).clusters, 48)
  for (const { percentage, selected } of readJson(join(folder, 'expected.json')).budgets) {
    const out = join(work, `${percentage}.json`)
    const args = ['--trajectories', file, '--bundle', bundle, '--percent', `${percentage}`]
    succeed('select', ...args, '--out', out)
    assert.deepEqual(readJson(out), selected)
  }
})

/** 400 trajectories of one of ten kinds, text-only ones, a failed one. */
function writeTrajectories(t: TestContext): { work: string; file: string; ids: string[] } {
  const work = temporaryFolder(t)
  const file = join(work, 'trajectories.jsonl')
  const random = seededRandom(1)
  const lines = Array.from({ length: 400 }, (_, i) => {
    const id = `e${i}`
    if (i === 7) return { id, key: null, trajectory: null, error: { code: 'NOT_JSON' } }
    if (i % 20 === 0) return { id, trajectory: null, instability: null }
    return { id, trajectory: [0, 1, 2].map(t => (i % 10) * t + random()) }
  })
  writeLines(file, lines)
  return { work, file, ids: lines.map(line => line.id) }
}

test('fit gives the same bytes for the same seed and says what it did', async t => {
  const { work, file } = writeTrajectories(t)
  const meta = { v: 1, schedule: { fingerprint: 'f00', steps: [5, 10, 15] }, mode: 'paper' }
  writeFileSync(`${file}.meta.json`, JSON.stringify(meta))
  const [a, b, c] = ['a', 'b', 'c'].map(name => join(work, name)) as [string, string, string]
  const text = succeed('fit', '--trajectories', file, '--clusters', '12', '--out', a)
  assert.match(text, /12 clusters of 379 trajectories/)
  assert.match(text, /20 text-only, 1 failed/)
  assert.match(text, /next: xmasd select/)
  succeed('fit', '--trajectories', file, '--clusters', '12', '--out', b)
  for (const name of readdirSync(a)) {
    assert.deepEqual(readFileSync(join(a, name)), readFileSync(join(b, name)), name)
  }
  succeed('fit', '--trajectories', file, '--clusters', '12', '--seed', '1', '--out', c)
  const { id, manifest } = await openBundle(a)
  assert.notEqual((await openBundle(c)).id, id)
  assert.deepEqual(manifest.schedule, { ...meta.schedule, T: 3 })
  assert.equal(manifest.mode, 'paper')
  assert.equal(manifest.baseline.examples, 399)
  const taken = xmasd('fit', '--trajectories', file, '--out', c)
  assert.match(taken.stderr, /c is not empty: .*\[FILE_EXISTS\]\n.*--force/)
  assert.equal(taken.status, 1)
  assert.match(
    succeed('fit', '--trajectories', file, '--out', c, '--force'),
    /: 18 clusters of 379/,
  )
  const thousand = ['--clusters', '1000', '--force']
  const few = xmasd('fit', '--trajectories', file, '--out', c, ...thousand)
  assert.match(few.stderr, /only 379 clusters, not 1000/)
  assert.match(few.stderr, /100 % of the examples lie in clusters of at most 2.*--clusters 18\n/)
})

test('values that no score has are refused with their line', t => {
  const work = temporaryFolder(t)
  const file = join(work, 'huge.jsonl')
  for (const value of [1e300, -1e300, 1e16]) {
    writeLines(file, [
      { id: 'a', trajectory: [1, 2] },
      { id: 'b', trajectory: [1, value] },
    ])
    const { stderr, status } = xmasd('fit', '--trajectories', file, '--out', join(work, 'bundle'))
    assert.match(stderr, /huge\.jsonl, line 2: trajectory\.1: .* \[DATA_INVALID\]/)
    assert.equal(status, 1)
  }
})

test('fit warns where more than a tenth of the examples lie in clusters of at most two', t => {
  const { work, file } = writeTrajectories(t)
  const fit = (clusters: number): string => {
    const out = join(work, `bundle-${clusters}`)
    return xmasd('fit', '--trajectories', file, '--out', out, '--clusters', `${clusters}`).stderr
  }
  assert.match(fit(200), /\d+ % of the examples lie in clusters of at most 2, .*--clusters 18\n/)
  assert.doesNotMatch(fit(18), /clusters of at most 2/)
})

test('scores of another precision belong to another bundle', async t => {
  const { work, file } = writeTrajectories(t)
  const schedule = { fingerprint: 'f00', steps: [5, 10, 15] }
  const meta = (precision?: string): void =>
    writeFileSync(`${file}.meta.json`, JSON.stringify({ v: 1, schedule, mode: 'paper', precision }))
  const [exact, half] = [join(work, 'exact'), join(work, 'half')]
  const fit = ['fit', '--trajectories', file, '--clusters', '12', '--out']
  meta()
  succeed(...fit, exact)
  assert.equal((await openBundle(exact)).manifest.precision, undefined)
  meta('bfloat16')
  succeed(...fit, half)
  assert.equal((await openBundle(half)).manifest.precision, 'bfloat16')
  const select = ['select', '--trajectories', file, '--percent', '10', '--out', join(work, 'out')]
  succeed(...select, '--bundle', half)
  const refused = xmasd(...select, '--bundle', exact)
  assert.match(refused.stderr, /precision float32, the file has precision bfloat16/)
  assert.equal(refused.status, 1)
})

/** Spectra of 3 checkpoints whose second values fall in other groups than their sums do. */
function writeSpectra(t: TestContext): { work: string; file: string } {
  const work = temporaryFolder(t)
  const file = join(work, 'trajectories.jsonl')
  const random = seededRandom(2)
  const lines = Array.from({ length: 300 }, (_, i) => {
    const singularValues = [0, 1, 2].map(() => [50 + (i % 2) + random(), 1 + (i % 3), 1, 0.5, 0])
    const trajectory = singularValues.map(row => row.reduce((sum, value) => sum + value, 0))
    return { id: `e${i}`, trajectory, singularValues }
  })
  writeLines(file, lines)
  return { work, file }
}

test('a bundle of another signature assigns by it, in select too; what lacks it is refused', async t => {
  const { work, file } = writeSpectra(t)
  const bundle = join(work, 'bundle')
  const fit = ['fit', '--trajectories', file, '--clusters', '6', '--out', bundle, '--force']
  assert.match(succeed(...fit, '--signature', 'spectrum'), /signature {3}spectrum/)
  const { manifest, index } = await openBundle(bundle)
  assert.equal(index.centroids.dimensions, 15)
  assert.deepEqual(manifest.baseline.sizes, [50, 50, 50, 50, 50, 50])
  assert.equal(manifest.radii?.length, 6)
  const out = join(work, 'subset.json')
  const select = ['select', '--trajectories', file, '--bundle', bundle, '--percent', '10']
  const report = JSON.parse(succeed(...select, '--out', out, '--json'))
  assert.deepEqual(
    report.clusters.map(({ size, taken }: { size: number; taken: number }) => [size, taken]),
    Array(6).fill([50, 5]),
  )
  const refuse = (args: string[], message: RegExp): void => {
    const found = xmasd(...args)
    assert.match(found.stderr, message)
    assert.equal(found.status, 1)
  }
  refuse([...fit, '--signature', 'embedding'], /line 1 lacks .*embedding.*DATA_INVALID/)
  const bare = join(work, 'bare.jsonl')
  writeLines(bare, [{ id: 'a', trajectory: [1, 2, 3] }])
  const other = ['select', '--trajectories', bare, '--bundle', bundle, '--percent', '10']
  refuse([...other, '--out', out], /spectrum, which line 1 lacks.*BUNDLE_MISMATCH/)
})

test('fit --report says how the clusters of the signatures differ, with a bundle or without', t => {
  const { work, file } = writeSpectra(t)
  const fit = ['fit', '--trajectories', file, '--clusters', '6', '--report']
  const text = succeed(...fit)
  assert.match(text, /signatures of 300 examples, seeds 0, 1, 2/)
  assert.match(text, /spectrum {9,}6 {6,}\d+/)
  assert.match(text, /embedding: some lines of the file lack it/)
  assert.match(
    text,
    /verdict: take --signature spectrum\n {2}its clusters are the most stable.*\n {2}not sum/,
  )
  const { report, bundle } = JSON.parse(succeed(...fit, '--json'))
  assert.equal(bundle, undefined)
  assert.deepEqual([report.examples, report.lacking], [300, ['embedding', 'question', 'joint']])
  assert.equal(report.verdict.take, 'spectrum')
  assert.deepEqual(
    report.signatures.map(({ signature }: { signature: string }) => signature),
    ['sum', 'spectrum'],
  )
  const [sum, spectrum] = report.signatures
  assert.ok(sum.stability < spectrum.stability && spectrum.stability < 1, JSON.stringify(report))
  assert.equal(report.agreement.length, 1)
  assert.ok(report.agreement[0].adjustedRand < 0.9)
  const both = JSON.parse(succeed(...fit, '--json', '--out', join(work, 'bundle')))
  assert.deepEqual(both.report, report)
  assert.match(both.bundle, /^[0-9a-f]{12}$/)
  assert.equal(report.sizes, null)
})

test('bundles of question and joint assign the history as it was fitted; the report weighs them', async t => {
  const { work, file } = writeSpectra(t)
  const random = seededRandom(9)
  const lines = readFileSync(file, 'utf8').trim().split('\n')
  const state = (group: number): string =>
    encodeDirection([group - 1, 1, random() / 9, random() / 9])
  writeLines(
    file,
    lines.map((line, i) => ({
      ...JSON.parse(line),
      embedding: state(i % 3),
      question: state(i % 2),
    })),
  )
  const fit = ['fit', '--trajectories', file, '--clusters', '6']
  const { report } = JSON.parse(succeed(...fit, '--report', '--json'))
  assert.deepEqual(
    report.signatures.map(({ signature }: { signature: string }) => signature),
    ['sum', 'spectrum', 'embedding', 'question', 'joint'],
  )
  assert.deepEqual(
    report.signatures[4].shares.map(({ share }: Share) => share).sort(),
    [0.25, 0.5, 0.75],
  )
  for (const signature of ['question', 'joint']) {
    const bundle = join(work, signature)
    const told = JSON.parse(succeed(...fit, '--signature', signature, '--out', bundle, '--json'))
    assert.deepEqual(told.shares, signature === 'joint' ? report.signatures[4].shares : undefined)
    const { manifest, index } = await openBundle(bundle)
    assert.equal(index.centroids.dimensions, signature === 'joint' ? 19 : 4)
    const out = join(work, 'subset.json')
    const select = ['select', '--trajectories', file, '--bundle', bundle, '--percent', '10']
    const selected = JSON.parse(succeed(...select, '--out', out, '--json'))
    const sizes = selected.clusters.map(({ size }: { size: number }) => size)
    assert.deepEqual(sizes.sort(), [...manifest.baseline.sizes].sort())
  }
})

test('fit --report warns where scores follow the size of examples', t => {
  const work = temporaryFolder(t)
  const file = join(work, 'trajectories.jsonl')
  const lines = Array.from({ length: 60 }, (_, i) => {
    const size = { imageTokens: 64 * (i % 6), textRows: 10 + ((7 * i) % 11), pixels: 1000 }
    return { id: `e${i}`, trajectory: [i % 6, (i % 6) + ((5 * i) % 7) / 100], size }
  })
  writeLines(file, lines)
  const { stdout, stderr } = xmasd('fit', '--trajectories', file, '--clusters', '3', '--report')
  assert.match(
    stdout,
    /image tokens +0\.99 +-?0\.[0-4]\d\n +text rows .*\n +picture size +equal +equal/,
  )
  assert.match(stderr, /correlation of score and image tokens is 0\.99.*without --image-pixels/)
  assert.doesNotMatch(stderr, /text rows|picture size/)
})

test('select --data writes the selected examples as they stand, and refuses another file', t => {
  const { work, file, ids } = writeTrajectories(t)
  const bundle = join(work, 'bundle')
  succeed('fit', '--trajectories', file, '--clusters', '10', '--out', bundle)
  const data = join(work, 'data.json')
  const raw = ids.map(id => `{"id": "${id}",  "conversations": []}`)
  writeFileSync(data, `[${raw.join(',\n')}]`)
  const out = join(work, 'subset.json')
  const args = ['select', '--trajectories', file, '--bundle', bundle, '--percent', '12.5']
  const report = JSON.parse(succeed(...args, '--out', out, '--json'))
  const keys: string[] = readJson(out)
  assert.deepEqual([report.budget, report.selected, report.failed], [49, keys.length, 1])
  succeed(...args, '--out', out, '--data', data)
  const expected = raw.filter((_, i) => keys.includes(ids[i]!))
  assert.equal(readFileSync(out, 'utf8'), `[\n${expected.join(',\n')}\n]\n`)
  const odd = (text: string, nothing: string) => text.replace('[]', `[], "n": ${nothing}`)
  writeFileSync(data, raw.map(text => `\ufeff${odd(text, '-Infinity')}\n`).join(''))
  succeed(...args, '--out', out, '--data', data)
  assert.equal(
    readFileSync(out, 'utf8'),
    `[\n${expected.map(text => odd(text, 'null')).join(',\n')}\n]\n`,
  )

  const refused = (contents: string, message: RegExp): void => {
    writeFileSync(data, contents)
    const other = join(work, 'other.json')
    const { status, stderr } = xmasd(...args, '--out', other, '--data', data)
    assert.equal(status, 1)
    assert.match(stderr, /DATA_INVALID/)
    assert.match(stderr, message)
    assert.ok(!existsSync(other))
  }
  refused(`[${raw.slice(0, -1).join()}]`, /399 examples, not 400/)
  refused(`[${[...raw, raw[0]].join()}]`, /example 401/)
  const swapped = `[${[raw[1], raw[0], ...raw.slice(2)].join()}]`
  refused(swapped, /example 1 is e1, not e0/)
  process.env.XMASD_DATA_FIELDS_COLUMNS_ID = 'uid'
  t.after(() => delete process.env.XMASD_DATA_FIELDS_COLUMNS_ID)
  refused(swapped.replaceAll('"id"', '"uid"'), /example 1 is e1, not e0/)
})

test('what does not fit is an operating error, what is mistyped a usage error', t => {
  const { work, file } = writeTrajectories(t)
  const bundle = join(work, 'bundle')
  const fit = ['fit', '--trajectories', file, '--out', bundle]
  const check = (args: string[], status: number, message: RegExp): void => {
    const found = xmasd(...args)
    assert.match(found.stderr, message)
    assert.equal(found.status, status)
  }
  const centroids = join(work, 'c.safetensors')
  writeSafetensors(centroids, { centroids: { shape: [1, 2], data: Float32Array.of(1, 2) } })
  check([...fit, '--centroids', centroids], 1, /centroids of 2 scores, the trajectories have 3/)
  check([...fit, '--centroids', centroids, '--clusters', '3'], 2, /cannot be used with/)
  check([...fit, '--clusters', '0'], 2, /at least 1/)
  check([...fit, '--seed', 'x'], 2, /integer/)
  check(['fit', '--trajectories', file], 2, /--out/)
  const empty = join(work, 'empty.jsonl')
  writeLines(empty, [{ id: 'a', trajectory: null }])
  check(['fit', '--trajectories', empty, '--out', bundle], 1, /no trajectory/)
  succeed(...fit, '--clusters', '3')
  const select = ['select', '--trajectories', file, '--bundle', bundle, '--out', join(work, 'o')]
  check([...select, '--percent', '101'], 2, /0\.\.100/)
  check([...select, '--percent', '5', '--out', join(work, 'no/o')], 1, /cannot write/)
  const other = join(work, 'other.jsonl')
  writeLines(other, [{ id: 'a', trajectory: [1, 2] }])
  const mismatch = ['select', '--trajectories', other, '--bundle', bundle, '--percent', '5']
  check([...mismatch, '--out', join(work, 'o')], 1, /BUNDLE_MISMATCH/)
  writeFileSync(join(bundle, 'centroids.safetensors'), 'x')
  check([...select, '--percent', '5'], 1, /BUNDLE_ALTERED/)
})

test("a file's identity counts exactly what the fold counts", () => {
  const arrivals = fc.array(fc.record({ content: fc.nat(12), id: fc.nat(3) }), { maxLength: 60 })
  fc.assert(
    fc.property(arrivals, list => {
      const records = list.map(arrival => recordOf({ ...arrival, cluster: 0, instability: 1 }))
      const assignments = records.flatMap(record => ('control' in record ? [] : [record]))
      const settings = { policy: 'revisable', percent: 50, settleEvery: 1 } as const
      const state = new SelectState(new MemoryState(), settings)
      const outcomes = assignments.map((record, offset) => state.fold(record, offset).outcome)
      const once = countOnce(
        assignments.map(({ id }) => id),
        assignments.map(({ key }) => key),
      )
      const counted = outcomes.flatMap((outcome, i) => (outcome === 'assigned' ? [i] : []))
      assert.deepEqual(once.counted, counted)
      assert.equal(once.duplicates, state.duplicates)
      assert.equal(once.counted.length + once.duplicates + once.redelivered, list.length)
    }),
  )
})

test('a key without a content hash is an identity by itself', () => {
  const ids = ['a', 'b', 'a', 'c@0123456789abcdef', 'd']
  const keys = ['a', 'b', 'a', 'c@0123456789abcdef', 'd@0123456789abcdef']
  assert.deepEqual(countOnce(ids, keys), { counted: [0, 1, 3, 4], duplicates: 0, redelivered: 1 })
})
