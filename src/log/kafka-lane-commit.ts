/**
 * Claiming a lane, and committing to it: transactions are tried until it is known what became of them.
 *
 *   transact ─── done ──► committed
 *      │  broke off
 *      ▼
 *   claim again: the position is the new one ──► committed, it had come through
 *                the position is the old one ──► transact again, nothing of it had come through
 *                another one, or not ours ─────► refused, somebody else has it
 */
import type { LogEvents } from '../observe/log-events.ts'
import type { Cluster } from './kafka-cluster.ts'
import { gaveUp, verdictOn } from './kafka-errors.ts'
import type { Lane } from './kafka-lane.ts'
import { backoff, type Patience, patiently } from './kafka-retry.ts'
import { claimSettled } from './kafka-settle.ts'
import type { KafkaTopic } from './kafka-topics.ts'
import {
  abort,
  type Claim,
  fetchPositions,
  type Output,
  transact,
  type Written,
} from './kafka-transactions.ts'
import { placeKey } from './log.ts'

export type LaneContext = {
  cluster: Cluster
  group: string
  patience: Patience
  events: LogEvents
  transactionMsMax: number
  /** All that may be written to. */
  topics: () => readonly KafkaTopic[]
  onWritten: (written: readonly Written[]) => void
  /** Resolves once it is certain what the group has given us. */
  confirm: () => Promise<void>
  /** Somebody else moved a lane, or a new one came. */
  onNews: () => void
}

/** Makes a lane that was given ready to be read; ends without where it is taken away meanwhile. */
export async function claimLane(context: LaneContext, lane: Lane): Promise<void> {
  const taken = await takeClaim(context, lane)
  if (taken === undefined) return
  if (lane.adopt(taken.claim, taken.position)) context.onNews()
  lane.isReady = true
}

/** After a connection broke: what the broker has forgotten meanwhile is not left open until the next commit. */
export async function claimLaneInDoubt(context: LaneContext, lane: Lane): Promise<void> {
  await context.confirm()
  if (lane.claim === undefined && lane.isHeld) await claimLane(context, lane)
}

type Taken = { claim: Claim; position: number | undefined }

/** Keeps all others out and reads how far they came. Undefined where the lane is no longer ours. */
async function takeClaim(context: LaneContext, lane: Lane): Promise<Taken | undefined> {
  const { cluster, group, patience, transactionMsMax } = context
  const { topic, partition } = lane
  lane.ledger ??= {
    transactionalId: `${group}-${topic}-${partition}`,
    moves: { group, topic, partition },
    isCommitted: undefined,
  }
  const pause = backoff(patience)
  while (lane.isHeld && patience.signal?.aborted !== true) {
    try {
      const topics = context.topics()
      const claim = await claimSettled(cluster, patience, lane.ledger, topics, transactionMsMax)
      const [position] = await patiently(patience, cluster, () =>
        fetchPositions(cluster, group, topic, [partition]),
      )
      return { claim, position }
    } catch (error) {
      const verdict = verdictOn(error, patience.address)
      if (verdict.kind === 'fatal') throw verdict.error
      context.events.onRetry('transaction')
      await pause(error)
    }
  }
  return undefined
}

/** Moves the lane to `offset` with `outputs`. False where another member has it: nothing was committed. */
export async function commitLane(
  context: LaneContext,
  lane: Lane,
  offset: number,
  outputs: readonly Output[],
): Promise<boolean> {
  const started = performance.now()
  const told = (outcome: 'committed' | 'fenced' | 'aborted'): void =>
    context.events.onTransaction(outcome, (performance.now() - started) / 1000)
  try {
    const isDone = await commitUntilKnown(context, lane, offset, outputs)
    told(isDone ? 'committed' : 'fenced')
    return isDone
  } catch (error) {
    told('aborted')
    throw error
  }
}

async function commitUntilKnown(
  context: LaneContext,
  lane: Lane,
  offset: number,
  outputs: readonly Output[],
): Promise<boolean> {
  const { patience } = context
  const started = performance.now()
  const pause = backoff(patience)
  if (lane.isVoid) return false
  if (offset === lane.committed && outputs.length === 0) return true
  for (let isTried = false; ; isTried = true) {
    if (lane.claim === undefined) {
      const known = await claimAgain(context, lane, isTried ? offset : undefined)
      if (known !== undefined) return known
    }
    const claim = lane.claim!
    const error = await attempt(context, lane, claim, offset, outputs)
    if (error === undefined) return true
    if (patience.signal?.aborted === true) throw error
    if (performance.now() - started > patience.msMax) {
      throw gaveUp(error, patience.address, patience.msMax)
    }
    await afterFailure(context, lane, claim, error, pause)
  }
}

/** Undefined: it stands where it stood, and may be moved under a new claim. */
async function claimAgain(
  context: LaneContext,
  lane: Lane,
  tried: number | undefined,
): Promise<boolean | undefined> {
  const taken = lane.isHeld ? await takeClaim(context, lane) : undefined
  if (taken === undefined) return false
  const { claim, position } = taken
  lane.isReady = lane.isAssigned
  if (tried !== undefined && position === tried) {
    lane.claim = claim
    lane.committed = tried
    return true
  }
  if (!lane.adopt(claim, position)) return undefined
  context.onNews()
  return false
}

/** What a transaction failed with; undefined where it came through. */
async function attempt(
  { cluster, group, transactionMsMax, onWritten }: LaneContext,
  lane: Lane,
  claim: Claim,
  offset: number,
  outputs: readonly Output[],
): Promise<unknown> {
  const { topic, partition } = lane
  try {
    const move = { group, topic, partition, offset }
    const written = await transact(cluster, claim, outputs, move, transactionMsMax)
    lane.committed = offset
    onWritten(written)
    return undefined
  } catch (error) {
    return error ?? new Error('a transaction failed')
  }
}

async function afterFailure(
  context: LaneContext,
  lane: Lane,
  claim: Claim,
  error: unknown,
  pause: (error: unknown) => Promise<void>,
): Promise<void> {
  const { cluster, events, patience } = context
  const verdict = verdictOn(error, patience.address)
  lane.claim = undefined
  if (verdict.kind === 'fatal') {
    await abort(cluster, claim)
    throw verdict.error
  }
  events.onRetry(verdict.kind === 'retry' ? verdict.cause : 'transaction')
  patience.logger?.debug({ lane: placeKey(lane), err: error }, 'a transaction broke off')
  await pause(error)
  if (verdict.kind === 'retry') await cluster.refresh().catch(() => {})
  else await context.confirm()
}
