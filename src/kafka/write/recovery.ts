/**
 * Opening producer sessions that leave nothing dangling behind them: partitions in which a broker
 * of 4.3 to 4.4 has forgotten the end of a transaction (KAFKA-20734).
 *
 *   how did the last one end? ─► open a session ─► is anything open? ─► partitions, offsets ─► the same end again
 *
 * A marker ends all that a producer has open in a partition, so one more transaction on just these
 * writes what is missing. What was aborted is completed before the session is opened, what was
 * committed in it, once that is noted. Why, and what is left: `docs/decisions/004-kafka-client.md`,
 * "Dangling transactions". Brokers before 3.0 can't be asked, and forget nothing.
 */

import { setTimeout } from 'node:timers/promises'
import { type Brokers, leaderlessError } from '../link/brokers.ts'
import type { Node } from '../link/connection.ts'
import { codeOf } from '../link/errors.ts'
import { withRetry } from '../link/retry.ts'
import { checkCode, groupBy, KafkaFailure, type Place, placeKey } from '../wire/model.ts'
import {
  DESCRIBE_PRODUCERS,
  DESCRIBE_TRANSACTIONS,
  type FoundProducers,
  type FoundTransaction,
  producersRequest,
  transactionRequest,
} from '../wire/requests.ts'
import {
  begin,
  end,
  fetchPositions,
  initProducer,
  type ProducerSession,
  type WriteContext,
} from './transaction.ts'

/** The transactions of one id, as far as they are known. Kept from session to session. */
export type TransactionState = {
  readonly transactionalId: string
  /** The positions that they may move. Undefined for an id that no other process goes on with: its note is kept in memory. */
  readonly moves: { group: string; places: readonly Place[] } | undefined
  /** The outcome of the last one; undefined when the coordinator has not told. */
  isCommitted: boolean | undefined
  /** The last note. */
  noted: string | undefined
  /** Partitions that had no leader to ask when the session was opened. Nothing may be written to them. */
  unchecked: readonly Place[]
}

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

const RECHECK_MS = 1_000

/** Resolves to true when one of the unchecked partitions has a leader: a new session checks it. To false once it is unwanted. */
export async function isLedAgain(
  brokers: Brokers,
  { unchecked }: TransactionState,
  isWanted: () => boolean,
): Promise<boolean> {
  const isLed = async (): Promise<boolean> => {
    await brokers.refreshLeaders()
    const { leaderless } = await brokers.leaders(unchecked)
    return leaderless.length < unchecked.length
  }
  while (unchecked.length > 0 && isWanted()) {
    await setTimeout(RECHECK_MS, undefined, { ref: false })
    if (isWanted() && (await isLed().catch(() => false))) return isWanted()
  }
  return false
}

type OpeningContext = Omit<WriteContext, 'onWritten'>

/**
 * Fences the previous session of this id and completes its transaction. `context.topics`: all that
 * it may have written to.
 */
export function openSession(
  context: OpeningContext,
  state: TransactionState,
): Promise<ProducerSession> {
  return new Opening(context, state).open()
}

/** The same for an id whose owner is gone. Does nothing for an id that no broker knows. */
export async function sweep(context: OpeningContext, state: TransactionState): Promise<void> {
  const { brokers, retry } = context
  const last = await withRetry(retry, brokers, () => lastOf(brokers, state.transactionalId))
  if (last?.state !== NO_SUCH_ID) await openSession(context, state)
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

export function knows({ versions }: Node, request: number): boolean {
  return versions?.[request] !== undefined
}

const ROUNDS_MAX = 5
/** By how much a fence that aborts raises the epoch, at most: by 1 on brokers of 4.4, by 2 on the first of 4. */
const ABORT_EPOCHS_MAX = 2
/** A coordinator reports a transaction complete a moment before its markers are visible. */
const SEEN_MS = 200

type Outcome = 'abort' | 'commit'
type Open = { places: Place[]; isUnstable: boolean }
/** Positions that were seen stable, by topic. */
type Settled = Map<string, Map<number, number | undefined>>

class Opening {
  readonly #context: OpeningContext
  readonly #brokers: Brokers
  readonly #state: TransactionState
  /** Where an open transaction has written that is aborted: what else is open was committed. */
  #touched: { epoch: number; places: ReadonlySet<string> } | undefined
  /** A session was given before the remains of an aborted transaction were completed. */
  #isAborting = false

  constructor(context: OpeningContext, state: TransactionState) {
    this.#context = context
    this.#brokers = context.brokers
    this.#state = state
  }

  async open(): Promise<ProducerSession> {
    const session = await this.#next()
    // In one session: another one would abort the completing transaction half way.
    await this.#try(() => this.#complete(session, 'commit'))
    // Whatever the noted session leaves open is committed: it is for nothing else.
    return this.#state.noted === noteId(session) ? this.#next() : session
  }

  #try<T>(attempt: () => Promise<T>): Promise<T> {
    return withRetry(this.#context.retry, this.#brokers, attempt)
  }

  #init(id: string): Promise<ProducerSession> {
    return initProducer(this.#brokers, id, this.#context.transactionMsMax)
  }

  /** A new session, given once what was aborted is completed. */
  #next(): Promise<ProducerSession> {
    const { transactionalId } = this.#state
    return this.#try(async () => {
      const open = await this.#endLast()
      // With an open one the coordinator nearly always aborts it first, and asks to come again.
      const session = await this.#init(transactionalId)
      if (open !== undefined) {
        this.#isAborting = isFenced(open, session)
        this.#forgetTouched(session.producerEpoch - 1)
        this.#state.isCommitted = !this.#isAborting
      }
      if (this.#isAborting) await this.#complete(session, 'abort')
      this.#isAborting = false
      return session
    })
  }

  /**
   * Learns how the last transaction ended. Completes it where it was aborted, commits it where it completes committed
   * ones, and gives it where it is open.
   */
  async #endLast(): Promise<ProducerSession | undefined> {
    const state = this.#state
    const { transactionalId } = state
    const last = await lastOf(this.#brokers, transactionalId)
    if (last === undefined || NOTHING_TOLD.includes(last.state)) return undefined
    const session = { ...last, transactionalId, sequences: new Map<string, number>() }
    if (last.state === 'Ongoing' && (await this.#isNoted(session))) {
      state.isCommitted = true
      await end(this.#brokers, session, true)
      return undefined
    }
    state.isCommitted = last.state.endsWith('Commit')
    if (state.isCommitted) return undefined
    this.#forgetTouched(last.producerEpoch)
    if (last.state === 'CompleteAbort') {
      await this.#complete(session, 'abort')
      return undefined
    }
    if (last.state === 'Ongoing') {
      // Beside what is known: it may complete another one.
      const places = [...(this.#touched?.places ?? []), ...last.places.map(placeKey)]
      this.#touched = { epoch: last.producerEpoch, places: new Set(places) }
      return session
    }
    throw new KafkaFailure('CONCURRENT_TRANSACTIONS', `${transactionalId} is in ${last.state}`)
  }

  /** Where `epoch` is too late for the transaction that was seen open to be the one that was aborted. */
  #forgetTouched(epoch: number): void {
    if (this.#touched !== undefined && epoch > this.#touched.epoch + ABORT_EPOCHS_MAX) {
      this.#touched = undefined
    }
  }

  /** Whether what is open in this session is a transaction that completes committed ones. */
  async #isNoted(session: ProducerSession): Promise<boolean> {
    const id = noteId(session)
    if (this.#state.moves === undefined) return this.#state.noted === id
    const note = await lastOf(this.#brokers, id)
    return note?.state.endsWith('Commit') === true
  }

  async #note(of: ProducerSession): Promise<void> {
    const id = noteId(of)
    const { moves, noted } = this.#state
    if (noted === id) return
    if (moves !== undefined) {
      const session = await this.#init(id)
      await begin(this.#brokers, session, [], moves.group)
      await end(this.#brokers, session, true)
    }
    this.#state.noted = id
  }

  /** Throws LEADER_NOT_AVAILABLE where something that was aborted may be open in a partition that can't be asked. */
  async #complete(session: ProducerSession, outcome: Outcome): Promise<void> {
    const { moves, transactionalId: id } = this.#state
    const coordinator = await this.#brokers.coordinator('transaction', id)
    if (!knows(coordinator, DESCRIBE_TRANSACTIONS)) return
    const settled: Settled = new Map()
    for (let round = 0; round < ROUNDS_MAX; round++) {
      // An unstable position may be another member's. One transaction of this id is enough, and does not affect others.
      const find = () => this.#findOpen(session, outcome, round === 0 ? settled : undefined)
      if (isNothing(await find())) return
      await setTimeout(SEEN_MS)
      const open = await find()
      if (isNothing(open)) return
      const { places, isUnstable } = open
      const say = places.length > 0 ? 'warn' : 'debug'
      this.#context.retry.logger?.[say](
        { id, places, outcome },
        'completing a dangling transaction',
      )
      if (outcome === 'commit') await this.#note(session)
      // Partitions first: whoever finds it open learns from it what may be left.
      await begin(this.#brokers, session, places, undefined)
      await begin(this.#brokers, session, [], isUnstable ? moves?.group : undefined)
      await end(this.#brokers, session, outcome === 'commit')
    }
    throw new KafkaFailure('UNSTABLE_OFFSET_COMMIT', `${id} stays open`)
  }

  async #findOpen(
    session: ProducerSession,
    outcome: Outcome,
    settled: Settled | undefined,
  ): Promise<Open> {
    const [places, isUnstable] = await Promise.all([
      this.#openPlaces(session),
      settled !== undefined && isAnyUnstable(this.#brokers, this.#state.moves, settled),
    ])
    if (outcome === 'commit') return { places, isUnstable }
    const isMeant = (place: Place): boolean => this.#touched?.places.has(placeKey(place)) ?? true
    const hidden = this.#state.unchecked.find(isMeant)
    if (hidden !== undefined) throw leaderlessError(hidden)
    return { places: places.filter(isMeant), isUnstable }
  }

  async #openPlaces({ producerId }: ProducerSession): Promise<Place[]> {
    const places = this.#context
      .topics()
      .flatMap(({ name: topic, partitions }) =>
        Array.from({ length: partitions }, (_, partition) => ({ topic, partition })),
      )
    const { byLeader, leaderless } = await this.#brokers.leaders(places)
    this.#state.unchecked = leaderless
    const found = await Promise.all(
      [...byLeader].map(([nodeId, led]) => producersOf(this.#brokers, nodeId, led)),
    )
    return found
      .flat()
      .filter(({ producers }) => producers.some(one => one.producerId === Number(producerId)))
      .map(({ topic, partition }) => ({ topic, partition }))
  }
}

/** Whether somebody else has ended what was open: a session that ends its own leaves the next epoch to the next one. */
function isFenced(open: ProducerSession, next: ProducerSession): boolean {
  return next.producerId !== open.producerId || next.producerEpoch !== open.producerEpoch + 1
}

function noteId({ transactionalId, producerId, producerEpoch }: ProducerSession): string {
  return `${transactionalId}-completed-by-${producerId}-${producerEpoch}`
}

function isNothing({ places, isUnstable }: Open): boolean {
  return places.length === 0 && !isUnstable
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

async function isAnyUnstable(
  brokers: Brokers,
  moves: TransactionState['moves'],
  settled: Settled,
): Promise<boolean> {
  if (moves === undefined) return false
  try {
    for (const [topic, places] of groupBy(moves.places, one => one.topic)) {
      const numbers = places.map(({ partition }) => partition)
      const known = settled.get(topic) ?? new Map<number, number | undefined>()
      settled.set(topic, known)
      await fetchPositions(brokers, moves.group, topic, numbers, known)
    }
    return false
  } catch (error) {
    if (codeOf(error) === 'UNSTABLE_OFFSET_COMMIT') return true
    throw error
  }
}
