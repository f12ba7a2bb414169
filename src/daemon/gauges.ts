/** Gauges that are read when /metrics is scraped. */
import type { Config } from '../config.ts'
import type { Lag, Log } from '../log/log.ts'
import { sum } from '../math/vectors.ts'
import type { Metrics } from '../observe/metrics.ts'
import type { SelectRole } from '../role/select-role.ts'
import type { RoleStatus } from '../role/status.ts'
import type { ScoringPipeline, Stage } from '../score/pipeline.ts'
import {
  balanceOf,
  batchQuotas,
  budgetOf,
  evennessOf,
  SMALL_CLUSTER_SIZE_MAX,
} from '../select/rule/quotas.ts'

export const ROLES = ['score', 'select'] as const
export type Role = (typeof ROLES)[number]

export type GaugeParts = {
  config: Config
  metrics: Metrics
  log: Log
  /** Whether the log answers. */
  isReached: boolean
  statuses: readonly RoleStatus[]
  /** K of the configured bundle. */
  clusters: number
  select: SelectRole | undefined
  engine: ScoringPipeline | undefined
}

/** Under the revisable policy the subset equals the batch rule's. */
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

/** Of both roles, whichever run here: a lone select role also shows what waits to be scored. */
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
  metrics.backlogSeconds.set({ role }, meter(sight))
  metrics.backlogAge.set({ role }, ageSeconds)
}

function lagOf(log: Log, config: Config, role: Role): Promise<Lag[]> {
  const topic = role === 'score' ? config.log.topics.examples : config.log.topics.assignments
  return log.lag(config[role].group, topic)
}

/** Records that the role has not committed yet. */
export async function backlogOf(log: Log, config: Config, role: Role): Promise<number> {
  return sum((await lagOf(log, config, role)).map(lag => lag.behind))
}

/** The oldest record that no process has read, in milliseconds since the epoch. */
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

function refreshLoads(metrics: Metrics, engine: ScoringPipeline): void {
  for (const [stage, { waiting, busy }] of Object.entries(engine.loads())) {
    metrics.jobsWaiting.set({ stage: stage as Stage }, waiting)
    metrics.workersBusy.set({ stage: stage as Stage }, busy)
  }
}

/** A scrape waits this long for the log: Prometheus gives up after 10 s. */
export const ANSWER_MS_MAX = 2_000

/** Rejects where `work` takes longer. */
export function within<T>(ms: number, work: Promise<T>): Promise<T> {
  const late = new Promise<never>((_, reject) => {
    const timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms)
    const done = (): void => clearTimeout(timer)
    work.then(done, done)
  })
  return Promise.race([work, late])
}

/*
 * The time to work off a backlog: records behind, divided by the rate at which the group's positions
 * moved while it was behind (docs/metrics.md).
 */

/** One look at positions and ends, summed over partitions. */
export type Sight = {
  /** Milliseconds on a monotonic clock. */
  atMs: number
  /** Records that the group has ever committed. */
  committed: number
  /** Records that it has not committed. */
  behind: number
  /** Seconds since the oldest of them was appended; 0 where that is unknown. */
  ageSeconds: number
}

/** Seconds that the backlog takes, from this sight and the earlier ones. */
type BacklogMeter = (sight: Sight) => number

/** How the positions moved between two sights at which the group was behind. */
type Move = { endedMs: number; seconds: number; records: number }

const WINDOW_MS = 300_000

/**
 * Idle time says nothing about the rate: only moves between two sights with a backlog count, those of
 * the last `WINDOW_MS`. Without such a move the result is the age of the oldest record, which is finite
 * and grows by a second each second while nothing moves.
 */
export function createBacklogMeter(): BacklogMeter {
  let moves: Move[] = []
  let last: Sight | undefined
  return sight => {
    if (last !== undefined && last.behind > 0 && sight.behind > 0) {
      const seconds = (sight.atMs - last.atMs) / 1000
      const records = Math.max(0, sight.committed - last.committed)
      moves.push({ endedMs: sight.atMs, seconds, records })
    }
    moves = moves.filter(({ endedMs }) => sight.atMs - endedMs <= WINDOW_MS)
    last = sight
    if (sight.behind === 0) return 0
    const seconds = sum(moves.map(move => move.seconds))
    const records = sum(moves.map(move => move.records))
    return records === 0 ? sight.ageSeconds : (sight.behind * seconds) / records
  }
}
