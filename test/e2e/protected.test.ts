import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import sharp from 'sharp'
import { demoExamples } from '../../src/demo/stream.ts'
import type { Decision, Turn } from '../../src/record.ts'
import {
  DEMO_PROXY,
  jsonOf,
  makeSite,
  REPLAY,
  readTopic,
  type Site,
  start,
  succeed,
} from './command.ts'

type Example = { id: string; image?: string; conversations: Turn[] }

test('leaked benchmark questions are dropped by name, through a kill, a swap, a replay and offline', async t => {
  const site = makeSite(t, 'bundle: ./bundle\nselect: { percent: 100 }')
  const at = (name: string): string => join(site.folder, name)
  const configured = (...args: string[]) => succeed([...args, '--config', site.config])
  const examples = ((await demoExamples(31, 150)) as Example[]).filter(({ image }) => image)
  const [benchmark, history, stream] = [examples.slice(0, 6), examples.slice(6), examples.slice(70)]
  const leaks = await Promise.all(benchmark.map(leaked))
  await score(site, 'benchmark', benchmark)
  await score(site, 'history', [...history.slice(0, 60), leaks[0]!, ...benchmark.slice(1, 3)])
  const fit = ['fit', '--trajectories', at('history.scored'), '--clusters', '4', '--json']
  const protect = ['--protect', at('benchmark.scored')]
  const fitted = await succeed([...fit, ...protect, '--out', at('bundle')])
  assert.deepEqual(JSON.parse(fitted.stdout).protected, { examples: 6, copies: 3 })
  assert.equal(JSON.parse(fitted.stdout).points, 60)
  await succeed([...fit, '--out', at('unprotected')])
  const select = ['select', '--trajectories', at('history.scored'), '--bundle', at('bundle')]
  const selected = await succeed([...select, '--percent', '100', '--out', at('out.json'), '--json'])
  const { examples: counted, protected: copies } = JSON.parse(selected.stdout)
  assert.deepEqual([counted, copies], [60, 3])
  const unscored = await start([...fit, '--protect', at('benchmark.jsonl'), '--out', at('none')])
    .ended
  assert.match(unscored.stderr, /example 1 .* has no key with a content hash.*DATA_INVALID/)
  assert.match(unscored.stderr, /xmasd score --proxy DIR --data FILE --out SCORED/)

  await produce(site, [...leaks.slice(0, 3), ...stream.slice(0, 15), benchmark[0]!])
  await killOnce(site)
  await produce(site, [...leaks.slice(3), ...stream.slice(15, 24)])
  await configured('run', '--until-idle')
  const refused = await start([
    'bundle',
    'swap',
    '--bundle',
    at('unprotected'),
    '--config',
    site.config,
  ]).ended
  assert.match(refused.stderr, /does not protect 6 of the 6 examples.*BUNDLE_MISMATCH/)
  await configured('fit', '--assignments', '--clusters', '3', '--out', at('next'))
  await configured('bundle', 'swap', '--bundle', at('next'))
  await produce(site, [{ ...leaks[0]!, id: 'late' }, ...stream.slice(24, 30)])
  await configured('run', '--until-idle')

  const decisions = (await readTopic(site.log, 'decisions')).map(jsonOf<Decision>)
  const drops = decisions.filter(({ reason }) => reason === 'protected')
  const expected = [...leaks.map(({ id }) => id), benchmark[0]!.id, 'late']
  assert.deepEqual(drops.map(({ id }) => id).sort(), expected.sort())
  for (const { id, action, duplicateOf } of drops) {
    const of = id === 'late' ? benchmark[0]!.id : id.replace(/-leak$/, '')
    assert.deepEqual([action, duplicateOf!.split('@')[0]], ['drop', of])
  }
  const explained = await configured('explain', 'late')
  assert.match(explained.stdout, /not kept: it is a copy of .*, which is protected/)
  const replayed = await configured('replay', '--json')
  assert.equal(JSON.parse(replayed.stdout).examples, 30)

  const drawn = JSON.parse(
    (await configured('report', '--json', '--out', at('report.html'))).stdout,
  )
  assert.deepEqual([drawn.examples, drawn.kept], [30, 30])

  await succeed(['run', '--config', site.config, '--roles', 'select', '--until-idle'], REPLAY)
  for (const topic of ['decisions', 'subset']) {
    const [again, published] = [
      await valuesOf(site, `replayed-${topic}`),
      await valuesOf(site, topic),
    ]
    assert.deepEqual(again, published, topic)
  }
})

/** As a smaller JPEG, the question in capitals. */
async function leaked({ id, image, conversations }: Example): Promise<Example> {
  const png = Buffer.from(image!.slice(image!.indexOf(',') + 1), 'base64')
  const { width } = await sharp(png).metadata()
  const jpeg = await sharp(png)
    .resize(Math.round(width / 2))
    .jpeg({ quality: 80 })
    .toBuffer()
  const [question, ...rest] = conversations as [Turn, ...Turn[]]
  const value = question.value.toUpperCase().replace('<IMAGE>', '<image>')
  return {
    id: `${id}-leak`,
    image: `data:image/jpeg;base64,${jpeg.toString('base64')}`,
    conversations: [{ ...question, value }, ...rest],
  }
}

/** To `<name>.scored`. */
async function score(site: Site, name: string, examples: readonly Example[]): Promise<void> {
  const [data, out] = [`${name}.jsonl`, `${name}.scored`].map(file => join(site.folder, file))
  writeFileSync(data!, examples.map(one => `${JSON.stringify(one)}\n`).join(''))
  await succeed([
    'score',
    '--proxy',
    DEMO_PROXY,
    '--images',
    site.images,
    '--data',
    data!,
    '--out',
    out!,
  ])
}

async function produce(site: Site, examples: readonly Example[]): Promise<void> {
  const data = join(site.folder, 'new.jsonl')
  writeFileSync(data, examples.map(one => `${JSON.stringify(one)}\n`).join(''))
  await succeed(['produce', '--data', data, '--config', site.config])
}

async function killOnce(site: Site): Promise<void> {
  const { child, ended } = start(['run', '--config', site.config], {
    XMASD_SCORE_BATCH_EXAMPLES_MAX: '8',
  })
  child.stderr!.on('data', (text: string) => {
    if (/"role":"select".*"batch"/.test(text)) child.kill('SIGKILL')
  })
  assert.equal((await ended).signal, 'SIGKILL')
}

async function valuesOf(site: Site, topic: string): Promise<(string | undefined)[]> {
  return (await readTopic(site.log, topic)).map(({ value }) => value?.toString())
}
