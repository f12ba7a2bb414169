import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { XmasdError } from '../../src/errors.ts'
import type { Assignment, Control } from '../../src/record.ts'
import { selectBatch } from '../../src/select/rule/quotas.ts'
import { SelectState } from '../../src/select/state.ts'
import { type Arrival, MemoryState, percents, recordOf, Subset, streams } from './stream.ts'

const SETTINGS = { policy: 'revisable', percent: 20, settleEvery: 1 } as const

/** Identity by the book: the first of a content owns it, other ids with it are duplicates. */
class Oracle {
  readonly examples: Assignment[] = []
  readonly duplicates = new Map<string, string>()
  readonly #owners = new Map<string, string>()

  take(record: Assignment | Control): string {
    if ('control' in record) return 'settled'
    const owner = this.#owners.get(record.content)
    if (owner === undefined) {
      this.#owners.set(record.content, record.key)
      this.examples.push(record)
      return 'assigned'
    }
    if (owner === record.key || this.duplicates.has(record.key)) return 'redelivered'
    this.duplicates.set(record.key, owner)
    return 'duplicate'
  }

  subset(percent: number): string[] {
    const { selected } = selectBatch(this.examples, percent)
    return selected.map(index => this.examples[index]!.key).sort()
  }
}

test('the fold equals the batch rule over the history without duplicates and redeliveries', () => {
  fc.assert(
    fc.property(streams, percents, (stream, percent) => {
      const state = new SelectState(new MemoryState(), { ...SETTINGS, percent })
      const oracle = new Oracle()
      const subset = new Subset()
      let offset = -1
      for (const { arrival, gap } of stream) {
        offset += 1 + gap
        const record = recordOf(arrival)
        const { outcome, decisions } = state.fold(record, offset)
        assert.equal(outcome, oracle.take(record))
        subset.apply(decisions)
        assert.deepEqual([...subset.kept].sort(), oracle.subset(percent))
        assert.equal(state.kept, subset.kept.size)
        assert.equal(state.examples, oracle.examples.length)
      }
      for (const [key, duplicateOf] of oracle.duplicates) {
        const decision = subset.decided.get(key)!
        assert.deepEqual([decision.reason, decision.duplicateOf], ['duplicate', duplicateOf])
      }
      const exported = [...state.subset()].map(entry => entry.key)
      assert.deepEqual(exported.sort(), [...subset.kept].sort())
    }),
    { numRuns: 200 },
  )
})

test('with settleEvery n examples wait for the first offset of a block or a settle record', () => {
  const blocks = fc.integer({ min: 1, max: 40 })
  fc.assert(
    fc.property(streams, percents, blocks, (stream, percent, settleEvery) => {
      const state = new SelectState(new MemoryState(), { ...SETTINGS, percent, settleEvery })
      const oracle = new Oracle()
      const subset = new Subset()
      let offset = -1
      for (const { arrival, gap } of stream) {
        const before = Math.floor(offset / settleEvery)
        offset += 1 + gap
        const record = recordOf(arrival)
        const outcome = oracle.take(record)
        const isSettling = outcome === 'settled' || Math.floor(offset / settleEvery) !== before
        const { decisions } = state.fold(record, offset)
        subset.apply(decisions)
        if (!isSettling) {
          assert.equal(decisions.length, outcome === 'duplicate' ? 1 : 0)
          continue
        }
        assert.equal(state.pending, 0)
        assert.deepEqual([...subset.kept].sort(), oracle.subset(percent))
        for (const { key } of oracle.examples) assert.ok(subset.decided.has(key))
      }
    }),
    { numRuns: 200 },
  )
})

test('a control arm is decided by lot, at once, and the batch rule holds for the others', () => {
  const settled = fc.integer({ min: 1, max: 20 })
  fc.assert(
    fc.property(streams, percents, settled, (stream, percent, settleEvery) => {
      const settings = { ...SETTINGS, percent, settleEvery, controlPercent: 40 }
      const state = new SelectState(new MemoryState(), settings)
      const oracle = new Oracle()
      const subset = new Subset()
      const drawn = new Set<string>()
      stream.forEach(({ arrival }, offset) => {
        const record = recordOf(arrival)
        const outcome = oracle.take(record)
        const { decisions } = state.fold(record, offset)
        subset.apply(decisions)
        for (const { key, arm, reason } of decisions) {
          assert.equal(arm === undefined, reason === 'duplicate')
          if (arm !== 'random') continue
          assert.equal(outcome, 'assigned')
          assert.ok(reason === 'drawn' || reason === 'not_drawn')
          drawn.add(key)
        }
      })
      subset.apply(state.fold({ v: 1, control: 'settle' }, stream.length).decisions)
      const others = oracle.examples.filter(({ key }) => !drawn.has(key))
      const { selected } = selectBatch(others, percent)
      const kept = [...subset.kept].filter(key => !drawn.has(key))
      assert.deepEqual(kept.sort(), selected.map(index => others[index]!.key).sort())
      assert.equal(state.examples, others.length)
      assert.equal(state.kept, selected.length)
      const { stream: ofPolicy, baseline, control } = state.parts
      assert.deepEqual(ofPolicy, { examples: others.length, kept: selected.length })
      assert.deepEqual(baseline, { examples: 0, kept: 0 })
      assert.deepEqual(control, { examples: drawn.size, kept: subset.kept.size - kept.length })
      const exported = [...state.subset()].map(({ key }) => key)
      assert.deepEqual(exported.sort(), [...subset.kept].sort())
    }),
    { numRuns: 100 },
  )
})

test('the control arm has its share of the stream and keeps the rate', () => {
  const settings = { ...SETTINGS, percent: 20, controlPercent: 10 }
  const state = new SelectState(new MemoryState(), settings)
  let [members, kept] = [0, 0]
  for (let i = 0; i < 20_000; i++) {
    const record = recordOf({ content: i, id: i, cluster: i % 7, instability: i % 13 })
    for (const { arm, action } of state.fold(record, i).decisions) {
      if (arm !== 'random') continue
      members++
      if (action === 'keep') kept++
    }
  }
  assert.ok(Math.abs(members - 2_000) < 150, `${members} members`)
  assert.ok(Math.abs(kept - 400) < 70, `${kept} kept`)
})

const arrival: Arrival = { content: 1, id: 1, cluster: 3, instability: 2 }

test('a duplicate is dropped at once, names its owner and counts for nothing; both may come again', () => {
  const state = new SelectState(new MemoryState(), { ...SETTINGS, percent: 100, settleEvery: 100 })
  const first = recordOf(arrival) as Assignment
  const other = recordOf({ ...arrival, id: 2 }) as Assignment
  assert.equal(state.fold(first, 1).outcome, 'assigned')
  const { outcome, decisions } = state.fold(other, 2)
  assert.equal(outcome, 'duplicate')
  assert.deepEqual(decisions, [
    {
      v: 1,
      key: other.key,
      id: 'id2',
      action: 'drop',
      reason: 'duplicate',
      cluster: 3,
      instability: 2,
      quota: 0,
      bundle: 'b1',
      duplicateOf: first.key,
    },
  ])
  assert.deepEqual(state.fold(first, 3), { outcome: 'redelivered', decisions: [] })
  assert.deepEqual(state.fold(other, 4), { outcome: 'redelivered', decisions: [] })
  assert.deepEqual([state.examples, state.duplicates], [1, 1])
})

test('a record that disagrees with itself is refused and changes nothing', () => {
  const state = new SelectState(new MemoryState(), SETTINGS)
  const good = recordOf(arrival) as Assignment
  const bad: Assignment[] = [
    { ...good, instability: null },
    { ...good, instability: Number.NaN },
    { ...good, instability: Number.POSITIVE_INFINITY },
    { ...good, key: 'id1' },
    // As JSON brings it: another's record.
    { ...good, content: undefined as unknown as string },
    { ...good, content: 'xyz', key: 'id1@xyz' },
    { ...good, cluster: 2 ** 30 },
    { ...good, cluster: -1 },
    { ...good, cluster: 1.5 },
  ]
  for (const record of bad) {
    assert.throws(
      () => state.fold(record, 0),
      (error: unknown) => error instanceof XmasdError && error.code === 'RECORD_INVALID',
    )
  }
  assert.equal(state.appliedOffset, 0)
  assert.equal(state.fold(good, 0).decisions.length, 1)
  assert.throws(() => state.fold(good, 0), RangeError)
})
