import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { emptyChunk, pushRow } from '../../../src/select/columns/stored.ts'
import { Heap, splitAt } from '../../../src/select/rule/heap.ts'
import type { SettledEvent } from '../../../src/select/rule/policy.ts'
import { type Ranked, selectBatch } from '../../../src/select/rule/quotas.ts'
import { Revisable } from '../../../src/select/rule/revisable.ts'

const percents = fc.oneof(
  fc.integer({ min: 0, max: 100 }),
  fc.integer({ min: 0, max: 10_000 }).map(hundredths => hundredths / 100),
)

/** Few clusters, few values: many ties in size and in instability. */
const examples = (clusters: number): fc.Arbitrary<Ranked> =>
  fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({
        cluster: fc.nat(clusters - 1),
        instability: fc.nat(6),
        id: fc.constant(''),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        cluster: fc.constant('text' as const),
        instability: fc.constant(null),
        id: fc.constantFrom('a', 'b', 'aa', '', 'é', '\uFF5E', '\u{1F600}'),
      }),
    },
  )

const streams = fc
  .integer({ min: 1, max: 12 })
  .chain(clusters => fc.array(examples(clusters), { maxLength: 150 }))

/** Plays the events on a subset; each must be legal. */
function play(events: SettledEvent[], kept: Set<number>, decided: Set<number>): void {
  const seen = new Set<number>()
  for (const { sequence, action } of events) {
    assert.ok(!seen.has(sequence), 'an example has one event a settlement')
    seen.add(sequence)
    const isFirst = action === 'keep' || action === 'drop'
    assert.equal(decided.has(sequence), !isFirst)
    assert.equal(kept.has(sequence), action === 'evict')
    decided.add(sequence)
    if (action === 'keep' || action === 'restore') kept.add(sequence)
    if (action === 'evict') kept.delete(sequence)
  }
}

function checkAgainstBatch(policy: Revisable, kept: Set<number>, expected: number[]): void {
  const sorted = (items: Iterable<number>): number[] => [...items].sort((a, b) => a - b)
  assert.deepEqual(sorted(policy.subset()), sorted(expected))
  assert.deepEqual(sorted(kept), sorted(expected))
  assert.equal(policy.kept, expected.length)
}

test('after every single example the revisable subset is the batch rule over the history', () => {
  fc.assert(
    fc.property(streams, percents, (stream, percent) => {
      const policy = new Revisable(percent)
      const kept = new Set<number>()
      const decided = new Set<number>()
      stream.forEach(({ cluster, instability, id }, index) => {
        assert.equal(policy.add(cluster, instability, id), index)
        const events = policy.settle()
        play(events, kept, decided)
        assert.equal(events[0]!.sequence, index, 'the new example is decided first')
        for (const event of events) assert.equal(event.quota, policy.quota(event.cluster))
        const { selected } = selectBatch(stream.slice(0, index + 1), percent)
        checkAgainstBatch(policy, kept, selected)
      })
    }),
    { numRuns: 300 },
  )
})

test('settling in blocks of any length ends in the batch rule, each example moving at most once', () => {
  const blocks = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 20 })
  fc.assert(
    fc.property(streams, percents, blocks, (stream, percent, lengths) => {
      const policy = new Revisable(percent)
      const kept = new Set<number>()
      const decided = new Set<number>()
      for (let from = 0, block = 0; from < stream.length; block++) {
        const to = Math.min(stream.length, from + lengths[block % lengths.length]!)
        for (const { cluster, instability, id } of stream.slice(from, to)) {
          policy.add(cluster, instability, id)
        }
        play(policy.settle(), kept, decided)
        assert.equal(decided.size, to)
        checkAgainstBatch(policy, kept, selectBatch(stream.slice(0, to), percent).selected)
        from = to
      }
    }),
    { numRuns: 300 },
  )
})

test('a restored policy goes on as the one that never stopped, event for event', () => {
  const cases = fc.record({ stream: streams, percent: percents, cut: fc.nat(), pending: fc.nat(9) })
  fc.assert(
    fc.property(cases, ({ stream, percent, cut, pending }) => {
      const settled = cut % (stream.length + 1)
      const stop = Math.min(stream.length, settled + pending)
      const straight = new Revisable(percent)
      stream.slice(0, settled).forEach(({ cluster, instability, id }) => {
        straight.add(cluster, instability, id)
        straight.settle()
      })
      for (const e of stream.slice(settled, stop)) straight.add(e.cluster, e.instability, e.id)
      const restored = new Revisable(percent)
      const numbers = emptyChunk(stop)
      for (const { cluster, instability, id } of stream.slice(0, stop)) {
        const content = { high: 0, low: 0 }
        pushRow(numbers, { cluster, instability: instability ?? Number.NaN, id, content })
      }
      restored.refill([numbers], settled)
      assert.equal(restored.settled, settled)
      assert.deepEqual(restored.settle(), straight.settle())
      stream.slice(stop).forEach(({ cluster, instability, id }) => {
        straight.add(cluster, instability, id)
        restored.add(cluster, instability, id)
        assert.deepEqual(restored.settle(), straight.settle())
      })
    }),
    { numRuns: 300 },
  )
})

test('clusters far apart in number, and thousands of them, settle as the batch rule', () => {
  const stream = Array.from({ length: 6000 }, (_, i): Ranked => {
    const cluster = (i * i * 7919) % (i % 3 === 0 ? 2500 : 40)
    return { cluster, instability: (i * 31) % 17, id: '' }
  })
  const policy = new Revisable(20)
  const kept = new Set<number>()
  const decided = new Set<number>()
  stream.forEach(({ cluster, instability, id }, index) => {
    policy.add(cluster, instability, id)
    play(policy.settle(), kept, decided)
    if (index % 500 !== 499) return
    checkAgainstBatch(policy, kept, selectBatch(stream.slice(0, index + 1), 20).selected)
  })
})

test('a decision says why: too small a cluster, a grown or shrunk quota, a steadier example', () => {
  const policy = new Revisable(50)
  const add = (cluster: number, instability: number): string[] => {
    policy.add(cluster, instability, '')
    return policy.settle().map(e => `${e.sequence} ${e.action} ${e.reason} ${e.quota}`)
  }
  assert.deepEqual(add(0, 5), ['0 drop cluster_too_small 0'])
  assert.deepEqual(add(0, 4), ['1 drop cluster_too_small 0'])
  assert.deepEqual(add(0, 6), ['2 drop over_quota 1', '1 restore quota_grew 1'])
  assert.deepEqual(add(0, 3), ['3 keep within_quota 2'])
  assert.deepEqual(add(0, 1), ['4 keep within_quota 2', '1 evict over_quota 2'])
  add(1, 1)
  add(1, 2)
  assert.deepEqual(add(1, 3), [
    '7 drop over_quota 2',
    '1 evict quota_shrank 2',
    '5 restore quota_grew 2',
    '6 restore quota_grew 2',
  ])
})

test('a heap pops in order, and a split holds the first ones', () => {
  const numbers = fc.uniqueArray(fc.integer({ min: 0, max: 1000 }), { maxLength: 80 })
  fc.assert(
    fc.property(numbers, fc.nat(80), (items, at) => {
      const before = (a: number, b: number): boolean => a < b
      const expected = [...items].sort((a, b) => a - b)
      const heap = Heap.of(Int32Array.from(items), before)
      assert.deepEqual(
        items.map(() => heap.pop(before)),
        expected,
      )
      const split = Int32Array.from(items)
      splitAt(split, at, before)
      assert.deepEqual(
        [...split.slice(0, at)].sort((a, b) => a - b),
        expected.slice(0, at),
      )
    }),
  )
})
