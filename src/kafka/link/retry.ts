/** Retries: how long, how often, and who is told. */
import { setTimeout } from 'node:timers/promises'
import { messageOf } from '../../errors.ts'
import { gaveUp, type RetryCause, verdictOn } from './errors.ts'

/** Events of the client, for metrics. */
export type KafkaEvents = {
  /** A transaction ended, after that long: `fenced` where the group had moved on. */
  onTransaction(outcome: 'committed' | 'fenced' | 'aborted', seconds: number): void
  /** The group's partitions were assigned anew: this member now has that many. */
  onRebalance(group: string, partitions: number): void
  onRetry(cause: RetryCause): void
}

type Say = (data: object, message: string) => void
/** The part of a pino logger that is used. */
export type Logger = { debug: Say; info: Say; warn: Say }

export type RetryPolicy = {
  /** The brokers, for messages. */
  address: string
  events: KafkaEvents
  logger: Logger | undefined
  /** The longest time of retries. */
  msMax: number
  /** Aborted when nobody waits for the result any more. */
  signal?: AbortSignal | undefined
}

const WAIT_MS_MIN = 5
const WAIT_MS_MAX = 1_000
/** Retries that last longer are logged. */
const WARN_AFTER_MS = 2_000

/**
 * Runs `attempt` until it succeeds. Errors that may pass are retried with growing pauses, on fresh metadata. Others are
 * thrown as operating errors; fences and lost memberships are thrown as they are.
 */
export async function withRetry<T>(
  retry: RetryPolicy,
  brokers: { refresh(): Promise<void> },
  attempt: () => Promise<T>,
): Promise<T> {
  const { address, events, signal, msMax } = retry
  const started = performance.now()
  const pause = backoff(retry)
  const isAborted = (): boolean => signal?.aborted === true
  for (;;) {
    if (isAborted()) throw new Error('closed')
    try {
      return await attempt()
    } catch (error) {
      const verdict = verdictOn(error, address)
      if (verdict.kind === 'fatal') throw verdict.error
      if (verdict.kind !== 'retry' || isAborted()) throw error
      if (performance.now() - started > msMax) throw gaveUp(error, address, msMax)
      events.onRetry(verdict.cause)
      await pause(error)
      if (verdict.cause !== 'transaction') await brokers.refresh().catch(() => {})
    }
  }
}

/** Waits longer every time. Logs once when retries take long. */
export function backoff({
  address,
  logger,
  signal,
}: RetryPolicy): (error: unknown) => Promise<void> {
  const started = performance.now()
  let waitMs = WAIT_MS_MIN
  let isSaid = false
  return async error => {
    if (!isSaid && performance.now() - started > WARN_AFTER_MS) {
      isSaid = true
      logger?.warn({ brokers: address }, `trying again: ${messageOf(error)}`)
    }
    const jittered = waitMs * (0.5 + Math.random())
    waitMs = Math.min(2 * waitMs, WAIT_MS_MAX)
    await setTimeout(jittered, undefined, signal === undefined ? {} : { signal }).catch(() => {})
  }
}
