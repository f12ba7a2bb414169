import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { AssignerProtocol } from 'kafkajs'
import {
  assign,
  decodeAssignment,
  decodeMember,
  encodeAssignment,
  encodeMember,
  type Member,
  slotsOf,
} from '../../../src/kafka/group/assignor.ts'
import { type Place, placeKey } from '../../../src/log/log.ts'

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
  const member = { holds: places(3), generation: 9, slot: 2 }
  const decoded = decodeMember('m', encodeMember(['examples'], member))
  assert.deepEqual(decoded, { memberId: 'm', ...member })
  const mixed = [...places(2), { topic: 'other', partition: 7 }]
  for (const assignment of [
    { places: mixed, slot: 2, free: [0, 3] },
    { places: [], slot: 0, free: [] },
  ]) {
    assert.deepEqual(decodeAssignment(encodeAssignment(assignment)), assignment)
  }
  const nothing = { places: [], slot: undefined, free: [] }
  assert.deepEqual(decodeAssignment(Buffer.alloc(0)), nothing)
})

test('a member or a leader of before members had numbers is understood', () => {
  const { MemberMetadata, MemberAssignment } = AssignerProtocol
  const userData = Buffer.from('{"generation":4,"holds":[["examples",1]]}')
  const metadata = MemberMetadata.encode({ version: 1, topics: ['examples'], userData })
  const holds = [{ topic: 'examples', partition: 1 }]
  const member = { memberId: 'm', generation: 4, slot: undefined, holds }
  assert.deepEqual(decodeMember('m', metadata), member)
  const assignment = { examples: [1] }
  const given = MemberAssignment.encode({ version: 1, assignment, userData: Buffer.alloc(0) })
  assert.deepEqual(decodeAssignment(given), { places: holds, slot: undefined, free: [] })
})

test('every member has a number of its own and keeps it; what nobody has is free', () => {
  const member = fc.record({
    slot: fc.option(fc.nat(9), { nil: undefined }),
    generation: fc.nat(5),
  })
  const property = fc.property(fc.array(member, { minLength: 1, maxLength: 8 }), list => {
    const members = list.map((one, i) => ({ ...one, memberId: `m${i}`, holds: [] }))
    const { slots, free } = slotsOf(members, 12)
    assert.deepEqual([...slots.keys()].sort(), members.map(({ memberId }) => memberId).sort())
    const taken = [...slots.values()]
    assert.deepEqual(
      [...taken, ...free].sort((a, b) => a - b),
      Array.from({ length: 12 }, (_, slot) => slot),
    )
    const latest = Math.max(...members.map(({ generation }) => generation))
    for (const { memberId, slot, generation } of members) {
      const isOnly = members.filter(one => one.slot === slot).length === 1
      if (slot !== undefined && isOnly && generation === latest) {
        assert.equal(slots.get(memberId), slot)
      }
    }
    const again = members.map(one => ({ ...one, generation: 9, slot: slots.get(one.memberId) }))
    assert.deepEqual(slotsOf(again, 12).slots, slots)
  })
  fc.assert(property)
})
