/** What a study is going to run, checked and priced before its first run. */
import { XmasdError } from '../errors.ts'
import { budgetRule } from '../select/rule/quotas.ts'
import { estimateSeconds } from '../train/run.ts'
import { initialParameters } from '../train/shape.ts'
import { evaluate } from '../train/train.ts'
import { type Arm, signalsOf } from './arms.ts'
import type { Run } from './runs.ts'
import { EVALUATED, type Prepared, type TargetOptions } from './target.ts'

export type Planned = { seed: number; arm: Arm; percent: number }

/** What lies ahead of a call. `seconds` follows from timed steps; undefined for runs of a few steps. */
export type Plan = {
  runs: number
  /** Runs of earlier calls. */
  done: number
  /** Proxies that are trained on the way. */
  proxies: number
  /** Examples of the first seed. */
  pool: number
  heldOut: number
  seconds: number | undefined
}

/** Every arm at every percent; `full` once; the cheapest comparison first. */
export function plannedOf(
  seed: number,
  arms: readonly Arm[],
  percents: readonly number[],
): Planned[] {
  return percents.flatMap((percent, i) =>
    arms
      .filter(({ base }) => base !== 'full' || i === 0)
      .map(arm => ({ seed, arm, percent: arm.base === 'full' ? 100 : percent })),
  )
}

export function findRun(runs: readonly Run[], { seed, arm, percent }: Planned): Run | undefined {
  return runs.find(one => one.seed === seed && one.arm === arm.name && one.percent === percent)
}

/** Throws CONFIG_INVALID where a subset of one of these sizes would hold no example. */
export function checkSizes(percents: readonly number[], pool: number): void {
  const none = percents.find(percent => budgetRule(percent)(pool) < 1)
  if (none === undefined) return
  throw new XmasdError(
    'CONFIG_INVALID',
    `${none} % of a pool of ${pool} examples is no example`,
    `Give more examples, or --percents of at least ${Math.ceil(1000 / pool) / 10}.`,
  )
}

/** Throws DATA_INVALID where an arm leaves nothing to train on. */
export function checkSelected({ arm, percent }: Planned, selected: number): void {
  if (selected > 0) return
  throw new XmasdError(
    'DATA_INVALID',
    `arm ${arm.name} at ${percent} % selects no example`,
    'Leave it out of --arms: its modifiers leave out every example, or its clusters are too small.',
  )
}

/** `missing` are the planned runs that are not made yet; without a `proxy` some are trained. */
export type PlanOptions = {
  planned: readonly Planned[]
  missing: readonly Planned[]
  target: TargetOptions
  proxy: string | undefined
}

/** Times a few steps, and the answers to some held-out examples. */
export async function planOf(
  { pool, heldOut, config }: Prepared,
  { planned, missing, target, proxy }: PlanOptions,
): Promise<Plan> {
  const scoring = missing.filter(({ arm }) => signalsOf(arm).length > 0)
  const proxies = proxy === undefined ? new Set(scoring.map(({ seed }) => seed)).size : 0
  const counts = { runs: planned.length, done: planned.length - missing.length, proxies }
  const sizes = { pool: pool.samples.length, heldOut: heldOut.samples.length }
  const training = await estimateSeconds(pool.samples, config, { ...target, seed: 1 })
  if (training === undefined) return { ...counts, ...sizes, seconds: undefined }
  const parameters = initialParameters(config, 1)
  const some = heldOut.samples.slice(0, EVALUATED)
  const started = performance.now()
  await evaluate(some, config, parameters, EVALUATED)
  const each = (performance.now() - started) / 1000 / some.length
  const trainings = missing.length + proxies
  return {
    ...counts,
    ...sizes,
    seconds: trainings * training + missing.length * heldOut.samples.length * each,
  }
}
