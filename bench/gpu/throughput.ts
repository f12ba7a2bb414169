/**
 * How fast a device scores a shape of bench:score, and PyTorch the published way on the same GPU. Both sides
 * have the same checkpoints with random weights and the same examples, each with a picture of its own.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { mkdirSync, rmSync, statfsSync } from 'node:fs'
import { join } from 'node:path'
import type { Device } from '../../src/engine/engine.ts'
import { type Child, startChild } from '../child.ts'
import { writeExamples } from '../score/examples.ts'
import { writeSchedule } from '../score/model.ts'
import { shapeOf } from '../score/shapes.ts'
import { differences, median } from '../score/sides.ts'

/** What a shape is measured with. */
export type Load = {
  shape: string
  checkpoints: number
  /** Of a round; a round before the first one warms up. */
  examples: number
  rounds: number
}

export type Throughput = Load & {
  /** The device of xmasd, or PyTorch's type and batch. */
  side: string
  /** Through all checkpoints; the median of the rounds. */
  examplesPerSecond: number
  examplesPerDay: number
  /** Tokens × checkpoints. */
  tokensPerSecond: number
  /** Of an example, the mean. */
  tokens: number
  /** Until the warm-up was scored: checkpoints read, programs compiled. */
  startSeconds: number
  /** Of all GPUs beyond what was taken before, and the mean of their use; null without nvidia-smi. */
  gpu: GpuUse | null
  /** Of xmasd's processes, or of Python. */
  hostPeakMiB: number
  /** Checkpoints that stay in memory. */
  residents?: number
  /** The largest relative difference of its scores from xmasd's, of the last round. */
  apart?: number
}

export type WrittenLoad = { load: Load; dir: string; folders: string[] }

/** Writes the checkpoints and the examples of every round below `folder`. */
export async function writeLoad(load: Load, folder: string): Promise<WrittenLoad> {
  const shape = shapeOf(load.shape)
  mkdirSync(folder, { recursive: true })
  const dir = join(folder, 'proxy')
  try {
    writeSchedule(dir, shape, load.checkpoints)
  } catch (error) {
    const { bavail, bsize } = statfsSync(folder)
    const free = `${((bavail * bsize) / 2 ** 30).toFixed(1)} GiB are free in ${folder}`
    rmSync(folder, { recursive: true })
    throw new Error(`${free}; --work or --checkpoints may help`, { cause: error })
  }
  const folders = Array.from({ length: load.rounds + 1 }, (_, i) => join(folder, `round-${i}`))
  for (const [seed, at] of folders.entries()) {
    await writeExamples(at, shape, { count: load.examples, share: 1, seed })
  }
  return { load, dir, folders }
}

/** [example][checkpoint][5] singular values */
type Values = number[][][]
type Answer = { seconds: number; tokens: number; top5: Values; residents?: number }

/** `tokensMax`: of a pass, instead of the default. */
export async function measureOurs(
  { load, dir, folders }: WrittenLoad,
  device: Device,
  { runner, tokensMax }: { runner: string; tokensMax: number | undefined },
): Promise<{ row: Throughput; values: Values }> {
  const limits = tokensMax === undefined ? {} : { limits: { tokensMax, examplesMax: 64 } }
  const settings = { proxyDir: dir, shape: load.shape, device, workers: 1, ...limits }
  const args = [join(runner, 'score-child.js'), JSON.stringify(settings)]
  const side = tokensMax === undefined ? device : `${device}, passes of ${tokensMax}`
  return measured(side, load, folders, startChild(process.execPath, args), (child, folder) =>
    child.ask<Answer>({ folder }),
  )
}

export type TorchWish = {
  python: string
  runner: string
  device: 'cuda' | 'cpu'
  dtype: string
  batch: number
}

/**
 * One round, checkpoint by checkpoint, the faster way of attention. Loading does not count; the warm-up is of
 * one checkpoint.
 */
export async function measureTorch(
  { load, dir, folders }: WrittenLoad,
  { python, runner, device, dtype, batch }: TorchWish,
): Promise<{ row: Throughput; values: Values }> {
  const start = startChild(python, [join(runner, 'reference.py'), '4'])
  let attention: string | undefined
  let checkpoints = 1
  const ask = async (child: Child, folder: string): Promise<Answer> => {
    const sum: Answer = { seconds: 0, tokens: 0, top5: [] }
    for (let t = 1; t <= checkpoints; t++) {
      await child.ask({ do: 'load', checkpoint: join(dir, `checkpoint-${t}`), device, dtype })
      const score = (attention: string) =>
        child.ask<{ seconds: number; tokens: number; top5: number[][] }>({
          ...{ do: 'score', folder, examples: load.examples, attention, batch },
        })
      attention ??= await faster(score)
      const { seconds, tokens, top5 } = await score(attention)
      sum.seconds += seconds
      sum.tokens = tokens
      for (const [i, row] of top5.entries()) {
        sum.top5[i] ??= []
        sum.top5[i].push(row)
      }
    }
    checkpoints = load.checkpoints
    return sum
  }
  const twice = [folders[0]!, folders.at(-1)!]
  return measured(`PyTorch ${dtype}, batch ${batch}`, { ...load, rounds: 1 }, twice, start, ask)
}

/** Each way twice: the first run warms up. */
async function faster(score: (attention: string) => Promise<{ seconds: number }>): Promise<string> {
  const tried: [seconds: number, attention: string][] = []
  for (const attention of ['eager', 'sdpa']) {
    await score(attention)
    tried.push([(await score(attention)).seconds, attention])
  }
  return tried.sort(([a], [b]) => a - b)[0]![1]
}

async function measured(
  side: string,
  load: Load,
  [warmUp, ...rounds]: readonly string[],
  child: Child,
  ask: (child: Child, folder: string) => Promise<Answer>,
): Promise<{ row: Throughput; values: Values }> {
  const gpu = watchGpu()
  const started = performance.now()
  try {
    await ask(child, warmUp!)
    const startSeconds = digits((performance.now() - started) / 1000)
    const answers: Answer[] = []
    for (const folder of rounds) answers.push(await ask(child, folder))
    const seconds = median(answers.map(answer => answer.seconds))
    const { tokens, top5, residents } = answers.at(-1)!
    const examplesPerSecond = load.examples / seconds
    const row = {
      ...load,
      side,
      examplesPerSecond: digits(examplesPerSecond),
      examplesPerDay: Math.round(86_400 * examplesPerSecond),
      tokensPerSecond: Math.round((tokens * load.checkpoints) / seconds),
      tokens: Math.round(tokens / load.examples),
      startSeconds,
      gpu: gpu.use(),
      hostPeakMiB: Math.round(child.peakBytes() / 2 ** 20),
      ...(residents !== undefined && { residents }),
    }
    return { row, values: top5 }
  } finally {
    gpu.stop()
    await child.end()
  }
}

/** Relative, of a score. */
export function apartOf(ours: Values, theirs: Values): number {
  return digits(differences(ours, theirs).trajectory)
}

function digits(value: number): number {
  return Number(value.toPrecision(3))
}

export type GpuUse = { peakMiB: number; busyPercent: number }
type Watch = { use(): GpuUse | null; stop(): void }

const SAMPLE_MS = 200

/** What nvidia-smi says five times a second from now on. */
function watchGpu(): Watch {
  const query = '--query-gpu=memory.used,utilization.gpu'
  const args = [query, '--format=csv,noheader,nounits', '-lms', String(SAMPLE_MS)]
  const smi: ChildProcess = spawn('nvidia-smi', args, { stdio: ['ignore', 'pipe', 'ignore'] })
  const samples: [memory: number, busy: number][] = []
  smi.on('error', () => {}) // it is not installed
  smi.stdout?.setEncoding('utf8').on('data', (text: string) => {
    for (const line of text.split('\n')) {
      const [memory, busy] = line.split(',').map(Number)
      if (busy !== undefined && Number.isFinite(memory! + busy)) samples.push([memory!, busy])
    }
  })
  return {
    use: () => {
      if (samples.length === 0) return null
      const memory = samples.map(([mebibytes]) => mebibytes)
      const busy = samples.reduce((sum, [, percent]) => sum + percent, 0) / samples.length
      return { peakMiB: Math.max(...memory) - memory[0]!, busyPercent: Math.round(busy) }
    },
    stop: () => void smi.kill(),
  }
}
