/**
 * The membership of a consumer group. Heartbeats never wait for work, and work never waits for heartbeats.
 *
 *            ┌── rejoin: rebalance, or session lost     ──┐
 *            ▼                                             │
 *   join ─► sync ─► given {places, generation} ─► heartbeats ──► leave
 *
 * Each assignment goes to `onGiven`. A partition that another member is to have is missing from it; this member still
 * reports it as held until `release` joins the group again without it.
 */

import { setTimeout as after } from 'node:timers/promises'
import type { Brokers } from '../link/brokers.ts'
import type { Node } from '../link/connection.ts'
import { gaveUp, verdictOn } from '../link/errors.ts'
import { backoff, type RetryPolicy, withRetry } from '../link/retry.ts'
import { KafkaFailure, type Place, placeKey } from '../wire/model.ts'
import type { GroupMember } from '../wire/requests.ts'
import {
  ASSIGNOR,
  type Assignment,
  assign,
  decodeAssignment,
  decodeMember,
  encodeAssignment,
  encodeMember,
  slotsOf,
} from './assignor.ts'

export type Given = Assignment & {
  /** The membership has lasted since the previous assignment: nobody else had the partitions that were kept. */
  isContinuous: boolean
}

export type MembershipOptions = {
  brokers: Brokers
  group: string
  topics: readonly string[]
  sessionMsMax: number
  retry: RetryPolicy
  /** The partitions that this member holds now, those with work in hand included. */
  holds: () => readonly Place[]
  onGiven: (given: Given) => void
  /** The membership has failed; it does not join again. */
  onFailed: (error: unknown) => void
}

const HEARTBEATS_A_SESSION = 4
const HEARTBEAT_MS_MAX = 3_000

export class Membership {
  readonly #options: MembershipOptions
  readonly #retry: RetryPolicy
  readonly #abort = new AbortController()
  /** Member id and generation of the last assignment that was applied. Commits carry them. */
  #member: GroupMember
  #memberId = ''
  #generation = -1
  #slot: number | undefined
  #isContinuous = false
  #isWanted = false
  #wake: () => void = () => {}
  #running: Promise<void> = Promise.resolve()
  /** Settles with the next heartbeat that is answered, or the next assignment. */
  #confirming: PromiseWithResolvers | undefined
  #failure: { error: unknown } | undefined

  constructor(options: MembershipOptions) {
    this.#options = options
    this.#member = { group: options.group, memberId: '', generation: -1 }
    this.#retry = { ...options.retry, signal: this.#abort.signal }
  }

  get member(): GroupMember {
    return this.#member
  }

  get memberId(): string {
    return this.#memberId
  }

  /** Resolves with the first assignment. */
  async start(): Promise<void> {
    await this.#join()
    this.#running = this.#run().catch(error => {
      if (this.#abort.signal.aborted) return
      this.#failure = { error }
      this.#options.onFailed(error)
      this.#confirming?.reject(error)
    })
  }

  /** Joins again, without the partitions that are no longer in `holds`. */
  release(): void {
    this.#isWanted = true
    this.#wake()
  }

  /** Resolves with the next heartbeat that is answered, or the next assignment. Throws once the membership has failed. */
  async confirm(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.error
    if (this.#abort.signal.aborted) return
    this.#confirming ??= withResolvers()
    this.#wake()
    await this.#confirming.promise
  }

  async close(): Promise<void> {
    this.#abort.abort()
    this.#wake()
    this.#confirming?.resolve()
    await Promise.race([this.#running, after(LEAVE_MS_MAX)])
    if (this.#memberId === '') return
    const { group } = this.#options
    const leaving = this.#coordinator().then(node =>
      node.leaveGroup({ groupId: group, memberId: this.#memberId }),
    )
    await Promise.race([leaving.catch(() => {}), after(LEAVE_MS_MAX)])
  }

  async #run(): Promise<void> {
    while (!this.#abort.signal.aborted) {
      await this.#sleep()
      if (this.#abort.signal.aborted) return
      if (this.#isWanted || !(await this.#beat())) await this.#join()
      this.#confirming?.resolve()
      this.#confirming = undefined
    }
  }

  async #sleep(): Promise<void> {
    const ms = Math.min(this.#options.sessionMsMax / HEARTBEATS_A_SESSION, HEARTBEAT_MS_MAX)
    if (this.#isWanted || this.#confirming !== undefined) return
    const woken = new Promise<void>(resolve => {
      this.#wake = resolve
    })
    const asleep = new AbortController()
    await Promise.race([woken, after(ms, undefined, { signal: asleep.signal }).catch(() => {})])
    asleep.abort()
  }

  /** False when the member has to join again. */
  async #beat(): Promise<boolean> {
    const { brokers, group } = this.#options
    try {
      await withRetry(this.#retry, brokers, async () => {
        const coordinator = await this.#coordinator()
        await coordinator.heartbeat({
          groupId: group,
          groupGenerationId: this.#generation,
          memberId: this.#memberId,
        })
      })
      return true
    } catch (error) {
      this.#forget(error)
      return false
    }
  }

  /** Throws unless joining again helps. */
  #forget(error: unknown): void {
    if (this.#abort.signal.aborted) return
    const verdict = verdictOn(error, this.#retry.address)
    if (verdict.kind !== 'rejoin') throw error
    if (!verdict.isForgotten) return
    this.#memberId = ''
    this.#isContinuous = false
  }

  /** Rebalances may follow one another, for at most as long as brokers may be out of reach. */
  async #join(): Promise<void> {
    const { brokers, onGiven, group } = this.#options
    const { address, events, logger, msMax } = this.#retry
    const started = performance.now()
    const pause = backoff(this.#retry)
    while (!this.#abort.signal.aborted) {
      this.#isWanted = false
      try {
        const given = await withRetry(this.#retry, brokers, () => this.#joinOnce())
        const { places, slot } = given
        this.#slot = slot
        if (this.#abort.signal.aborted) return
        events.onRebalance(group, places.length)
        logger?.info(
          { group, generation: this.#generation, slot, partitions: textOf(places) },
          'assigned',
        )
        onGiven({ ...given, isContinuous: this.#isContinuous })
        this.#member = { group, memberId: this.#memberId, generation: this.#generation }
        this.#isContinuous = true
        return
      } catch (error) {
        this.#forget(error)
        if (performance.now() - started > msMax) throw gaveUp(error, address, msMax)
        await pause(error)
      }
    }
  }

  async #joinOnce(): Promise<Assignment> {
    const { group, topics, sessionMsMax, holds } = this.#options
    const coordinator = await this.#coordinator()
    const generation = this.#generation
    const metadata = encodeMember(topics, { holds: holds(), generation, slot: this.#slot })
    const waiting = setTimeout(() => this.#sayWaiting(), WAITING_MS)
    const joined = await coordinator
      .joinGroup({
        groupId: group,
        sessionTimeout: sessionMsMax,
        rebalanceTimeout: sessionMsMax,
        memberId: this.#memberId,
        groupProtocols: [{ name: ASSIGNOR, metadata }],
      })
      .finally(() => clearTimeout(waiting))
    this.#memberId = joined.memberId
    if (joined.generationId !== this.#generation + 1) this.#isContinuous = false
    this.#generation = joined.generationId
    const isLeader = joined.leaderId === joined.memberId
    const groupAssignment = isLeader ? await this.#deal(joined.members) : []
    const synced = await coordinator.syncGroup({
      groupId: group,
      generationId: this.#generation,
      memberId: this.#memberId,
      groupAssignment,
    })
    return decodeAssignment(synced.memberAssignment)
  }

  /** The coordinator answers when all members have joined. It misses a killed one only when its session ends. */
  #sayWaiting(): void {
    const { group, sessionMsMax } = this.#options
    const seconds = Math.ceil(sessionMsMax / 1000)
    const what = `waiting up to ${seconds} s for the previous member's session to end`
    this.#retry.logger?.info({ group }, what)
  }

  async #deal(
    members: readonly { memberId: string; memberMetadata: Buffer }[],
  ): Promise<{ memberId: string; memberAssignment: Buffer }[]> {
    const { brokers, topics } = this.#options
    const found = await brokers.describe(topics)
    const places = topics.flatMap(topic => {
      const partitions = found.get(topic)
      if (partitions !== undefined) return partitions.map((_, partition) => ({ topic, partition }))
      throw new KafkaFailure('UNKNOWN_TOPIC_OR_PARTITION', `topic ${topic} is gone`)
    })
    const decoded = members.map(member => decodeMember(member.memberId, member.memberMetadata))
    const { slots, free } = slotsOf(decoded, places.length + SPARE_SLOTS)
    return [...assign(decoded, places)].map(([memberId, given]) => {
      const mine = memberId === this.#memberId ? free : []
      const assignment = { places: given, slot: slots.get(memberId)!, free: mine }
      return { memberId, memberAssignment: encodeAssignment(assignment) }
    })
  }

  #coordinator(): Promise<Node> {
    return this.#options.brokers.coordinator('group', this.#options.group)
  }
}

const LEAVE_MS_MAX = 2_000
/** Numbers beyond the partitions, for members that stand by. */
const SPARE_SLOTS = 4
/** A group whose members all answer has joined by now. */
const WAITING_MS = 1_000

function textOf(places: readonly Place[]): string {
  return places.length === 0 ? 'none' : places.map(placeKey).sort().join(' ')
}

type PromiseWithResolvers = {
  promise: Promise<void>
  resolve: () => void
  reject: (error: unknown) => void
}

function withResolvers(): PromiseWithResolvers {
  let resolve = (): void => {}
  let reject = (_error: unknown): void => {}
  const promise = new Promise<void>((yes, no) => {
    resolve = yes
    reject = no
  })
  promise.catch(() => {})
  return { promise, resolve, reject }
}
