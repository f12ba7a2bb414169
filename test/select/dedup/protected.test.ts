import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { ProtectedExample } from '../../../src/bundle/protected.ts'
import { contentOf } from '../../../src/select/columns/hash-table.ts'
import { NearDuplicates } from '../../../src/select/dedup/near-duplicates.ts'
import { type FindProtected, protectionOf } from '../../../src/select/dedup/protected.ts'
import type { Folded, FoldedAssignment, SelectSettings } from '../../../src/select/fold.ts'
import { POLICIES } from '../../../src/select/rule/policy.ts'
import { SelectState } from '../../../src/select/state.ts'
import { MemoryState } from '../stream.ts'
import { assignmentOf, MODEL, type Seen, seen } from './near.ts'

const manifest = { nearness: MODEL }

function protectedOf(example: Seen, number: number): ProtectedExample {
  const {
    key,
    words = null,
    layout = null,
    trajectory,
    embedding = null,
  } = assignmentOf(example, number)
  return { key, words, layout, trajectory, embedding }
}

/** Numbers of benchmark examples lie apart from those of the stream. */
const BENCHMARK_FROM = 5_000

const benchmarks = fc.array(seen, { minLength: 1, maxLength: 4 })
/** Some are exact copies of a benchmark example, under ids of their own. */
const arrivals = fc.array(
  fc.record({
    example: seen,
    exact: fc.option(fc.nat(3), { freq: 5 }),
    back: fc.option(fc.nat(40)),
  }),
  { maxLength: 80, size: 'max' },
)

type Arrivals = { example: Seen; exact: number | null; back: number | null }[]

function recordsOf(list: Arrivals, benchmark: readonly Seen[]): FoldedAssignment[] {
  const records: FoldedAssignment[] = []
  for (const [number, { example, exact, back }] of list.entries()) {
    const leaked = exact === null ? undefined : benchmark[exact]
    const again = back === null ? undefined : records[number - 1 - back]
    if (leaked !== undefined) {
      records.push(assignmentOf(leaked, BENCHMARK_FROM + exact!, `leak${number % 7}`))
    } else records.push(again ?? assignmentOf(example, number))
  }
  return records
}

function open(store: MemoryState, settings: SelectSettings): SelectState {
  const state = new SelectState(store, settings)
  if (state.wantsBeginning) state.begin({ clusters: 4, textOnly: 0, members: undefined })
  return state
}

test('copies of what is protected count in nothing, under every policy, holdout and restart', () => {
  const runs = fc.record({
    list: arrivals,
    benchmark: benchmarks,
    policy: fc.constantFrom(...POLICIES),
    controlPercent: fc.constantFrom(0, 30),
    commitEvery: fc.integer({ min: 1, max: 20 }),
  })
  let drops = 0
  fc.assert(
    fc.property(runs, ({ list, benchmark, policy, controlPercent, commitEvery }) => {
      const records = recordsOf(list, benchmark)
      const settings: SelectSettings = { policy, percent: 60, settleEvery: 1, controlPercent }
      const findProtected = protectionFor(benchmark)
      const isCopy = (record: FoldedAssignment): boolean =>
        findProtected(record, contentOf(record.content)!) !== undefined
      const straight = open(new MemoryState(), settings)
      const expected = records.map((one, offset) => straight.fold(one, offset, { findProtected }))
      drops += checkDrops(records, expected, isCopy)
      const kept = [...straight.subset()]
      const copies = new Set(records.filter(isCopy).map(({ key }) => key))
      assert.ok(kept.every(({ key }) => !copies.has(key)))

      const without = open(new MemoryState(), settings)
      const innocents = records.filter(record => !isCopy(record))
      for (const [offset, record] of innocents.entries()) without.fold(record, offset)
      assert.deepEqual([...without.subset()], kept)
      assert.deepEqual(without.parts, straight.parts)
      assert.equal(without.duplicates, straight.duplicates)

      const store = new MemoryState()
      let state = open(store, settings)
      for (const [offset, record] of records.entries()) {
        assert.deepEqual(state.fold(record, offset, { findProtected }), expected[offset])
        if (offset % commitEvery !== 0) continue
        store.commit(writer => state.write(writer))
        state = open(store, settings)
      }
      assert.deepEqual([...state.subset()], kept)
      assert.deepEqual(state.parts, straight.parts)
    }),
    { numRuns: 80 },
  )
  assert.ok(drops > 200, `${drops} drops`)
})

function protectionFor(benchmark: readonly Seen[]): FindProtected {
  const protectedSet = benchmark.map((one, i) => protectedOf(one, BENCHMARK_FROM + i))
  return protectionOf({ protectedSet, manifest })!
}

/** Every copy is dropped once, and names what it is a copy of. */
function checkDrops(
  records: readonly FoldedAssignment[],
  folded: readonly Folded[],
  isCopy: (record: FoldedAssignment) => boolean,
): number {
  const decided = new Set<string>()
  let drops = 0
  for (const [offset, record] of records.entries()) {
    const { outcome, decisions } = folded[offset]!
    const isKnown = decided.has(record.key)
    decided.add(record.key)
    assert.equal(outcome === 'protected', isCopy(record) && !isKnown, `${offset}: ${outcome}`)
    if (outcome !== 'protected') continue
    drops++
    const [drop] = decisions
    assert.deepEqual([drop?.key, drop?.action, drop?.reason], [record.key, 'drop', 'protected'])
    assert.match(drop!.duplicateOf!, /^id500\d@/)
  }
  return drops
}

test('folds with other protected sets number examples alike, beside near-duplicates', () => {
  fc.assert(
    fc.property(arrivals, benchmarks, (list, benchmark) => {
      const records = recordsOf(list, benchmark)
      const settings: SelectSettings = { policy: 'revisable', percent: 100, settleEvery: 1 }
      const near = new NearDuplicates({ exemplarsMax: 100 })
      near.learn(MODEL)
      const one = open(new MemoryState(), settings)
      const other = open(new MemoryState(), settings)
      const none = open(new MemoryState(), settings)
      const [first, ...rest] = benchmark
      const recall = (_: unknown, content: { high: number; low: number }) => near.recall(content)
      for (const [offset, record] of records.entries()) {
        one.fold(record, offset, {
          findNear: near.identify,
          findProtected: protectionFor([first!]),
        })
        other.fold(record, offset, {
          findNear: recall,
          findProtected: protectionFor(rest.length > 0 ? rest : [first!]),
        })
        none.fold(record, offset, { findNear: recall })
      }
      const keys = new Map(
        Array.from(none.keptSequences(), i => [i, none.revision(i, 'evict').key]),
      )
      for (const state of [one, other]) {
        for (const sequence of state.keptSequences()) {
          assert.equal(state.revision(sequence, 'evict').key, keys.get(sequence))
        }
      }
    }),
    { numRuns: 40 },
  )
})

test('more protected examples than a chain is searched for share one question, and each is found', () => {
  const questions = Array.from({ length: 1_500 }, (_, i): Seen => {
    return { words: 1, pictures: [1_000 + i], state: 0, noise: 0, seed: 1 }
  })
  const find = protectionFor(questions)
  for (const i of [0, 700, 1_499]) {
    const leak = assignmentOf(questions[i]!, 40_000 + i)
    const found = find(leak, contentOf(leak.content)!)
    assert.equal(found?.key, protectedOf(questions[i]!, BENCHMARK_FROM + i).key)
    assert.deepEqual([found?.measure, found?.distance], ['layout', 0])
  }
})

test('without a similarity model exact copies alone are found, and nothing protected finds nothing', () => {
  const example: Seen = { words: 1, pictures: [0], state: 0, noise: 0, seed: 1 }
  const protectedSet = [protectedOf(example, 1)]
  const find = protectionOf({ protectedSet, manifest: {} })!
  const [exact, near] = [assignmentOf(example, 1, 'other'), assignmentOf(example, 2)]
  assert.deepEqual(find(exact, contentOf(exact.content)!), { key: protectedSet[0]!.key })
  assert.equal(find(near, contentOf(near.content)!), undefined)
  assert.equal(protectionOf({ protectedSet: [], manifest }), undefined)
})
