import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import sharp from 'sharp'
import { demoExamples } from '../../src/demo/stream.ts'
import type { Decision, Turn } from '../../src/record.ts'
import {
  DEMO_BUNDLE,
  DEMO_PROXY,
  jsonOf,
  makeSite,
  REPLAY,
  readTopic,
  type Site,
  start,
  succeed,
} from './command.ts'

const NEAR = 'select: { nearDuplicates: { enabled: true, exemplarsMax: 1000 } }'

type Example = { id: string; image?: string; conversations: Turn[] }

test('re-encoded and rephrased examples lose to their originals, through kills, a shadow, a swap, a rollback and a replay', async t => {
  const site = await siteWithBundles(t)
  const originals = ((await demoExamples(22, 44)) as Example[]).filter(({ image }) => image)
  const copies = await Promise.all(originals.map(reencoded))
  const stream = originals.flatMap((original, i) => [original, ...(i < 3 ? [] : [copies[i - 3]!])])
  const bundle = (...args: string[]) => succeed(['bundle', ...args, '--config', site.config])
  const other = join(site.folder, 'other')
  await produce(site, stream.slice(0, 25))
  await killOnce(site)
  await bundle('shadow', '--bundle', other)
  await produce(site, stream.slice(25, 45))
  await killOnce(site)
  await succeed(['run', '--config', site.config, '--until-idle'])
  await bundle('swap', '--bundle', other)
  await produce(site, stream.slice(45, 60))
  await killOnce(site)
  await bundle('rollback')
  await produce(site, stream.slice(60))
  await succeed(['run', '--config', site.config, '--until-idle'])

  const decisions = (await readTopic(site.log, 'decisions')).map(jsonOf<Decision>)
  const near = decisions.filter(({ reason }) => reason === 'near_duplicate')
  const ofOwn = near.filter(({ id, duplicateOf }) => duplicateOf!.startsWith(`${originalOf(id)}@`))
  t.diagnostic(
    `${ofOwn.length} of ${copies.length - 3} copies lost to their originals, ${near.length} drops`,
  )
  assert.ok(ofOwn.length >= copies.length - 3 - 2 && near.length <= ofOwn.length + 1)
  assert.ok(ofOwn.every(({ distance, measure }) => distance! < 0.35 && measure === 'layout'))
  const { stdout } = await succeed(['explain', near[0]!.key, '--config', site.config])
  assert.match(stdout, /near_duplicate of .*@[0-9a-f]{16}, 0\.\d+ away by layout/)
  const replayed = await succeed(['replay', '--json', '--config', site.config])
  assert.equal(JSON.parse(replayed.stdout).examples, stream.length - near.length)

  assert.deepEqual(await selectedOffline(site, stream), await subsetOf(site))

  await succeed(['run', '--config', site.config, '--roles', 'select', '--until-idle'], REPLAY)
  for (const topic of ['decisions', 'subset', 'shadow']) {
    const published = await bytesOf(site, topic)
    assert.ok(published.length > 0, topic)
    assert.deepEqual(await bytesOf(site, `replayed-${topic}`), published, topic)
  }
})

test('a bundle that has learned nothing of near-duplicates is refused at the start', async t => {
  const site = makeSite(t, `bundle: ${DEMO_BUNDLE}\n${NEAR}`)
  const { ended } = start(['run', '--config', site.config, '--until-idle'])
  const { code, stderr } = await ended
  assert.equal(code, 1)
  assert.match(stderr, /has no similarity model.*BUNDLE_MISMATCH/)
})

/** Two bundles of one history: `bundle`, which the log begins with, and `other`. */
async function siteWithBundles(t: TestContext): Promise<Site> {
  const site = makeSite(t, `bundle: ./bundle\n${NEAR}`)
  const at = (name: string): string => join(site.folder, name)
  const history = await demoExamples(21, 150)
  writeFileSync(at('history.jsonl'), history.map(one => `${JSON.stringify(one)}\n`).join(''))
  const scored = ['--proxy', DEMO_PROXY, '--images', site.images, '--data', at('history.jsonl')]
  await succeed(['score', ...scored, '--out', at('trajectories.jsonl')])
  const fit = ['fit', '--trajectories', at('trajectories.jsonl')]
  const { stdout } = await succeed([...fit, '--clusters', '8', '--out', at('bundle'), '--json'])
  const { layoutRadius, stateRadius } = JSON.parse(stdout).near
  assert.ok(layoutRadius >= 0.1 && layoutRadius <= 0.35 && stateRadius > 0)
  await succeed([...fit, '--clusters', '3', '--seed', '4', '--out', at('other')])
  return site
}

/** Sorted keys of what `select` keeps of the same examples, scored offline. */
async function selectedOffline(site: Site, examples: readonly Example[]): Promise<string[]> {
  const at = (name: string): string => join(site.folder, name)
  writeFileSync(at('all.jsonl'), examples.map(one => `${JSON.stringify(one)}\n`).join(''))
  const scored = ['--proxy', DEMO_PROXY, '--images', site.images, '--data', at('all.jsonl')]
  await succeed(['score', ...scored, '--out', at('all.trajectories.jsonl')])
  const select = ['select', '--trajectories', at('all.trajectories.jsonl'), '--percent', '20']
  const found = ['--bundle', at('bundle'), '--near-duplicates', '--out', at('selected.json')]
  await succeed([...select, ...found])
  return JSON.parse(readFileSync(at('selected.json'), 'utf8')).sort()
}

async function subsetOf(site: Site): Promise<string[]> {
  const out = join(site.folder, 'subset.json')
  await succeed(['export', '--config', site.config, '--out', out])
  return JSON.parse(readFileSync(out, 'utf8')).sort()
}

/** As a JPEG, a question in capitals. */
async function reencoded({ id, image, conversations }: Example): Promise<Example> {
  const png = Buffer.from(image!.slice(image!.indexOf(',') + 1), 'base64')
  const jpeg = await sharp(png).jpeg({ quality: 80 }).toBuffer()
  const [question, ...rest] = conversations as [Turn, ...Turn[]]
  const value = question.value.toUpperCase().replace('<IMAGE>', '<image>')
  return {
    id: `${id}-copy`,
    image: `data:image/jpeg;base64,${jpeg.toString('base64')}`,
    conversations: [{ ...question, value }, ...rest],
  }
}

function originalOf(id: string): string {
  return id.replace(/-copy$/, '')
}

async function produce(site: Site, examples: readonly Example[]): Promise<void> {
  const data = join(site.folder, 'new.jsonl')
  writeFileSync(data, examples.map(one => `${JSON.stringify(one)}\n`).join(''))
  await succeed(['produce', '--data', data, '--config', site.config])
}

/** Kills the daemon once its first batch has been decided. */
async function killOnce(site: Site): Promise<void> {
  const env = { XMASD_SCORE_BATCH_EXAMPLES_MAX: '8' }
  const { child, ended } = start(['run', '--config', site.config], env)
  child.stderr!.on('data', (text: string) => {
    if (/"role":"select".*"batch"/.test(text)) child.kill('SIGKILL')
  })
  assert.equal((await ended).signal, 'SIGKILL')
}

async function bytesOf(site: Site, topic: string): Promise<[string | null, string | undefined][]> {
  const records = await readTopic(site.log, topic)
  return records.map(({ key, value }) => [key, value?.toString()])
}
