/**
 * Makes the demo's proxy and bundle from nothing, with the built commands.
 *
 *   npm run demo:build -- [--examples N] [--clustered N] [--clusters K] [--out DIR] [--keep-proxy]
 *
 * It trains on N generated examples, scores others of the same kinds, and fits K clusters. The same
 * machine gives the same bytes. `--keep-proxy` makes the bundle alone, with the proxy that DIR holds. The
 * last line is one JSON object.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { openBundle, readCentroids, writeBundle } from '../src/bundle/bundle.ts'
import { demoExamples } from '../src/demo/stream.ts'
import { ROOT } from '../test/support.ts'

const { values: options } = parseArgs({
  options: {
    examples: { type: 'string', default: '3000' },
    clustered: { type: 'string', default: '3000' },
    clusters: { type: 'string', default: '40' },
    out: { type: 'string', default: join(ROOT, 'config/demo') },
    'keep-proxy': { type: 'boolean', default: false },
  },
})

/** Dense where the proxy learns fastest: question families move apart 5x more than with even spacing. */
const CHECKPOINTS = [70, 100, 150, 230, 350, 500]
const SCHEDULE = [
  ...['--steps', '500', '--joint-steps', '60', '--seed', '1'],
  ...['--checkpoints', String(CHECKPOINTS)],
]

/** Seeds of the examples; the demo's own stream has seed 1. */
const TRAIN_SEED = 1_000_001
const CLUSTER_SEED = 1_000_002

function xmasd(...args: string[]): string {
  process.stderr.write(`\n$ xmasd ${args.join(' ')}\n`)
  const ended = spawnSync(process.execPath, [join(ROOT, 'dist/main.js'), ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  if (ended.status === 0) return ended.stdout
  throw new Error(`xmasd ${args[0]} ended with ${ended.status ?? ended.signal}`)
}

async function writeExamples(file: string, seed: number, count: string): Promise<void> {
  const examples = await demoExamples(seed, Number(count))
  writeFileSync(file, examples.map(example => `${JSON.stringify(example)}\n`).join(''))
}

type TrainReport = { firstLoss: number; finalLoss: number; parameters: number; stepMs: number }

async function trainProxy(
  at: (name: string) => string,
  images: readonly string[],
): Promise<TrainReport> {
  await writeExamples(at('train.jsonl'), TRAIN_SEED, options.examples)
  const trained = ['--data', at('train.jsonl'), ...images, '--out', at('proxy'), '--json']
  const report = JSON.parse(xmasd('train', ...trained, ...SCHEDULE)) as TrainReport
  const { firstLoss, finalLoss, parameters, stepMs } = report
  return { firstLoss, finalLoss, parameters, stepMs }
}

async function main(): Promise<void> {
  const started = performance.now()
  mkdirSync(options.out, { recursive: true })
  const folder = mkdtempSync(join(tmpdir(), 'xmasd-make-demo-'))
  const at = (name: string): string => join(folder, name)
  try {
    const isKept = options['keep-proxy']
    const images = ['--images', folder]
    const report = isKept ? {} : await trainProxy(at, images)
    const proxy = isKept ? join(options.out, 'proxy') : at('proxy')
    await writeExamples(at('cluster.jsonl'), CLUSTER_SEED, options.clustered)
    const scored = ['--proxy', proxy, '--data', at('cluster.jsonl'), ...images]
    xmasd('score', ...scored, '--out', at('trajectories.jsonl'))
    const fitted = ['--clusters', options.clusters, '--seed', '1', '--out', at('fitted')]
    xmasd('fit', '--trajectories', at('trajectories.jsonl'), ...fitted)
    await writeLean(at('fitted'), at('bundle'))
    for (const name of isKept ? ['bundle'] : ['proxy', 'bundle']) {
      replace(at(name), join(options.out, name))
    }
    const seconds = (performance.now() - started) / 1000
    console.log(JSON.stringify({ ...report, seconds }))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Without members and near-duplicates: the demo's history begins with its stream, under every policy. */
async function writeLean(from: string, to: string): Promise<void> {
  const { schedule, mode, preparation, signature, baseline, radii } = (await openBundle(from))
    .manifest
  await writeBundle(to, {
    ...{ schedule, mode, signature, baseline },
    ...(preparation && { preparation }),
    ...(radii && { radii }),
    centroids: readCentroids(join(from, 'centroids.safetensors')),
  })
}

/** Replaces a folder by a copy of another. */
function replace(from: string, to: string): void {
  rmSync(to, { recursive: true, force: true })
  cpSync(from, to, { recursive: true })
}

await main()
