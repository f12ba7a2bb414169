/**
 * Which member of a group gets which partition: even, sticky, and in two steps. A partition that another
 * live member still holds is not given away: it goes to nobody until that member has finished and
 * committed what it has in hand and says so by joining again.
 */
import { AssignerProtocol } from 'kafkajs'
import { type Place, placeKey } from './log.ts'

export const ASSIGNOR = 'xmasd-cooperative'
const VERSION = 1

export type Member = {
  memberId: string
  /** What it holds now, and the generation in which it was given. */
  holds: readonly Place[]
  generation: number
}

/** A member's metadata as it goes over the wire. */
export function encodeMember(topics: readonly string[], member: Omit<Member, 'memberId'>): Buffer {
  const holds = member.holds.map(({ topic, partition }) => [topic, partition])
  const userData = Buffer.from(JSON.stringify({ generation: member.generation, holds }))
  return AssignerProtocol.MemberMetadata.encode({ version: VERSION, topics: [...topics], userData })
}

export function decodeMember(memberId: string, metadata: Buffer): Member {
  const decoded = AssignerProtocol.MemberMetadata.decode(metadata)
  const { generation, holds } = JSON.parse(decoded?.userData.toString() ?? '{}') as {
    generation: number
    holds: [string, number][]
  }
  return { memberId, generation, holds: holds.map(([topic, partition]) => ({ topic, partition })) }
}

export function encodeAssignment(places: readonly Place[]): Buffer {
  const assignment: Record<string, number[]> = {}
  for (const { topic, partition } of places) {
    assignment[topic] = [...(assignment[topic] ?? []), partition]
  }
  const userData = Buffer.alloc(0)
  return AssignerProtocol.MemberAssignment.encode({ version: VERSION, assignment, userData })
}

export function decodeAssignment(assignment: Buffer): Place[] {
  if (assignment.length === 0) return []
  const decoded = AssignerProtocol.MemberAssignment.decode(assignment)
  return Object.entries(decoded?.assignment ?? {}).flatMap(([topic, partitions]) =>
    partitions.map(partition => ({ topic, partition })),
  )
}

/** Every place goes to at most one member; all of them to somebody once nobody holds what is another's. */
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

/** Who holds a place; of two that say so, the one to whom it was given later. */
function holdersOf(members: readonly Member[]): Map<string, string> {
  const holders = new Map<string, string>()
  const byAge = [...members].sort((a, b) => a.generation - b.generation)
  for (const { memberId, holds } of byAge) {
    for (const place of holds) holders.set(placeKey(place), memberId)
  }
  return holders
}

/** Who is to have a place in the end: what one holds stays, as far as the shares are even. */
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
