import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { XmasdError } from '../../src/errors.ts'
import { openLocalLog } from '../../src/log/local/log.ts'
import type { StateReader, StateWriter } from '../../src/log/log.ts'
import { CHUNK_ROWS } from '../../src/select/columns/stored.ts'
import { POLICIES } from '../../src/select/rule/policy.ts'
import { SelectState, scopedReader, scopedWriter } from '../../src/select/state.ts'
import { temporaryFolder } from '../support.ts'
import { MapState, MemoryState, percents, recordOf, streams } from './stream.ts'

const SETTINGS = { policy: 'revisable', percent: 20, settleEvery: 1 } as const

test('stopped and started anywhere, with or without a commit, the fold decides the same', () => {
  const cases = fc.record({
    stream: streams,
    policy: fc.constantFrom(...POLICIES),
    percent: percents,
    settleEvery: fc.integer({ min: 1, max: 20 }),
    horizonExamples: fc.option(fc.integer({ min: 1, max: 200 }), { nil: undefined }),
    controlPercent: fc.constantFrom(0, 40),
    /** What happens after each record: nothing, a commit, a commit and a restart, a crash. */
    steps: fc.array(fc.constantFrom('fold', 'fold', 'commit', 'restart', 'crash'), {
      minLength: 1,
      maxLength: 30,
    }),
  })
  fc.assert(
    fc.property(cases, ({ stream, steps, ...settings }) => {
      let offset = -1
      const records = stream.map(({ arrival, gap }) => {
        offset += 1 + gap
        return { record: recordOf(arrival), offset }
      })
      const straight = new SelectState(new MemoryState(), settings)
      const expected = records.map(({ record, offset }) => straight.fold(record, offset))

      const memory = new MemoryState()
      let state = new SelectState(memory, settings)
      let next = 0
      let committed = 0
      for (let turn = 0; next < records.length; turn++) {
        const { record, offset } = records[next]!
        assert.deepEqual(state.fold(record, offset), expected[next])
        next++
        // Each step comes once around a stream at most, so that a crash can't repeat for ever.
        const step = turn < steps.length * 20 ? steps[turn % steps.length]! : 'commit'
        if (step === 'commit' || step === 'restart') {
          memory.commit(writer => state.write(writer))
          committed = next
        }
        if (step === 'restart' || step === 'crash') {
          state = new SelectState(memory, settings)
          next = committed
        }
      }
      const counts = [state.examples, state.kept, state.duplicates, state.pending]
      const all = [straight.examples, straight.kept, straight.duplicates, straight.pending]
      assert.deepEqual(counts, all)
      assert.deepEqual([...state.subset()], [...straight.subset()])
      assert.deepEqual(state.parts, straight.parts)
      assert.deepEqual(state.regret(), straight.regret())
    }),
    { numRuns: 300 },
  )
})

test('a state of many blocks in the local log opens again with the same subset', async t => {
  const log = await openLocalLog({ path: temporaryFolder(t) })
  t.after(() => log.close())
  await log.ensureTopics([{ name: 'assignments', partitions: 1 }])
  const open = () => log.consume({ group: 'select', topics: ['assignments'] })
  let consumer = await open()
  let state = new SelectState(consumer.state, SETTINGS)
  for (let offset = 0; offset < 3000; offset++) {
    const cluster = offset % 11 === 0 ? 'text' : (offset * offset) % 7
    const content = offset % 17 === 0 ? offset >> 1 : offset
    state.fold(recordOf({ content, id: offset, cluster, instability: (offset * 7) % 13 }), offset)
    if (offset % 97 !== 0 && offset !== 2999) continue
    const writing = state
    await consumer.commit({ positions: [], outputs: [], state: writer => writing.write(writer) })
    if (offset % 3 !== 0) continue
    await consumer.close()
    consumer = await open()
    state = new SelectState(consumer.state, SETTINGS)
    assert.equal(state.appliedOffset, offset + 1)
  }
  const subset = [...state.subset()]
  assert.equal(subset.length, state.kept)
  assert.ok(state.duplicates > 50)
  assert.deepEqual([...new SelectState(consumer.state, SETTINGS).subset()], subset)
  await consumer.close()
})

test('a state made with other settings, or damaged, is refused with a way out', () => {
  const memory = new MemoryState()
  const state = new SelectState(memory, SETTINGS)
  state.fold(recordOf({ content: 1, id: 1, cluster: 0, instability: 1 }), 0)
  memory.commit(writer => state.write(writer))
  const refused = (expected: RegExp, settings = { percent: 20, settleEvery: 1 }): void => {
    assert.throws(
      () => new SelectState(memory, { ...SETTINGS, ...settings }),
      (error: unknown) => {
        assert.ok(error instanceof XmasdError)
        assert.equal(error.code, 'STATE_INVALID')
        assert.match(error.message, expected)
        return error.hint.length > 0
      },
    )
  }
  refused(/percent 20, the configuration says 10/, { percent: 10, settleEvery: 1 })
  refused(/settleEvery 1, .* says 256/, { percent: 20, settleEvery: 256 })
  memory.commit(writer => writer.put(['example', 0], Buffer.from('nonsense, long enough')))
  refused(/magic/)
  memory.commit(writer => writer.remove(['example', 0]))
  refused(/missing/)
  memory.commit(writer => writer.put(['meta'], Buffer.from('{"format":"xmasd-select","v":2}')))
  refused(/version/)
})

test('a history of several chunks opens as it was left, also from a state without chunks', () => {
  for (const policy of POLICIES) {
    const memory = new MapState()
    const settings = { ...SETTINGS, policy }
    const state = new SelectState(memory, settings)
    const rows = 2 * CHUNK_ROWS + 300
    for (let i = 0; i < rows; i++) {
      const cluster = i % 19 === 0 ? 'text' : (i * i) % 11
      state.fold(recordOf({ content: i, id: i % 97, cluster, instability: (i * 7) % 1013 }), i)
      if (i % 5000 === 0) memory.commit(writer => state.write(writer))
    }
    memory.commit(writer => state.write(writer))
    const kept = state.keptSequences()
    const reopened = new SelectState(memory, settings)
    assert.deepEqual(reopened.keptSequences(), kept)
    memory.drop('numbers')
    const old = new SelectState(memory, settings)
    assert.deepEqual(old.keptSequences(), kept)
    memory.commit(writer => old.write(writer))
    assert.equal(memory.count('numbers'), 2)
    const next = recordOf({ content: rows, id: 1, cluster: 3, instability: 5 })
    const expected = state.fold(next, rows)
    assert.deepEqual(old.fold(next, rows), expected)
    assert.deepEqual(reopened.fold(next, rows), expected)
  }
})

test('folds of one state read only what they wrote themselves', async t => {
  const log = await openLocalLog({ path: temporaryFolder(t) })
  t.after(() => log.close())
  await log.ensureTopics([{ name: 'assignments', partitions: 1 }])
  const consumer = await log.consume({ group: 'g', topics: ['assignments'] })
  const scopes = [null, 'a', 'b']
  const put = (writer: StateWriter, scope: string | null): void => {
    const own = scopedWriter(writer, scope)
    for (const n of [0, 128, 256]) own.put(['example', n], Buffer.from(`${scope} ${n}`))
    own.put('meta', Buffer.from(`${scope}`))
    own.remove(['example', 256])
  }
  await consumer.commit({
    positions: [],
    outputs: [],
    state: writer => {
      for (const scope of scopes) put(writer, scope)
    },
  })
  const entries = (reader: StateReader): unknown[] =>
    [...reader.range(['example', 0], ['example', 1_000])].map(({ key, value }) => [
      key,
      Buffer.from(value).toString(),
    ])
  for (const scope of scopes) {
    const own = scopedReader(consumer.state, scope)
    assert.deepEqual(entries(own), [
      [['example', 0], `${scope} 0`],
      [['example', 128], `${scope} 128`],
    ])
    assert.equal(Buffer.from(own.get(['meta'])!).toString(), String(scope))
    assert.equal(own.get(['example', 256]), undefined)
  }
})
