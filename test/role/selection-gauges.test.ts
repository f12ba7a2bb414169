import assert from 'node:assert/strict'
import test from 'node:test'
import type { Bundle } from '../../src/bundle/bundle.ts'
import type { Metrics } from '../../src/observe/metrics.ts'
import { append, assignmentOf, EXAMPLES, runSelect, SWAP_AT, site } from './site.ts'

type Sample = { value: number; labels: Partial<Record<string, string | number>> }

async function shown(metric: { get(): Promise<{ values: Sample[] }> }): Promise<number> {
  return (await metric.get()).values.at(-1)?.value ?? Number.NaN
}

/** The index and the share, counted by hand: PSI with half an example added to every cell. */
function driftOf(bundle: Bundle, from: number, to: number): { index: number; beyond: number } {
  const { sizes } = bundle.manifest.baseline
  const seen = new Array<number>(sizes.length + 1).fill(0)
  let beyond = 0
  for (let i = from; i < to; i++) {
    const { cluster, distance } = assignmentOf(i, bundle)
    seen[cluster as number]!++
    if (distance! > bundle.manifest.radii![cluster as number]!) beyond++
  }
  const shares = (counts: readonly number[]): number[] => {
    const total = counts.reduce((sum, count) => sum + count, 0) + 0.5 * counts.length
    return counts.map(count => (count + 0.5) / total)
  }
  const [p, q] = [shares([...sizes, 0]), shares(seen)]
  const index = q.reduce((sum, share, i) => sum + (share - p[i]!) * Math.log(share / p[i]!), 0)
  return { index, beyond: beyond / (to - from) }
}

async function assertDrift(metrics: Metrics, expected: ReturnType<typeof driftOf>): Promise<void> {
  const [index, beyond] = [await shown(metrics.driftStability), await shown(metrics.driftBeyond)]
  assert.ok(Math.abs(index - expected.index) < 1e-9, `index ${index}, not ${expected.index}`)
  assert.ok(Math.abs(beyond - expected.beyond) < 1e-9, `beyond ${beyond}, not ${expected.beyond}`)
}

test('drift is measured by the bundle in force, whichever examples were scored with and the process is configured with', async t => {
  const parts = await site(t)
  const [first, second] = parts.bundles
  const swapped = driftOf(second, SWAP_AT, EXAMPLES)
  assert.ok(swapped.beyond > 0 && swapped.beyond < 1)
  const { config } = parts
  for (const configured of [first, second]) {
    const select = { ...config.select, group: `configured-${configured.id}` }
    parts.config = { ...config, select }
    await runSelect(parts, configured, async metrics => {
      if ((await shown(metrics.driftWindow)) !== EXAMPLES - SWAP_AT) return false
      await assertDrift(metrics, swapped)
      return true
    })
  }
  // A process that starts later, and examples of which some were scored with the new bundle already.
  const more = Array.from({ length: 200 }, (_, i) =>
    assignmentOf(EXAMPLES + i, i % 3 === 0 ? first : second),
  )
  await append(parts.log, more)
  await runSelect(parts, first, async metrics => {
    if ((await shown(metrics.driftWindow)) !== more.length) return false
    await assertDrift(metrics, driftOf(second, EXAMPLES, EXAMPLES + more.length))
    return true
  })
})

test('the difference of a shadow is there as soon as the shadow is, though nothing comes after it', async t => {
  const parts = await site(t, 'revisable')
  const [first, second] = parts.bundles
  await runSelect(parts, first, async metrics => (await shown(metrics.history)) === EXAMPLES)
  let isShadowed = false
  await runSelect(parts, second, async metrics => {
    if (!isShadowed) {
      assert.equal(await shown(metrics.shadowDifference), 0)
      await append(parts.log, [{ v: 1, control: 'shadow', bundle: first.id }])
      isShadowed = true
    }
    return (await shown(metrics.shadowDifference)) > 0.05
  })
})
