import assert from 'node:assert/strict'
import test from 'node:test'
import { createLogger } from '../../src/observe/logger.ts'
import { countLogEvents, createMetrics } from '../../src/observe/metrics.ts'
import { summaryOf } from '../../src/observe/segments.ts'
import { ACTIONS, REASONS, REASONS_OF } from '../../src/record.ts'

test('every reason belongs to an action, and every pair stands at 0 before its first decision', async () => {
  const pairs = ACTIONS.flatMap(action => REASONS_OF[action].map(reason => ({ action, reason })))
  assert.deepEqual([...new Set(pairs.map(({ reason }) => reason))].sort(), [...REASONS].sort())
  const { values } = await createMetrics().decisions.get()
  assert.deepEqual(
    values.map(({ labels, value }) => ({ ...labels, value })),
    pairs.map(pair => ({ ...pair, value: 0 })),
  )
})

test('a summary sums decisions over their reasons', async () => {
  const metrics = createMetrics()
  metrics.decisions.inc({ action: 'drop', reason: 'over_quota' }, 3)
  metrics.decisions.inc({ action: 'drop', reason: 'duplicate' }, 2)
  metrics.decisions.inc({ action: 'keep', reason: 'within_quota' })
  const { decisions } = await summaryOf(metrics)
  assert.deepEqual(decisions, { keep: 1, drop: 5, evict: 0, restore: 0 })
})

test('what a log tells is counted, by the role whose group it is', async () => {
  const metrics = createMetrics()
  const events = countLogEvents(metrics, group => (group === 's' ? 'select' : 'score'))
  events.onTransaction('fenced', 0.2)
  events.onRebalance('g', 3)
  events.onRebalance('g', 2)
  events.onRebalance('s', 1)
  events.onRetry('leader')
  const text = await metrics.registry.metrics()
  for (const line of [
    'xmasd_transactions_total{outcome="fenced"} 1',
    'xmasd_transactions_total{outcome="committed"} 0',
    'xmasd_transaction_seconds_count 1',
    'xmasd_rebalances_total{role="score"} 2',
    'xmasd_owned_partitions{role="score"} 2',
    'xmasd_owned_partitions{role="select"} 1',
    'xmasd_log_retries_total{cause="leader"} 1',
  ]) {
    assert.ok(text.includes(`${line}\n`), line)
  }
})

test('a log line is one JSON object whose level is a word', () => {
  const lines: string[] = []
  createLogger({ level: 'info', forward: line => lines.push(line) }).warn({ role: 'score' }, 'well')
  const { level, role, msg, time } = JSON.parse(lines[0]!)
  assert.deepEqual([level, role, msg], ['warn', 'score', 'well'])
  assert.ok(Date.parse(time) > 0)
})
