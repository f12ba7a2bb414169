/** The sides of bench:score. Each scores the same examples in its own process. */
import { join } from 'node:path'
import { type Child, startChild } from '../child.ts'

/** Examples with distinct images, and examples whose neighbours share one. */
export const SETS = ['distinct', 'shared'] as const
export type ExampleSet = (typeof SETS)[number]

/** [example][checkpoint][5] singular values */
type Values = number[][][]

export type Side = {
  name: string
  /** Seconds an example and checkpoint, of each round. */
  seconds: Record<ExampleSet, number[]>
  /** The same of CPU time, all threads together: what a busy machine leaves comparable at one thread. */
  cpuSeconds: Record<ExampleSet, number[]>
  /** Tokens of an example, the mean of each round. */
  tokens: Record<ExampleSet, number[]>
  /** What else a run told last. */
  told: Partial<Record<ExampleSet, Told>>
  /** Checkpoints that it scores. */
  checkpoints: number
  /** Scores the examples in `folder`, all or the first ones. */
  score(set: ExampleSet, folder: string): Promise<Values>
  /** Seconds that reading a checkpoint again takes, on xmasd's side. */
  openSeconds?(folder: string): Promise<number>
  peakBytes(): number
  end(): Promise<void>
}

/** How many times xmasd's matrix products the published way computes, of the shape and of the whole model. */
export type Told = { saved: number; savedWhole: number }

type Run = { seconds: number; cpuSeconds: number; tokens: number; values: Values; told?: Told }

function sideOf(name: string, child: Child, score: (folder: string) => Promise<Run>): Side {
  const side: Side = {
    name,
    seconds: { distinct: [], shared: [] },
    cpuSeconds: { distinct: [], shared: [] },
    tokens: { distinct: [], shared: [] },
    told: {},
    checkpoints: 0,
    score: async (set, folder) => {
      const { values, seconds, cpuSeconds, tokens, told } = await score(folder)
      side.checkpoints = values[0]!.length
      const times = values.length * side.checkpoints
      side.seconds[set].push(seconds / times)
      side.cpuSeconds[set].push(cpuSeconds / times)
      side.tokens[set].push(tokens / values.length)
      if (told !== undefined) side.told[set] = told
      return values
    },
    peakBytes: () => child.peakBytes(),
    end: () => child.end(),
  }
  return side
}

/** Forgets what was measured so far: the warm-up. */
export function startAgain({ seconds, cpuSeconds, tokens }: Side): void {
  for (const measured of [seconds, cpuSeconds, tokens]) {
    for (const set of SETS) measured[set].length = 0
  }
}

/** `settings` are the child's: ScoringOptions and the name of the shape. */
export function startOurs(name: string, script: string, settings: object): Side {
  const child = startChild(process.execPath, [script, JSON.stringify(settings)])
  const side = sideOf(name, child, async folder => {
    const { top5, saved, savedWhole, ...spent } = await child.ask<
      Omit<Run, 'values' | 'told'> & Told & { top5: Values }
    >({ folder })
    return { ...spent, values: top5, told: { saved, savedWhole } }
  })
  side.openSeconds = async folder =>
    (await child.ask<{ openSeconds: number }>({ folder, opening: true })).openSeconds
  return side
}

export type ReferenceOptions = {
  python: string
  script: string
  threads: number
  proxyDir: string
  checkpoints: number
  /** How many examples of a set it scores: the first ones. */
  examples: number
}

/** `tried`: seconds an example at a checkpoint, for each way of running attention. */
export async function startReference(
  options: ReferenceOptions,
  warmUpFolder: string,
): Promise<{ side: Side; tried: Record<string, number> }> {
  const { python, script, threads, proxyDir, checkpoints, examples } = options
  const child = startChild(python, [script, String(threads)])
  const load = (t: number): Promise<unknown> =>
    child.ask({ do: 'load', checkpoint: join(proxyDir, `checkpoint-${t + 1}`) })
  const scoreSome = (folder: string, attention: string) =>
    child.ask<{ seconds: number; cpuSeconds: number; tokens: number; top5: number[][] }>({
      ...{ do: 'score', folder, examples, attention },
    })
  const tried: Record<string, number> = { eager: Number.MAX_VALUE, sdpa: Number.MAX_VALUE }
  await load(0)
  for (let pass = 0; pass < 3; pass++) {
    for (const [attention, best] of Object.entries(tried)) {
      const { seconds } = await scoreSome(warmUpFolder, attention)
      tried[attention] = Math.min(best, seconds / examples)
    }
  }
  const attention = tried.eager! < tried.sdpa! ? 'eager' : 'sdpa'
  const side = sideOf(`reference`, child, async folder => {
    const run: Run = { seconds: 0, cpuSeconds: 0, tokens: 0, values: [] }
    for (let t = 0; t < checkpoints; t++) {
      await load(t)
      const scored = await scoreSome(folder, attention)
      run.seconds += scored.seconds
      run.cpuSeconds += scored.cpuSeconds
      run.tokens = scored.tokens
      for (const [i, row] of scored.top5.entries()) {
        run.values[i] ??= []
        run.values[i].push(row)
      }
    }
    return run
  })
  return { side, tried }
}

/** The largest difference of `a` from `b`: of a score, and of a singular value relative to the first of its five. */
export function differences(a: Values, b: Values): { trajectory: number; value: number } {
  let [trajectory, value] = [0, 0]
  for (const [i, rows] of b.entries()) {
    for (const [t, row] of rows.entries()) {
      const own = a[i]![t]!
      const [left, right] = [sum(own), sum(row)]
      trajectory = Math.max(trajectory, Math.abs(left - right) / right)
      for (const [k, one] of row.entries()) {
        value = Math.max(value, Math.abs(own[k]! - one) / row[0]!)
      }
    }
  }
  return { trajectory, value }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}
