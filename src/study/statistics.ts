/**
 * What the runs of a study say. Relative performance: 100 × the mean over families of a target's result
 * over that of targets trained on everything. Arms are compared with `random` seed by seed.
 */
import { seededRandom } from '../math/random.ts'
import type { Run } from './runs.ts'

/** Which result counts; of the loss less is better. */
export const MEASURES = ['exact', 'tokens', 'loss'] as const
export type Measure = (typeof MEASURES)[number]

export type Interval = { mean: number; low: number; high: number }
export type Verdict = 'pays' | 'does not pay' | 'not enough seeds to tell'

export type Cell = {
  arm: string
  percent: number
  seeds: number
  /** Examples selected, the mean over seeds. */
  selected: number
  /** Relative performance with its 95 % interval. */
  relative: Interval
  /** Over `random` at the same percent, in points of relative performance; undefined for `random`, `full`. */
  difference?:
    | (Interval & { seeds: number; verdict: Verdict; seedsWanted: number | undefined })
    | undefined
}

export type Judgement = {
  measure: Measure
  /** Points of relative performance that are worth a selection. */
  worth: number
  cells: Cell[]
  /** What speaks against reading anything from these runs. */
  caution?: string | undefined
}

export type JudgeOptions = { measure: Measure; worth: number }

const CONTROL = 'random'
const WHOLE = 'full'

/** One cell an arm and percent, in the order of the runs. */
export function judge(runs: readonly Run[], { measure, worth }: JudgeOptions): Judgement {
  const relativeOf = relativeTo(runs, measure)
  const names = [...new Set(runs.map(({ arm, percent }) => JSON.stringify([arm, percent])))]
  const cells = names.map((name): Cell => {
    const [arm, percent] = JSON.parse(name) as [string, number]
    const own = runs.filter(run => run.arm === arm && run.percent === percent)
    const values = own.map(relativeOf)
    const selected = Math.round(own.reduce((sum, run) => sum + run.selected, 0) / own.length)
    const cell = { arm, percent, seeds: own.length, selected, relative: intervalOf(values) }
    if (arm === WHOLE || arm === CONTROL) return cell
    const differences = own.flatMap((run, i) => {
      const other = runs.find(
        one => one.arm === CONTROL && one.percent === percent && one.seed === run.seed,
      )
      return other === undefined ? [] : [values[i]! - relativeOf(other)]
    })
    return {
      ...cell,
      difference: differences.length === 0 ? undefined : compared(differences, worth),
    }
  })
  const caution = measure === 'exact' ? cautionOf(runs) : undefined
  return { measure, worth, cells: cells.sort((a, b) => a.percent - b.percent), caution }
}

/** Standard errors above the share of the most frequent answers, below which nothing was learned. */
const LEARNED_ERRORS_MIN = 2

/**
 * A sentence where targets trained on everything answer some, but no better than one answer for all. Then
 * differences between subsets are chance, or differences of how often the answers occur in them.
 */
function cautionOf(runs: readonly Run[]): string | undefined {
  const whole = runs.filter(({ arm }) => arm === WHOLE).flatMap(run => Object.values(run.families))
  const known = whole.filter(({ common }) => common !== undefined)
  const examples = known.reduce((sum, one) => sum + one.examples, 0)
  if (examples === 0) return undefined
  const over = (share: (family: (typeof known)[number]) => number): number =>
    known.reduce((sum, one) => sum + one.examples * share(one), 0) / examples
  const [exact, common] = [over(one => one.exact), over(one => one.common ?? 0)]
  const error = Math.sqrt((common * (1 - common)) / examples)
  if (exact === 0 || exact > common + LEARNED_ERRORS_MIN * error) return undefined
  const [own, constant] = [exact, common].map(share => `${(100 * share).toFixed(1)} %`)
  return `Targets trained on everything give ${own} of the held-out answers exactly; the most frequent answer alone gives ${constant}. They learned nothing that a subset could keep: raise --steps, or give more examples, before you read anything from this.`
}

/** Families in which targets trained on everything answer nothing are left out. */
function relativeTo(runs: readonly Run[], measure: Measure): (run: Run) => number {
  const whole = runs.filter(({ arm }) => arm === WHOLE)
  const families = new Set(whole.flatMap(run => Object.keys(run.families)))
  const reference = new Map<string, number>()
  for (const name of families) {
    const values = whole.flatMap(run => run.families[name]?.[measure] ?? [])
    const mean = meanOf(values)
    if (mean > 0) reference.set(name, mean)
  }
  return ({ families: results }) => {
    const ratios = [...reference].flatMap(([name, full]) => {
      const own = results[name]?.[measure]
      if (own === undefined) return []
      return [measure === 'loss' ? full / own : own / full]
    })
    return 100 * meanOf(ratios)
  }
}

function compared(differences: readonly number[], worth: number): NonNullable<Cell['difference']> {
  const interval = intervalOf(differences)
  const { low, high } = interval
  const verdict: Verdict =
    low > 0 ? 'pays' : high < worth ? 'does not pay' : 'not enough seeds to tell'
  const seedsWanted = seedsFor(differences, worth)
  return { ...interval, seeds: differences.length, verdict, seedsWanted }
}

/** A normal deviate beyond which 2.5 % lie, and one beyond which 20 % lie. */
const Z95 = 1.959964
const Z80 = 0.841621
const SEEDS_MIN = 3

/**
 * Seeds that find a difference of `worth` points with a probability of 80 % at the 5 % level, as widely as
 * these differences scatter; undefined for fewer than three of them, whose scatter says little.
 */
function seedsFor(differences: readonly number[], worth: number): number | undefined {
  if (differences.length < SEEDS_MIN) return undefined
  const wanted = ((Z95 + Z80) * deviationOf(differences)) / worth
  return Math.max(SEEDS_MIN, Math.ceil(wanted ** 2))
}

const RESAMPLES = 10_000

/**
 * The mean and its 95 % bootstrap interval over seeds, widened for few of them (Hesterberg, What teachers
 * should know about the bootstrap, 2015, section 5.1: expanded percentiles). Under three values there is
 * no interval: it is unbounded.
 */
export function intervalOf(values: readonly number[]): Interval {
  const mean = meanOf(values)
  const n = values.length
  if (n < SEEDS_MIN) return { mean, low: Number.NEGATIVE_INFINITY, high: Number.POSITIVE_INFINITY }
  const random = seededRandom(n)
  const means = Float64Array.from({ length: RESAMPLES }, () => {
    let sum = 0
    for (let i = 0; i < n; i++) sum += values[Math.floor(n * random())]!
    return sum / n
  }).sort()
  const wider = (Math.sqrt(n / (n - 1)) * studentQuantile(n - 1)) / Z95
  const at = (share: number): number => means[Math.round(share * (RESAMPLES - 1))]! - mean
  return { mean, low: mean + wider * at(0.025), high: mean + wider * at(0.975) }
}

/** The 97.5 % quantile of Student's t: Cornish-Fisher's expansion, within 4 % for 2 degrees of freedom. */
function studentQuantile(degrees: number): number {
  const z = Z95
  const terms = [
    (z ** 3 + z) / 4,
    (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96,
    (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384,
  ]
  return terms.reduce((sum, term, i) => sum + term / degrees ** (i + 1), z)
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

function deviationOf(values: readonly number[]): number {
  const mean = meanOf(values)
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  return Math.sqrt(squares / (values.length - 1))
}

const NOTHING =
  'Nothing can be compared: targets trained on everything give no held-out answer exactly. Raise --steps, or take --measure tokens.'

/** What the comparison of one arm at one percent says, in a sentence or two. */
export function sentenceOf({ cells, worth }: Judgement, arm: string, percent: number): string {
  const cell = cells.find(one => one.arm === arm && one.percent === percent)
  if (cell !== undefined && Number.isNaN(cell.relative.mean)) return NOTHING
  const name = `\`${arm}\` at ${percent} %`
  if (cell?.difference === undefined) return `There is no comparison of ${name} with random yet.`
  const { mean, low, high, seeds, verdict, seedsWanted } = cell.difference
  const where = Number.isFinite(low)
    ? `95 % interval ${signed(low)} to ${signed(high)}, ${seeds} seeds`
    : `no interval from ${seeds} ${seeds === 1 ? 'seed' : 'seeds'}`
  const found = `${signed(mean)} points of relative performance against a random subset of the same size (${where})`
  const reached = `It reaches ${cell.relative.mean.toFixed(1)} % of training on everything.`
  if (verdict === 'pays') return `Selecting by ${name} pays: ${found}. ${reached}`
  if (verdict === 'does not pay') {
    return `Selecting by ${name} does not pay: ${found}, so random is as good to within ${worth} points. ${reached}`
  }
  const wanted =
    seedsWanted === undefined
      ? seedsSaid(cell.difference)
      : `${seedsSaid(cell.difference)} a difference of ${worth} points`
  return `Not enough seeds to tell whether ${name} pays: ${found}; ${wanted}. ${reached}`
}

/** How many seeds would do where these do not. */
export function seedsSaid({ seedsWanted, seeds }: NonNullable<Cell['difference']>): string {
  return seedsWanted === undefined
    ? `at least ${SEEDS_MIN} are needed`
    : `about ${Math.max(seedsWanted, seeds + 1)} would tell`
}

export function signed(value: number): string {
  return `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(1)}`
}
