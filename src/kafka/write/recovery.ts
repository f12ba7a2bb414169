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
 *
 * Opening a session makes the coordinator forget how the last transaction ended, and the completing one has an end of its
 * own. Whoever opens the next session may have died in between, so that
 *
 *  - what was aborted is completed before the session is opened. If this dies, it is aborted again.
 *  - what is open after that was committed. It is completed in the new session, and the completing transaction is noted
 *    first: whoever finds it open commits it. The note is the committed transaction of a further id, one for each session.
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
  type FoundTransaction,
  producersRequest,
  transactionRequest,
} from '../wire/requests.ts'
import { begin, end, fetchPositions, initProducer, type ProducerSession } from './transaction.ts'

/** The transactions of one id, as far as they are known. Kept from session to session. */
export type TransactionState = {
  readonly transactionalId: string
  /** The positions that they may move. Undefined for an id that no other process goes on with: its note is here alone. */
  readonly moves: { group: string; places: readonly Place[] } | undefined
  /** The outcome of the last one; undefined when the coordinator has not told. */
  isCommitted: boolean | undefined
  /** The last note. */
  noted: string | undefined
  /** Partitions that had no leader to ask when the session was opened. Nothing may be written to them. */
  unchecked: readonly Place[]
}

/** Partitions without a leader are checked again after this time. */
export const RECHECK_MS = 1_000

export function transactionState(
  transactionalId: string,
  moves: TransactionState['moves'],
): TransactionState {
  return { transactionalId, moves, isCommitted: undefined, noted: undefined, unchecked: [] }
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
  const completing = { brokers, retry, state, topics, timeoutMs }
  const session = await withRetry(retry, brokers, async () => {
    const isAborting = (await endLast(completing)) === 'open'
    const opened = await initProducer(brokers, transactionalId, timeoutMs)
    // Nearly always the coordinator asks to come again once it has aborted the open one.
    if (isAborting) await complete(completing, opened, false)
    return opened
  })
  // In one session: another one would abort the completing transaction half way.
  await withRetry(retry, brokers, () => complete(completing, session, true))
  if (state.noted !== noteId(session)) return session
  // Whatever the noted one leaves open is committed.
  return withRetry(retry, brokers, () => initProducer(brokers, transactionalId, timeoutMs))
}

/** The same for an id whose owner is gone. Does nothing for an id that no broker knows. */
export async function sweep(
  brokers: Brokers,
  retry: RetryPolicy,
  state: TransactionState,
  topics: readonly KafkaTopic[],
  timeoutMs: number,
): Promise<void> {
  const last = await withRetry(retry, brokers, () => lastOf(brokers, state.transactionalId))
  if (last?.state !== NO_SUCH_ID) await openSession(brokers, retry, state, topics, timeoutMs)
}

const ID_NOT_FOUND = 105
const FORBIDDEN = 29
const NO_SUCH_ID = 'none'
/** States that say nothing of an outcome. */
const NOTHING_TOLD = [NO_SUCH_ID, 'Empty', 'Dead']

/** The last transaction; undefined when the broker is too old to ask. */
async function lastOf(brokers: Brokers, id: string): Promise<FoundTransaction | undefined> {
  const coordinator = await brokers.coordinator('transaction', id)
  if (!knows(coordinator, DESCRIBE_TRANSACTIONS)) return undefined
  const found = await coordinator.connectionPool.send(transactionRequest(id))
  if (found.code === ID_NOT_FOUND) return { ...found, state: NO_SUCH_ID }
  checkCode(found.code, `the last transaction of ${id}`)
  return found
}

type Completing = {
  brokers: Brokers
  retry: RetryPolicy
  state: TransactionState
  topics: readonly KafkaTopic[]
  timeoutMs: number
}

/** Learns how the last transaction ended, and completes it where it was aborted. An open one is aborted by a new session. */
async function endLast(completing: Completing): Promise<'ended' | 'open'> {
  const { brokers, state } = completing
  const last = await lastOf(brokers, state.transactionalId)
  if (last === undefined || NOTHING_TOLD.includes(last.state)) return 'ended'
  const session = { ...last, transactionalId: state.transactionalId, sequences: new Map() }
  if (last.state === 'Ongoing' && (await isNoted(brokers, state, session))) {
    state.isCommitted = true
    await end(brokers, session, true)
    return 'ended'
  }
  state.isCommitted = last.state.endsWith('Commit')
  if (state.isCommitted) return 'ended'
  if (last.state === 'Ongoing') return 'open'
  if (last.state !== 'CompleteAbort') throw new KafkaFailure('CONCURRENT_TRANSACTIONS', last.state)
  await complete(completing, session, false)
  return 'ended'
}

/** Whether what is open in this session is the transaction that completes committed ones. */
async function isNoted(
  brokers: Brokers,
  { moves, noted }: TransactionState,
  session: ProducerSession,
): Promise<boolean> {
  const id = noteId(session)
  if (moves === undefined) return noted === id
  const note = await lastOf(brokers, id)
  return note?.state.endsWith('Commit') === true
}

async function note({ brokers, state, timeoutMs }: Completing, of: ProducerSession): Promise<void> {
  const id = noteId(of)
  if (state.noted === id) return
  if (state.moves !== undefined) {
    const session = await initProducer(brokers, id, timeoutMs)
    await begin(brokers, session, [], state.moves.group)
    await end(brokers, session, true)
  }
  state.noted = id
}

function noteId({ transactionalId, producerId, producerEpoch }: ProducerSession): string {
  return `${transactionalId}-completed-by-${producerId}-${producerEpoch}`
}

function knows({ versions }: Node, request: number): boolean {
  return versions?.[request] !== undefined
}

const ROUNDS_MAX = 5
/** A coordinator reports a transaction complete a moment before its markers are visible. */
const SEEN_MS = 200

/** Throws LEADER_NOT_AVAILABLE where something that was aborted may be open in a partition that can't be asked. */
async function complete(
  completing: Completing,
  session: ProducerSession,
  isCommitted: boolean,
): Promise<void> {
  const { brokers, retry, state } = completing
  const { moves, transactionalId: id } = state
  const coordinator = await brokers.coordinator('transaction', id)
  if (!knows(coordinator, DESCRIBE_TRANSACTIONS)) return
  for (let round = 0; round < ROUNDS_MAX; round++) {
    // An unstable position may be another member's. One transaction of this id is enough, and does not affect others.
    const find = () => findOpen(completing, session, round === 0)
    if (isNothing(await find())) return requireLeaders(state, isCommitted)
    await setTimeout(SEEN_MS)
    const open = await find()
    if (isNothing(open)) return requireLeaders(state, isCommitted)
    const { places, isUnstable } = open
    const say = places.length > 0 ? 'warn' : 'debug'
    retry.logger?.[say]({ id, places, isCommitted }, 'completing a dangling transaction')
    if (isCommitted) await note(completing, session)
    await begin(brokers, session, places, isUnstable ? moves?.group : undefined)
    await end(brokers, session, isCommitted)
  }
  throw new KafkaFailure('UNSTABLE_OFFSET_COMMIT', `${id} stays open`)
}

/** What was committed may wait for the leader: all that is still open once a session is given was. */
function requireLeaders({ unchecked }: TransactionState, isCommitted: boolean): void {
  const [first] = unchecked
  if (!isCommitted && first !== undefined) throw leaderlessError(first)
}

type Open = { places: Place[]; isUnstable: boolean }

function isNothing({ places, isUnstable }: Open): boolean {
  return places.length === 0 && !isUnstable
}

async function findOpen(
  { brokers, state, topics }: Completing,
  session: ProducerSession,
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
