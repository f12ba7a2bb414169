import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { buildDashboard } from '../../deploy/grafana/dashboard.ts'
import { createMetrics } from '../../src/observe/metrics.ts'
import { ROOT } from '../support.ts'

const FILE = join(ROOT, 'deploy/grafana/dashboard.json')

test('deploy/grafana/dashboard.json is what dashboard.ts builds (UPDATE_DASHBOARD=1 writes it)', () => {
  const text = `${JSON.stringify(buildDashboard(), null, 2)}\n`
  if (process.env.UPDATE_DASHBOARD === '1') writeFileSync(FILE, text)
  assert.equal(readFileSync(FILE, 'utf8'), text, 'run the tests with UPDATE_DASHBOARD=1')
})

test('every panel says which metric it shows and what is normal', () => {
  const panels = (buildDashboard().panels ?? []).filter(({ type }) => type !== 'row')
  assert.ok(panels.length > 20)
  for (const panel of panels) {
    assert.match(String(panel.title), /\w/)
    const { description } = panel as { description?: string }
    assert.match(description ?? '', /(xmasd|process|nodejs)_\w+.*\n\nNormal: .{2,}/s, panel.title)
  }
})

test('the dashboard and the rules name only metrics that are served', async () => {
  const types = new Map(
    (await createMetrics().registry.getMetricsAsJSON()).map(({ name, type }) => [name, type]),
  )
  const rules = ['rules.yaml', 'rules_test.yaml'].map(name =>
    readFileSync(join(ROOT, 'deploy/prometheus', name), 'utf8'),
  )
  const text = [readFileSync(FILE, 'utf8'), ...rules].join('\n')
  // Recorded series, job:…:rate5m, hold the name of the metric they are made of, or a new one.
  const recorded = new Set([...text.matchAll(/record: \w+:(\w+):/g)].map(([, name]) => name!))
  const named = new Set([...text.matchAll(/\b(?:xmasd|nodejs|process)_[a-z0-9_]+/g)].map(String))
  assert.ok(named.size > 30)
  for (const name of named) {
    const base = name.replace(/_(bucket|sum|count)$/, '')
    const isHistogram = String(types.get(base)) === 'histogram'
    assert.ok(types.has(name) || isHistogram || recorded.has(name), `${name} is not served`)
  }
})
