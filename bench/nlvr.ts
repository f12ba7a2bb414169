/**
 * The whole job on real pictures (NLVR, Suhr et al. 2017), with the built commands only.
 *
 *   npm run bench:nlvr -- [--data DIR] [--train N] [--clusters K] [--percent P] [--steps N] [--keep DIR]
 *
 * It trains a small proxy on the first N examples, scores them, fits K clusters, produces the others,
 * runs the daemon, and compares its export with `select` on offline trajectories. `DIR` has data.jsonl
 * and the images. The last line is one JSON object.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { ROOT } from '../test/support.ts'

const { values: options } = parseArgs({
  options: {
    data: { type: 'string', default: resolve(ROOT, '../shared/data/nlvr') },
    train: { type: 'string', default: '600' },
    clusters: { type: 'string', default: '40' },
    percent: { type: 'string', default: '20' },
    steps: { type: 'string' },
    keep: { type: 'string' },
  },
})

const folder = options.keep ?? mkdtempSync(join(tmpdir(), 'xmasd-nlvr-'))
const at = (name: string): string => join(folder, name)
const seconds: Record<string, number> = {}

function xmasd(...args: string[]): string {
  const started = performance.now()
  process.stderr.write(`\n$ xmasd ${args.join(' ')}\n`)
  const ended = spawnSync(process.execPath, [join(ROOT, 'dist/main.js'), ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  if (ended.status !== 0)
    throw new Error(`xmasd ${args[0]} ended with ${ended.status ?? ended.signal}`)
  process.stderr.write(ended.stdout)
  seconds[args[0]!] = (seconds[args[0]!] ?? 0) + (performance.now() - started) / 1000
  return ended.stdout
}

function split(): { first: string[]; rest: string[] } {
  const lines = readFileSync(join(options.data, 'data.jsonl'), 'utf8').trimEnd().split('\n')
  const count = Number(options.train)
  writeFileSync(at('first.jsonl'), `${lines.slice(0, count).join('\n')}\n`)
  writeFileSync(at('rest.jsonl'), `${lines.slice(count).join('\n')}\n`)
  return { first: lines.slice(0, count), rest: lines.slice(count) }
}

function writeConfig(): void {
  const lines = [
    'log: { path: ./log }',
    `images: { root: ${resolve(options.data)} }`,
    'proxy: { path: ./proxy }',
    'bundle: ./bundle',
    `select: { percent: ${options.percent} }`,
    'http: { enabled: false }',
    'logging: { level: warn }',
  ]
  writeFileSync(at('xmasd.yaml'), `${lines.join('\n')}\n`)
}

function keysOf(file: string): Set<string> {
  return new Set(JSON.parse(readFileSync(file, 'utf8')) as string[])
}

function main(): void {
  const { first, rest } = split()
  const images = ['--images', options.data]
  const steps = options.steps === undefined ? [] : ['--steps', options.steps]
  xmasd('train', '--data', at('first.jsonl'), ...images, '--out', at('proxy'), ...steps)
  const scored = ['--proxy', at('proxy'), ...images]
  xmasd('score', ...scored, '--data', at('first.jsonl'), '--out', at('first.trajectories.jsonl'))
  const fitted = ['--clusters', options.clusters, '--out', at('bundle')]
  xmasd('fit', '--trajectories', at('first.trajectories.jsonl'), ...fitted)
  writeConfig()
  const config = ['--config', at('xmasd.yaml')]
  xmasd('produce', '--data', at('rest.jsonl'), ...images, ...config)
  const summary = JSON.parse(xmasd('run', ...config, '--until-idle', '--json'))
  xmasd('export', ...config, '--out', at('exported.json'))
  xmasd('score', ...scored, '--data', at('rest.jsonl'), '--out', at('rest.trajectories.jsonl'))
  const bundle = ['--bundle', at('bundle'), '--percent', options.percent]
  const trajectories = ['--trajectories', at('rest.trajectories.jsonl')]
  xmasd('select', ...trajectories, ...bundle, '--out', at('selected.json'))
  const [exported, selected] = [keysOf(at('exported.json')), keysOf(at('selected.json'))]
  const differing = [...exported, ...selected].filter(
    key => !(exported.has(key) && selected.has(key)),
  )
  const report = {
    trained: first.length,
    produced: rest.length,
    summary,
    exported: exported.size,
    selected: selected.size,
    differing: differing.length,
    runExamplesPerSecond: rest.length / seconds.run!,
    seconds,
  }
  if (options.keep === undefined) rmSync(folder, { recursive: true, force: true })
  process.stdout.write(`${JSON.stringify(report)}\n`)
  if (differing.length > 0) process.exitCode = 1
}

main()
