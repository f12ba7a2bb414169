/**
 * What the report shows, read off the log in two passes: over `decisions` and over `assignments`.
 * Counts are exact; what is drawn example by example is a seeded sample of bounded size. Memory: one
 * key an example.
 */
import type { Config } from '../config.ts'
import type { Log } from '../log/log.ts'
import { type Part, type Parts, policyPart } from '../observe/parts.ts'
import { seededRandom } from '../random.ts'
import type { Action, Assignment, Cluster, Reason, Source } from '../record.ts'
import { batchQuotas, budgetOf } from '../select/quotas.ts'
import { readBaseline } from './baseline.ts'
import { assignmentsInForce, decisionsOf, readSubset } from './history.ts'
import { readStand, type Stand } from './reigns.ts'

/** One example as it is drawn. */
export type Drawn = {
  key: string
  cluster: Cluster
  kept: boolean
  instability: number
  trajectory: number[]
  source: Source
}

export type ClusterRow = { cluster: Cluster; size: number; kept: number; quota: number }
export type FlowCell = { slice: number; action: Action; reason: Reason; count: number }

export type ReportData = {
  v: 1
  bundles: string[]
  policy: string
  percent: number
  /** N: examples that count, the baseline's too, none of the control arm's. */
  examples: number
  /** What the batch rule allows of them. */
  budget: number
  kept: number
  parts: Parts
  duplicates: number
  /** Assigned ones that the select role has not come to yet; in none of these numbers. */
  waiting: number
  deadLetters: { code: string; count: number }[]
  /** Of N, descending by size. `quota` is the batch rule's over the whole history. */
  clusters: ClusterRow[]
  /** Decisions over the stream, in `FLOW_SLICES` slices of equal numbers of decisions. */
  flow: FlowCell[]
  /** A uniform sample of examples with a trajectory. */
  sample: Drawn[]
  /** Of the largest clusters: a sample of kept and dropped trajectories. */
  trajectories: Drawn[]
  /** Of the largest clusters: the steadiest kept and the least steady dropped. */
  ends: Drawn[]
}

export const FLOW_SLICES = 40
const SAMPLE_MAX = 4_000
const TRAJECTORY_CLUSTERS = 12
const TRAJECTORIES_MAX = 20
const PICTURE_CLUSTERS = 6
const PICTURES_MAX = 3

/** @throws XmasdError LOG_UNAVAILABLE */
export async function collectReport(log: Log, config: Config): Promise<ReportData> {
  const stand = await readStand(log, config)
  const kept = await readSubset(log, config)
  const { duplicates, drawn, flow } = await readFlow(log, config)
  const gathered = await readAssignments(log, config, { stand, kept, duplicates, drawn })
  const baseline = (await readBaseline(log, config, stand)).clusters
  const parts = {
    stream: partOf([...gathered.clusters.values()]),
    baseline: partOf(baseline),
    control: gathered.control,
  }
  const counted = policyPart(parts)
  const budget = budgetOf(config.select)(counted.examples)
  const groups = [...gathered.clusters.values()].sort((a, b) => b.size - a.size)
  const numbered = groups.filter(({ cluster }) => cluster !== 'text')
  return {
    v: 1,
    bundles: [...gathered.bundles],
    policy: config.select.policy,
    percent: config.select.percent,
    ...counted,
    budget,
    parts,
    duplicates: gathered.duplicates,
    waiting: gathered.waiting,
    deadLetters: await readDeadLetters(log, config),
    clusters: clusterRows([...groups, ...baseline], budget),
    flow,
    sample: gathered.sample,
    trajectories: numbered
      .slice(0, TRAJECTORY_CLUSTERS)
      .flatMap(({ keptSample, droppedSample }) => [...droppedSample.items, ...keptSample.items]),
    ends: numbered
      .slice(0, PICTURE_CLUSTERS)
      .flatMap(({ steadiest, leastSteady }) => [...steadiest, ...leastSteady]),
  }
}

type Counted = { cluster: Cluster; size: number; kept: number }

function partOf(rows: readonly Counted[]): Part {
  const sum = (key: 'size' | 'kept'): number => rows.reduce((total, row) => total + row[key], 0)
  return { examples: sum('size'), kept: sum('kept') }
}

/** Sums up the rows of each cluster. */
function clusterRows(counted: readonly Counted[], budget: number): ClusterRow[] {
  const sums = new Map<Cluster, Counted>()
  for (const { cluster, size, kept } of counted) {
    const sum = sums.get(cluster) ?? { cluster, size: 0, kept: 0 }
    sums.set(cluster, { cluster, size: sum.size + size, kept: sum.kept + kept })
  }
  const rows = [...sums.values()].sort((a, b) => b.size - a.size)
  const quotas = new Map(batchQuotas(rows, budget).map(row => [row.cluster, row.taken]))
  return rows.map(row => ({ ...row, quota: quotas.get(row.cluster) ?? 0 }))
}

async function readFlow(
  log: Log,
  config: Config,
): Promise<{ duplicates: Set<string>; drawn: Set<string>; flow: FlowCell[] }> {
  const duplicates = new Set<string>()
  const drawn = new Set<string>()
  const cells = new Map<string, FlowCell>()
  const [end = 0] = await log.ends(config.log.topics.decisions)
  for await (const { decision, offset } of decisionsOf(log, config)) {
    const { key, action, reason, duplicateOf, arm } = decision
    if (duplicateOf !== undefined) duplicates.add(key)
    if (arm === 'random') drawn.add(key)
    const slice = Math.floor((offset * FLOW_SLICES) / Math.max(1, end))
    const at = `${slice}/${action}/${reason}`
    const cell = cells.get(at) ?? { slice, action, reason, count: 0 }
    cell.count++
    cells.set(at, cell)
  }
  return { duplicates, drawn, flow: [...cells.values()] }
}

async function readDeadLetters(log: Log, config: Config): Promise<ReportData['deadLetters']> {
  const counts = new Map<string, number>()
  for await (const { headers } of log.read(config.log.topics.deadLetters)) {
    const code = headers.code ?? 'unknown'
    counts.set(code, (counts.get(code) ?? 0) + 1)
  }
  return [...counts]
    .map(([code, count]) => ({ code, count }))
    .sort((a, b) => b.count - a.count || (a.code < b.code ? -1 : 1))
}

type Gathered = {
  clusters: Map<Cluster, ClusterGroup>
  bundles: Set<string>
  sample: Drawn[]
  control: Part
  duplicates: number
  waiting: number
}

/** What the log says now; some of it may be of what came after the select role stood at `stand`. */
type Known = { stand: Stand; kept: Set<string>; duplicates: Set<string>; drawn: Set<string> }

type ClusterGroup = {
  cluster: Cluster
  size: number
  kept: number
  keptSample: Reservoir<Drawn>
  droppedSample: Reservoir<Drawn>
  steadiest: Drawn[]
  leastSteady: Drawn[]
}

async function readAssignments(
  log: Log,
  config: Config,
  { stand, kept, duplicates, drawn }: Known,
): Promise<Gathered> {
  const random = seededRandom(1)
  const sample = new Reservoir<Drawn>(SAMPLE_MAX, random)
  const clusters = new Map<Cluster, ClusterGroup>()
  const bundles = new Set<string>()
  const seen = new Set<string>()
  const control = { examples: 0, kept: 0 }
  const counts = { duplicates: 0, waiting: 0 }
  for await (const { assignment, isFolded } of assignmentsInForce(log, config, stand)) {
    const { key, cluster, bundle } = assignment
    if (seen.has(key)) continue
    seen.add(key)
    if (!isFolded) {
      counts.waiting++
      continue
    }
    if (duplicates.has(key)) {
      counts.duplicates++
      continue
    }
    const isKept = kept.has(key)
    if (drawn.has(key)) {
      control.examples++
      if (isKept) control.kept++
      continue
    }
    bundles.add(bundle)
    const group = clusters.get(cluster) ?? newGroup(cluster, random)
    clusters.set(cluster, group)
    group.size++
    if (isKept) group.kept++
    const one = drawnOf(assignment, isKept)
    if (one === undefined) continue
    sample.offer(one)
    ;(isKept ? group.keptSample : group.droppedSample).offer(one)
    if (isKept) keepFirst(group.steadiest, one, (a, b) => a.instability - b.instability)
    else keepFirst(group.leastSteady, one, (a, b) => b.instability - a.instability)
  }
  return { clusters, bundles, sample: sample.items, control, ...counts }
}

function newGroup(cluster: Cluster, random: () => number): ClusterGroup {
  return {
    cluster,
    size: 0,
    kept: 0,
    keptSample: new Reservoir(TRAJECTORIES_MAX, random),
    droppedSample: new Reservoir(TRAJECTORIES_MAX, random),
    steadiest: [],
    leastSteady: [],
  }
}

/** Undefined for text-only examples, which have no trajectory. */
function drawnOf(assignment: Assignment, kept: boolean): Drawn | undefined {
  const { key, cluster, instability, trajectory, source } = assignment
  if (instability === null || trajectory === null) return undefined
  return { key, cluster, kept, instability, trajectory, source }
}

/** Puts `item` into `list` where it is among the first few by `order`. */
function keepFirst(list: Drawn[], item: Drawn, order: (a: Drawn, b: Drawn) => number): void {
  const last = list.at(-1)
  if (list.length === PICTURES_MAX && last !== undefined && order(item, last) >= 0) return
  list.push(item)
  list.sort(order)
  list.length = Math.min(list.length, PICTURES_MAX)
}

/** A uniform sample of at most `sizeMax` of all items offered (Vitter's algorithm R). */
export class Reservoir<T> {
  readonly items: T[] = []
  readonly #sizeMax: number
  readonly #random: () => number
  #offered = 0

  constructor(sizeMax: number, random: () => number) {
    this.#sizeMax = sizeMax
    this.#random = random
  }

  offer(item: T): void {
    this.#offered++
    if (this.items.length < this.#sizeMax) {
      this.items.push(item)
      return
    }
    const at = Math.floor(this.#random() * this.#offered)
    if (at < this.#sizeMax) this.items[at] = item
  }
}
