/**
 * The dashboard as code. A test compares `dashboard.json` with what it builds (UPDATE_DASHBOARD=1 writes
 * the file). Every panel says which metric it shows and what is normal.
 */
import { ReduceDataOptionsBuilder } from '@grafana/grafana-foundation-sdk/common'
import {
  type Dashboard,
  DashboardBuilder,
  DashboardCursorSync,
  DatasourceVariableBuilder,
  QueryVariableBuilder,
  RowBuilder,
  ThresholdsConfigBuilder,
  ThresholdsMode,
  VariableRefresh,
} from '@grafana/grafana-foundation-sdk/dashboard'
import { DataqueryBuilder } from '@grafana/grafana-foundation-sdk/prometheus'
import { PanelBuilder as StatBuilder } from '@grafana/grafana-foundation-sdk/stat'
import { PanelBuilder as TimeseriesBuilder } from '@grafana/grafana-foundation-sdk/timeseries'
import { COLOURS, type Meaning, meaningOf, REASON_TEXTS } from '../../src/observe/colours.ts'

/** `queries`: legend → PromQL. `warnAt` and `badAt` colour a number; below `warnAt` it is green. */
type Panel = {
  title: string
  shows: string
  normal: string
  unit: string
  queries: Record<string, string>
  /** Values below 0 are shown, too. */
  isSigned?: boolean
  stat?: { warnAt?: number; badAt?: number; isLowBad?: boolean }
}

const SOURCE = { type: 'prometheus', uid: '$datasource' }

export function buildDashboard(): Dashboard {
  const dashboard = new DashboardBuilder('xmasd')
    .uid('xmasd-overview')
    .description('What xmasd reads, decides and keeps, and how far behind it is.')
    .tags(['xmasd'])
    .time({ from: 'now-6h', to: 'now' })
    .refresh('30s')
    .timezone('browser')
    .tooltip(DashboardCursorSync.Crosshair)
    .withVariable(new DatasourceVariableBuilder('datasource').label('Source').type('prometheus'))
    .withVariable(
      new QueryVariableBuilder('job')
        .label('Deployment')
        .datasource(SOURCE)
        .query('label_values(xmasd_build_info, job)')
        .refresh(VariableRefresh.OnTimeRangeChanged)
        .includeAll(true)
        .allValue('.*')
        .multi(true),
    )
  let id = 1
  for (const [title, panels] of Object.entries(ROWS)) {
    dashboard.withRow(new RowBuilder(title).id(id++))
    for (const panel of panels) dashboard.withPanel(panelOf(panel).id(id++))
  }
  return dashboard.build()
}

function panelOf(panel: Panel): StatBuilder | TimeseriesBuilder {
  const { title, shows, normal, unit, queries, stat, isSigned = false } = panel
  const builder = stat === undefined ? new TimeseriesBuilder() : new StatBuilder()
  builder.title(title).description(`${shows}\n\nNormal: ${normal}`).unit(unit).datasource(SOURCE)
  builder.height(stat === undefined ? 8 : 4).span(stat === undefined ? 8 : 4)
  for (const [i, [legend, expr]] of Object.entries(queries).entries()) {
    const refId = String.fromCharCode('A'.charCodeAt(0) + i)
    builder.withTarget(new DataqueryBuilder().refId(refId).expr(expr).legendFormat(legend))
  }
  if (builder instanceof TimeseriesBuilder) {
    for (const [options, meaning] of coloured(Object.keys(queries))) {
      const { light } = COLOURS[meaning]
      const properties = [{ id: 'color', value: { mode: 'fixed', fixedColor: light } }]
      builder.withOverride({ matcher: { id: 'byRegexp', options }, properties })
    }
    builder.fillOpacity(10)
    return isSigned ? builder : builder.min(0)
  }
  const latest = new ReduceDataOptionsBuilder().calcs(['lastNotNull'])
  return builder.thresholds(thresholdsOf(stat ?? {})).reduceOptions(latest)
}

/** Patterns of legends that have a colour of their own everywhere: actions, outcomes, and reasons behind an action. */
function coloured(legends: readonly string[]): [string, Meaning][] {
  if (legends.includes('{{action}}')) {
    return Object.keys(COLOURS).map(action => [`/^${action}$/`, action as Meaning])
  }
  if (!legends.some(legend => /\{\{(reason|outcome)\}\}$/.test(legend))) return []
  return (['duplicate', 'misaligned'] as const).map(meaning => {
    const own = Object.keys(REASON_TEXTS).filter(reason => meaningOf('drop', reason) === meaning)
    return [`/^(\\w+: )?(${own.join('|')})$/`, meaning]
  })
}

function thresholdsOf({ warnAt, badAt, isLowBad = false }: NonNullable<Panel['stat']>) {
  const steps = [{ value: null, color: isLowBad ? 'red' : 'green' }] as {
    value: number | null
    color: string
  }[]
  if (warnAt !== undefined) steps.push({ value: warnAt, color: isLowBad ? 'green' : 'orange' })
  if (badAt !== undefined) steps.push({ value: badAt, color: 'red' })
  return new ThresholdsConfigBuilder().mode(ThresholdsMode.Absolute).steps(steps)
}

/** `metric` with the chosen deployments, and other labels. */
function of(metric: string, labels = ''): string {
  return `${metric}{job=~"$job"${labels === '' ? '' : `,${labels}`}}`
}

function rate(metric: string, by: string, labels = ''): string {
  return `sum by (${by}) (rate(${of(metric, labels)}[$__rate_interval]))`
}

function quantile(q: number, metric: string, by = ''): string {
  const groups = by === '' ? 'le' : `le, ${by}`
  return `histogram_quantile(${q}, ${rate(`${metric}_bucket`, groups)})`
}

/** The series of `metric` with the labels `part`, as a share of all its series; 0 if there are none. */
function share(metric: string, part: string): string {
  const all = `sum(increase(${of(metric)}[$__range]))`
  return `sum(increase(${of(metric, part)}[$__range])) / (${all} > 0) or vector(0)`
}

const ROWS: Record<string, Panel[]> = {
  'At a glance': [
    {
      title: 'Ready',
      shows: 'xmasd_check_ok: the minimum of all checks of /readyz, over all processes.',
      normal: '1. 0 while a proxy loads; GET /readyz says which check fails.',
      unit: 'short',
      queries: { '': `min(${of('xmasd_check_ok')})` },
      stat: { warnAt: 1, isLowBad: true },
    },
    {
      title: 'Examples decided',
      shows: 'xmasd_examples_total: all outcomes, a second.',
      normal: 'the rate of the producer; 0 without input.',
      unit: 'ops',
      queries: { '': `sum(rate(${of('xmasd_examples_total')}[$__rate_interval]))` },
      stat: {},
    },
    {
      title: 'Oldest that waits',
      shows: 'xmasd_backlog_age_seconds: how long the oldest uncommitted record has waited.',
      normal: 'seconds; after a burst minutes, falling. If it keeps growing, add score processes.',
      unit: 's',
      queries: { '': `max(${of('xmasd_backlog_age_seconds')})` },
      stat: { warnAt: 300, badAt: 1800 },
    },
    {
      title: 'Kept of all',
      shows: 'xmasd_subset_examples / xmasd_history_examples: the share that is kept now.',
      normal: 'exactly select.percent under the revisable policy.',
      unit: 'percentunit',
      queries: {
        '': `max(${of('xmasd_subset_examples')}) / (max(${of('xmasd_history_examples')}) > 0)`,
      },
      stat: {},
    },
    {
      title: 'Redundant',
      shows: 'xmasd_redundant_ratio: duplicates among all distinct examples since the log began.',
      normal: 'depends on the producers; on a sudden rise a producer repeats itself.',
      unit: 'percentunit',
      queries: { '': `max(${of('xmasd_redundant_ratio')})` },
      stat: { warnAt: 0.5 },
    },
    {
      title: 'Dead letters',
      shows: 'xmasd_examples_total{outcome="dead_letter"}: their share in the time shown.',
      normal: 'below 1%. docs/errors.md says what to do about each code.',
      unit: 'percentunit',
      queries: { '': share('xmasd_examples_total', 'outcome="dead_letter"') },
      stat: { warnAt: 0.01, badAt: 0.05 },
    },
  ],
  'Flow: outcomes and decisions': [
    {
      title: 'Examples by outcome',
      shows: 'xmasd_examples_total by outcome, a second.',
      normal:
        'mostly assigned; redelivered only after a producer restarts; misaligned only with select.gainMin.',
      unit: 'ops',
      queries: { '{{outcome}}': rate('xmasd_examples_total', 'outcome') },
    },
    {
      title: 'Decisions by action',
      shows: 'xmasd_decisions_total by action, a second.',
      normal:
        'keep + drop is the rate of new examples; evict and restore about 0.2 each an example, fewer with settleEvery.',
      unit: 'ops',
      queries: { '{{action}}': rate('xmasd_decisions_total', 'action') },
    },
    {
      title: 'Drops and evicts by reason',
      shows: 'xmasd_decisions_total{action=~"drop|evict"} by reason, a second.',
      normal:
        'over_quota leads. If duplicate or cluster_too_small leads, check the producers; if misaligned leads, their pictures, and select.gainMin.',
      unit: 'ops',
      queries: {
        '{{action}}: {{reason}}': rate(
          'xmasd_decisions_total',
          'action, reason',
          'action=~"drop|evict"',
        ),
      },
    },
    {
      title: 'Share of new examples that are kept',
      shows: 'xmasd_decisions_total: keep / (keep + drop), and select.percent.',
      normal:
        'steady, above select.percent, because some are evicted later. A step means that the input changed.',
      unit: 'percentunit',
      queries: {
        kept:
          `sum(rate(${of('xmasd_decisions_total', 'action="keep"')}[$__rate_interval]))` +
          ` / (sum(rate(${of('xmasd_decisions_total', 'action=~"keep|drop"')}[$__rate_interval])) > 0)`,
        wanted: `max(${of('xmasd_budget_ratio')})`,
      },
    },
    {
      title: 'Dead letters by code',
      shows: 'xmasd_dead_letters_total by code, a second.',
      normal:
        'none, or few, of the same codes. Many IMAGE_NOT_FOUND: check images.root and late uploads.',
      unit: 'ops',
      queries: { '{{code}}': rate('xmasd_dead_letters_total', 'code') },
    },
    {
      title: 'Tokens',
      shows: 'xmasd_scored_tokens_total: positions scored, a second.',
      normal: 'follows the examples; falls when conversations get shorter.',
      unit: 'ops',
      queries: { tokens: `sum(rate(${of('xmasd_scored_tokens_total')}[$__rate_interval]))` },
    },
  ],
  'Backlog in time': [
    {
      title: 'Backlog in seconds',
      shows:
        'xmasd_backlog_seconds: records in the backlog / recent rate. Autoscalers follow this gauge.',
      normal: 'near the target of the autoscaler; 0 when idle.',
      unit: 's',
      queries: { '{{role}}': `max by (role) (${of('xmasd_backlog_seconds')})` },
    },
    {
      title: 'Age of the oldest uncommitted record',
      shows: 'xmasd_backlog_age_seconds: since the oldest uncommitted record was appended.',
      normal: 'the time of one or two batches. If it grows, the role does not keep up.',
      unit: 's',
      queries: { '{{role}}': `max by (role) (${of('xmasd_backlog_age_seconds')})` },
    },
    {
      title: 'Backlog in records',
      shows: 'xmasd_backlog_records: between the committed positions and the end of the topic.',
      normal: 'falling. Read the two panels before this one first.',
      unit: 'short',
      queries: { '{{role}}': `max by (role) (${of('xmasd_backlog_records')})` },
    },
    {
      title: 'Since the last commit',
      shows: 'xmasd_last_commit_timestamp_seconds: time since the latest commit of each role.',
      normal: 'the time of a batch while there is work; grows while idle.',
      unit: 's',
      queries: {
        '{{role}}': `time() - max by (role) (${of('xmasd_last_commit_timestamp_seconds')})`,
      },
    },
    {
      title: 'Time of a commit',
      shows: 'xmasd_commit_seconds: median and 95th percentile by role.',
      normal: 'tens of milliseconds. Seconds mean a slow disk or broker.',
      unit: 's',
      queries: {
        '{{role}} median': quantile(0.5, 'xmasd_commit_seconds', 'role'),
        '{{role}} 95%': quantile(0.95, 'xmasd_commit_seconds', 'role'),
      },
    },
    {
      title: 'Transactions',
      shows: 'xmasd_transactions_total by outcome, and xmasd_log_retries_total, a second.',
      normal:
        'committed only; fenced during rebalances; aborted and retries while a broker restarts.',
      unit: 'ops',
      queries: {
        '{{outcome}}': rate('xmasd_transactions_total', 'outcome'),
        'retries: {{cause}}': rate('xmasd_log_retries_total', 'cause'),
      },
    },
  ],
  'Scoring: where time goes': [
    {
      title: 'Time of a batch',
      shows: 'xmasd_ingest_seconds and xmasd_score_seconds: 95th percentile of one polled batch.',
      normal:
        'scoring leads. If ingest leads: slow image servers or disks, or too few ingestWorkers.',
      unit: 's',
      queries: {
        'ingest 95%': quantile(0.95, 'xmasd_ingest_seconds'),
        'score 95%': quantile(0.95, 'xmasd_score_seconds'),
      },
    },
    {
      title: 'Device seconds a second',
      shows: 'xmasd_device_seconds_total by device: worker threads in forward passes, on average.',
      normal:
        'near the number of scoring workers under load. If far below with a backlog, ingest or the log is slower.',
      unit: 'short',
      queries: { '{{device}}': rate('xmasd_device_seconds_total', 'device') },
    },
    {
      title: 'Records in a batch',
      shows: 'xmasd_batch_examples: the mean of polled batches.',
      normal: 'score.batchExamplesMax under load, fewer when idle.',
      unit: 'short',
      queries: {
        mean:
          `sum(rate(${of('xmasd_batch_examples_sum')}[$__rate_interval]))` +
          ` / (sum(rate(${of('xmasd_batch_examples_count')}[$__rate_interval])) > 0)`,
      },
    },
    {
      title: 'Queues',
      shows:
        'xmasd_queue_depth_batches, xmasd_queue_depth_jobs, xmasd_busy_workers, summed over processes.',
      normal: 'batches at score.batchesInFlightMax for each process under load, workers all busy.',
      unit: 'short',
      queries: {
        'batches in flight': `sum(${of('xmasd_queue_depth_batches')})`,
        '{{stage}}: waiting jobs': `sum by (stage) (${of('xmasd_queue_depth_jobs')})`,
        '{{stage}}: busy workers': `sum by (stage) (${of('xmasd_busy_workers')})`,
      },
    },
    {
      title: 'Workers replaced',
      shows: 'xmasd_workers_replaced_total: worker threads that died, in the time shown.',
      normal: '0.',
      unit: 'short',
      queries: {
        '{{instance}}': `sum by (instance) (increase(${of('xmasd_workers_replaced_total')}[$__range]))`,
      },
    },
    {
      title: 'Out of memory',
      shows:
        'xmasd_memory_shortages_total: jobs that ran out of memory and were done again, in the time shown; xmasd_pass_tokens: tokens that a forward pass may have now, the minimum of all processes.',
      normal: '0 jobs; tokens at proxy.tokensMax.',
      unit: 'short',
      queries: {
        '{{instance}}: jobs': `sum by (instance) (increase(${of('xmasd_memory_shortages_total')}[$__range]))`,
        'tokens of a pass': `min(${of('xmasd_pass_tokens')})`,
      },
    },
  ],
  'Subset: what is kept': [
    {
      title: 'Subset and history',
      shows: 'xmasd_subset_examples and xmasd_history_examples.',
      normal: 'both grow; their ratio is select.percent.',
      unit: 'short',
      queries: {
        subset: `max(${of('xmasd_subset_examples')})`,
        history: `max(${of('xmasd_history_examples')})`,
        pending: `max(${of('xmasd_pending_examples')})`,
      },
    },
    {
      title: 'Level',
      shows:
        'xmasd_level_examples: the water-filling level, the quota of each cluster that has enough examples.',
      normal: 'grows with the history; jumps when clusters are exhausted.',
      unit: 'short',
      queries: { level: `max(${of('xmasd_level_examples')})` },
    },
    {
      title: 'Balance and evenness',
      shows:
        'xmasd_balance_ratio (against the batch rule), xmasd_evenness_ratio of subset and history.',
      normal:
        'balance is 1 under revisable. The subset is spread more evenly than the history; the difference is the gain.',
      unit: 'percentunit',
      queries: {
        balance: `max(${of('xmasd_balance_ratio')})`,
        'evenness of the {{of}}': `max by (of) (${of('xmasd_evenness_ratio')})`,
      },
    },
    {
      title: 'Regret of irrevocable decisions',
      shows:
        'xmasd_regret_budget_ratio, xmasd_regret_variation_ratio, xmasd_regret_recovered_ratio: the subset against the batch rule’s.',
      normal:
        'revisable: 0, 0 and 1. final: budget error positive and falling to 0, recovered above 0.9.',
      unit: 'percentunit',
      queries: {
        'budget error': `max(${of('xmasd_regret_budget_ratio')})`,
        'total variation': `max(${of('xmasd_regret_variation_ratio')})`,
        recovered: `min(${of('xmasd_regret_recovered_ratio')})`,
      },
    },
    {
      title: 'Clusters',
      shows: 'xmasd_quota_clusters by state.',
      normal:
        'few empty and small clusters. Many mean that the bundle has too many clusters, or was fitted to other data.',
      unit: 'short',
      queries: { '{{state}}': `max by (state) (${of('xmasd_quota_clusters')})` },
    },
    {
      title: 'Image gain',
      shows:
        'xmasd_image_gain_nats: 5th percentile, median and 95th percentile of scored examples; docs/gain.md.',
      normal:
        'steady, the median above 0; empty without proxy.gain. If it falls, pictures arrive that belong to other examples.',
      unit: 'short',
      isSigned: true,
      queries: {
        '5%': quantile(0.05, 'xmasd_image_gain_nats'),
        median: quantile(0.5, 'xmasd_image_gain_nats'),
        '95%': quantile(0.95, 'xmasd_image_gain_nats'),
      },
    },
  ],
  'Drift: whether the bundle still fits': [
    {
      title: 'Mix against the bundle',
      shows:
        'xmasd_drift_stability_index minus xmasd_drift_noise_index: how far the clusters’ shares moved.',
      normal: 'below 0.1. Above 0.25, fit a new bundle.',
      unit: 'short',
      queries: {
        'beyond chance': `max(${of('xmasd_drift_stability_index')} - ${of('xmasd_drift_noise_index')})`,
      },
    },
    {
      title: 'Beyond their cluster',
      shows:
        'xmasd_drift_beyond_ratio: the share of recent examples outside the radius of their cluster.',
      normal: '0.01 to 0.02. Above 0.03, examples arrive that no cluster was fitted to.',
      unit: 'percentunit',
      queries: { beyond: `max(${of('xmasd_drift_beyond_ratio')})` },
    },
    {
      title: 'Index against exact scan',
      shows:
        'xmasd_index_checks_total{agreed="false"}: share of checked answers in the time shown.',
      normal: 'under 1%.',
      unit: 'percentunit',
      queries: { disagreed: share('xmasd_index_checks_total', 'agreed="false"') },
    },
  ],
  Processes: [
    {
      title: 'Memory',
      shows: 'process_resident_memory_bytes by instance.',
      normal: 'flat after the warm-up.',
      unit: 'bytes',
      queries: {
        '{{instance}}': `${of('process_resident_memory_bytes')} and on (job, instance) xmasd_build_info`,
      },
    },
    {
      title: 'Event loop',
      shows: 'nodejs_eventloop_lag_p99_seconds by instance.',
      normal: 'below 0.05 s. Above, /healthz may miss its deadline.',
      unit: 's',
      queries: {
        '{{instance}}': `${of('nodejs_eventloop_lag_p99_seconds')} and on (job, instance) xmasd_build_info`,
      },
    },
    {
      title: 'Partitions and rebalances',
      shows: 'xmasd_owned_partitions by instance, and xmasd_rebalances_total in the time shown.',
      normal: 'all partitions assigned; a few rebalances for each process that starts or ends.',
      unit: 'short',
      queries: {
        '{{instance}} {{role}}: partitions': `sum by (instance, role) (${of('xmasd_owned_partitions')})`,
        '{{role}}: rebalances': `sum by (role) (increase(${of('xmasd_rebalances_total')}[$__range]))`,
      },
    },
    {
      title: 'Versions and bundles',
      shows:
        'xmasd_build_info, xmasd_bundle_info and xmasd_bundle_in_force_info: processes by version and bundle.',
      normal: 'one version and one bundle, except during an upgrade.',
      unit: 'short',
      queries: {
        'xmasd {{version}} on Node {{node}}': `count by (version, node) (${of('xmasd_build_info')})`,
        'bundle {{bundle}}, {{mode}}': `count by (bundle, mode) (${of('xmasd_bundle_info')})`,
        'active {{bundle}}': `count by (bundle) (${of('xmasd_bundle_in_force_info')})`,
      },
    },
  ],
}
