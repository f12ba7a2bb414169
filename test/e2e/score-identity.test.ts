/** A bundle is used with the scores that it was fitted to alone, through the built commands. */
import assert from 'node:assert/strict'
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { openBundle, readCentroids, writeBundle } from '../../src/bundle/bundle.ts'
import {
  DEMO_BUNDLE,
  DEMO_PROXY,
  distinct,
  makeSite,
  readTopic,
  run,
  type Site,
  succeed,
  writeLines,
} from './command.ts'

const CHAT =
  "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{{ '<image>\\n' if p.type == 'image' else p.text }}{% endfor %}</s>{% endfor %}"

/** Scores `data` by `proxy`, fits the scores; the trajectories and the bundle. */
async function fitted(site: Site, name: string, data: string, how: string[]) {
  const trajectories = join(site.folder, `${name}.jsonl`)
  const bundle = join(site.folder, name)
  await succeed(['score', '--data', data, '--out', trajectories, ...how])
  await succeed(['fit', '--trajectories', trajectories, '--out', bundle, '--clusters', '2'])
  return { trajectories, bundle }
}

test('a bundle that was fitted under another template or image processor is refused by every command', async t => {
  const site = makeSite(t, 'proxy: { path: ./proxy }\nbundle: ./plain')
  const proxy = join(site.folder, 'proxy')
  cpSync(DEMO_PROXY, proxy, { recursive: true })
  const data = writeLines(site, 'data.jsonl', await distinct(12))
  const plain = await fitted(site, 'plain', data, ['--proxy', proxy])
  const other = await fitted(site, 'other', data, ['--proxy', proxy, '--template', 'chatml'])
  const { config } = site
  await succeed(['produce', '--config', config, '--data', data])
  await succeed(['run', '--config', config, '--until-idle'])

  const out = join(site.folder, 'selected.json')
  const select = ['select', '--percent', '50', '--out', out]
  const refusals: [args: string[], env?: NodeJS.ProcessEnv][] = [
    [['run', '--config', config, '--until-idle'], { XMASD_PROXY_TEMPLATE: 'chatml' }],
    [[...select, '--trajectories', other.trajectories, '--bundle', plain.bundle]],
    [['produce', '--trajectories', other.trajectories, '--config', config]],
    [['bundle', 'swap', '--config', config, '--bundle', other.bundle]],
    [['bundle', 'shadow', '--config', config, '--bundle', other.bundle]],
    [['replay', '--config', config, '--bundle', other.bundle]],
  ]
  for (const [args, env] of refusals) {
    const { code, stderr } = await run(args, env)
    assert.equal(code, 1, args.join(' '))
    assert.match(stderr, /prompt ".*prompt ".*BUNDLE_MISMATCH/, args.join(' '))
    assert.match(stderr, /<\|im_start\|>/, args.join(' '))
  }
  const looked = await run(['doctor', '--config', config], { XMASD_PROXY_TEMPLATE: 'chatml' })
  assert.match(looked.stdout, /✗ bundle .*prompt "/)

  rmSync(join(proxy, 'template.json'))
  const checkpoints = readdirSync(proxy).filter(name => name.startsWith('checkpoint'))
  for (const name of checkpoints) writeFileSync(join(proxy, name, 'chat_template.jinja'), CHAT)
  const chatting = await run(['run', '--config', config, '--until-idle'])
  assert.equal(chatting.code, 1)
  assert.match(chatting.stderr, /prompt ".*, the proxy has prompt ".*BUNDLE_MISMATCH/)
  assert.match(chatting.stderr, /set proxy\.template: llama where the bundle was fitted/)
  const told = await run(['doctor', '--config', config])
  assert.match(told.stdout, /✓ prompt +"user: <image>.*images at \d+-\d+, rows at .*answers at/)
  for (const name of checkpoints) rmSync(join(proxy, name, 'chat_template.jinja'))
  cpSync(join(DEMO_PROXY, 'template.json'), join(proxy, 'template.json'))

  for (const checkpoint of checkpoints) {
    const file = join(proxy, checkpoint, 'preprocessor_config.json')
    const said = JSON.parse(readFileSync(file, 'utf8'))
    writeFileSync(file, JSON.stringify({ ...said, image_mean: [0.1, 0.2, 0.3] }))
  }
  const moved = await run(['run', '--config', config, '--until-idle'])
  assert.equal(moved.code, 1)
  assert.match(moved.stderr, /images ".*, the proxy has images ".*0\.1,0\.2,0\.3.*BUNDLE_MISMATCH/)
})

/** The demo's bundle without what it records of its prompt, as earlier releases wrote bundles. Its id. */
async function writeWithoutPrompt(folder: string): Promise<string> {
  const { schedule, mode, signature, baseline } = (await openBundle(DEMO_BUNDLE)).manifest
  const centroids = readCentroids(join(DEMO_BUNDLE, 'centroids.safetensors'))
  const { id } = await writeBundle(folder, { schedule, mode, signature, baseline, centroids })
  return id
}

test('a bundle that does not record its prompt takes that of the first run, and keeps it', async t => {
  const site = makeSite(t, 'bundle: ./bundle')
  const { config } = site
  const data = writeLines(site, 'data.jsonl', await distinct(6))
  const id = await writeWithoutPrompt(join(site.folder, 'bundle'))
  await succeed(['produce', '--config', config, '--data', data])
  const first = await succeed(['run', '--config', config, '--until-idle'])
  assert.match(first.stderr, new RegExp(`bundle ${id} does not record its prompt`))
  const keys = (await readTopic(site.log, 'bundles')).map(({ key }) => key)
  assert.ok(keys.includes(`${id}/scores`))

  const again = await succeed(['run', '--config', config, '--until-idle'])
  assert.doesNotMatch(again.stderr, /does not record/)
  const other = await run(['run', '--config', config, '--until-idle'], {
    XMASD_PROXY_TEMPLATE: 'chatml',
  })
  assert.equal(other.code, 1)
  assert.match(other.stderr, /has scored with prompt ".*, the proxy has prompt ".*BUNDLE_MISMATCH/)

  const adopted = join(site.folder, 'adopted')
  await succeed(['fit', '--assignments', '--config', config, '--out', adopted, '--clusters', '2'])
  const manifest = JSON.parse(readFileSync(join(adopted, 'bundle.json'), 'utf8'))
  assert.match(manifest.preparation.prompt, /A cat\./)
  await succeed(['bundle', 'swap', '--config', config, '--bundle', adopted])
})

test('schedule prints loss and score by checkpoint, and a verdict in words', async t => {
  const site = makeSite(t)
  const data = writeLines(site, 'data.jsonl', await distinct(12))
  const args = ['schedule', DEMO_PROXY, '--data', data, '--images', site.folder]
  const { stdout } = await run([...args, '--json'])
  const { checkpoints, verdict, reasons } = JSON.parse(stdout)
  assert.deepEqual(
    checkpoints.map(({ step }: { step: number }) => step),
    [70, 100, 150, 230, 350, 500],
  )
  for (const { loss, score } of checkpoints) assert.ok(loss > 0 && score > 0)
  assert.match(verdict, /weak|useless/)
  assert.match(reasons[0], /12 examples say little/)
})
