import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Assignment, keyOf } from '../../../src/record.ts'
import type { SelectSettings } from '../../../src/select/fold.ts'
import { POLICIES } from '../../../src/select/rule/policy.ts'
import { selectBatch } from '../../../src/select/rule/quotas.ts'
import {
  drawOf,
  isMisaligned,
  orderOf,
  RANKS,
  type Ranking,
  ranked,
} from '../../../src/select/rule/rank.ts'
import { SelectState } from '../../../src/select/state.ts'
import { MemoryState, recordOf, Subset } from '../stream.ts'

/** Few values: ties are common. Examples of one content are copies. */
const records = fc.array(
  fc
    .record({
      content: fc.nat(300),
      cluster: fc.oneof({ weight: 5, arbitrary: fc.nat(4) }, fc.constant('text' as const)),
      instability: fc.nat(4),
      gain: fc.oneof({ weight: 5, arbitrary: fc.integer({ min: -3, max: 3 }) }, fc.constant(null)),
    })
    .map(({ gain, ...drawn }) => {
      const content = createHash('sha256').update(String(drawn.content)).digest('hex')
      const record = recordOf({ id: 0, ...drawn }) as Assignment
      const key = keyOf(record.id, content)
      return { ...record, key, content, gain: record.cluster === 'text' ? null : gain }
    }),
  { maxLength: 150 },
)
const rankings: fc.Arbitrary<Ranking> = fc.record({
  rank: fc.constantFrom(...RANKS),
  gainMin: fc.constantFrom(undefined, -1, 0, 1.5),
})
const percents = fc.integer({ min: 0, max: 100 })

test('after every example the revisable subset is the batch rule by that order, at every restart', () => {
  const restarts = fc.integer({ min: 1, max: 60 })
  const everies = fc.constantFrom(1, 1, 7)
  fc.assert(
    fc.property(
      fc.tuple(records, rankings, percents, restarts, everies),
      ([stream, ranking, percent, restart, settleEvery]) => {
        const settings = { policy: 'revisable', settleEvery, percent, ...ranking } as const
        const stored = new MemoryState()
        let state = new SelectState(stored, settings)
        const subset = new Subset()
        const distinct = new Map<string, Assignment>()
        for (const [offset, record] of stream.entries()) {
          const { decisions } = state.fold(record, offset)
          subset.apply(decisions)
          if (!distinct.has(record.content)) distinct.set(record.content, record)
          if (offset % restart === 0) {
            stored.commit(writer => state.write(writer))
            state = new SelectState(stored, settings)
          }
          assert.equal(state.examples, distinct.size)
          if (offset % settleEvery !== 0) continue
          const { keys, misaligned } = batchRule([...distinct.values()], ranking, percent)
          assert.deepEqual([...subset.kept].sort(), keys)
          assert.deepEqual([...state.subset()].map(({ key }) => key).sort(), keys)
          for (const key of misaligned) {
            assert.equal(subset.decided.get(key)!.reason, 'misaligned')
          }
        }
      },
    ),
    { numRuns: 80 },
  )
})

/** With what orders them in the place of instability; misaligned ones count in N alone. */
function batchRule(
  examples: readonly Assignment[],
  ranking: Ranking,
  percent: number,
): { keys: string[]; misaligned: string[] } {
  const isOut = examples.map(({ gain }) => gain != null && gain < (ranking.gainMin ?? -Infinity))
  const rest = examples.filter((_, i) => !isOut[i])
  const ordered = rest.map(one => {
    const { instability, gain: found } = one
    const gain = found ?? 0
    if (one.cluster === 'text') return one
    if (ranking.rank === 'gain') return { ...one, instability: -gain }
    if (ranking.rank === 'instability') return one
    if (ranking.rank === 'random') {
      return { ...one, instability: Number.parseInt(one.content.slice(0, 6), 16) }
    }
    return { ...one, instability: Math.log(Math.max(instability!, 1e-12)) - gain }
  })
  const { selected } = selectBatch(ordered, percent, examples.length - rest.length)
  return {
    keys: selected.map(index => rest[index]!.key).sort(),
    misaligned: examples.filter((_, i) => isOut[i]).map(({ key }) => key),
  }
}

for (const policy of POLICIES) {
  test(`${policy} decides by a rank as by an instability of the same order, also after a restart`, () => {
    const ranks = fc.constantFrom(...RANKS)
    fc.assert(
      fc.property(fc.tuple(records, ranks, percents), ([stream, rank, percent]) => {
        const settings: SelectSettings = { policy, settleEvery: 1, percent, rank }
        const stored = new MemoryState()
        let state = new SelectState(stored, settings)
        const plain = new SelectState(new MemoryState(), { policy, settleEvery: 1, percent })
        for (const [offset, record] of stream.entries()) {
          const isText = record.cluster === 'text'
          const order = isText ? null : orderOf({ rank }, record)
          const other = plain.fold({ ...record, instability: order }, offset)
          const found = state.fold(record, offset)
          assert.deepEqual(
            found.decisions.map(({ key, action, reason }) => [key, action, reason]),
            other.decisions.map(({ key, action, reason }) => [key, action, reason]),
          )
          for (const { instability } of found.decisions) {
            assert.ok(instability === null || Number.isInteger(instability)) // its own, not the order
          }
          if (offset % 40 !== 0) continue
          stored.commit(writer => state.write(writer))
          state = new SelectState(stored, settings)
        }
        assert.deepEqual(state.regret(), plain.regret())
      }),
      { numRuns: 40 },
    )
  })

  test(`${policy} counts misaligned examples in N, keeps none, and goes on after a restart`, () => {
    fc.assert(
      fc.property(fc.tuple(records, rankings, percents), ([stream, ranking, percent]) => {
        const settings: SelectSettings = { policy, settleEvery: 1, percent, ...ranking }
        const stored = new MemoryState()
        let state = new SelectState(stored, settings)
        const straight = new SelectState(new MemoryState(), settings)
        const seen = new Set<string>()
        for (const [offset, record] of stream.entries()) {
          const { outcome, decisions } = state.fold(record, offset)
          assert.deepEqual(straight.fold(record, offset).decisions, decisions)
          if (!seen.has(record.content)) {
            assert.equal(outcome === 'misaligned', isMisaligned(ranking, record))
          }
          seen.add(record.content)
          assert.equal(state.examples, seen.size)
          if (offset % 30 !== 0) continue
          stored.commit(writer => state.write(writer))
          state = new SelectState(stored, settings)
        }
      }),
      { numRuns: 30 },
    )
  })
}

test('a baseline is ordered by the rank, without its misaligned examples, which count', () => {
  const members = {
    cluster: Int32Array.of(0, 0, 0, 1, 1, 1),
    instability: Float32Array.of(1, 2, 3, 4, 5, 6),
    gain: Float32Array.of(0, 1, -2, Number.NaN, 2, 0.5),
  }
  const found = ranked({ rank: 'gain', gainMin: -1 }, members)
  assert.deepEqual([...found.members.cluster], [0, 0, 1, 1, 1])
  const expected = [0, 1, 0, 2, 0.5].map(gain => Math.fround(Math.exp(-gain)))
  assert.deepEqual([...found.members.instability], expected)
  assert.equal(found.misaligned, 1)
  const settings = {
    policy: 'final',
    settleEvery: 1,
    percent: 50,
    rank: 'gain',
    gainMin: -1,
  } as const
  const state = new SelectState(new MemoryState(), settings)
  state.begin({ clusters: 2, textOnly: 0, members })
  assert.deepEqual(state.parts.baseline, { examples: 6, kept: 3 }) // of 5 it would be 2
})

test('draws are uniform over contents, exact in float32, and every key has one', () => {
  const hashOf = (i: number) => createHash('sha256').update(String(i)).digest('hex')
  const draws = Array.from({ length: 2_000 }, (_, i) => drawOf(keyOf('id', hashOf(i))))
  assert.ok(draws.every(draw => draw > 0 && draw <= 1 && Math.fround(draw) === draw))
  for (let tenth = 0; tenth < 10; tenth++) {
    const count = draws.filter(draw => Math.ceil(10 * draw) === tenth + 1).length
    assert.ok(Math.abs(count - 200) < 60, `${count} of 2,000 in tenth ${tenth}`) // 4.5 deviations
  }
  const [one, same, other] = ['a@x@0123456789abcdef', 'b@0123456789abcdef', 'a'].map(drawOf)
  assert.equal(one, same)
  assert.ok(other! > 0 && other! <= 1 && other !== one)
})

test('random draws need those of the bundle, where its examples count', () => {
  const members = { cluster: Int32Array.of(0, 0), instability: Float32Array.of(1, 2) }
  assert.throws(() => ranked({ rank: 'random' }, members), /fitted by an earlier release/)
  const draw = Float32Array.of(0.5, 0.25)
  const found = ranked({ rank: 'random' }, { ...members, draw })
  assert.deepEqual(found, {
    members: { cluster: members.cluster, instability: draw },
    misaligned: 0,
  })
})

test('a state made by another rank, or with another limit, is refused', () => {
  const stored = new MemoryState()
  const settings = { policy: 'revisable', settleEvery: 1, percent: 20 } as const
  new SelectState(stored, settings)
  stored.commit(writer => new SelectState(stored, settings).write(writer))
  new SelectState(stored, { ...settings, rank: 'instability' })
  assert.throws(
    () => new SelectState(stored, { ...settings, rank: 'gain' }),
    /rank undefined.*gain/,
  )
  assert.throws(() => new SelectState(stored, { ...settings, gainMin: 0 }), /gainMin undefined.*0/)
})

test('an assignment without a gain is refused where the order needs one', () => {
  const settings = { policy: 'revisable', settleEvery: 1, percent: 20, rank: 'gain' } as const
  const state = new SelectState(new MemoryState(), settings)
  const record = recordOf({ content: 1, id: 1, cluster: 0, instability: 1 })
  assert.throws(() => state.fold(record, 0), /it has no image gain/)
})
