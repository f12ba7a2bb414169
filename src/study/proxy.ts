/** The proxy of a seed, trained on its pool unless one is given, and what it makes of the pool. */
import { createWriteStream, existsSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { SIGNATURES } from '../bundle/signature.ts'
import { readTrajectories, type Trajectories } from '../cluster/trajectories.ts'
import { loadConfig } from '../config.ts'
import { XmasdError } from '../errors.ts'
import { startProgress } from '../observe/progress.ts'
import { type ScoredRecord, startPipeline } from '../score/pipeline.ts'
import { evenCheckpoints, runTraining, UNFINISHED } from '../train/run.ts'
import type { Signal } from './arms.ts'
import type { TargetOptions } from './target.ts'

/** Checkpoints of a proxy trained on the spot. */
const CHECKPOINTS = 4
/** A proxy's width over its target's: about a quarter of the parameters. */
const WIDTH_SHARE = 1 / 2
const CHUNK_EXAMPLES = 256

export type PassOptions = {
  pool: readonly Uint8Array[]
  imageRoot: string
  /** Of checkpoints; trained into `folder` where it is undefined. */
  proxy: string | undefined
  target: TargetOptions
  /** Measures image gains in the reference pass. */
  gain: boolean
  seed: number
  threads: number
  /** Keeps proxy and trajectories until the seed is done. */
  folder: string
}

/** The trajectories of the whole pool under one signal, line by line; from `folder` where they are there. */
export async function passOf(signal: Signal, options: PassOptions): Promise<Trajectories> {
  const gain = options.gain && signal === 'reference'
  const file = join(options.folder, `${signal}${gain ? '-gain' : ''}.jsonl`)
  if (!existsSync(file)) {
    const proxy = options.proxy ?? (await trainedProxy(options))
    await score(signal, proxy, file, { ...options, gain })
  }
  const read = await readTrajectories(file, { signatures: SIGNATURES })
  if (read.failed === 0 && read.ids.length === options.pool.length) return read
  throw new XmasdError(
    'DATA_INVALID',
    `${read.failed} of ${options.pool.length} examples of the pool cannot be scored (${file})`,
    'The file names the error of each. Leave these examples out of --data.',
  )
}

async function trainedProxy(options: PassOptions): Promise<string> {
  const { seed, imageRoot, pool, folder } = options
  const out = join(folder, 'proxy')
  if (existsSync(out) && !existsSync(join(out, UNFINISHED))) return out
  rmSync(out, { recursive: true, force: true })
  const { shape, ...training } = options.target
  const checkpoints = evenCheckpoints(CHECKPOINTS, training)
  const small = {
    ...shape,
    width: halved(shape.width, shape.heads),
    visionWidth: shape.visionWidth / 2,
  }
  const progress = startProgress(`seed ${seed}, proxy`, training.steps)
  const run = { ...training, seed, shape: small, checkpoints, imageRoot, out }
  await runTraining(pool, run, { onStep: ({ step }) => progress.update(step) })
  progress.stop()
  return out
}

/** A width that divides into as many heads. */
function halved(width: number, heads: number): number {
  return Math.max(1, Math.round((WIDTH_SHARE * width) / (2 * heads))) * 2 * heads
}

async function score(
  signal: Signal,
  proxy: string,
  file: string,
  { pool, imageRoot, gain, seed, threads }: PassOptions,
): Promise<void> {
  const config = loadConfig(undefined, process.env, {
    'proxy.path': proxy,
    'proxy.metric': signal === 'loss' ? 'loss' : 'attention',
    'proxy.mode': signal === 'paper' ? 'paper' : 'reference',
    'proxy.gain': gain,
    'proxy.workers': 1,
    'proxy.threads': threads,
    'images.root': imageRoot,
    'score.ingestWorkers': threads,
  })
  const scoring = await startPipeline(config)
  const progress = startProgress(`seed ${seed}, ${signal} scores`, pool.length)
  const lines = async function* (): AsyncGenerator<string> {
    for (let at = 0; at < pool.length; at += CHUNK_EXAMPLES) {
      const scored = await scoring.score(pool.slice(at, at + CHUNK_EXAMPLES))
      for (const one of scored) yield `${JSON.stringify(lineOf(one))}\n`
      progress.update(at + scored.length)
    }
  }
  try {
    await pipeline(Readable.from(lines()), createWriteStream(`${file}.partial`))
    renameSync(`${file}.partial`, file)
  } finally {
    progress.stop()
    await scoring.close()
  }
}

/** As `score` writes it, but for what no arm reads. */
function lineOf(scored: ScoredRecord): object {
  if (scored.kind === 'scored') return scored
  const { code, message } = scored.error
  return { id: scored.id, error: { code, message } }
}
