import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { makeSite, run, start, succeed } from './command.ts'

const FIRST_DECISION_MS_MAX = 20_000

test('the demo shows decisions within 20 s, waits for an open page, and ends with a summary', async t => {
  const started = performance.now()
  const { child, ended } = start(['demo', '--examples', '120', '--json'])
  let firstMs = Number.POSITIVE_INFINITY
  const page = new AbortController()
  let [isOpen, isWaitedFor] = [false, false]
  child.stderr!.on('data', (text: string) => {
    if (/^\d+ examples · /m.test(text)) firstMs = Math.min(firstMs, performance.now() - started)
    const url = /see it at (http:[^;]+)/.exec(text)?.[1]
    if (url !== undefined) {
      void fetch(`${url}/api/v1/events`, page).then(({ ok }) => {
        isOpen = ok
      })
    }
    if (!text.includes('the page stays until it is closed')) return
    isWaitedFor = true
    page.abort()
  })
  const { code, stdout, stderr } = await ended
  assert.deepEqual([isOpen, isWaitedFor], [true, true])
  assert.equal(code, 0, stderr)
  t.diagnostic(`first decisions shown after ${Math.round(firstMs)} ms`)
  assert.ok(firstMs < FIRST_DECISION_MS_MAX)
  assert.match(
    stderr,
    /\d+ examples · \d+\/s · \d+ of \d+ kept .* clusters capped at .* duplicates/,
  )
  const summary = JSON.parse(stdout)
  const { assigned, duplicate, redelivered, dead_letter } = summary.examples
  assert.equal(assigned + duplicate + redelivered + dead_letter, 120)
  assert.equal(summary.subset, Math.floor(0.2 * assigned))
})

test('what a demo leaves in --path is read with its demo.yaml', async t => {
  const folder = join(makeSite(t).folder, 'demo')
  const { stderr } = await succeed(['demo', '--examples', '40', '--path', folder])
  const config = join(folder, 'demo.yaml')
  assert.ok(stderr.includes(`xmasd explain ID --config ${config}`), stderr)
  const { stdout } = await succeed(['explain', 'demo-2', '--config', config])
  assert.match(stdout, /^demo-2@[0-9a-f]{16} is (not )?kept: /)
  const replayed = await succeed(['replay', '--percent', '10', '--config', config])
  assert.match(replayed.stdout, /policy revisable, 10 %/)
})

test('doctor says what works in plain words and exits 0', async t => {
  const site = makeSite(t)
  const ended = await succeed(['doctor', '--config', site.config])
  assert.match(ended.stdout, /✓ onnx engine +onnxruntime loads\n/)
  assert.match(ended.stdout, /✓ proxy .*clip \+ llama, 6 checkpoints/)
  assert.match(ended.stdout, /✓ device +scoring runs on (cpu|webgpu|cuda)/)
  const json = await succeed(['doctor', '--config', site.config, '--json'])
  assert.equal(JSON.parse(json.stdout).ok, true)
  assert.ok(!existsSync(join(site.folder, 'log')), 'looking makes nothing')
})

test('doctor exits 1 and names the fix where something is broken', async t => {
  const site = makeSite(t)
  const broken = { XMASD_BUNDLE: site.folder }
  const ended = await run(['doctor', '--config', site.config], broken)
  assert.equal(ended.code, 1)
  assert.match(ended.stdout, /✗ bundle [^\n]+\n\s+→ \S/)
})

test('help is there for every command, and no command is a usage error', async () => {
  const commands = (await succeed(['--help'])).stdout
    .match(/^ {2}[a-z][\w-]*/gm)!
    .map(name => name.trim())
  const named = commands.filter(name => name !== 'help')
  assert.deepEqual([...named].sort(), [
    'bundle',
    'config',
    'demo',
    'doctor',
    'explain',
    'export',
    'export-metrics',
    'fit',
    'import-metrics',
    'produce',
    'redrive',
    'replay',
    'report',
    'run',
    'schedule',
    'score',
    'select',
    'study',
    'tail',
    'train',
    'watch',
  ])
  for (const name of named) {
    const { stdout } = await succeed([name, '--help'])
    assert.match(stdout, new RegExp(`^Usage: xmasd ${name}`), name)
  }
  assert.equal((await run([])).code, 2)
})
