/**
 * Every metric, on a registry of its own. `docs/metrics.md` has a row for each, held by a test.
 * Names: `xmasd_<noun>_<unit>[_total]`; no label whose values grow with the data.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { ACTIONS, REASONS_OF } from '../record.ts'
import { version } from '../version.ts'
import { RETRY_CAUSES, TRANSACTION_OUTCOMES } from './log-events.ts'
import { SECONDS, scoreMetrics, workerMetrics } from './score-metrics.ts'

export const OUTCOMES = [
  'assigned',
  'duplicate',
  'near_duplicate',
  'redelivered',
  'dead_letter',
] as const

export type Metrics = ReturnType<typeof createMetrics>

export function createMetrics() {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  // Gauges that are named like counters: promtool refuses them, and their parts by type stay.
  for (const name of ['handles', 'requests', 'resources']) {
    registry.removeSingleMetric(`nodejs_active_${name}_total`)
  }
  const metrics = {
    registry,
    ...flowMetrics([registry]),
    ...infoMetrics([registry]),
    ...logMetrics([registry]),
    ...scoreMetrics([registry]),
    ...workerMetrics([registry]),
    ...selectMetrics([registry]),
    ...regretMetrics([registry]),
    ...driftMetrics([registry]),
    ...bundleMetrics([registry]),
  }
  hideSelection(metrics)
  return metrics
}

/** What the one member that decides shows. */
const SELECTION = [
  'subset',
  'budget',
  'history',
  'parts',
  'level',
  'balance',
  'evenness',
  'clusters',
  'redundant',
  'pending',
  'driftWindow',
  'driftStability',
  'driftNoise',
  'driftBeyond',
  'regretBudget',
  'regretVariation',
  'regretRecovered',
  'bundleInForce',
  'shadowDifference',
] as const satisfies (keyof Metrics)[]

/** A process that does not decide, or does so no longer, shows none of these: a largest or least value is of the one that does. */
export function hideSelection(metrics: Pick<Metrics, (typeof SELECTION)[number]>): void {
  for (const name of SELECTION) {
    const gauge: Gauge = metrics[name]
    gauge.reset()
    // What `reset` leaves of a gauge without labels is a 0.
    gauge.remove({})
  }
}

function flowMetrics(registers: Registry[]) {
  const metrics = {
    examples: new Counter({
      name: 'xmasd_examples_total',
      help: 'Examples by what became of them; redelivered and duplicate ones were assigned too, once each',
      labelNames: ['outcome'] as const,
      registers,
    }),
    deadLetters: new Counter({
      name: 'xmasd_dead_letters_total',
      help: 'Inputs that ended in dead-letters, by error code',
      labelNames: ['code'] as const,
      registers,
    }),
    commitSeconds: new Histogram({
      name: 'xmasd_commit_seconds',
      help: 'Time of one atomic commit of outputs, positions and state',
      labelNames: ['role'] as const,
      buckets: SECONDS,
      registers,
    }),
    fencedCommits: new Counter({
      name: 'xmasd_commits_fenced_total',
      help: 'Commits refused because another member of the group had moved on; their work was done again',
      labelNames: ['role'] as const,
      registers,
    }),
    backlogRecords: new Gauge({
      name: 'xmasd_backlog_records',
      help: 'Records between the committed position and the end of the topic that the role reads',
      labelNames: ['role'] as const,
      registers,
    }),
    backlogSeconds: new Gauge({
      name: 'xmasd_backlog_seconds',
      help: 'Seconds that the backlog takes at the rate of the last minutes; the age of the oldest record while nothing moves',
      labelNames: ['role'] as const,
      registers,
    }),
    backlogAge: new Gauge({
      name: 'xmasd_backlog_age_seconds',
      help: 'Seconds since the oldest record not yet committed was appended; 0 where there is none',
      labelNames: ['role'] as const,
      registers,
    }),
    lastCommit: new Gauge({
      name: 'xmasd_last_commit_timestamp_seconds',
      help: 'When the role last committed, or started where it has not yet; seconds since the epoch',
      labelNames: ['role'] as const,
      registers,
    }),
  }
  for (const outcome of OUTCOMES) metrics.examples.inc({ outcome }, 0)
  return metrics
}

function infoMetrics(registers: Registry[]) {
  const metrics = {
    checks: new Gauge({
      name: 'xmasd_check_ok',
      help: '1 where /readyz finds this well, 0 where not',
      labelNames: ['check'] as const,
      registers,
    }),
    buildInfo: new Gauge({
      name: 'xmasd_build_info',
      help: '1; the versions of xmasd and Node are in the labels',
      labelNames: ['version', 'node'] as const,
      registers,
    }),
    bundleInfo: new Gauge({
      name: 'xmasd_bundle_info',
      help: '1; the bundle in use is in the labels',
      labelNames: ['bundle', 'mode', 'signature'] as const,
      registers,
    }),
  }
  metrics.buildInfo.set({ version: version(), node: process.versions.node }, 1)
  return metrics
}

function logMetrics(registers: Registry[]) {
  const metrics = {
    transactions: new Counter({
      name: 'xmasd_transactions_total',
      help: 'Atomic writes of outputs and positions by how they ended; a commit is one, on Kafka one a partition',
      labelNames: ['outcome'] as const,
      registers,
    }),
    transactionSeconds: new Histogram({
      name: 'xmasd_transaction_seconds',
      help: 'Time of one atomic write of outputs and positions, however it ended',
      buckets: SECONDS,
      registers,
    }),
    rebalances: new Counter({
      name: 'xmasd_rebalances_total',
      help: 'Times that the partitions of the group were dealt anew to its members',
      labelNames: ['role'] as const,
      registers,
    }),
    partitions: new Gauge({
      name: 'xmasd_owned_partitions',
      help: 'Partitions that the group has dealt to this process',
      labelNames: ['role'] as const,
      registers,
    }),
    logRetries: new Counter({
      name: 'xmasd_log_retries_total',
      help: 'Requests of the log that failed and were tried again, by cause',
      labelNames: ['cause'] as const,
      registers,
    }),
  }
  for (const outcome of TRANSACTION_OUTCOMES) metrics.transactions.inc({ outcome }, 0)
  for (const cause of RETRY_CAUSES) metrics.logRetries.inc({ cause }, 0)
  return metrics
}

function bundleMetrics(registers: Registry[]) {
  return {
    bundleInForce: new Gauge({
      name: 'xmasd_bundle_in_force_info',
      help: '1; the bundle whose clusters decide, and the one that decides beside it, are in the labels',
      labelNames: ['bundle', 'shadow'] as const,
      registers,
    }),
    shadowDifference: new Gauge({
      name: 'xmasd_shadow_difference_ratio',
      help: 'Examples kept by one of the bundle in force and its shadow alone, of those kept by either; 0 without a shadow',
      registers,
    }),
  }
}

function selectMetrics(registers: Registry[]) {
  const metrics = {
    decisions: new Counter({
      name: 'xmasd_decisions_total',
      help: 'Decisions published, by action and reason',
      labelNames: ['action', 'reason'] as const,
      registers,
    }),
    subset: new Gauge({
      name: 'xmasd_subset_examples',
      help: 'Examples that the policy keeps now, of those that count',
      registers,
    }),
    budget: new Gauge({
      name: 'xmasd_budget_ratio',
      help: 'The share of the history that the subset is to hold: select.percent',
      registers,
    }),
    history: new Gauge({
      name: 'xmasd_history_examples',
      help: 'Examples that count: N of the batch rule',
      registers,
    }),
    parts: new Gauge({
      name: 'xmasd_part_examples',
      help: 'Examples of the stream, of the baseline that decisions go on from, and of the control arm, by whether they are kept now',
      labelNames: ['part', 'state'] as const,
      registers,
    }),
    level: new Gauge({
      name: 'xmasd_level_examples',
      help: 'The level: the quota of clusters that are not exhausted',
      registers,
    }),
    balance: new Gauge({
      name: 'xmasd_balance_ratio',
      help: 'Entropy of the subset over clusters, over that of the batch rule for clusters of these sizes',
      registers,
    }),
    evenness: new Gauge({
      name: 'xmasd_evenness_ratio',
      help: 'Entropy over clusters, over that of equal counts',
      labelNames: ['of'] as const,
      registers,
    }),
    clusters: new Gauge({
      name: 'xmasd_quota_clusters',
      help: 'Clusters by what they give to the subset',
      labelNames: ['state'] as const,
      registers,
    }),
    redundant: new Gauge({
      name: 'xmasd_redundant_ratio',
      help: 'Share of all distinct examples that are duplicates of another',
      registers,
    }),
    pending: new Gauge({
      name: 'xmasd_pending_examples',
      help: 'Examples that wait for the next settlement',
      registers,
    }),
  }
  for (const action of ACTIONS) {
    for (const reason of REASONS_OF[action]) metrics.decisions.inc({ action, reason }, 0)
  }
  return metrics
}

function driftMetrics(registers: Registry[]) {
  return {
    driftWindow: new Gauge({
      name: 'xmasd_drift_window_examples',
      help: 'Counted examples that the other drift metrics look back on',
      registers,
    }),
    driftStability: new Gauge({
      name: 'xmasd_drift_stability_index',
      help: 'Population stability index of cluster shares against the baseline of the bundle',
      registers,
    }),
    driftNoise: new Gauge({
      name: 'xmasd_drift_noise_index',
      help: 'What xmasd_drift_stability_index comes to by chance alone, with so many examples and clusters',
      registers,
    }),
    driftBeyond: new Gauge({
      name: 'xmasd_drift_beyond_ratio',
      help: 'Share of examples beyond the radius that 99 % of their cluster kept within when it was fitted',
      registers,
    }),
  }
}

function regretMetrics(registers: Registry[]) {
  return {
    regretBudget: new Gauge({
      name: 'xmasd_regret_budget_ratio',
      help: 'How many more are kept than the budget allows so far, over the budget; final decisions only',
      registers,
    }),
    regretVariation: new Gauge({
      name: 'xmasd_regret_variation_ratio',
      help: "Total variation between clusters' shares in the subset and in the batch rule's",
      registers,
    }),
    regretRecovered: new Gauge({
      name: 'xmasd_regret_recovered_ratio',
      help: 'Of the mean instability that the batch rule saves over random members, what the subset saves',
      registers,
    }),
  }
}
