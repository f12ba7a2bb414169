/**
 * Assigns partitions to members: evenly, stickily, and in two steps. A partition that another live member holds goes to
 * nobody until that member has committed its work in hand and joined again without it.
 */

import { Reader, Writer } from '../wire/bytes.ts'
import { type Place, placeKey } from '../wire/model.ts'

export const ASSIGNOR = 'xmasd-cooperative'
const VERSION = 1

export type Member = {
  memberId: string
  /** What it holds now, and the generation in which it was given. */
  holds: readonly Place[]
  generation: number
  /** Its number among the members; undefined for one that has none yet. */
  slot?: number | undefined
}

/** What a member is given. `slot`: undefined where an older version leads the group. */
export type Assignment = {
  places: readonly Place[]
  slot: number | undefined
  /** For the leader: the numbers that no member has. */
  free: readonly number[]
}

/** A member's metadata as it goes over the wire. */
export function encodeMember(topics: readonly string[], member: Omit<Member, 'memberId'>): Buffer {
  const holds = member.holds.map(({ topic, partition }) => [topic, partition])
  const { generation, slot } = member
  const userData = Buffer.from(JSON.stringify({ generation, holds, slot }))
  const out = new Writer().i16(VERSION).i32(topics.length)
  for (const topic of topics) out.text(topic)
  return out.bytes(userData).buffer()
}

export function decodeMember(memberId: string, metadata: Buffer): Member {
  const input = new Reader(metadata)
  input.i16()
  input.times(() => input.text())
  const { generation, holds, slot } = JSON.parse(input.bytes().toString()) as {
    generation: number
    holds: [string, number][]
    slot?: number
  }
  const places = holds.map(([topic, partition]) => ({ topic, partition }))
  return { memberId, generation, slot, holds: places }
}

export function encodeAssignment({ places, slot, free }: Assignment): Buffer {
  const userData = Buffer.from(JSON.stringify({ slot, free }))
  const out = new Writer().i16(VERSION).i32(places.length)
  for (const { topic, partition } of places) out.text(topic).i32(1).i32(partition)
  return out.bytes(userData).buffer()
}

/** An empty assignment is that of a member which the leader has left out. */
export function decodeAssignment(assignment: Buffer): Assignment {
  if (assignment.length === 0) return { places: [], slot: undefined, free: [] }
  const input = new Reader(assignment)
  const places: Place[] = []
  input.i16()
  input.times(() => {
    const topic = input.text()
    input.times(() => places.push({ topic, partition: input.i32() }))
  })
  const data = input.bytes().toString() || '{}'
  const { slot, free = [] } = JSON.parse(data) as { slot?: number; free?: number[] }
  return { places, slot, free }
}

/**
 * Gives every member a number, which it keeps while it is a member. Of two members that claim a number, the one that got
 * it later keeps it. `free`: the numbers below `count` that no member has.
 */
export function slotsOf(
  members: readonly Member[],
  count: number,
): { slots: Map<string, number>; free: number[] } {
  const owners = new Map<number, string>()
  const byAge = [...members].sort((a, b) => a.generation - b.generation)
  for (const { slot, memberId } of byAge) if (slot !== undefined) owners.set(slot, memberId)
  const slots = new Map([...owners].map(([slot, memberId]) => [memberId, slot]))
  let next = 0
  for (const { memberId } of members) {
    if (slots.has(memberId)) continue
    while (owners.has(next)) next++
    owners.set(next, memberId)
    slots.set(memberId, next)
  }
  const free = Array.from({ length: count }, (_, slot) => slot).filter(slot => !owners.has(slot))
  return { slots, free }
}

/** Every partition goes to at most one member, and to exactly one when no member holds what another is to have. */
export function assign(members: readonly Member[], places: readonly Place[]): Map<string, Place[]> {
  const holders = holdersOf(members)
  const target = targetOf(members, places, holders)
  const given = new Map(members.map(({ memberId }) => [memberId, [] as Place[]]))
  for (const place of places) {
    const memberId = target.get(placeKey(place))!
    const holder = holders.get(placeKey(place))
    if (holder === undefined || holder === memberId) given.get(memberId)!.push(place)
  }
  return given
}

/** Who holds a partition. Of two members that claim it, the one that got it later. */
function holdersOf(members: readonly Member[]): Map<string, string> {
  const holders = new Map<string, string>()
  const byAge = [...members].sort((a, b) => a.generation - b.generation)
  for (const { memberId, holds } of byAge) {
    for (const place of holds) holders.set(placeKey(place), memberId)
  }
  return holders
}

/** Who is to have a partition in the end. Members keep what they hold, as far as the shares are even. */
function targetOf(
  members: readonly Member[],
  places: readonly Place[],
  holders: ReadonlyMap<string, string>,
): Map<string, string> {
  const kept = new Map(members.map(({ memberId }) => [memberId, [] as string[]]))
  for (const place of places) kept.get(holders.get(placeKey(place)) ?? '')?.push(placeKey(place))
  const ranked = [...kept].sort(([a, x], [b, y]) => y.length - x.length || (a < b ? -1 : 1))
  const target = new Map<string, string>()
  const room: { memberId: string; left: number }[] = []
  for (const [rank, [memberId, held]] of ranked.entries()) {
    const extra = rank < places.length % members.length ? 1 : 0
    const share = Math.floor(places.length / members.length) + extra
    for (const key of held.slice(0, share)) target.set(key, memberId)
    room.push({ memberId, left: Math.max(0, share - held.length) })
  }
  const free = places.map(placeKey).filter(key => !target.has(key))
  for (const { memberId, left } of room) {
    for (const key of free.splice(0, left)) target.set(key, memberId)
  }
  return target
}
