/**
 * Transactions, one attempt at a time. A claim is the right to write under one transactional id, and there
 * is one id for each group and input partition: whoever claims it last fences all before, settles what they
 * had open, and reads the position after that. So a process that was believed dead can't double anything,
 * and after an attempt that broke off the position tells whether it had come through.
 *
 *   claim ─► {partitions, offsets} ─► records + position ─► end
 *
 * Three round trips: what does not depend on each other goes out together.
 */
import { setTimeout } from 'node:timers/promises'
import type { BatchWriter } from './kafka-batch.ts'
import type { Cluster } from './kafka-cluster.ts'
import { checkCode, codeOf, KafkaFailure } from './kafka-errors.ts'
import { type ProducePlace, positionsRequest, produceRequest } from './kafka-requests.ts'

/** Batches of one output partition, in order. */
export type Output = { topic: string; partition: number; batches: BatchWriter[] }

/** The position of one input partition that a transaction moves. */
export type Move = { group: string; topic: string; partition: number; offset: number }

export type Claim = {
  readonly transactionalId: string
  readonly producerId: string
  readonly producerEpoch: number
  /** Records written so far, by output partition. */
  readonly sequences: Map<string, number>
}

/** Fences whoever had this id and ends what they left open. */
export async function claimId(
  cluster: Cluster,
  transactionalId: string,
  timeoutMs: number,
): Promise<Claim> {
  const coordinator = await cluster.coordinator('transaction', transactionalId)
  const { producerId, producerEpoch } = await coordinator.initProducerId({
    transactionalId,
    transactionTimeout: timeoutMs,
  })
  return { transactionalId, producerId, producerEpoch, sequences: new Map() }
}

/** The offset after the last record of ours in a partition. */
export type Written = { topic: string; partition: number; end: number }

/**
 * One transaction. Where it throws nobody knows what of it came through, and the claim is used up: a new
 * claim settles it.
 */
export async function transact(
  cluster: Cluster,
  claim: Claim,
  outputs: readonly Output[],
  move: Move | undefined,
  timeoutMs: number,
): Promise<Written[]> {
  await begin(cluster, claim, outputs, move)
  const written = writeAll(cluster, claim, outputs, timeoutMs)
  const moved = move === undefined ? undefined : commitOffset(cluster, claim, move)
  const results = await Promise.allSettled([written, moved])
  for (const result of results) if (result.status === 'rejected') throw result.reason
  await end(cluster, claim, true)
  return written
}

/** Leaves nothing open. */
export async function abort(cluster: Cluster, claim: Claim): Promise<void> {
  await end(cluster, claim, false).catch(() => {})
}

const BUSY_MS_MAX = 10_000

/** The coordinator may still be writing the end of the transaction before. */
export async function begin(
  cluster: Cluster,
  claim: Claim,
  outputs: readonly { topic: string; partition: number }[],
  move: { group: string } | undefined,
): Promise<void> {
  const coordinator = await cluster.coordinator('transaction', claim.transactionalId)
  const producing = producingOf(claim)
  const topics = outputs.map(({ topic, partition }) => ({ topic, partitions: [partition] }))
  const deadline = performance.now() + BUSY_MS_MAX
  for (let waitMs = 1; ; waitMs = Math.min(2 * waitMs, 50)) {
    const asked: Promise<unknown>[] = []
    if (topics.length > 0) asked.push(coordinator.addPartitionsToTxn({ ...producing, topics }))
    if (move !== undefined) {
      asked.push(coordinator.addOffsetsToTxn({ ...producing, groupId: move.group }))
    }
    const failed = (await Promise.allSettled(asked)).find(({ status }) => status === 'rejected')
    if (failed === undefined) return
    const { reason } = failed as PromiseRejectedResult
    if (codeOf(reason) !== 'CONCURRENT_TRANSACTIONS' || performance.now() > deadline) throw reason
    await setTimeout(waitMs)
  }
}

/** Every leader gets its partitions' batches, one of each a request, in order. */
async function writeAll(
  cluster: Cluster,
  claim: Claim,
  outputs: readonly Output[],
  timeoutMs: number,
): Promise<Written[]> {
  const leaders = await cluster.leaders(outputs)
  const written = new Map<Output, Written>()
  await Promise.all(
    [...leaders].map(async ([nodeId, mine]) => {
      const rounds = Math.max(...mine.map(({ batches }) => batches.length))
      for (let round = 0; round < rounds; round++) {
        const places = mine.flatMap(output => stampedOf(claim, output, round))
        const { transactionalId } = claim
        const answer = await cluster.send(
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

function stampedOf(claim: Claim, output: Output, round: number): ProducePlace[] {
  const { topic, partition, batches } = output
  const batch = batches[round]
  if (batch === undefined) return []
  const place = `${topic}/${partition}`
  const sequence = claim.sequences.get(place) ?? 0
  claim.sequences.set(place, (sequence + batch.count) % SEQUENCE_END)
  const producerId = Number(claim.producerId)
  return [
    {
      topic,
      partition,
      batch: batch.stamped({ producerId, epoch: claim.producerEpoch, sequence }),
    },
  ]
}

/** Sequences are 31 bits and start over. */
const SEQUENCE_END = 2 ** 31

async function commitOffset(cluster: Cluster, claim: Claim, move: Move): Promise<void> {
  const { group, topic, partition, offset } = move
  const coordinator = await cluster.coordinator('group', group)
  await coordinator.txnOffsetCommit({
    ...producingOf(claim),
    groupId: group,
    topics: [{ topic, partitions: [{ partition, offset: String(offset) }] }],
  })
}

export async function end(
  cluster: Cluster,
  claim: Claim,
  transactionResult: boolean,
): Promise<void> {
  const coordinator = await cluster.coordinator('transaction', claim.transactionalId)
  await coordinator.endTxn({ ...producingOf(claim), transactionResult })
}

function producingOf({ transactionalId, producerId, producerEpoch }: Claim): {
  transactionalId: string
  producerId: string
  producerEpoch: number
} {
  return { transactionalId, producerId, producerEpoch }
}

/**
 * A group's positions in a topic, all settled; undefined where nothing was committed. Throws
 * UNSTABLE_OFFSET_COMMIT while a transaction may still move one; `settled` keeps the others for the next try,
 * for where many commit all the time, all are hardly ever settled at one moment.
 */
export async function fetchPositions(
  cluster: Cluster,
  group: string,
  topic: string,
  partitions: readonly number[],
  settled = new Map<number, number | undefined>(),
): Promise<(number | undefined)[]> {
  const left = partitions.filter(partition => !settled.has(partition))
  const coordinator = await cluster.coordinator('group', group)
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
