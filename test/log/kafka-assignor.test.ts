import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  assign,
  decodeAssignment,
  decodeMember,
  encodeAssignment,
  encodeMember,
  type Member,
} from '../../src/log/kafka-assignor.ts'
import { type Place, placeKey } from '../../src/log/log.ts'

const places = (count: number): Place[] =>
  Array.from({ length: count }, (_, partition) => ({ topic: 'examples', partition }))

/** A group as it goes on: every member holds what it was given, and lets go of what it was not. */
class Group {
  readonly #places: readonly Place[]
  readonly held = new Map<string, readonly Place[]>()
  #generation = 0

  constructor(partitions: number) {
    this.#places = places(partitions)
  }

  #members(): Member[] {
    return [...this.held].map(([memberId, holds]) => {
      return { memberId, holds, generation: this.#generation }
    })
  }

  /** One rebalance. Members have to finish first what is wanted elsewhere: held until the next one. */
  rebalance(): boolean {
    const given = assign(this.#members(), this.#places)
    this.#generation++
    let isSettled = true
    for (const [memberId, now] of given) {
      const before = this.held.get(memberId)!
      const keys = new Set(now.map(placeKey))
      if (before.some(place => !keys.has(placeKey(place)))) isSettled = false
      this.held.set(memberId, now)
    }
    return isSettled
  }

  owners(): string[] {
    const all = [...this.held.values()].flat().map(placeKey)
    assert.equal(new Set(all).size, all.length, 'a partition has two owners')
    return all
  }
}

const changes = fc.array(
  fc.oneof(
    fc.record({ kind: fc.constant('joins' as const), member: fc.nat(5) }),
    fc.record({ kind: fc.constant('dies' as const), member: fc.nat(5) }),
  ),
  { minLength: 1, maxLength: 20 },
)

test('whoever comes and goes, no partition has two owners, and after two rebalances all are dealt evenly', () => {
  const property = fc.property(changes, fc.integer({ min: 1, max: 12 }), (list, partitions) => {
    const group = new Group(partitions)
    for (const { kind, member } of list) {
      if (kind === 'joins') group.held.set(`m${member}`, group.held.get(`m${member}`) ?? [])
      else group.held.delete(`m${member}`)
      if (group.held.size === 0) continue
      group.rebalance()
      group.owners()
      group.rebalance()
      assert.equal(group.owners().length, partitions)
      const counts = [...group.held.values()].map(({ length }) => length)
      assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, counts.join(' '))
    }
  })
  fc.assert(property, { numRuns: 500 })
})

test('a member that joins takes no more than its share from the others, one that dies leaves theirs alone', () => {
  const group = new Group(12)
  for (const name of ['a', 'b', 'c']) group.held.set(name, [])
  while (!group.rebalance());
  const before = new Map([...group.held].map(([name, held]) => [name, held.map(placeKey)]))
  group.held.set('d', [])
  while (!group.rebalance());
  for (const name of ['a', 'b', 'c']) {
    const kept = group.held.get(name)!.map(placeKey)
    assert.equal(kept.length, 3)
    assert.ok(kept.every(key => before.get(name)!.includes(key)))
  }
  group.held.delete('a')
  const held = new Map([...group.held].map(([name, places]) => [name, places.map(placeKey)]))
  while (!group.rebalance());
  for (const name of ['b', 'c', 'd']) {
    const now = group.held.get(name)!.map(placeKey)
    assert.ok(held.get(name)!.every(key => now.includes(key)))
  }
})

test('one partition stays with its owner, and of two that say they hold it the later one counts', () => {
  const [place] = places(1)
  const holds = [place!]
  const owner = { memberId: 'z', holds, generation: 5 }
  const standby = { memberId: 'a', holds: [], generation: 5 }
  assert.deepEqual(assign([standby, owner], [place!]).get('z'), holds)
  const zombie = { memberId: 'b', holds, generation: 3 }
  const given = assign([zombie, owner, standby], [place!])
  assert.deepEqual([given.get('z'), given.get('b'), given.get('a')], [holds, [], []])
})

test('members and assignments survive the wire', () => {
  const member = { holds: places(3), generation: 9 }
  const decoded = decodeMember('m', encodeMember(['examples'], member))
  assert.deepEqual(decoded, { memberId: 'm', ...member })
  const mixed = [...places(2), { topic: 'other', partition: 7 }]
  assert.deepEqual(decodeAssignment(encodeAssignment(mixed)), mixed)
  assert.deepEqual(decodeAssignment(encodeAssignment([])), [])
  assert.deepEqual(decodeAssignment(Buffer.alloc(0)), [])
})
