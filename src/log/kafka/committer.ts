/**
 * Commits of one group member, one transaction each, retried until the outcome is known. Brokers refuse positions of any
 * generation but the current one (KIP-447), and tell a position only when no open transaction can move it. So a member needs
 * one transactional id, whatever its partitions: the group's name and the member's number.
 *
 *   transact ─── done ──► committed
 *      │  broke off
 *      ▼
 *   open a new session, which ends the transaction: the positions are the new ones ──► it was committed
 *                                                   the old ones, still ours ──► transact again
 *                                                   others, or not ours ──► refused
 */

import { gaveUp, verdictOn } from '../../kafka/link/errors.ts'
import { backoff, withRetry } from '../../kafka/link/retry.ts'
import type { AssignedPartition } from '../../kafka/read/partitions.ts'
import { groupBy, placeOf } from '../../kafka/wire/model.ts'
import type { GroupMember } from '../../kafka/wire/requests.ts'
import {
  isLedAgain,
  openSession,
  requireChecked,
  sweep,
  type TransactionState,
  transactionState,
} from '../../kafka/write/recovery.ts'
import {
  fetchPositions,
  initProducer,
  type Output,
  type ProducerSession,
  transact,
  type WriteContext,
} from '../../kafka/write/transaction.ts'
import type { Place } from '../log.ts'

export type CommitterOptions = WriteContext & {
  group: string
  /** Every partition whose position the group has. */
  inputs: readonly Place[]
  /** Member id and generation of the last assignment that was applied. */
  member: () => GroupMember
  /** Resolves when the group has confirmed this member or assigned anew. */
  confirm: () => Promise<void>
  /** Another member moved a partition, or it is new here. */
  onNews: (partition: AssignedPartition) => void
}

const FENCES_MAX = 5

export type Move = { partition: AssignedPartition; offset: number }

export class Committer {
  readonly #options: CommitterOptions
  #state: TransactionState | undefined
  #session: ProducerSession | undefined
  /** Ends when all commits that were asked for have ended. */
  #committing: Promise<unknown> = Promise.resolve()
  #opening: Promise<unknown> = Promise.resolve()
  #sweeping: Promise<unknown> = Promise.resolve()
  #uses = 0

  constructor(options: CommitterOptions) {
    this.#options = options
  }

  /** Commits under this number from now on. Completes what is open under the numbers that no member has, `free`. */
  use(slot: number | string, free: readonly number[]): void {
    const { group, inputs } = this.#options
    const stateOf = (number: number | string): TransactionState =>
      transactionState(`${group}-${number}`, { group, places: inputs })
    const state = stateOf(slot)
    if (this.#state?.transactionalId !== state.transactionalId) {
      this.#state = state
      this.#reopen()
    }
    // What an assignment before found free may have an owner by now.
    const uses = ++this.#uses
    for (const number of free) {
      this.#sweeping = this.#sweeping
        .then(() => (uses === this.#uses ? this.#sweep(stateOf(number)) : undefined))
        .catch(() => {})
    }
  }

  async #sweep(state: TransactionState): Promise<void> {
    if (this.#options.retry.signal?.aborted === true) return
    await sweep(this.#options, state)
  }

  /** Resolves when nothing of it goes on any more. */
  async close(): Promise<void> {
    await Promise.allSettled([this.#sweeping, this.#committing, this.#opening])
  }

  /** One commit after the other, all or nothing. Resolves to the partitions that are lost; when there are any, nothing is committed. */
  commit(moves: readonly Move[], outputs: readonly Output[]): Promise<AssignedPartition[]> {
    const mine = this.#committing.then(() => this.#commit(moves, outputs))
    this.#committing = mine.catch(() => {})
    return mine
  }

  /** Reads the positions of newly assigned partitions, each as soon as it is stable. */
  open(openings: ReadonlyMap<AssignedPartition, number>): Promise<unknown> {
    const byTopic = groupBy([...openings], ([{ topic }]) => topic)
    const opened = [...byTopic].map(([topic, some]) => this.#openOf(topic, new Map(some)))
    this.#opening = Promise.all([this.#opening, ...opened])
    this.#opening.catch(() => {})
    return this.#opening
  }

  /** Resolves when every assigned partition has its position. Throws when reading them has failed. */
  async opened(): Promise<void> {
    for (let seen: unknown; seen !== this.#opening; ) {
      seen = this.#opening
      await this.#opening
    }
  }

  async #openOf(topic: string, left: Map<AssignedPartition, number>): Promise<void> {
    const { brokers, group, retry } = this.#options
    await Promise.all([...left.keys()].map(partition => this.#retire(partition)))
    const positions = new Map<number, number | undefined>()
    const adopt = (): void => {
      for (const [partition, opening] of left) {
        if (partition.state === 'opening' && !positions.has(partition.partition)) continue
        left.delete(partition)
        const position = positions.get(partition.partition)
        if (partition.onClaimed(opening, position)) this.#options.onNews(partition)
      }
    }
    await withRetry(retry, brokers, async () => {
      const numbers = [...left.keys()].map(({ partition }) => partition)
      try {
        if (numbers.length > 0) await fetchPositions(brokers, group, topic, numbers, positions)
      } finally {
        adopt()
      }
    })
  }

  /** Before KIP-447 every partition had a transactional id of its own: fences its owner and completes its transaction. */
  async #retire({ topic, partition }: Place): Promise<void> {
    const { group, retry } = this.#options
    const moves = { group, places: [{ topic, partition }] }
    for (let left = FENCES_MAX; ; left--) {
      try {
        return await this.#sweep(transactionState(`${group}-${topic}-${partition}`, moves))
      } catch (error) {
        // The member that had the partition before may still be at it.
        if (left === 0 || verdictOn(error, retry.address).kind !== 'fenced') throw error
      }
    }
  }

  /** A connection broke: a new session completes what a dying broker may have left dangling, before the next commit. */
  doubt(): void {
    if (this.#session !== undefined) this.#reopen()
  }

  #reopen(): void {
    this.#session = undefined
    this.#committing = this.#committing.then(() => this.#opened()).catch(() => {})
  }

  async #opened(): Promise<ProducerSession> {
    const { brokers, retry } = this.#options
    while (this.#session === undefined) {
      const state = this.#state!
      const session = await openSession(this.#options, state)
      if (state === this.#state) this.#session = session
      const isWanted = (): boolean => this.#session === session && retry.signal?.aborted !== true
      isLedAgain(brokers, state, isWanted).then(isLed => isLed && this.doubt())
    }
    return this.#session
  }

  async #commit(moves: readonly Move[], outputs: readonly Output[]): Promise<AssignedPartition[]> {
    const started = performance.now()
    const report = (outcome: 'committed' | 'fenced' | 'aborted'): void =>
      this.#options.retry.events.onTransaction(outcome, (performance.now() - started) / 1000)
    try {
      const lost = await this.#commitUntilKnown(moves, outputs)
      report(lost.length === 0 ? 'committed' : 'fenced')
      return lost
    } catch (error) {
      report('aborted')
      throw error
    }
  }

  async #commitUntilKnown(
    moves: readonly Move[],
    outputs: readonly Output[],
  ): Promise<AssignedPartition[]> {
    const { retry } = this.#options
    const started = performance.now()
    const pause = backoff(retry)
    const attempt = { isTried: false }
    for (;;) {
      try {
        return await this.#attempt(moves, outputs, attempt)
      } catch (error) {
        if (retry.signal?.aborted === true) throw error
        if (performance.now() - started > retry.msMax) {
          throw gaveUp(error, retry.address, retry.msMax)
        }
        await this.#afterFailure(error, pause)
      }
    }
  }

  async #attempt(
    moves: readonly Move[],
    outputs: readonly Output[],
    attempt: { isTried: boolean },
  ): Promise<AssignedPartition[]> {
    const { brokers, member, transactionMsMax, onWritten } = this.#options
    const session = await this.#opened()
    await Promise.all(moves.map(({ partition }) => partition.opened))
    // Read before the partitions: when the group moves on in between, the broker refuses the commit.
    const by = member()
    if (attempt.isTried && (await this.#hasComeThrough(moves))) return []
    const lost = moves.filter(({ partition, offset }) => !partition.canCommit(offset))
    if (lost.length > 0) return lost.map(({ partition }) => partition)
    if (outputs.length === 0 && moves.every(move => move.offset === move.partition.committed)) {
      return []
    }
    requireChecked(this.#state!, outputs)
    attempt.isTried = true
    const positions = moves.map(({ partition, offset }) => ({ ...placeOf(partition), offset }))
    const written = await transact(brokers, session, outputs, { by, positions }, transactionMsMax)
    for (const { partition, offset } of moves) partition.onCommitted(offset)
    onWritten(written)
    return []
  }

  /** Whether the transaction that broke off was committed. Partitions that another member moved become stale. */
  async #hasComeThrough(moves: readonly Move[]): Promise<boolean> {
    const { brokers, group, retry } = this.#options
    const byTopic = groupBy(moves, ({ partition }) => partition.topic)
    const found = new Map<Move, number>()
    for (const [topic, some] of byTopic) {
      const numbers = some.map(({ partition }) => partition.partition)
      const known = new Map<number, number | undefined>()
      const ask = () => fetchPositions(brokers, group, topic, numbers, known)
      const positions = await withRetry(retry, brokers, ask)
      for (const [i, move] of some.entries()) found.set(move, positions[i] ?? 0)
    }
    const hasCome = moves.every(move => found.get(move) === move.offset)
    for (const move of moves) {
      const { partition, offset } = move
      if (hasCome) partition.onCommitted(offset)
      else if (partition.isHeld && partition.onPosition(found.get(move)!)) {
        this.#options.onNews(partition)
      }
    }
    return hasCome
  }

  async #afterFailure(error: unknown, pause: (error: unknown) => Promise<void>): Promise<void> {
    const { brokers, retry, confirm, transactionMsMax } = this.#options
    const session = this.#session
    this.#session = undefined
    const verdict = verdictOn(error, retry.address)
    if (verdict.kind === 'fatal') {
      if (session !== undefined) {
        // Aborts by a fence, so that only a commit leaves the epoch as it was.
        await initProducer(brokers, session.transactionalId, transactionMsMax).catch(() => {})
      }
      throw verdict.error
    }
    retry.events.onRetry(verdict.kind === 'retry' ? verdict.cause : 'transaction')
    retry.logger?.debug({ err: error }, 'a transaction broke off')
    await pause(error)
    if (verdict.kind === 'retry') await brokers.refresh().catch(() => {})
    else await confirm()
  }
}
