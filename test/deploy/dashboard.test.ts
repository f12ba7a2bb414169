import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { buildDashboard } from '../../deploy/grafana/dashboard.ts'
import { COLOURS } from '../../src/observe/colours.ts'
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

type Series = {
  title?: string
  targets?: { expr: string }[]
  fieldConfig: {
    defaults: { min?: number }
    overrides: { matcher: { options: string }; properties: { value: { fixedColor: string } }[] }[]
  }
}

function panelNamed(title: string): Series {
  const panels = (buildDashboard().panels ?? []) as Series[]
  return panels.find(panel => panel.title === title)!
}

test('reasons and outcomes have the colours that they have in the dashboard of the daemon', () => {
  const colourIn = (title: string, legend: string): string | undefined => {
    const override = panelNamed(title).fieldConfig.overrides.find(({ matcher }) =>
      new RegExp(matcher.options.slice(1, -1)).test(legend),
    )
    return override?.properties[0]?.value.fixedColor
  }
  const byReason = (legend: string) => colourIn('Drops and evicts by reason', legend)
  assert.equal(byReason('drop: misaligned'), COLOURS.misaligned.light)
  assert.equal(byReason('drop: near_duplicate'), COLOURS.duplicate.light)
  assert.equal(byReason('drop: over_quota'), undefined)
  assert.equal(colourIn('Examples by outcome', 'misaligned'), COLOURS.misaligned.light)
  assert.equal(colourIn('Examples by outcome', 'assigned'), undefined)
  assert.equal(colourIn('Decisions by action', 'evict'), COLOURS.evict.light)
})

test('the image gain has a panel that shows negative gains', () => {
  const { targets, fieldConfig } = panelNamed('Image gain')
  assert.equal(targets!.length, 3)
  assert.ok(targets!.every(({ expr }) => expr.includes('xmasd_image_gain_nats_bucket')))
  assert.equal(fieldConfig.defaults.min, undefined)
  assert.equal(panelNamed('Decisions by action').fieldConfig.defaults.min, 0)
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
