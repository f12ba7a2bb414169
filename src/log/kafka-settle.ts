/**
 * Claims that leave nothing open behind them. A transaction ends with a marker in each of its partitions, and
 * brokers 4.3 to 4.4 leave out the partitions that have no leader at that moment (KAFKA-20734), as while the
 * broker comes back after a crash. What it wrote there stays open: readers of committed records stop at it, and
 * a position in it is never stable again.
 *
 *   how did the last one end? ─► claim ─► is anything open? ─► partitions, offsets ─► the same end again
 *
 * A claim is only given once the transaction before has ended, so whatever its producer has open then was
 * forgotten. A marker ends all that a producer has open in a partition, so one more transaction on just these
 * partitions, ended as the last one was, writes what is missing. Brokers before 3.0 can't be asked, and forget
 * nothing.
 */
import { setTimeout } from 'node:timers/promises'
import type { Cluster, Node } from './kafka-cluster.ts'
import { checkCode, codeOf, KafkaFailure } from './kafka-errors.ts'
import {
  DESCRIBE_PRODUCERS,
  DESCRIBE_TRANSACTIONS,
  type FoundProducers,
  producersRequest,
  transactionRequest,
} from './kafka-requests.ts'
import { type Patience, patiently } from './kafka-retry.ts'
import type { KafkaTopic } from './kafka-topics.ts'
import { begin, type Claim, claimId, end, fetchPositions, type Move } from './kafka-transactions.ts'
import type { Place } from './log.ts'

/** What is known of an id's transactions, kept from claim to claim. */
export type Ledger = {
  readonly transactionalId: string
  /** The position that they move. */
  readonly moves: Omit<Move, 'offset'> | undefined
  /** Whether the last one was committed; undefined where nobody has told. */
  isCommitted: boolean | undefined
}

/** Claims an id and ends what was forgotten of it. `topics`: all that it may have written to. */
export async function claimSettled(
  cluster: Cluster,
  patience: Patience,
  ledger: Ledger,
  topics: readonly KafkaTopic[],
  timeoutMs: number,
): Promise<Claim> {
  const { transactionalId } = ledger
  const claim = await patiently(patience, cluster, async () => {
    ledger.isCommitted = (await isLastCommitted(cluster, transactionalId)) ?? ledger.isCommitted
    return claimId(cluster, transactionalId, timeoutMs)
  })
  // Under this claim until it is done: a new one would abort it half done.
  await patiently(patience, cluster, () => settle(cluster, patience, ledger, claim, topics))
  return claim
}

const ID_NOT_FOUND = 105
const FORBIDDEN = 29

async function isLastCommitted(cluster: Cluster, id: string): Promise<boolean | undefined> {
  const coordinator = await cluster.coordinator('transaction', id)
  if (!knows(coordinator, DESCRIBE_TRANSACTIONS)) return undefined
  const { code, state } = await coordinator.connectionPool.send(transactionRequest(id))
  if (code === ID_NOT_FOUND) return undefined
  checkCode(code, `the last transaction of ${id}`)
  if (state.endsWith('Commit')) return true
  return state === 'Empty' || state === 'Dead' ? undefined : false
}

function knows({ versions }: Node, request: number): boolean {
  return versions?.[request] !== undefined
}

const ROUNDS_MAX = 5
/** That an end is written is said a moment before it is to be seen. */
const SEEN_MS = 200

async function settle(
  cluster: Cluster,
  { logger }: Patience,
  ledger: Ledger,
  claim: Claim,
  topics: readonly KafkaTopic[],
): Promise<void> {
  const coordinator = await cluster.coordinator('transaction', claim.transactionalId)
  if (!knows(coordinator, DESCRIBE_TRANSACTIONS)) return
  for (let round = 0; round < ROUNDS_MAX; round++) {
    if (isClosed(await findOpen(cluster, ledger, claim, topics))) return
    await setTimeout(SEEN_MS)
    const open = await findOpen(cluster, ledger, claim, topics)
    if (isClosed(open)) return
    // Where nobody has told, who asked has died before this was done. Nearly all are committed.
    const isCommitted = ledger.isCommitted ?? true
    const id = claim.transactionalId
    logger?.warn(
      { id, ...open, isCommitted },
      'a broker forgot the end of a transaction: ended again',
    )
    await begin(cluster, claim, open.places, open.isUnstable ? ledger.moves : undefined)
    await end(cluster, claim, isCommitted)
  }
  throw new KafkaFailure('UNSTABLE_OFFSET_COMMIT', `${claim.transactionalId} stays open`)
}

type Open = { places: Place[]; isUnstable: boolean }

function isClosed({ places, isUnstable }: Open): boolean {
  return places.length === 0 && !isUnstable
}

async function findOpen(
  cluster: Cluster,
  { moves }: Ledger,
  claim: Claim,
  topics: readonly KafkaTopic[],
): Promise<Open> {
  const [places, isUnstable] = await Promise.all([
    openPlaces(cluster, claim, topics),
    moves === undefined ? false : isPositionUnstable(cluster, moves),
  ])
  return { places, isUnstable }
}

async function openPlaces(
  cluster: Cluster,
  { producerId }: Claim,
  topics: readonly KafkaTopic[],
): Promise<Place[]> {
  const places = topics.flatMap(({ name: topic, partitions }) =>
    Array.from({ length: partitions }, (_, partition) => ({ topic, partition })),
  )
  const leaders = [...(await cluster.leaders(places))]
  const found = await Promise.all(leaders.map(([nodeId, led]) => producersOf(cluster, nodeId, led)))
  return found
    .flat()
    .filter(({ producers }) => producers.some(one => one.producerId === Number(producerId)))
    .map(({ topic, partition }) => ({ topic, partition }))
}

async function producersOf(
  cluster: Cluster,
  nodeId: string,
  led: readonly Place[],
): Promise<FoundProducers[]> {
  if (!knows(await cluster.node(nodeId), DESCRIBE_PRODUCERS)) return []
  const found = await cluster.send(nodeId, producersRequest(led))
  for (const { code, topic, partition } of found) {
    if (code !== FORBIDDEN) checkCode(code, `the producers of ${topic}/${partition}`)
  }
  return found
}

async function isPositionUnstable(
  cluster: Cluster,
  { group, topic, partition }: Omit<Move, 'offset'>,
): Promise<boolean> {
  try {
    await fetchPositions(cluster, group, topic, [partition])
    return false
  } catch (error) {
    if (codeOf(error) === 'UNSTABLE_OFFSET_COMMIT') return true
    throw error
  }
}
