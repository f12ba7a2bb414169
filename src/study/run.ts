/**
 * Runs a study: seed after seed, every arm at every percent. Each run is one line of a file; a study that
 * was stopped goes on behind the last whole line.
 */
import { appendFileSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { prepareTensorflow } from '../engine/tensorflow/backend.ts'
import { startProgress } from '../observe/progress.ts'
import {
  type Arm,
  CONTROLS,
  checkLabels,
  type Pool,
  parseArm,
  readsGain,
  selectArm,
  signalsOf,
} from './arms.ts'
import type { Labels, StudyData } from './data.ts'
import {
  checkSelected,
  checkSizes,
  findRun,
  type Plan,
  type Planned,
  plannedOf,
  planOf,
} from './plan.ts'
import { type PassOptions, passOf } from './proxy.ts'
import { checkSettings, RUNS_FILE, type Run, readRuns, SETTINGS_FILE } from './runs.ts'
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
  /** Told before the first run. */
  onPlan?: (plan: Plan) => void
  /** Told before each run. */
  onRun?: (run: Pick<Run, 'seed' | 'arm' | 'percent'>, done: number, total: number) => void
  /** Ends the study before a run; the next call goes on. */
  isOver?: () => boolean
}

/**
 * All runs that are asked for, those of earlier calls included. Throws CONFIG_INVALID for an unknown arm,
 * DATA_INVALID where `out` has runs of other settings or an arm selects nothing, and as its parts throw.
 */
export async function runStudy(options: StudyOptions): Promise<Run[]> {
  const { data, seeds, out, isOver } = options
  const arms = [...new Set([...CONTROLS, ...options.arms])].map(parseArm)
  const settings = settingsOf(options)
  const digest = digestOf(settings)
  mkdirSync(out, { recursive: true })
  const file = join(out, RUNS_FILE)
  const known = readRuns(file)
  checkSettings(known, { file, about: join(out, SETTINGS_FILE), digest, settings })
  prepareTensorflow({ threads: options.threads })
  const planned = seeds.flatMap(seed => plannedOf(seed, arms, options.percents))
  const ahead = planned.filter(one => findRun(known, one) === undefined)
  let done = planned.length - ahead.length
  let isPlanned = false
  for (const seed of seeds) {
    const missing = ahead.filter(one => one.seed === seed)
    if (missing.length === 0) continue
    if (isOver?.()) break
    const folder = join(out, `seed-${seed}`)
    mkdirSync(folder, { recursive: true })
    const work = await prepareSeed(seed, arms, folder, options)
    if (!isPlanned) {
      options.onPlan?.(await planOf(work.prepared, { ...options, planned, missing: ahead }))
      isPlanned = true
    }
    for (const one of missing) {
      if (isOver?.()) return known
      options.onRun?.({ ...one, arm: one.arm.name }, done++, planned.length)
      const found = await run(one, work, options)
      const line: Run = { v: 1, settings: digest, data: data.name, ...found }
      appendFileSync(file, `${JSON.stringify(line)}\n`)
      known.push(line)
    }
    rmSync(folder, { recursive: true, force: true })
  }
  return known
}

type SeedWork = { prepared: Prepared; labels: readonly Labels[]; passes: PassOptions; pool: Pool }

async function prepareSeed(
  seed: number,
  arms: readonly Arm[],
  folder: string,
  { data, percents, target, proxy, clusters, threads }: StudyOptions,
): Promise<SeedWork> {
  const { imageRoot } = data
  const prepared = await prepareParts(await data.partsOf(seed), target.shape, data)
  const { labels, values } = prepared.pool
  checkLabels(arms, labels)
  checkSizes(percents, labels.length)
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
  checkSelected({ seed, arm, percent }, selected.length)
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
function settingsOf({ data, target, proxy, clusters }: StudyOptions): object {
  return { data: data.name, target, proxy, clusters, parts: data.parts }
}
