import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { createMetrics } from '../../src/observe/metrics.ts'
import { ROOT } from '../support.ts'

test('docs/metrics.md has one row for every metric, with its type, and no other', async () => {
  const rows = readFileSync(join(ROOT, 'docs/metrics.md'), 'utf8').matchAll(
    /^\| `(xmasd_\w+)` \| (\w+) \|/gm,
  )
  const documented = [...rows].map(([, name, type]) => `${name} ${type}`).sort()
  const metrics = await createMetrics().registry.getMetricsAsJSON()
  const real = metrics
    .filter(({ name }) => name.startsWith('xmasd_'))
    .map(({ name, type }) => `${name} ${type}`)
    .sort()
  assert.deepEqual(documented, real)
})

test('metric names follow xmasd_<noun>_<unit>[_total] and counters alone end in _total', async () => {
  const metrics = await createMetrics().registry.getMetricsAsJSON()
  for (const { name, type } of metrics.filter(metric => metric.name.startsWith('xmasd_'))) {
    assert.match(name, /^xmasd(_[a-z]+)+$/)
    assert.equal(name.endsWith('_total'), String(type) === 'counter', name)
  }
})
