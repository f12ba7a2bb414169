/** The counts and charts of the report, from the model and from one pass over `decisions`. */
import type { Config } from '../config.ts'
import { decisionsOf } from '../history/assignments.ts'
import type { Log } from '../log/log.ts'
import { type Part, policyPart } from '../observe/segments.ts'
import type { Cluster } from '../record.ts'
import { budgetOf } from '../select/rule/quotas.ts'
import { Model } from './model.ts'
import type { FlowCell, ReportCharts, ReportCounts } from './schemas.ts'

const FLOW_SLICES = 40
const BINS = 40
/** Of the instabilities, the share beyond which the last bin holds the rest. */
const TAIL = 0.995
const LINES_MAX = 8

/**
 * The model of the whole log, however long it is; some 200 bytes an example. Throws
 * LOG_UNAVAILABLE.
 */
export async function readWhole(log: Log, config: Config): Promise<Model> {
  const model = new Model(log, config, Number.POSITIVE_INFINITY)
  while (await model.step());
  return model
}

export function countsOf(model: Model, config: Config): ReportCounts {
  const { columns, baseline } = model
  const clusters = model.clusters()
  const parts = {
    stream: partOf([...model.groups.values()], model.misaligned),
    baseline: partOf(baseline.clusters, baseline.misaligned),
    control: randomPart(model),
  }
  const counted = policyPart(parts)
  const letters = [...model.letterCounts].map(([code, count]) => ({ code, count }))
  return {
    v: 1,
    bundles: columns.count > model.waiting && model.active !== undefined ? [model.active] : [],
    policy: config.select.policy,
    percent: config.select.percent,
    ...counted,
    budget: budgetOf(config.select)(counted.examples),
    parts,
    duplicates: clusters.reduce((sum, one) => sum + one.duplicates, 0),
    misaligned: model.misaligned + baseline.misaligned,
    gain: gainOf(model),
    waiting: model.waiting,
    deadLetters: letters.sort((a, b) => b.count - a.count || (a.code < b.code ? -1 : 1)),
    clusters: clusters
      .filter(({ size }) => size > 0)
      .map(({ cluster, size, kept, quota }) => ({ cluster, size, kept, quota })),
  }
}

function partOf(rows: readonly { size: number; kept: number }[], misaligned: number): Part {
  const sum = (key: 'size' | 'kept'): number => rows.reduce((total, row) => total + row[key], 0)
  return { examples: sum('size') + misaligned, kept: sum('kept') }
}

function gainOf({ columns }: Model): ReportCounts['gain'] {
  const [all, kept]: [number[], number[]] = [[], []]
  for (let row = 0; row < columns.count; row++) {
    const gain = columns.gain(row)
    if (gain === null || !columns.isCounted(row)) continue
    if (columns.isCopy(row) || columns.isRandom(row)) continue
    all.push(gain)
    if (columns.isKept(row)) kept.push(gain)
  }
  if (all.length === 0) return null
  const belowZero = all.filter(gain => gain < 0).length / all.length
  return {
    examples: all.length,
    mean: mean(all),
    keptMean: kept.length === 0 ? null : mean(kept),
    belowZero,
  }
}

const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length

/** The random holdout, which counts in no cluster. */
function randomPart({ columns, groups }: Model): Part {
  const part = { examples: 0, kept: 0 }
  for (const { rows } of groups.values()) {
    for (const row of rows) {
      if (!columns.isRandom(row) || columns.isCopy(row)) continue
      part.examples++
      if (columns.isKept(row)) part.kept++
    }
  }
  return part
}

export async function chartsOf(model: Model, log: Log, config: Config): Promise<ReportCharts> {
  const { active, bundles } = model
  const steps = active === undefined ? null : (await bundles.get(active)).manifest.schedule.steps
  return {
    flow: { slices: FLOW_SLICES, cells: await flowOf(model, log, config) },
    instability: instabilityOf(model),
    trajectories: trajectoriesOf(model),
    steps,
  }
}

async function flowOf(model: Model, log: Log, config: Config): Promise<FlowCell[]> {
  const cells = new Map<string, FlowCell>()
  const end = model.decisionsEnd
  for await (const { decision, offset } of decisionsOf(log, config)) {
    if (offset >= end) break
    const { action, reason } = decision
    const slice = Math.floor((offset * FLOW_SLICES) / end)
    const at = `${slice}/${action}/${reason}`
    const cell = cells.get(at) ?? { slice, action, reason, count: 0 }
    cell.count++
    cells.set(at, cell)
  }
  return [...cells.values()]
}

function instabilityOf(model: Model): ReportCharts['instability'] {
  const { columns } = model
  const values: number[] = []
  const each = (take: (value: number, isKept: boolean) => void): void => {
    for (let row = 0; row < columns.count; row++) {
      const value = columns.instability(row)
      if (value === null || !columns.isCounted(row) || columns.isOutside(row)) continue
      take(value, columns.isKept(row))
    }
  }
  each(value => void values.push(value))
  const sorted = Float64Array.from(values).sort()
  const from = sorted[0] ?? 0
  const to = sorted[Math.floor(TAIL * (sorted.length - 1))] ?? 0
  const width = (to - from) / BINS || 1
  const [kept, dropped] = [new Array<number>(BINS).fill(0), new Array<number>(BINS).fill(0)]
  each((value, isKept) => {
    const bin = Math.min(BINS - 1, Math.floor((value - from) / width))
    ;(isKept ? kept : dropped)[bin]!++
  })
  return { from, width, kept, dropped }
}

function trajectoriesOf(model: Model): ReportCharts['trajectories'] {
  return model.clusters().flatMap(({ cluster }) => {
    if (cluster === 'text') return []
    const { kept, dropped } = endsOf(model, cluster, LINES_MAX)
    const lines = (rows: readonly number[]): number[][] =>
      rows.map(row => (model.columns.trajectory(row) ?? []).map(score => +score.toPrecision(5)))
    return [{ cluster, kept: lines(kept), dropped: lines(dropped) }]
  })
}

/** At most `most` of the first that are kept and of the last that are not, by rank. */
export function endsOf(
  model: Model,
  cluster: Cluster,
  most: number,
): { kept: number[]; dropped: number[] } {
  const { rows, counted } = model.ranked(cluster)
  const [kept, dropped]: [number[], number[]] = [[], []]
  for (let at = 0; at < counted && kept.length < most; at++) {
    if (model.columns.isKept(rows[at]!)) kept.push(rows[at]!)
  }
  for (let at = counted - 1; at >= 0 && dropped.length < most; at--) {
    if (!model.columns.isKept(rows[at]!)) dropped.push(rows[at]!)
  }
  return { kept, dropped: dropped.reverse() }
}
