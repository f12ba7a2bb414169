/**
 * What final decisions lose against the batch rule that sees everything first.
 *
 *   npm run bench:regret -- [--examples N] [--seeds N] [--out FILE]
 *
 * `cells`: K clusters, percent, Zipf (1.1) sizes, log-normal instability (sigma 0.6), decided one by one with
 * `horizonExamples` at the stream's end; means over the seeds. Beside it `variants`: other orders of arrival
 * and other policies. Figures are defined in `docs/selection.md`. The last line is one JSON object.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { FinalJudge } from '../src/select/final.ts'
import { Irrevocable } from '../src/select/irrevocable.ts'
import { NaiveJudge } from '../src/select/naive.ts'
import type { Policy } from '../src/select/policy.ts'
import { type Figures, run } from './regret/measure.ts'
import { ORDERS, type Order, streamOf } from './regret/streams.ts'

const { values: options } = parseArgs({
  options: {
    examples: { type: 'string', default: '100000' },
    seeds: { type: 'string', default: '5' },
    out: { type: 'string' },
  },
})
const EXAMPLES = Number(options.examples)
const SEEDS = Number(options.seeds)

const SIZES = [200, 1000]
const PERCENTS = [10, 20, 50]
const KINDS = ['final', 'final_open', 'naive'] as const
type Kind = (typeof KINDS)[number]

type Case = { kind: Kind; order: Order; clusters: number; percent: number; baseline: number }
type Cell = { clusters: number; percent: number; baseline: number } & Figures

function policyOf({ kind, percent }: Case): Policy {
  const horizonExamples = kind === 'final_open' ? undefined : EXAMPLES
  const budget = { percent, horizonExamples }
  return new Irrevocable(budget, history =>
    kind === 'naive' ? new NaiveJudge(budget, history) : new FinalJudge(budget, history),
  )
}

function measure(one: Case): Cell {
  const { order, clusters, percent, baseline } = one
  const runs = Array.from({ length: SEEDS }, (_, index) => {
    const stream = streamOf(order, { clusters, examples: baseline + EXAMPLES, seed: index + 1 })
    return run(policyOf(one), stream, { percent, baseline })
  })
  const cell = { clusters, percent, baseline, ...meanOf(runs) }
  process.stdout.write(`${lineOf(one, cell)}\n`)
  return cell
}

/** Means; of the largest budget error the largest. */
function meanOf(runs: readonly Figures[]): Figures {
  const mean = (name: keyof Figures): number =>
    round(runs.reduce((sum, figures) => sum + figures[name], 0) / runs.length)
  return {
    recovered: mean('recovered'),
    recoveredAsIs: mean('recoveredAsIs'),
    budgetErrorEnd: mean('budgetErrorEnd'),
    budgetErrorMax: round(Math.max(...runs.map(({ budgetErrorMax }) => budgetErrorMax))),
    totalVariation: mean('totalVariation'),
    jaccard: mean('jaccard'),
    decisionsPerSecond: Math.round(mean('decisionsPerSecond')),
  }
}

function round(value: number): number {
  return Math.round(value * 1e5) / 1e5
}

function lineOf({ kind, order, clusters, percent, baseline }: Case, cell: Cell): string {
  const share = (value: number, digits = 1): string => `${(100 * value).toFixed(digits)} %`
  return (
    `${kind.padEnd(10)} ${order.padEnd(18)} K ${String(clusters).padStart(4)} ${percent} %${baseline > 0 ? ` behind ${baseline}` : ''}  ` +
    `recovered ${share(cell.recovered)} (as is ${share(cell.recoveredAsIs)})  ` +
    `budget error ${share(cell.budgetErrorEnd, 2)} at the end, ${share(cell.budgetErrorMax)} at most  ` +
    `variation ${share(cell.totalVariation, 2)}  overlap ${share(cell.jaccard)}  ${cell.decisionsPerSecond}/s`
  )
}

const sizes = SIZES.flatMap(clusters => PERCENTS.map(percent => ({ clusters, percent })))
const common = { kind: 'final', order: 'stationary', baseline: 0 } as const
const cells = [0, EXAMPLES / 10].flatMap(baseline =>
  sizes.map(size => measure({ ...common, ...size, baseline })),
)
const variants = [
  ...KINDS.slice(1).flatMap(kind => sizes.map(size => ({ ...common, ...size, kind }))),
  ...ORDERS.slice(1).flatMap(order =>
    sizes.filter(({ percent }) => percent < 50).map(size => ({ ...common, ...size, order })),
  ),
].map(one => ({ kind: one.kind, order: one.order, ...measure(one) }))
const report = JSON.stringify({ examples: EXAMPLES, seeds: SEEDS, cells, variants })
if (options.out !== undefined) writeFileSync(options.out, `${report}\n`)
process.stdout.write(`${report}\n`)
