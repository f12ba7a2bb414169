/** The same numbers, whoever is asked: a run, its export, `replay`, `report`, `explain`. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import type { Parts } from '../../src/observe/segments.ts'
import type { Decision } from '../../src/record.ts'
import {
  distinct,
  example,
  jsonOf,
  makeSite,
  proxyOf,
  readTopic,
  type Site,
  succeed,
  writeLines,
} from './command.ts'

const IMAGES = 60
const TEXTS = 12

/** A run over pictures and text; with `baseline` on a bundle that is fitted to the same. */
async function siteOf(t: TestContext, select: string, { baseline }: { baseline: boolean }) {
  const site = makeSite(t, `select: ${select}`)
  const texts = Array.from({ length: TEXTS }, (_, i) => example(`t${i}`, undefined, `why ${i}?`))
  const data = writeLines(site, 'data.jsonl', [...(await distinct(IMAGES)), ...texts])
  const env: NodeJS.ProcessEnv = {}
  if (baseline) {
    const [file, bundle] = [join(site.folder, 't.jsonl'), join(site.folder, 'bundle')]
    const proxy = proxyOf(site)
    const scored = ['score', '--proxy', proxy, '--data', data, '--out', file]
    await succeed(scored, { XMASD_IMAGES_ROOT: site.images })
    await succeed(['fit', '--trajectories', file, '--clusters', '6', '--out', bundle])
    env.XMASD_BUNDLE = bundle
  }
  const ask = (...args: string[]) => succeed([...args, '--config', site.config], env)
  await ask('produce', '--data', data)
  const { subset, history, parts } = JSON.parse((await ask('run', '--until-idle', '--json')).stdout)
  return { site, ask, counted: { kept: subset, examples: history, parts } }
}

type Ask = (...args: string[]) => Promise<{ stdout: string }>
type Counted = { kept: number; examples: number; parts: Parts }

async function assertAllAgree(site: Site, ask: Ask, counted: Counted): Promise<void> {
  const { kept, examples, parts } = counted
  const [keys, page] = [join(site.folder, 'keys.json'), join(site.folder, 'report.html')]
  await ask('export', '--out', keys)
  const exported = JSON.parse(readFileSync(keys, 'utf8')) as string[]
  assert.equal(exported.length, parts.stream.kept + parts.control.kept)
  const replayed = JSON.parse((await ask('replay', '--json')).stdout)
  const report = JSON.parse((await ask('report', '--out', page, '--json')).stdout)
  for (const found of [replayed, report]) {
    assert.deepEqual(
      { kept: found.kept, examples: found.examples, parts: found.parts },
      { kept, examples, parts },
    )
  }
  assert.equal(replayed.budget, report.budget)
  assert.equal(replayed.today.jaccard, 1)
  const rows = report.clusters as { cluster: unknown; size: number; kept: number; quota: number }[]
  const sum = (key: 'size' | 'kept'): number => rows.reduce((total, row) => total + row[key], 0)
  assert.equal(sum('size'), examples)
  assert.equal(sum('kept'), kept)
  const { cluster, size, quota } = replayed.clusters.largest
  const same = rows.find(row => row.cluster === cluster)!
  assert.deepEqual([same.size, same.kept], [size, quota])
  const why = JSON.parse((await ask('explain', exported[0]!, '--json')).stdout)
  const own = rows.find(row => row.cluster === why.assignment.cluster)!
  assert.deepEqual([why.clusterSize, why.quota], [own.size, own.quota])
}

for (const policy of ['final', 'naive']) {
  test(`${policy} decisions that go on from a baseline: it is counted alike everywhere, and apart`, async t => {
    const select = `{ policy: ${policy}, percent: 30 }`
    const { site, ask, counted } = await siteOf(t, select, { baseline: true })
    const { stream, baseline, control } = counted.parts as Parts
    assert.equal(stream.examples, IMAGES + TEXTS)
    assert.equal(baseline.examples, IMAGES + TEXTS)
    assert.ok(baseline.kept > 0 && stream.kept > 0)
    assert.deepEqual(control, { examples: 0, kept: 0 })
    assert.equal(counted.kept, stream.kept + baseline.kept)
    await assertAllAgree(site, ask, counted)
    const said = `${stream.kept} of 72 of the stream kept, with the baseline ${counted.kept} of 144 (`
    for (const args of [['replay'], ['report', '--out', join(site.folder, 'again.html')]]) {
      assert.ok((await ask(...args)).stdout.includes(said), args[0])
    }
  })
}

test('what the select role has not come to is in no number, and explain says so', async t => {
  const { site, ask, counted } = await siteOf(t, '{ percent: 30 }', { baseline: false })
  const late = writeLines(site, 'late.jsonl', [
    example('late', undefined, 'and when?'),
    example('later', undefined, 'why 3?'),
  ])
  await ask('produce', '--data', late)
  await ask('run', '--roles', 'score', '--until-idle')
  for (const again of [late, join(site.folder, 'data.jsonl')]) await ask('produce', '--data', again)
  await ask('run', '--roles', 'score', '--until-idle')
  const page = join(site.folder, 'report.html')
  const report = async () => JSON.parse((await ask('report', '--out', page, '--json')).stdout)
  const explain = (id: string, ...args: string[]) => ask('explain', id, ...args)
  const behind = await report()
  assert.deepEqual([behind.waiting, behind.duplicates, behind.parts], [2, 0, counted.parts])
  assert.match((await ask('report', '--out', page)).stdout, /, 2 not decided yet;/)
  assert.match((await explain('later')).stdout, /^later@\w+ is not decided yet: the select role/)
  const size = async (id: string) =>
    JSON.parse((await explain(id, '--json')).stdout).clusterSize as number
  assert.deepEqual([await size('t3'), await size('later')], [TEXTS, TEXTS])

  await ask('run', '--roles', 'select', '--until-idle')
  const done = await report()
  assert.deepEqual([done.waiting, done.duplicates, done.examples], [0, 1, counted.examples + 1])
  assert.match((await explain('later')).stdout, /^later@\w+ is not kept: /)
  assert.equal(await size('later'), TEXTS + 1)
})

test('behind a swap decisions for good go on from no baseline, and a replay says so too', async t => {
  const select = '{ policy: final, percent: 30 }'
  const { site, ask } = await siteOf(t, select, { baseline: true })
  const other = join(site.folder, 'other')
  await ask('fit', '--assignments', '--clusters', '4', '--out', other)
  const foretold = JSON.parse((await ask('replay', '--bundle', other, '--json')).stdout)
  await ask('bundle', 'swap', '--bundle', other)
  const page = join(site.folder, 'report.html')
  const asked = ['report', '--out', page, '--json']
  const unfolded = JSON.parse((await ask(...asked)).stdout)
  assert.equal(unfolded.parts.baseline.examples, IMAGES + TEXTS, 'a swap that select has not seen')
  const ran = JSON.parse((await ask('run', '--until-idle', '--json')).stdout)
  const replayed = JSON.parse((await ask('replay', '--json')).stdout)
  const report = JSON.parse((await ask(...asked)).stdout)
  for (const { parts } of [foretold, replayed, ran, report]) {
    assert.deepEqual(parts.baseline, { examples: 0, kept: 0 })
    assert.equal(parts.stream.examples, IMAGES + TEXTS)
  }
})

test('a control arm is in neither history nor subset, is counted apart, and explain names it', async t => {
  const select = '{ percent: 20, controlPercent: 25 }'
  const { site, ask, counted } = await siteOf(t, select, { baseline: false })
  const { stream, control } = counted.parts as Parts
  assert.equal(stream.examples + control.examples, IMAGES + TEXTS)
  assert.ok(control.examples > 0)
  assert.deepEqual(stream, { examples: counted.examples, kept: counted.kept })
  await assertAllAgree(site, ask, counted)
  const replayed = (await ask('replay')).stdout
  assert.ok(replayed.includes(`; random holdout: ${control.kept} of ${control.examples}`), replayed)
  const decisions = (await readTopic(site.log, 'decisions')).map(record => jsonOf<Decision>(record))
  const drawn = decisions.find(({ arm }) => arm === 'random')!
  assert.match((await ask('explain', drawn.key)).stdout, /^ {2}arm +random: decided at random/m)
  assert.equal(JSON.parse((await ask('explain', drawn.key, '--json')).stdout).arm, 'random')
})
