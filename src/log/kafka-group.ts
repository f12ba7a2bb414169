/**
 * Membership of a consumer group, by itself: heartbeats never wait for work, work never for heartbeats.
 *
 *            ┌── rejoin: rebalance, or we were forgotten ──┐
 *            ▼                                             │
 *   join ─► sync ─► given {places, generation} ─► heartbeats ──► leave
 *
 * The owner of the membership is told what it was given. A place that is wanted elsewhere is missing there;
 * it is held on to until `release`, which joins again without it.
 */
import { setTimeout } from 'node:timers/promises'
import type { LogEvents } from '../observe/log-events.ts'
import {
  ASSIGNOR,
  assign,
  decodeAssignment,
  decodeMember,
  encodeAssignment,
  encodeMember,
} from './kafka-assignor.ts'
import type { Cluster, Node } from './kafka-cluster.ts'
import { KafkaFailure, verdictOn } from './kafka-errors.ts'
import { type Patience, patiently } from './kafka-retry.ts'
import { type Place, placeKey } from './log.ts'

export type Given = {
  places: readonly Place[]
  /** Whether we were a member all the time since the last one: then nobody else had what we kept. */
  isContinuous: boolean
}

export type MembershipOptions = {
  cluster: Cluster
  group: string
  topics: readonly string[]
  sessionMsMax: number
  patience: Patience
  events: LogEvents
  /** What is held at this moment, as far as it is still worked on. */
  holds: () => readonly Place[]
  onGiven: (given: Given) => void
  /** The membership has ended by an error that nothing mends. */
  onFailed: (error: unknown) => void
}

const HEARTBEATS_A_SESSION = 4
const HEARTBEAT_MS_MAX = 3_000

export class Membership {
  readonly #options: MembershipOptions
  readonly #patience: Patience
  readonly #abort = new AbortController()
  #memberId = ''
  #generation = -1
  #isContinuous = false
  #isWanted = false
  #wake: () => void = () => {}
  #running: Promise<void> = Promise.resolve()
  /** Settles with the next heartbeat that is answered, or the next assignment. */
  #confirming: PromiseWithResolvers | undefined

  constructor(options: MembershipOptions) {
    this.#options = options
    this.#patience = { ...options.patience, signal: this.#abort.signal }
  }

  /** Resolves with the first assignment. */
  async start(): Promise<void> {
    await this.#join()
    this.#running = this.#run().catch(error => {
      if (this.#abort.signal.aborted) return
      this.#options.onFailed(error)
      this.#confirming?.reject(error)
    })
  }

  /** Joins again: to give up what is no longer in `holds`. */
  release(): void {
    this.#isWanted = true
    this.#wake()
  }

  /** Resolves once the group has confirmed us, or has given anew: what we own is true then. */
  async confirm(): Promise<void> {
    this.#confirming ??= withResolvers()
    this.#wake()
    await this.#confirming.promise
  }

  async close(): Promise<void> {
    this.#abort.abort()
    this.#wake()
    this.#confirming?.resolve()
    await Promise.race([this.#running, setTimeout(LEAVE_MS_MAX)])
    if (this.#memberId === '') return
    const { group } = this.#options
    const leaving = this.#coordinator().then(node =>
      node.leaveGroup({ groupId: group, memberId: this.#memberId }),
    )
    await Promise.race([leaving.catch(() => {}), setTimeout(LEAVE_MS_MAX)])
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
    await Promise.race([
      woken,
      setTimeout(ms, undefined, { signal: asleep.signal }).catch(() => {}),
    ])
    asleep.abort()
  }

  /** False where we have to join again. */
  async #beat(): Promise<boolean> {
    const { cluster, group } = this.#options
    try {
      await patiently(this.#patience, cluster, async () => {
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
    const verdict = verdictOn(error, this.#patience.address)
    if (verdict.kind !== 'rejoin') throw error
    if (!verdict.isForgotten) return
    this.#memberId = ''
    this.#isContinuous = false
  }

  async #join(): Promise<void> {
    const { cluster, onGiven, events, group } = this.#options
    while (!this.#abort.signal.aborted) {
      this.#isWanted = false
      try {
        const places = await patiently(this.#patience, cluster, () => this.#joinOnce())
        if (this.#abort.signal.aborted) return
        events.onRebalance(group, places.length)
        const { logger } = this.#patience
        logger?.info(
          { group, generation: this.#generation, partitions: textOf(places) },
          'assigned',
        )
        onGiven({ places, isContinuous: this.#isContinuous })
        this.#isContinuous = true
        return
      } catch (error) {
        this.#forget(error)
      }
    }
  }

  async #joinOnce(): Promise<Place[]> {
    const { group, topics, sessionMsMax, holds } = this.#options
    const coordinator = await this.#coordinator()
    const metadata = encodeMember(topics, { holds: holds(), generation: this.#generation })
    const joined = await coordinator.joinGroup({
      groupId: group,
      sessionTimeout: sessionMsMax,
      rebalanceTimeout: sessionMsMax,
      memberId: this.#memberId,
      groupProtocols: [{ name: ASSIGNOR, metadata }],
    })
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

  async #deal(
    members: readonly { memberId: string; memberMetadata: Buffer }[],
  ): Promise<{ memberId: string; memberAssignment: Buffer }[]> {
    const { cluster, topics } = this.#options
    const places: Place[] = []
    for (const topic of topics) {
      const count = await cluster.partitions(topic)
      if (count === undefined) {
        throw new KafkaFailure('UNKNOWN_TOPIC_OR_PARTITION', `topic ${topic} is gone`)
      }
      for (let partition = 0; partition < count; partition++) places.push({ topic, partition })
    }
    const decoded = members.map(member => decodeMember(member.memberId, member.memberMetadata))
    return [...assign(decoded, places)].map(([memberId, given]) => {
      return { memberId, memberAssignment: encodeAssignment(given) }
    })
  }

  #coordinator(): Promise<Node> {
    return this.#options.cluster.coordinator('group', this.#options.group)
  }
}

const LEAVE_MS_MAX = 2_000

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
