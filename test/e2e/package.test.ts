/**
 * The package as a user installs it: packed, then installed without development packages into an empty
 * folder outside the repository. Needs npm's registry or its cache, and a C++ compiler for hnswlib-node.
 */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { promisify } from 'node:util'
import { ROOT, temporaryFolder } from '../support.ts'

const execute = promisify(execFile)

test('the packed package, installed with production packages only, runs its commands and has its types', async t => {
  const folder = temporaryFolder(t)
  const call = async (program: string, ...args: string[]): Promise<string> => {
    // Otherwise onnxruntime-node's install script downloads the CUDA provider.
    const env = { ...process.env, NO_COLOR: '1', ONNXRUNTIME_NODE_INSTALL: 'skip' }
    const options = { cwd: folder, env, maxBuffer: 64 << 20 }
    return execute(program, args, options).then(
      ({ stdout }) => stdout,
      error => Promise.reject(new Error(`${error.message}\n${error.stdout}`)),
    )
  }
  // The tests' own build is packed: `prepare` would build again below other tests.
  await execute('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], { cwd: ROOT })
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))
  writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }')
  await call('npm', 'install', '--omit=dev', '--prefer-offline', `./xmasd-${version}.tgz`)
  // What `npx xmasd` starts; npx itself is asked once, it takes a second to find it.
  const xmasd = (...args: string[]) => call(join(folder, 'node_modules/.bin/xmasd'), ...args)
  assert.equal((await call('npx', '--no-install', 'xmasd', '--version')).trim(), version)

  await t.test('demo, fit, replay and report', async () => {
    writeFileSync(join(folder, 'xmasd.yaml'), CONFIG)
    const demo = JSON.parse(await xmasd('demo', '--examples', '250', '--path', 'data', '--json'))
    const { assigned, duplicate, redelivered, dead_letter } = demo.examples
    assert.equal(assigned + duplicate + redelivered + dead_letter, 250)
    const config = ['--config', 'xmasd.yaml']
    const lines = (await xmasd('tail', 'decisions', '--all', '--json', ...config))
      .trim()
      .split('\n')
    const made = lines.map(line => JSON.parse(line).value)
    for (const said of decisionsOfReadme()) {
      const found = made.filter(({ key, action }) => key === said.key && action === said.action)
      const rounded = found.map(one => ({ ...one, instability: round(one.instability) }))
      assert.deepEqual(rounded.at(-1), said, 'README.md shows another decision')
    }
    await xmasd('fit', '--assignments', ...config, '--clusters', '8', '--out', 'bundle')
    const replay = JSON.parse(await xmasd('replay', '--bundle', 'bundle', ...config, '--json'))
    assert.equal(replay.examples, assigned)
    await xmasd('report', ...config, '--out', 'report.html')
    const page = readFileSync(join(folder, 'report.html'), 'utf8')
    assert.match(
      page,
      new RegExp(`<p>[^<]*: \\d+ of ${assigned} examples in \\d+ clusters are kept`),
    )
    assert.match(page, /<style>[^<]{1000}/)
    assert.match(page, /<script type="module">.{10000}/s)
  })

  await t.test('--help of every command', async () => {
    const check = async (...names: string[]): Promise<void> => {
      const help = await xmasd(...names, '--help')
      assert.match(help, new RegExp(`^Usage: xmasd ${names.join(' ')}`))
      if (!help.includes('\nCommands:')) return
      for (const sub of commandsIn(help)) await check(...names, sub)
    }
    const names = commandsIn(await xmasd('--help'))
    assert.ok(names.includes('run'))
    // Two at a time: starting a process is what takes long.
    const next = async (): Promise<void> => {
      for (let name = names.pop(); name !== undefined; name = names.pop()) await check(name)
    }
    await Promise.all([next(), next()])
  })

  await t.test('types of its records compile, schemas and documentation are there', async () => {
    writeFileSync(join(folder, 'consumer.mts'), CONSUMER)
    // As a consumer on Node compiles: with Node's own types.
    const modules = join(ROOT, 'node_modules')
    const options = ['--strict', '--noEmit', '--module', 'nodenext', '--types', 'node']
    const tsc = join(modules, '.bin/tsc')
    await call(tsc, ...options, '--typeRoots', join(modules, '@types'), 'consumer.mts')
    for (const file of ['docs/operating.md', 'docs/schemas/decision.schema.json', 'LICENSE']) {
      assert.ok(existsSync(join(folder, 'node_modules/xmasd', file)), file)
    }
  })
})

const CONFIG = `
log: { path: ./data/log }
images: { root: . }
proxy: { path: node_modules/xmasd/config/demo/proxy }
bundle: node_modules/xmasd/config/demo/bundle
`

const CONSUMER = `
import { Decision } from 'xmasd'
const kept = (value: unknown): string[] => {
  const decision = Decision.parse(value)
  return decision.action === 'keep' ? [decision.key] : []
}
export const wrong = (value: unknown): string =>
  // @ts-expect-error: no decision has an action of that name.
  Decision.parse(value).action === 'kept' ? '' : String(kept(value).length)
`

/** The decisions of README.md's example, whose instability is rounded. */
function decisionsOfReadme(): { key: string; action: string }[] {
  const text = readFileSync(join(ROOT, 'README.md'), 'utf8')
  const decisions = text.match(/\{"v": 1, "key"[^}]+\}/g) ?? []
  assert.equal(decisions.length, 2)
  return decisions.map(decision => JSON.parse(decision))
}

const round = (value: number): number => Number(value.toFixed(6))

function commandsIn(help: string): string[] {
  const names = help.match(/(?<=\n {2})[a-z][\w-]*/g) ?? []
  return names.filter(name => name !== 'help')
}
