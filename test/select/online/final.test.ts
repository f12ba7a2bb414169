import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { permutation, seededRandom } from '../../../src/math/random.ts'
import type { Row } from '../../../src/select/columns/stored.ts'
import { emptyChunk, pushRow } from '../../../src/select/columns/stored.ts'
import { FinalRule } from '../../../src/select/online/final.ts'
import { OnlinePolicy } from '../../../src/select/online/online-policy.ts'
import { NaiveRule } from '../../../src/select/online/random.ts'
import type { Beginning, Policy, SettledEvent } from '../../../src/select/rule/policy.ts'
import type { Budget } from '../../../src/select/rule/quotas.ts'
import { SelectState } from '../../../src/select/state.ts'
import { type Arrival, MemoryState, percents, recordOf, Subset, streams } from '../stream.ts'

type Kind = 'final' | 'naive'

function policyOf(kind: Kind, budget: Budget, clusters: number, baseline = 0): Policy {
  const policy = new OnlinePolicy(budget, history =>
    kind === 'final' ? new FinalRule(budget, history) : new NaiveRule(budget, history),
  )
  const members = baseline > 0 ? baselineOf(baseline) : undefined
  if (clusters > 0) policy.begin({ clusters, textOnly: 0, members })
  return policy
}

function baselineOf(count: number): NonNullable<Beginning['members']> {
  const examples = Array.from({ length: 2 * count }, (_, i) => example(-1 - i))
  const numbered = examples.filter(({ cluster }) => cluster !== 'text').slice(0, count)
  return {
    cluster: Int32Array.from(numbered, ({ cluster }) => cluster as number),
    instability: Float32Array.from(numbered, ({ instability }) => instability),
  }
}

const kinds = fc.constantFrom<Kind>('final', 'naive')
const horizons = fc.option(fc.integer({ min: 1, max: 200 }), { nil: undefined })

/** Chunk of a stream that is the same everywhere: no generator's state between two of them. */
function example(i: number): Omit<Omit<Row, 'offset' | 'bundle'>, 'id'> {
  const mixed = Math.imul(i ^ 0x9e37, 0x85ebca6b) >>> 0
  const cluster = mixed % 3 === 0 ? mixed % 40 : mixed % 7
  return {
    cluster: mixed % 17 === 0 ? 'text' : cluster,
    instability: Math.exp((((mixed >>> 8) % 1000) / 1000) * 3 - 1),
    content: { high: Math.imul(i, 0x27d4eb2f) >>> 0, low: i },
  }
}

/** 150 clusters, of which a few hold half of the stream. */
const UNEVEN = Array.from({ length: 150 }, (_, cluster) => Math.ceil(6000 / (1 + cluster)))

/** Of each arrival its cluster: `clusters` of the uneven ones, `part` of each, in random order. */
function shuffled(clusters: readonly number[], part: number): number[] {
  const arrivals = clusters.flatMap(c => new Array<number>(Math.ceil(part * UNEVEN[c]!)).fill(c))
  return permutation(seededRandom(arrivals.length), arrivals.length).map(i => arrivals[i]!)
}

function feed(policy: Policy, from: number, to: number): SettledEvent[] {
  const events: SettledEvent[] = []
  for (let i = from; i < to; i++) {
    const { cluster, instability, content } = example(i)
    policy.add(cluster, instability, '', content)
    events.push(...policy.settle())
  }
  return events
}

test('decisions for good are made once, on arrival, and say why', () => {
  fc.assert(
    fc.property(streams, percents, kinds, horizons, (stream, percent, policy, horizonExamples) => {
      const settings = { policy, percent, settleEvery: 7, horizonExamples }
      const state = new SelectState(new MemoryState(), settings)
      const subset = new Subset()
      let offset = -1
      for (const { arrival, gap } of stream) {
        offset += 1 + gap
        const { outcome, decisions } = state.fold(recordOf(arrival), offset)
        assert.equal(decisions.length, outcome === 'assigned' || outcome === 'duplicate' ? 1 : 0)
        subset.apply(decisions)
        assert.ok(decisions.every(({ action }) => action === 'keep' || action === 'drop'))
        assert.equal(state.kept, subset.kept.size)
        assert.equal(state.pending, 0)
      }
      const exported = [...state.subset()].map(({ key }) => key)
      assert.deepEqual(exported.sort(), [...subset.kept].sort())
      const counts = [...state.clusters()].reduce((sum, { quota }) => sum + quota, 0)
      assert.equal(counts, state.kept)
    }),
    { numRuns: 150 },
  )
})

test('a snapshot taken anywhere and the examples behind it give the policy that never stopped', () => {
  const cases = fc.record({
    kind: kinds,
    clusters: fc.constantFrom(0, 40),
    baseline: fc.constantFrom(0, 300),
    horizonExamples: fc.constantFrom(undefined, 900, 2500),
    snapshot: fc.integer({ min: 0, max: 2000 }),
    behind: fc.integer({ min: 0, max: 700 }),
  })
  fc.assert(
    fc.property(cases, ({ kind, clusters, baseline, horizonExamples, snapshot, behind }) => {
      const budget = { percent: 20, horizonExamples }
      const straight = policyOf(kind, budget, clusters, baseline)
      feed(straight, 0, snapshot)
      const saved = straight.save()
      feed(straight, snapshot, snapshot + behind)
      const restored = policyOf(kind, budget, 0)
      restored.resume(saved)
      assert.equal(restored.settled, snapshot)
      const past = emptyChunk(snapshot + behind)
      for (let i = 0; i < snapshot + behind; i++) pushRow(past, { ...example(i), id: '' })
      restored.refill([past], snapshot + behind)
      const to = snapshot + behind + 500
      assert.deepEqual(feed(restored, snapshot + behind, to), feed(straight, snapshot + behind, to))
      assert.deepEqual([...restored.subset()], [...straight.subset()])
      assert.deepEqual(restored.regret(), straight.regret())
    }),
    { numRuns: 40 },
  )
})

test('final meets the budget at its horizon and picks the steady; naive is balanced and picks nothing', () => {
  const budget = { percent: 20, horizonExamples: 20_000 }
  const final = policyOf('final', budget, 40)
  feed(final, 0, 20_000)
  const regret = final.regret()!
  assert.ok(Math.abs(regret.budgetError) <= 0.005, `budget ${regret.budgetError}`)
  assert.ok(regret.totalVariation <= 0.02, `variation ${regret.totalVariation}`)
  assert.ok(regret.recovered >= 0.9, `recovered ${regret.recovered}`)
  const naive = policyOf('naive', budget, 40)
  feed(naive, 0, 20_000)
  const control = naive.regret()!
  assert.ok(Math.abs(control.recovered) <= 0.1, `recovered ${control.recovered}`)
  assert.ok(Math.abs(control.budgetError) <= 0.05, `budget ${control.budgetError}`)
})

test('counts stay balanced where clusters end one after the other, and where half of them are new half way', () => {
  const all = permutation(seededRandom(1), UNEVEN.length)
  const orders = {
    one_after_the_other: all.flatMap(cluster => new Array<number>(UNEVEN[cluster]!).fill(cluster)),
    new_half_way: [
      ...shuffled(
        all.filter(c => c % 2 === 0),
        0.7,
      ),
      ...shuffled(all, 0.3),
    ],
  }
  for (const [name, clusters] of Object.entries(orders)) {
    for (const percent of [10, 20, 50]) {
      const policy = policyOf('final', { percent, horizonExamples: clusters.length }, all.length)
      clusters.forEach((cluster, i) => {
        const { instability, content } = example(i)
        policy.add(cluster, instability, '', content)
      })
      const { budgetError, totalVariation } = policy.regret()!
      const where = `${name} at ${percent} %`
      assert.ok(Math.abs(budgetError) <= 0.02, `${where}: budget ${budgetError}`)
      assert.ok(totalVariation <= 0.05, `${where}: variation ${totalVariation}`)
    }
  }
})

test('behind a baseline counts go on from it', () => {
  for (const kind of ['final', 'naive'] as const) {
    const policy = policyOf(kind, { percent: 20, horizonExamples: 5_000 }, 40, 5_000)
    feed(policy, 0, 5_000)
    const { budgetError } = policy.regret()!
    const tolerance = kind === 'final' ? 0.01 : 0.05
    assert.ok(Math.abs(budgetError) <= tolerance, `${kind}: budget ${budgetError}`)
  }
})

test('a fixed budget is spent by the horizon and no more is kept behind it', () => {
  const budget = { percent: 0, budgetExamples: 700, horizonExamples: 6_000 }
  for (const kind of ['final', 'naive'] as const) {
    const policy = policyOf(kind, budget, 40)
    feed(policy, 0, 6_000)
    const tolerance = kind === 'final' ? 5 : 100
    assert.ok(Math.abs(policy.kept - 700) <= tolerance, `${kind} keeps ${policy.kept}`)
    const kept = policy.kept
    feed(policy, 6_000, 9_000)
    assert.ok(policy.kept <= Math.max(705, kept), `${policy.kept - kept} more`)
  }
})

test('text-only examples are drawn by lot, one share for all of them', () => {
  const settings = { policy: 'final', percent: 50, settleEvery: 1, horizonExamples: 400 } as const
  const state = new SelectState(new MemoryState(), settings)
  for (let i = 0; i < 400; i++) {
    const arrival: Arrival = { content: i, id: i, cluster: 'text', instability: 0 }
    state.fold(recordOf(arrival), i)
  }
  assert.ok(Math.abs(state.kept - 200) <= 4, `${state.kept} kept`)
})

test('a stream of text-only examples ends within 0.3 % of the budget at every horizon', () => {
  for (const horizonExamples of [1_000, 4_000]) {
    for (const percent of [5, 20, 50]) {
      const policy = policyOf('final', { percent, horizonExamples }, 1_000)
      const random = seededRandom(3)
      const word = (): number => Math.floor(random() * 2 ** 32)
      for (let arrived = 1; arrived <= 8_000; arrived++) {
        policy.add('text', null, '', { high: word(), low: word() })
        if (arrived % horizonExamples !== 0) continue
        const budget = (percent * arrived) / 100
        const error = Math.abs(policy.kept - budget) / budget
        assert.ok(error <= 0.003, `${policy.kept} of ${budget} kept after ${arrived}`)
      }
    }
  }
})
