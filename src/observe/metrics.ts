/**
 * Every metric, on a registry of its own. `docs/metrics.md` has a row for each, held by a test.
 * Names: `xmasd_<noun>_<unit>[_total]`; no label has values that grow with the data.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import { ACTIONS, REASONS_OF } from '../record.ts'
import { version } from '../version.ts'
import { type LogEvents, RETRY_CAUSES, TRANSACTION_OUTCOMES } from './logger.ts'

export const OUTCOMES = [
  'assigned',
  'duplicate',
  'near_duplicate',
  'protected',
  'misaligned',
  'redelivered',
  'dead_letter',
] as const

export type Metrics = ReturnType<typeof createMetrics>

export function createMetrics() {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  // Gauges with the name of a counter, which promtool refuses. The same by type stay.
  for (const name of ['handles', 'requests', 'resources']) {
    registry.removeSingleMetric(`nodejs_active_${name}_total`)
  }
  const make = makersOf(registry)
  const selection = selectionMetrics(make)
  const metrics = {
    registry,
    ...flowMetrics(make),
    ...logMetrics(make),
    ...infoMetrics(make),
    ...scoreMetrics(make),
    ...workerMetrics(make),
    ...selection,
    /** The gauges that only the deciding process shows. */
    selection: Object.values(selection) as Gauge[],
  }
  metrics.buildInfo.set({ version: version(), node: process.versions.node }, 1)
  for (const outcome of OUTCOMES) metrics.examples.inc({ outcome }, 0)
  for (const outcome of TRANSACTION_OUTCOMES) metrics.transactions.inc({ outcome }, 0)
  for (const cause of RETRY_CAUSES) metrics.logRetries.inc({ cause }, 0)
  for (const action of ACTIONS) {
    for (const reason of REASONS_OF[action]) metrics.decisions.inc({ action, reason }, 0)
  }
  hideSelection(metrics)
  return metrics
}

type Makers = ReturnType<typeof makersOf>

function makersOf(registry: Registry) {
  const registers = [registry]
  return {
    counter: <L extends string = never>(name: string, help: string, ...labelNames: L[]) =>
      new Counter<L>({ name, help, labelNames, registers }),
    gauge: <L extends string = never>(name: string, help: string, ...labelNames: L[]) =>
      new Gauge<L>({ name, help, labelNames, registers }),
    histogram: <L extends string = never>(
      name: string,
      help: string,
      buckets: number[],
      ...labelNames: L[]
    ) => new Histogram<L>({ name, help, buckets, labelNames, registers }),
  }
}

/**
 * A process that does not decide, or no longer does, shows none of these gauges: a maximum or minimum
 * over all processes is then the deciding one's.
 */
export function hideSelection({ selection }: Pick<Metrics, 'selection'>): void {
  for (const gauge of selection) {
    gauge.reset()
    // A reset gauge without labels still shows a 0.
    gauge.remove({})
  }
}

const SECONDS = [0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300]
const GAINS = [-2, -1, -0.5, -0.2, -0.1, 0, 0.1, 0.2, 0.5, 1, 2, 5]
const EXAMPLES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]

function flowMetrics({ counter, gauge, histogram }: Makers) {
  return {
    examples: counter(
      'xmasd_examples_total',
      'Examples by outcome; redelivered and duplicate ones are counted as assigned too',
      'outcome',
    ),
    deadLetters: counter('xmasd_dead_letters_total', 'Dead letters by error code', 'code'),
    decisions: counter(
      'xmasd_decisions_total',
      'Published decisions by action and reason',
      'action',
      'reason',
    ),
    commitSeconds: histogram(
      'xmasd_commit_seconds',
      'Time of one atomic commit of outputs, positions and state',
      SECONDS,
      'role',
    ),
    fencedCommits: counter(
      'xmasd_commits_fenced_total',
      'Commits refused because another member of the group had moved on; their work was done again',
      'role',
    ),
    backlogRecords: gauge(
      'xmasd_backlog_records',
      'Records between the committed position and the end of the topic that the role reads',
      'role',
    ),
    backlogSeconds: gauge(
      'xmasd_backlog_seconds',
      'Seconds to work off the backlog at the recent rate; the age of its oldest record while nothing moves',
      'role',
    ),
    backlogAge: gauge(
      'xmasd_backlog_age_seconds',
      'Seconds since the oldest uncommitted record was appended; 0 without one',
      'role',
    ),
    lastCommit: gauge(
      'xmasd_last_commit_timestamp_seconds',
      'Time of the last commit of the role, of its start before the first; seconds since the epoch',
      'role',
    ),
  }
}

function logMetrics({ counter, gauge, histogram }: Makers) {
  return {
    transactions: counter(
      'xmasd_transactions_total',
      'Atomic writes of outputs and positions, one a commit, by outcome',
      'outcome',
    ),
    transactionSeconds: histogram(
      'xmasd_transaction_seconds',
      'Time of one atomic write of outputs and positions, whatever its outcome',
      SECONDS,
    ),
    rebalances: counter(
      'xmasd_rebalances_total',
      'Times that the partitions of the group were assigned to its members',
      'role',
    ),
    partitions: gauge(
      'xmasd_owned_partitions',
      'Partitions of the group that are assigned to this process',
      'role',
    ),
    logRetries: counter(
      'xmasd_log_retries_total',
      'Failed requests to the log that were tried again, by cause',
      'cause',
    ),
  }
}

function infoMetrics({ counter, gauge }: Makers) {
  return {
    logLinesDropped: counter(
      'xmasd_log_lines_dropped_total',
      'Log lines that could not be written to stderr, as on a full disk',
    ),
    framesDropped: counter(
      'xmasd_dashboard_frames_dropped_total',
      'Updates that were not sent to an open dashboard because it reads too slowly',
    ),
    dashboards: gauge('xmasd_dashboard_open_pages', 'Dashboards that receive updates now'),
    checks: gauge('xmasd_check_ok', '1 where the check of /readyz passes, else 0', 'check'),
    buildInfo: gauge(
      'xmasd_build_info',
      '1; the labels hold the versions of xmasd and Node',
      'version',
      'node',
    ),
    bundleInfo: gauge(
      'xmasd_bundle_info',
      '1; the labels hold the configured bundle',
      'bundle',
      'mode',
      'signature',
    ),
  }
}

function scoreMetrics({ counter, gauge, histogram }: Makers) {
  return {
    ingestSeconds: histogram(
      'xmasd_ingest_seconds',
      'Time to decode, fetch and tokenise one batch',
      SECONDS,
    ),
    scoreSeconds: histogram(
      'xmasd_score_seconds',
      'Time to score one batch at every checkpoint',
      SECONDS,
    ),
    batchExamples: histogram('xmasd_batch_examples', 'Records in one batch', EXAMPLES),
    tokens: counter(
      'xmasd_scored_tokens_total',
      'Scored sequence positions, image positions included, each counted once for all checkpoints',
    ),
    truncated: counter(
      'xmasd_truncated_examples_total',
      'Examples cut to the longest sequence of the proxy',
    ),
    imageGain: histogram(
      'xmasd_image_gain_nats',
      'Image gain of scored examples: loss of the answers without the pictures less that with them',
      GAINS,
    ),
    batchesInFlight: gauge(
      'xmasd_queue_depth_batches',
      'Batches that the score role has read and not yet committed',
    ),
    indexChecks: counter(
      'xmasd_index_checks_total',
      'HNSW answers compared with the exact scan, by agreement',
      'agreed',
    ),
  }
}

function workerMetrics({ counter, gauge }: Makers) {
  return {
    deviceSeconds: counter(
      'xmasd_device_seconds_total',
      'Time in forward passes, summed over worker threads, by device',
      'device',
    ),
    jobsWaiting: gauge('xmasd_queue_depth_jobs', 'Jobs that wait for a worker thread', 'stage'),
    workersBusy: gauge('xmasd_busy_workers', 'Worker threads with a job', 'stage'),
    workersReplaced: counter(
      'xmasd_workers_replaced_total',
      'Worker threads that died and were replaced',
    ),
    outOfMemory: counter(
      'xmasd_memory_shortages_total',
      'Scoring jobs that ran out of memory and were done again',
    ),
    passTokens: gauge(
      'xmasd_pass_tokens',
      'Distinct tokens allowed in one forward pass: proxy.tokensMax, halved where memory ran out',
    ),
  }
}

function selectionMetrics({ gauge }: Makers) {
  return {
    subset: gauge('xmasd_subset_examples', 'Counted examples that the policy keeps now'),
    budget: gauge('xmasd_budget_ratio', 'Share of the history that the subset may hold'),
    history: gauge('xmasd_history_examples', 'Counted examples: N of the batch rule'),
    parts: gauge(
      'xmasd_part_examples',
      'Examples of the stream, the baseline and the random holdout (control), by whether they are kept now',
      'part',
      'state',
    ),
    level: gauge(
      'xmasd_level_examples',
      'Water-filling level: the quota of clusters with more examples than it',
    ),
    balance: gauge(
      'xmasd_balance_ratio',
      'Entropy of the subset over clusters, divided by that of the batch rule on clusters of these sizes',
    ),
    evenness: gauge(
      'xmasd_evenness_ratio',
      'Entropy over clusters, divided by that of equal counts',
      'of',
    ),
    clusters: gauge('xmasd_quota_clusters', 'Clusters by what they give to the subset', 'state'),
    redundant: gauge(
      'xmasd_redundant_ratio',
      'Share of all distinct examples that are duplicates of another',
    ),
    pending: gauge('xmasd_pending_examples', 'Examples that wait for the next settlement'),
    regretBudget: gauge(
      'xmasd_regret_budget_ratio',
      'Examples kept beyond the budget so far, divided by the budget; 0 under the revisable policy',
    ),
    regretVariation: gauge(
      'xmasd_regret_variation_ratio',
      "Total variation between the clusters' shares in the subset and in the batch rule's",
    ),
    regretRecovered: gauge(
      'xmasd_regret_recovered_ratio',
      "Fraction of the batch rule's reduction in mean instability that the subset achieves; 1 = as good",
    ),
    driftWindow: gauge(
      'xmasd_drift_window_examples',
      'Counted examples in the window of the other drift metrics',
    ),
    driftStability: gauge(
      'xmasd_drift_stability_index',
      'Population stability index of cluster shares against the baseline of the bundle',
    ),
    driftNoise: gauge(
      'xmasd_drift_noise_index',
      'Expected xmasd_drift_stability_index from chance alone for this many examples and clusters',
    ),
    driftBeyond: gauge(
      'xmasd_drift_beyond_ratio',
      'Share of examples beyond the 99 % radius of their cluster at the time of the fit',
    ),
    bundleInForce: gauge(
      'xmasd_bundle_in_force_info',
      '1; the labels hold the active bundle and the one that shadows it',
      'bundle',
      'shadow',
    ),
    shadowDifference: gauge(
      'xmasd_shadow_difference_ratio',
      'Examples kept by only one of the active bundle and its shadow, of those kept by either; 0 without a shadow',
    ),
  }
}

/** `roleOf` says which role a consumer group belongs to. */
export function countLogEvents(metrics: Metrics, roleOf: (group: string) => string): LogEvents {
  return {
    onTransaction: (outcome, seconds) => {
      metrics.transactions.inc({ outcome })
      metrics.transactionSeconds.observe(seconds)
    },
    onRebalance: (group, partitions) => {
      metrics.rebalances.inc({ role: roleOf(group) })
      metrics.partitions.set({ role: roleOf(group) }, partitions)
    },
    onRetry: cause => metrics.logRetries.inc({ cause }),
  }
}
