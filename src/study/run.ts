/**
 * Runs a study: seed after seed, every arm at every percent. Each run is one line of a file; a study that
 * was stopped goes on behind the last whole line.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { prepareTensorflow } from '../engine/tensorflow/backend.ts'
import { messageOf, XmasdError } from '../errors.ts'
import { startProgress } from '../observe/progress.ts'
import {
  type Arm,
  checkLabels,
  type Pool,
  parseArm,
  readsGain,
  selectArm,
  signalsOf,
} from './arms.ts'
import type { Labels, StudyData } from './data.ts'
import { type PassOptions, passOf } from './proxy.ts'
import { digestOf, type Prepared, prepareParts, type TargetOptions, targetOn } from './target.ts'

export type StudyOptions = {
  data: StudyData
  /** Names; `full` and `random` are always run. */
  arms: readonly string[]
  percents: readonly number[]
  seeds: readonly number[]
  target: TargetOptions
  proxy: string | undefined
  clusters: number | undefined
  threads: number
  /** Holds `runs.jsonl`, and a folder for the seed at work. */
  out: string
  /** Told before each run. */
  onRun?: (run: Pick<Run, 'seed' | 'arm' | 'percent'>, done: number, total: number) => void
  /** Ends the study before a run; the next call goes on. */
  isOver?: () => boolean
}

const Share = z.number()
const Family = z.strictObject({ examples: z.int(), exact: Share, tokens: Share, loss: Share })
const RunLine = z.strictObject({
  v: z.literal(1),
  /** What targets, proxy and data are: lines of one file agree. */
  settings: z.string(),
  data: z.string(),
  seed: z.int(),
  arm: z.string(),
  percent: z.number(),
  /** Examples to select from, and selected. */
  pool: z.int(),
  selected: z.int(),
  /** Of the selected examples, how many have which `fault`. */
  faults: z.record(z.string(), z.int()),
  /** Results on the held-out examples by `source`. */
  families: z.record(z.string(), Family),
  seconds: z.number(),
})
export type Run = z.infer<typeof RunLine>

export const RUNS_FILE = 'runs.jsonl'

/**
 * All runs that are asked for, those of earlier calls included. Throws CONFIG_INVALID for an unknown arm,
 * DATA_INVALID where `out` has runs of other settings, and as its parts throw.
 */
export async function runStudy(options: StudyOptions): Promise<Run[]> {
  const { data, seeds, out, isOver } = options
  const arms = [...new Set(['full', 'random', ...options.arms])].map(parseArm)
  const settings = settingsOf(options)
  mkdirSync(out, { recursive: true })
  const file = join(out, RUNS_FILE)
  const known = readRuns(file)
  checkSettings(known, file, settings)
  prepareTensorflow({ threads: options.threads })
  const planned = seeds.flatMap(seed => plannedOf(seed, arms, options.percents))
  let done = planned.filter(one => findRun(known, one) !== undefined).length
  for (const seed of seeds) {
    const missing = planned.filter(one => one.seed === seed && findRun(known, one) === undefined)
    if (missing.length === 0) continue
    if (isOver?.()) break
    const folder = join(out, `seed-${seed}`)
    mkdirSync(folder, { recursive: true })
    const work = await prepareSeed(seed, arms, folder, options)
    for (const one of missing) {
      if (isOver?.()) return known
      options.onRun?.({ ...one, arm: one.arm.name }, done++, planned.length)
      const found = await run(one, work, options)
      const line: Run = { v: 1, settings, data: data.name, ...found }
      appendFileSync(file, `${JSON.stringify(line)}\n`)
      known.push(line)
    }
    rmSync(folder, { recursive: true, force: true })
  }
  return known
}

type Planned = { seed: number; arm: Arm; percent: number }

/** `full` once; the cheapest comparison first. */
function plannedOf(seed: number, arms: readonly Arm[], percents: readonly number[]): Planned[] {
  return percents.flatMap((percent, i) =>
    arms
      .filter(({ base }) => base !== 'full' || i === 0)
      .map(arm => ({ seed, arm, percent: arm.base === 'full' ? 100 : percent })),
  )
}

function findRun(runs: readonly Run[], { seed, arm, percent }: Planned): Run | undefined {
  return runs.find(one => one.seed === seed && one.arm === arm.name && one.percent === percent)
}

type SeedWork = { prepared: Prepared; labels: readonly Labels[]; passes: PassOptions; pool: Pool }

async function prepareSeed(
  seed: number,
  arms: readonly Arm[],
  folder: string,
  { data, target, proxy, clusters, threads }: StudyOptions,
): Promise<SeedWork> {
  const { imageRoot } = data
  const prepared = await prepareParts(await data.partsOf(seed), target.shape, imageRoot)
  const { labels, values } = prepared.pool
  checkLabels(arms, labels)
  const gain = arms.some(readsGain)
  const passes = { pool: values, imageRoot, proxy, target, gain, seed, threads, folder }
  const pool = { labels, passes: new Map(), clusters, seed }
  return { prepared, labels, passes, pool }
}

async function run(
  { seed, arm, percent }: Planned,
  work: SeedWork,
  { target }: StudyOptions,
): Promise<Omit<Run, 'v' | 'settings' | 'data'>> {
  const { prepared, labels } = work
  const selected = selectArm(await withPasses(work, arm), arm, percent)
  const started = process.cpuUsage()
  const progress = startProgress(`seed ${seed}, ${arm.name} at ${percent} %`, target.steps)
  const onStep = (step: number): void => progress.update(step)
  const families = await targetOn(prepared, selected, { ...target, seed, onStep })
  progress.stop()
  const faults: Record<string, number> = {}
  for (const i of selected) {
    const { fault } = labels[i]!
    if (fault !== undefined) faults[fault] = (faults[fault] ?? 0) + 1
  }
  const { user, system } = process.cpuUsage(started)
  const seconds = Math.round((user + system) / 1e5) / 10
  const size = { pool: labels.length, selected: selected.length }
  return { seed, arm: arm.name, percent, ...size, faults, families, seconds }
}

/** The pool with the passes that the arm needs. */
async function withPasses({ pool, passes }: SeedWork, arm: Arm): Promise<Pool> {
  const read = new Map(pool.passes)
  for (const signal of signalsOf(arm)) {
    if (!read.has(signal)) read.set(signal, await passOf(signal, passes))
  }
  pool.passes = read
  return pool
}

/** Arms, percents and seeds may grow from call to call; all else must stay. */
function settingsOf({ data, target, proxy, clusters }: StudyOptions): string {
  return digestOf({ data: data.name, target, proxy, clusters })
}

/** The runs of a file, which may not exist. A last line that was not written whole is removed. */
export function readRuns(file: string): Run[] {
  if (!existsSync(file)) return []
  const lines = readFileSync(file, 'utf8').split('\n')
  const rest = lines.pop()
  if (rest !== '') writeFileSync(file, lines.map(line => `${line}\n`).join(''))
  return lines.map((line, i) => {
    try {
      return RunLine.parse(JSON.parse(line))
    } catch (error) {
      const message = `${file}, line ${i + 1} is no run of a study: ${messageOf(error)}`
      throw new XmasdError('DATA_INVALID', message, 'Name another --out folder.')
    }
  })
}

function checkSettings(runs: readonly Run[], file: string, settings: string): void {
  const other = runs.find(run => run.settings !== settings)
  if (other === undefined) return
  throw new XmasdError(
    'DATA_INVALID',
    `${file} has runs of other settings (${other.settings}, now ${settings})`,
    'Go on with the options of the first call; only arms, percents and seeds may change. Or name another --out.',
  )
}
