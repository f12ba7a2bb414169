import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  type NearDuplicates,
  openNearDuplicates,
} from '../../../src/select/dedup/near-duplicates.ts'
import type { Folded, FoldedAssignment, SelectSettings } from '../../../src/select/fold.ts'
import { POLICIES } from '../../../src/select/rule/policy.ts'
import { SelectState } from '../../../src/select/state.ts'
import { MemoryState } from '../stream.ts'
import { assignmentOf, MODEL, type Seen, seen } from './near.ts'

const SETTINGS: SelectSettings = { policy: 'revisable', percent: 40, settleEvery: 1 }
const NEAR = { enabled: true, exemplarsMax: 20 }

/** Of a bundle, for decisions for good. */
const NOTHING_BEFORE = { clusters: 4, textOnly: 0, members: undefined }

/** The select role's two states over one store: what decides, and what is near. */
class Role {
  readonly #store: MemoryState
  readonly #state: SelectState
  readonly #near: NearDuplicates

  constructor(store: MemoryState, isBegun = false, settings = SETTINGS) {
    this.#store = store
    this.#state = new SelectState(store, settings)
    if (this.#state.wantsBeginning) this.#state.begin(NOTHING_BEFORE)
    this.#near = openNearDuplicates(store, NEAR, isBegun)!
    if (!isBegun) this.#near.learn(MODEL)
  }

  fold(record: FoldedAssignment, offset: number): Folded {
    return this.#state.fold(record, offset, { findNear: this.#near.identify })
  }

  /** A second fold over the same records, after them: it recalls. */
  follow(record: FoldedAssignment, offset: number, state = this.#state): Folded {
    return state.fold(record, offset, {
      findNear: (_, content) => this.#near.recall(content),
    })
  }

  commit(): void {
    this.#store.commit(writer => {
      this.#state.write(writer)
      this.#near.write(writer)
    })
  }

  get state(): SelectState {
    return this.#state
  }
}

/** Some arrive again: the same record, or its content under another id. */
const arrivals = fc.array(
  fc.record({
    example: seen,
    again: fc.option(fc.record({ back: fc.nat(60), isRenamed: fc.boolean() }), { freq: 4 }),
  }),
  { maxLength: 90, size: 'max' },
)

function recordsOf(
  list: readonly { example: Seen; again: { back: number; isRenamed: boolean } | null }[],
): FoldedAssignment[] {
  return list.map(({ example, again }, number) => {
    const before = again === null ? -1 : number - 1 - (again.back % Math.max(1, number))
    if (again === null || before < 0) return assignmentOf(example, number)
    const id = again.isRenamed ? `other${number}` : undefined
    return assignmentOf(list[before]!.example, before, id)
  })
}

const stops = fc.integer({ min: 1, max: 20 })
const policies = fc.constantFrom(...POLICIES)

test('decisions are those of a process that never stopped, whenever it stops and is restored', () => {
  fc.assert(
    fc.property(arrivals, stops, policies, (list, commitEvery, policy) => {
      const records = recordsOf(list)
      const settings: SelectSettings = { ...SETTINGS, policy }
      const straight = new Role(new MemoryState(), false, settings)
      const expected = records.map((record, offset) => straight.fold(record, offset))
      const store = new MemoryState()
      let role = new Role(store, false, settings)
      for (const [offset, record] of records.entries()) {
        assert.deepEqual(role.fold(record, offset), expected[offset])
        if (offset % commitEvery !== 0) continue
        role.commit()
        role = new Role(store, true, settings)
      }
      const second = new SelectState(new MemoryState(), settings)
      if (second.wantsBeginning) second.begin(NOTHING_BEFORE)
      for (const [offset, record] of records.entries()) {
        assert.deepEqual(straight.follow(record, offset, second), expected[offset])
      }
    }),
    { numRuns: 60 },
  )
})

test('every example is decided once, and a near-duplicate loses to one that counts', () => {
  const seenReasons = new Map<string, number>()
  fc.assert(
    fc.property(arrivals, list => {
      const role = new Role(new MemoryState())
      const counted = new Set<string>()
      const decided = new Set<string>()
      for (const [offset, record] of recordsOf(list).entries()) {
        const { outcome, decisions } = role.fold(record, offset)
        const own = decisions.filter(({ key }) => key === record.key)
        const isKnown = decided.has(record.key)
        assert.equal(outcome === 'redelivered', isKnown, `${offset} ${outcome}`)
        assert.equal(own.length, isKnown ? 0 : 1)
        decided.add(record.key)
        if (outcome === 'assigned') counted.add(record.key)
        for (const { reason, duplicateOf, distance, measure, action } of own) {
          seenReasons.set(measure ?? reason, (seenReasons.get(measure ?? reason) ?? 0) + 1)
          if (outcome !== 'near_duplicate') continue
          assert.deepEqual([action, reason], ['drop', 'near_duplicate'])
          assert.ok(counted.has(duplicateOf!), duplicateOf)
          assert.ok(distance! <= (measure === 'state' ? MODEL.stateRadius : MODEL.layoutRadius))
        }
      }
      assert.equal(role.state.examples, counted.size)
    }),
    { numRuns: 60 },
  )
  for (const what of ['words', 'layout', 'state', 'duplicate', 'within_quota']) {
    assert.ok((seenReasons.get(what) ?? 0) > 10, `${what}: ${seenReasons.get(what)}`)
  }
})

const PLAIN: Seen = { words: 1, pictures: [0], state: 0, noise: 0, seed: 1 }

test('a record that lacks what is compared is neither near nor an exemplar', () => {
  const role = new Role(new MemoryState())
  const { words, layout, embedding, ...old } = assignmentOf(PLAIN, 0)
  assert.equal(role.fold(old, 0).outcome, 'assigned')
  assert.equal(role.fold(assignmentOf(PLAIN, 1), 1).outcome, 'assigned')
  const broken = { ...assignmentOf(PLAIN, 2), layout: 'AAAA' }
  assert.equal(role.fold(broken, 2).outcome, 'assigned')
  const other = { ...assignmentOf(PLAIN, 3), words: '2'.padStart(16, '0') }
  assert.equal(role.fold({ ...other, embedding: 'AAAA' }, 3).outcome, 'assigned')
  assert.equal(role.fold(assignmentOf(PLAIN, 4), 4).outcome, 'near_duplicate')
})

test('beyond the limit the oldest exemplar is forgotten, what was found before is not', () => {
  const role = new Role(new MemoryState())
  role.fold(assignmentOf(PLAIN, 0), 0)
  const copy = assignmentOf(PLAIN, 1)
  const [drop] = role.fold(copy, 1).decisions
  for (let i = 2; i < 30; i++) {
    const example = { ...PLAIN, words: 10 + i, state: 10 + i, pictures: [10 + i], seed: i }
    assert.equal(role.fold(assignmentOf(example, i), i).outcome, 'assigned')
  }
  const renamed = role.fold({ ...assignmentOf(PLAIN, 1, 'again') }, 30)
  assert.equal(renamed.outcome, 'near_duplicate')
  assert.equal(renamed.decisions[0]?.duplicateOf, drop?.duplicateOf)
  assert.equal(role.fold(copy, 31).outcome, 'redelivered')
  assert.equal(role.fold(assignmentOf(PLAIN, 32), 32).outcome, 'assigned')
})

test('a state that looked for them with other limits, or not at all, is refused', () => {
  const store = new MemoryState()
  const role = new Role(store)
  role.fold(assignmentOf(PLAIN, 0), 0)
  role.commit()
  const refused = (isEnabled: boolean, exemplarsMax: number, reader = store): void =>
    assert.throws(() => openNearDuplicates(reader, { enabled: isEnabled, exemplarsMax }, true), {
      code: 'STATE_INVALID',
    })
  refused(false, 20)
  refused(true, 21)
  refused(true, 20, new MemoryState())
  assert.equal(
    openNearDuplicates(new MemoryState(), { enabled: false, exemplarsMax: 20 }, true),
    undefined,
  )
  store.commit(writer => writer.remove(['exemplar', 0]))
  refused(true, 20)
})
