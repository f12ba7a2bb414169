/**
 * Opening producer sessions that leave nothing dangling behind them. A transaction ends with a marker in each of its
 * partitions, and brokers 4.3 to 4.4 leave out the partitions that have no leader at that moment (KAFKA-20734), as while
 * the broker comes back after a crash. What it wrote there stays open: readers of committed records stop at it, and
 * a position in it is never stable again.
 *
 *   how did the last one end? ─► open a session ─► is anything open? ─► partitions, offsets ─► the same end again
 *
 * A session is only given once the transaction before has ended, so whatever its producer has open then was forgotten. A
 * marker ends all that a producer has open in a partition, so one more transaction on just these partitions, ended as
 * the last one was, writes what is missing. Brokers before 3.0 can't be asked, and forget nothing.
 */

import { setTimeout } from 'node:timers/promises'
import { type Brokers, leaderlessError } from '../link/brokers.ts'
import type { Node } from '../link/connection.ts'
import { codeOf } from '../link/errors.ts'
import { type RetryPolicy, withRetry } from '../link/retry.ts'
import type { KafkaTopic } from '../link/topics.ts'
import { checkCode, groupBy, KafkaFailure, type Place, placeKey } from '../wire/model.ts'
import {
  DESCRIBE_PRODUCERS,
  DESCRIBE_TRANSACTIONS,
  type FoundProducers,
  producersRequest,
  transactionRequest,
} from '../wire/requests.ts'
import { begin, end, fetchPositions, initProducer, type ProducerSession } from './transaction.ts'

/** The transactions of one id, as far as they are known. Kept from session to session. */
export type TransactionState = {
  readonly transactionalId: string
  /** The positions that they may move. */
  readonly moves: { group: string; places: readonly Place[] } | undefined
  /** The outcome of the last one; undefined when the coordinator has not told. */
  isCommitted: boolean | undefined
  /** Partitions that had no leader to ask when the session was opened. Nothing may be written to them. */
  unchecked: readonly Place[]
}

/** Partitions without a leader are checked again after this time. */
export const RECHECK_MS = 1_000

export function transactionState(
  transactionalId: string,
  moves: TransactionState['moves'],
): TransactionState {
  return { transactionalId, moves, isCommitted: undefined, unchecked: [] }
}

/** Throws LEADER_NOT_AVAILABLE when one of `places` may hold a dangling transaction. */
export function requireChecked({ unchecked }: TransactionState, places: readonly Place[]): void {
  if (unchecked.length === 0) return
  const written = new Set(places.map(placeKey))
  const place = unchecked.find(one => written.has(placeKey(one)))
  if (place !== undefined) throw leaderlessError(place)
}

/** Fences the previous session of this id and completes its transaction. `topics`: all that it may have written to. */
export async function openSession(
  brokers: Brokers,
  retry: RetryPolicy,
  state: TransactionState,
  topics: readonly KafkaTopic[],
  timeoutMs: number,
): Promise<ProducerSession> {
  const { transactionalId } = state
  const session = await withRetry(retry, brokers, async () => {
    state.isCommitted = (await isLastCommitted(brokers, transactionalId)) ?? state.isCommitted
    return initProducer(brokers, transactionalId, timeoutMs)
  })
  // In one session: another one would abort the completing transaction half way.
  await withRetry(retry, brokers, () => complete(brokers, retry, state, session, topics))
  return session
}

/** The same for an id whose owner is gone. Does nothing for an id that no broker knows. */
export async function sweep(
  brokers: Brokers,
  retry: RetryPolicy,
  state: TransactionState,
  topics: readonly KafkaTopic[],
  timeoutMs: number,
): Promise<void> {
  const last = await withRetry(retry, brokers, () => lastState(brokers, state.transactionalId))
  if (last !== NO_SUCH_ID) await openSession(brokers, retry, state, topics, timeoutMs)
}

const ID_NOT_FOUND = 105
const FORBIDDEN = 29
const NO_SUCH_ID = 'none'
/** States that say nothing of an outcome. */
const NOTHING_TOLD = [NO_SUCH_ID, 'Empty', 'Dead']

/** The state of the last transaction, as Kafka names it; undefined when the broker is too old to ask. */
async function lastState(brokers: Brokers, id: string): Promise<string | undefined> {
  const coordinator = await brokers.coordinator('transaction', id)
  if (!knows(coordinator, DESCRIBE_TRANSACTIONS)) return undefined
  const { code, state } = await coordinator.connectionPool.send(transactionRequest(id))
  if (code === ID_NOT_FOUND) return NO_SUCH_ID
  checkCode(code, `the last transaction of ${id}`)
  return state
}

async function isLastCommitted(brokers: Brokers, id: string): Promise<boolean | undefined> {
  const state = await lastState(brokers, id)
  if (state === undefined || NOTHING_TOLD.includes(state)) return undefined
  return state.endsWith('Commit')
}

function knows({ versions }: Node, request: number): boolean {
  return versions?.[request] !== undefined
}

const ROUNDS_MAX = 5
/** A coordinator reports a transaction complete a moment before its markers are visible. */
const SEEN_MS = 200

async function complete(
  brokers: Brokers,
  { logger }: RetryPolicy,
  state: TransactionState,
  session: ProducerSession,
  topics: readonly KafkaTopic[],
): Promise<void> {
  const { moves, transactionalId: id } = state
  const coordinator = await brokers.coordinator('transaction', id)
  if (!knows(coordinator, DESCRIBE_TRANSACTIONS)) return
  for (let round = 0; round < ROUNDS_MAX; round++) {
    // An unstable position may be another member's. One transaction of this id is enough, and does not affect others.
    const find = () => findOpen(brokers, state, session, topics, round === 0)
    if (isNothing(await find())) return
    await setTimeout(SEEN_MS)
    const open = await find()
    if (isNothing(open)) return
    // Unknown when the process that asked has died before it was done. Nearly all transactions are committed.
    const isCommitted = state.isCommitted ?? true
    const { places, isUnstable } = open
    const say = places.length > 0 ? 'warn' : 'debug'
    logger?.[say]({ id, places, isCommitted }, 'completing a dangling transaction')
    await begin(brokers, session, places, isUnstable ? moves?.group : undefined)
    await end(brokers, session, isCommitted)
  }
  throw new KafkaFailure('UNSTABLE_OFFSET_COMMIT', `${id} stays open`)
}

type Open = { places: Place[]; isUnstable: boolean }

function isNothing({ places, isUnstable }: Open): boolean {
  return places.length === 0 && !isUnstable
}

async function findOpen(
  brokers: Brokers,
  state: TransactionState,
  session: ProducerSession,
  topics: readonly KafkaTopic[],
  mayBeUnstable: boolean,
): Promise<Open> {
  const [places, isUnstable] = await Promise.all([
    openPlaces(brokers, state, session, topics),
    mayBeUnstable && isAnyUnstable(brokers, state.moves),
  ])
  return { places, isUnstable }
}

async function openPlaces(
  brokers: Brokers,
  state: TransactionState,
  { producerId }: ProducerSession,
  topics: readonly KafkaTopic[],
): Promise<Place[]> {
  const places = topics.flatMap(({ name: topic, partitions }) =>
    Array.from({ length: partitions }, (_, partition) => ({ topic, partition })),
  )
  const { byLeader, leaderless } = await brokers.leaders(places)
  state.unchecked = leaderless
  const found = await Promise.all(
    [...byLeader].map(([nodeId, led]) => producersOf(brokers, nodeId, led)),
  )
  return found
    .flat()
    .filter(({ producers }) => producers.some(one => one.producerId === Number(producerId)))
    .map(({ topic, partition }) => ({ topic, partition }))
}

async function producersOf(
  brokers: Brokers,
  nodeId: string,
  led: readonly Place[],
): Promise<FoundProducers[]> {
  if (!knows(await brokers.node(nodeId), DESCRIBE_PRODUCERS)) return []
  const found = await brokers.send(nodeId, producersRequest(led))
  for (const { code, topic, partition } of found) {
    if (code !== FORBIDDEN) checkCode(code, `the producers of ${topic}/${partition}`)
  }
  return found
}

async function isAnyUnstable(brokers: Brokers, moves: TransactionState['moves']): Promise<boolean> {
  if (moves === undefined) return false
  try {
    for (const [topic, places] of groupBy(moves.places, one => one.topic)) {
      const numbers = places.map(({ partition }) => partition)
      await fetchPositions(brokers, moves.group, topic, numbers)
    }
    return false
  } catch (error) {
    if (codeOf(error) === 'UNSTABLE_OFFSET_COMMIT') return true
    throw error
  }
}
