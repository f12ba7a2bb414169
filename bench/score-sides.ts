/** The sides of bench:score. Each scores the same examples in its own process. */
import { join } from 'node:path'
import { type Child, startChild } from './child.ts'

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
  /** Scores the examples in `folder`, all or the first ones. */
  score(set: ExampleSet, folder: string): Promise<Values>
  peakBytes(): number
  end(): Promise<void>
}

type Run = { seconds: number; cpuSeconds: number; values: Values }

function sideOf(name: string, child: Child, score: (folder: string) => Promise<Run>): Side {
  const seconds: Side['seconds'] = { distinct: [], shared: [] }
  const cpuSeconds: Side['cpuSeconds'] = { distinct: [], shared: [] }
  return {
    name,
    seconds,
    cpuSeconds,
    score: async (set, folder) => {
      const { values, ...spent } = await score(folder)
      const times = values.length * values[0]!.length
      seconds[set].push(spent.seconds / times)
      cpuSeconds[set].push(spent.cpuSeconds / times)
      return values
    },
    peakBytes: () => child.peakBytes(),
    end: () => child.end(),
  }
}

/** `settings` are ScoringOptions. */
export function startOurs(name: string, script: string, settings: object): Side {
  const child = startChild(process.execPath, [script, JSON.stringify(settings)])
  return sideOf(name, child, async folder => {
    const { top5, ...spent } = await child.ask<Omit<Run, 'values'> & { top5: Values }>({ folder })
    return { ...spent, values: top5 }
  })
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
  const { python, script, threads, proxyDir, checkpoints } = options
  const child = startChild(python, [script, String(threads)])
  const examples = Array.from({ length: options.examples }, (_, i) => i)
  const load = (t: number): Promise<unknown> =>
    child.ask({ do: 'load', checkpoint: join(proxyDir, `checkpoint-${t + 1}`) })
  const scoreOne = (folder: string, attention: string) =>
    child.ask<{ seconds: number; cpuSeconds: number; top5: number[][] }>({
      ...{ do: 'score', folder, examples, batch: 1, attention },
    })
  const tried: Record<string, number> = { eager: Number.MAX_VALUE, sdpa: Number.MAX_VALUE }
  await load(0)
  for (let pass = 0; pass < 3; pass++) {
    for (const [attention, best] of Object.entries(tried)) {
      const { seconds } = await scoreOne(warmUpFolder, attention)
      tried[attention] = Math.min(best, seconds / examples.length)
    }
  }
  const attention = tried.eager! < tried.sdpa! ? 'eager' : 'sdpa'
  const side = sideOf(`reference`, child, async folder => {
    let [seconds, cpuSeconds] = [0, 0]
    const values: Values = examples.map(() => [])
    for (let t = 0; t < checkpoints; t++) {
      await load(t)
      const scored = await scoreOne(folder, attention)
      seconds += scored.seconds
      cpuSeconds += scored.cpuSeconds
      for (const [i, row] of scored.top5.entries()) values[i]!.push(row)
    }
    return { seconds, cpuSeconds, values }
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
