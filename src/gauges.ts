/** Gauges that are read when /metrics is scraped, not counted as things happen. */
import type { Config } from './config.ts'
import type { Lag, Log } from './log/log.ts'
import { type BacklogMeter, createBacklogMeter } from './observe/backlog.ts'
import { balanceOf, evennessOf } from './observe/balance.ts'
import type { Metrics } from './observe/metrics.ts'
import { groupsOf } from './open-log.ts'
import type { SelectRole } from './role/select-role.ts'
import type { RoleStatus } from './role/status.ts'
import type { Measurer, Stage } from './score/measure.ts'
import { batchQuotas, budgetOf, SMALL_CLUSTER_SIZE_MAX } from './select/quotas.ts'

export const ROLES = ['score', 'select'] as const
export type Role = (typeof ROLES)[number]

export type GaugeParts = {
  config: Config
  metrics: Metrics
  log: Log
  /** Whether the log answers now. */
  isReached: boolean
  statuses: readonly RoleStatus[]
  /** K of the configured bundle. */
  clusters: number
  select: SelectRole | undefined
  engine: Measurer | undefined
}

/** Of the revisable policy, whose subset is the batch rule's. */
const NO_REGRET = { budgetError: 0, totalVariation: 0, recovered: 1 }

/** Refreshes them all. */
export type Gauges = (parts: GaugeParts) => Promise<void>

export function createGauges(): Gauges {
  const meters = { score: createBacklogMeter(), select: createBacklogMeter() }
  return async parts => {
    await Promise.all(ROLES.map(role => refreshBacklog(parts, role, meters[role])))
    if (parts.select?.isDeciding === true) refreshSubset(parts, parts.select)
    if (parts.engine !== undefined) refreshLoads(parts.metrics, parts.engine)
  }
}

/** Of both roles, whichever run here: a lone select role shows what waits for score processes to come. */
async function refreshBacklog(parts: GaugeParts, role: Role, meter: BacklogMeter): Promise<void> {
  const { metrics, log, config } = parts
  const partitions = parts.isReached
    ? await within(ANSWER_MS_MAX, lagOf(log, config, role)).catch(() => undefined)
    : undefined
  if (partitions === undefined) {
    for (const gauge of [metrics.backlogRecords, metrics.backlogSeconds, metrics.backlogAge]) {
      gauge.remove({ role })
    }
    return
  }
  const behind = sum(partitions.map(lag => lag.behind))
  metrics.backlogRecords.set({ role }, behind)
  const status = parts.statuses.find(one => one.role === role)
  if (status === undefined) return
  const oldest = behind === 0 ? undefined : (status.oldest ?? oldestUnread(partitions))
  const ageSeconds = oldest === undefined ? 0 : Math.max(0, (Date.now() - oldest) / 1000)
  const committed = sum(partitions.map(lag => lag.offset))
  const sight = { atMs: performance.now(), committed, behind, ageSeconds }
  metrics.backlogSeconds.set({ role }, meter.see(sight))
  metrics.backlogAge.set({ role }, ageSeconds)
}

function lagOf(log: Log, config: Config, role: Role): Promise<Lag[]> {
  const topic = role === 'score' ? config.log.topics.examples : config.log.topics.assignments
  return log.lag(groupsOf(config)[role], topic)
}

/** Records that a role has still to read. */
export async function backlogOf(log: Log, config: Config, role: Role): Promise<number> {
  return sum((await lagOf(log, config, role)).map(lag => lag.behind))
}

/** The role knows of what it has in hand; this is of what nobody has. Milliseconds since the epoch. */
function oldestUnread(partitions: readonly Lag[]): number | undefined {
  const stamps = partitions.flatMap(({ oldest }) => oldest ?? [])
  return stamps.length === 0 ? undefined : Math.min(...stamps)
}

function refreshSubset({ metrics, config, clusters: count }: GaugeParts, select: SelectRole): void {
  const clusters = select.clusters()
  const giving = clusters.filter(({ size }) => size > SMALL_CLUSTER_SIZE_MAX)
  const capped = giving.filter(({ size, quota }) => quota < size)
  const kept = giving.map(({ quota }) => quota)
  const budget = budgetOf(config.select)(sum(clusters.map(({ size }) => size)))
  const ideal = batchQuotas(clusters, budget).map(({ taken }) => taken)
  metrics.level.set(capped.reduce((level, { quota }) => Math.max(level, quota), 0))
  metrics.balance.set(balanceOf(kept, ideal))
  metrics.evenness.set({ of: 'subset' }, evennessOf(kept))
  metrics.evenness.set({ of: 'history' }, evennessOf(giving.map(({ size }) => size)))
  const numbered = clusters.filter(({ cluster }) => cluster !== 'text').length
  const ofBundle = select.clusterCount() ?? count
  metrics.clusters.set({ state: 'empty' }, Math.max(0, ofBundle - numbered))
  metrics.clusters.set({ state: 'small' }, clusters.length - giving.length)
  metrics.clusters.set({ state: 'exhausted' }, giving.length - capped.length)
  metrics.clusters.set({ state: 'capped' }, capped.length)
  const { budgetError, totalVariation, recovered } = select.regret() ?? NO_REGRET
  metrics.regretBudget.set(budgetError)
  metrics.regretVariation.set(totalVariation)
  metrics.regretRecovered.set(recovered)
}

function refreshLoads(metrics: Metrics, engine: Measurer): void {
  for (const [stage, { waiting, busy }] of Object.entries(engine.loads())) {
    metrics.jobsWaiting.set({ stage: stage as Stage }, waiting)
    metrics.workersBusy.set({ stage: stage as Stage }, busy)
  }
}

/** A scrape waits no longer for the log: Prometheus itself gives up after 10 s. */
export const ANSWER_MS_MAX = 2_000

/** `work`, or an error where it takes longer. */
export function within<T>(ms: number, work: Promise<T>): Promise<T> {
  const late = new Promise<never>((_, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms)
    const done = (): void => clearTimeout(timer)
    work.then(done, done)
  })
  return Promise.race([work, late])
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
