/**
 * What irrevocable decisions lose against the batch rule over the whole stream.
 *
 *   npm run bench:regret -- [--examples N] [--seeds N] [--out FILE] [--only TEXT] [--minutes N]
 *
 * K clusters, percent, Zipf(1.1) sizes, log-normal instability (sigma 0.6), decided one by one with
 * `horizonExamples` at the end of the stream; means over the seeds. `docs/regret.md` defines the
 * figures. With `--out` each case is kept in a JSON file and not measured again, so that a run can be
 * split by `--minutes`, or by `--only`, the beginning of a case's line ("final stationary"). Remove the
 * file when a policy has changed. The last line is one JSON object: `cells` is `final` in random order,
 * cold and after a baseline; `variants` is everything else. `regret/draw.ts` draws the plots of docs/.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { type Figures, run } from './regret/measure.ts'
import { type Kind, policyOf } from './regret/policies.ts'
import { ORDERS, type Order, SORTED, streamOf } from './regret/streams.ts'

const { values: options } = parseArgs({
  options: {
    examples: { type: 'string', default: '100000' },
    seeds: { type: 'string', default: '5' },
    out: { type: 'string' },
    only: { type: 'string', default: '' },
    minutes: { type: 'string', default: 'Infinity' },
  },
})
const EXAMPLES = Number(options.examples)
const SEEDS = Number(options.seeds)
const ENDS_MS = 60_000 * Number(options.minutes)

const SIZES = [200, 1000]
const PERCENTS = [10, 20, 50]
const BASELINE_PART = 10

type Case = { kind: Kind; order: Order; clusters: number; percent: number; baseline: number }
export type Result = Case & Figures
export type Report = { examples: number; seeds: number; results: Result[] }

function cases(): Case[] {
  const sizes = SIZES.flatMap(clusters => PERCENTS.map(percent => ({ clusters, percent })))
  const of = (kind: Kind, order: Order, baseline = 0): Case[] =>
    sizes.map(size => ({ kind, order, baseline, ...size }))
  const kinds = ['final', 'optimum', 'counts_known', 'proportional', 'naive'] as const
  const stationary = [...kinds, 'final_open' as const].flatMap(kind => of(kind, 'stationary'))
  const behind = kinds.flatMap(kind => of(kind, 'stationary', EXAMPLES / BASELINE_PART))
  const others = ORDERS.slice(1).flatMap(order => {
    const known = (SORTED as readonly Order[]).includes(order) ? [] : of('optimum', order)
    const begun = order === 'cluster_by_cluster' ? of('begun_known', order) : []
    return [...of('final', order), ...known, ...begun, ...of('proportional', order)]
  })
  return [...stationary, ...behind, ...others]
}

function measure(one: Case): Result {
  const { kind, order, clusters, percent, baseline } = one
  const runs = Array.from({ length: SEEDS }, (_, index) => {
    const stream = streamOf(order, { clusters, examples: baseline + EXAMPLES, seed: index + 1 })
    return run(policyOf(kind, stream, { percent, end: EXAMPLES }), stream, { percent, baseline })
  })
  return { ...one, ...meanOf(runs) }
}

/** Means; for the largest budget error, the maximum. */
function meanOf(runs: readonly Figures[]): Figures {
  const names = Object.keys(runs[0]!) as (keyof Figures)[]
  const mean = (name: keyof Figures): number =>
    runs.reduce((sum, figures) => sum + figures[name], 0) / runs.length
  const means = Object.fromEntries(names.map(name => [name, round(mean(name))])) as Figures
  const budgetErrorMax = round(Math.max(...runs.map(figures => figures.budgetErrorMax)))
  return { ...means, budgetErrorMax, decisionsPerSecond: Math.round(means.decisionsPerSecond) }
}

function round(value: number): number {
  return Math.round(value * 1e5) / 1e5
}

function nameOf({ kind, order, clusters, percent, baseline }: Case): string {
  const behind = baseline > 0 ? ` behind ${baseline}` : ''
  return `${kind} ${order} K ${clusters} ${percent} %${behind}`
}

function lineOf(result: Result): string {
  const share = (value: number, digits = 1): string => `${(100 * value).toFixed(digits)} %`
  return (
    `${nameOf(result).padEnd(50)} recovered ${share(result.recovered)} ` +
    `(at equal counts ${share(result.recoveredMended)})  ` +
    `budget error ${share(result.budgetErrorEnd, 2)}, ${share(result.budgetErrorMax)} at most  ` +
    `variation ${share(result.totalVariation, 2)}  overlap ${share(result.jaccard)}  ` +
    `${result.decisionsPerSecond}/s`
  )
}

function known(): Result[] {
  if (options.out === undefined || !existsSync(options.out)) return []
  const { examples, seeds, results }: Report = JSON.parse(readFileSync(options.out, 'utf8'))
  return examples === EXAMPLES && seeds === SEEDS ? results : []
}

const results = known()
const isKnown = new Set(results.map(nameOf))
for (const one of cases()) {
  const name = nameOf(one)
  if (isKnown.has(name) || !name.startsWith(options.only)) continue
  if (performance.now() > ENDS_MS) break
  results.push(measure(one))
  process.stdout.write(`${lineOf(results.at(-1)!)}\n`)
  if (options.out === undefined) continue
  const report: Report = { examples: EXAMPLES, seeds: SEEDS, results }
  writeFileSync(options.out, `${JSON.stringify(report, null, 1)}\n`)
}
const isCell = ({ kind, order }: Case): boolean => kind === 'final' && order === 'stationary'
const cells = results.filter(isCell).map(({ kind: _, order: __, ...cell }) => cell)
const variants = results.filter(result => !isCell(result))
process.stdout.write(`${JSON.stringify({ examples: EXAMPLES, seeds: SEEDS, cells, variants })}\n`)
