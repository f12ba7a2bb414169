/**
 * Transactions, one attempt at a time. A session is the right to write under one transactional id: whoever opens the last
 * one fences all before and ends what they had open.
 *
 *   session ─► {partitions, offsets} ─► records + positions ─► end
 *
 * Three round trips: independent requests go out together.
 */

import { setTimeout } from 'node:timers/promises'
import { messageOf } from '../../errors.ts'
import type { Brokers } from '../link/brokers.ts'
import { codeOf } from '../link/errors.ts'
import type { RetryPolicy } from '../link/retry.ts'
import type { KafkaTopic } from '../link/topics.ts'
import type { BatchWriter } from '../wire/batch.ts'
import { checkCode, groupBy, KafkaFailure, type Position } from '../wire/model.ts'
import {
  commitPositionsRequest,
  type GroupMember,
  type ProducePlace,
  positionsRequest,
  produceRequest,
} from '../wire/requests.ts'

/** What all that opens sessions needs. */
export type WriteContext = {
  brokers: Brokers
  retry: RetryPolicy
  transactionMsMax: number
  /** All that may be written to, as far as it is known. */
  topics: () => readonly KafkaTopic[]
  /** Told of what transactions and appends wrote. */
  onWritten: (written: readonly Written[]) => void
}

/** Batches of one output partition, in order. */
export type Output = { topic: string; partition: number; batches: BatchWriter[] }

/** The positions that a transaction moves, and the member that moves them. */
export type PositionMoves = { by: GroupMember; positions: readonly Position[] }

export type ProducerSession = {
  readonly transactionalId: string
  readonly producerId: string
  readonly producerEpoch: number
  /** Records written so far, by output partition. */
  readonly sequences: Map<string, number>
}

/** Fences whoever had this id and ends what they left open. */
export async function initProducer(
  brokers: Brokers,
  transactionalId: string,
  timeoutMs: number,
): Promise<ProducerSession> {
  const coordinator = await brokers.coordinator('transaction', transactionalId)
  const { producerId, producerEpoch } = await coordinator.initProducerId({
    transactionalId,
    transactionTimeout: timeoutMs,
  })
  return { transactionalId, producerId, producerEpoch, sequences: new Map() }
}

/** The offset after the last record of ours in a partition. */
export type Written = { topic: string; partition: number; end: number }

/**
 * One transaction. When it throws, its outcome is unknown and the session is over; a new session ends the transaction.
 */
export async function transact(
  brokers: Brokers,
  session: ProducerSession,
  outputs: readonly Output[],
  moves: PositionMoves | undefined,
  timeoutMs: number,
): Promise<Written[]> {
  await begin(brokers, session, outputs, moves?.by.group)
  const written = writeAll(brokers, session, outputs, timeoutMs)
  const moved = moves === undefined ? undefined : movePositions(brokers, session, moves)
  const results = await Promise.allSettled([written, moved])
  for (const result of results) if (result.status === 'rejected') throw result.reason
  try {
    await end(brokers, session, true)
  } catch (error) {
    throw new EndLost(await written, error)
  }
  return written
}

/** The request to end a transaction has failed: the transaction may be committed. */
export class EndLost extends Error {
  override readonly name = 'EndLost'
  readonly written: Written[]

  constructor(written: Written[], cause: unknown) {
    super(messageOf(cause), { cause })
    this.written = written
  }
}

const BUSY_MS_MAX = 10_000

/** Waits while the coordinator completes the previous transaction. */
export async function begin(
  brokers: Brokers,
  session: ProducerSession,
  outputs: readonly { topic: string; partition: number }[],
  group: string | undefined,
): Promise<void> {
  const coordinator = await brokers.coordinator('transaction', session.transactionalId)
  const topics = [...groupBy(outputs, ({ topic }) => topic)].map(([topic, some]) => {
    return { topic, partitions: some.map(({ partition }) => partition) }
  })
  const deadline = performance.now() + BUSY_MS_MAX
  for (let waitMs = 1; ; waitMs = Math.min(2 * waitMs, 50)) {
    const asked: Promise<unknown>[] = []
    if (topics.length > 0) asked.push(coordinator.addPartitionsToTxn({ ...session, topics }))
    if (group !== undefined) {
      asked.push(coordinator.addOffsetsToTxn({ ...session, groupId: group }))
    }
    const failed = (await Promise.allSettled(asked)).find(({ status }) => status === 'rejected')
    if (failed === undefined) return
    const { reason } = failed as PromiseRejectedResult
    if (codeOf(reason) !== 'CONCURRENT_TRANSACTIONS' || performance.now() > deadline) throw reason
    await setTimeout(waitMs)
  }
}

/** Sends batches to their leaders: one of each partition a request, in order. */
async function writeAll(
  brokers: Brokers,
  session: ProducerSession,
  outputs: readonly Output[],
  timeoutMs: number,
): Promise<Written[]> {
  const leaders = await brokers.allLeaders(outputs)
  const written = new Map<Output, Written>()
  await Promise.all(
    [...leaders].map(async ([nodeId, mine]) => {
      const rounds = Math.max(...mine.map(({ batches }) => batches.length))
      for (let round = 0; round < rounds; round++) {
        const places = mine.flatMap(output => stampedOf(session, output, round))
        const { transactionalId } = session
        const answer = await brokers.send(
          nodeId,
          produceRequest(transactionalId, places, timeoutMs),
        )
        for (const { topic, partition, code, offset } of answer) {
          checkCode(code, `${topic}/${partition}`)
          const of = mine.find(one => one.topic === topic && one.partition === partition)!
          written.set(of, { topic, partition, end: offset + of.batches[round]!.count })
        }
      }
    }),
  )
  return [...written.values()]
}

function stampedOf(session: ProducerSession, output: Output, round: number): ProducePlace[] {
  const { topic, partition, batches } = output
  const batch = batches[round]
  if (batch === undefined) return []
  const place = `${topic}/${partition}`
  const sequence = session.sequences.get(place) ?? 0
  session.sequences.set(place, (sequence + batch.count) % SEQUENCE_END)
  const producerId = Number(session.producerId)
  return [
    {
      topic,
      partition,
      batch: batch.stamped({ producerId, epoch: session.producerEpoch, sequence }),
    },
  ]
}

/** Sequences are 31 bits and start over. */
const SEQUENCE_END = 2 ** 31

async function movePositions(
  brokers: Brokers,
  session: ProducerSession,
  { by, positions }: PositionMoves,
): Promise<void> {
  const coordinator = await brokers.coordinator('group', by.group)
  const request = commitPositionsRequest(session, by, positions)
  for (const { topic, partition, code } of await coordinator.connectionPool.send(request)) {
    checkCode(code, `the position of ${by.group} in ${topic}/${partition}`)
  }
}

export async function end(
  brokers: Brokers,
  session: ProducerSession,
  transactionResult: boolean,
): Promise<void> {
  const coordinator = await brokers.coordinator('transaction', session.transactionalId)
  await coordinator.endTxn({ ...session, transactionResult })
}

/**
 * A group's stable positions in a topic; undefined for a partition without one. Throws UNSTABLE_OFFSET_COMMIT while an
 * open transaction may move one. `settled` keeps the others for the next attempt: under many small commits, all of them
 * are hardly ever stable at the same moment.
 */
export async function fetchPositions(
  brokers: Brokers,
  group: string,
  topic: string,
  partitions: readonly number[],
  settled = new Map<number, number | undefined>(),
): Promise<(number | undefined)[]> {
  const left = partitions.filter(partition => !settled.has(partition))
  const coordinator = await brokers.coordinator('group', group)
  const request = positionsRequest(group, topic, left)
  const answer = await coordinator.connectionPool.send(request)
  checkCode(answer.code, `the positions of ${group} in ${topic}`)
  let unstable: number | undefined
  for (const { partition, offset, code } of answer.positions) {
    if (code === UNSTABLE) unstable = partition
    else {
      checkCode(code, `the position of ${group} in ${topic}/${partition}`)
      settled.set(partition, offset < 0 ? undefined : offset)
    }
  }
  if (unstable !== undefined) {
    checkCode(UNSTABLE, `the position of ${group} in ${topic}/${unstable}`)
  }
  return partitions.map(partition => {
    if (settled.has(partition)) return settled.get(partition)
    const what = `no word of the position of ${group} in ${topic}/${partition}`
    throw new KafkaFailure('GROUP_COORDINATOR_NOT_AVAILABLE', what)
  })
}

const UNSTABLE = 88
