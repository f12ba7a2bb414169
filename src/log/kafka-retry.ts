/** Trying again: how long, how often, and who is told. */
import { setTimeout } from 'node:timers/promises'
import { messageOf } from '../errors.ts'
import type { LogEvents } from '../observe/log-events.ts'
import type { Logger } from '../observe/logger.ts'
import type { Cluster } from './kafka-cluster.ts'
import { gaveUp, verdictOn } from './kafka-errors.ts'

export type Patience = {
  /** The brokers, for messages. */
  address: string
  events: LogEvents
  logger: Logger | undefined
  /** After that long without success it is the end. */
  msMax: number
  /** Nobody waits for it any more. */
  signal?: AbortSignal | undefined
}

const WAIT_MS_MIN = 5
const WAIT_MS_MAX = 1_000
/** What is repeated in vain for that long is worth a line in the log. */
const WARN_AFTER_MS = 2_000

/**
 * Runs `attempt` until it succeeds. What waiting may mend is tried again with growing pauses, on fresh
 * metadata; what it can't is thrown as an operating error. Fences and lost memberships are thrown as they are.
 */
export async function patiently<T>(
  patience: Patience,
  cluster: Cluster,
  attempt: () => Promise<T>,
): Promise<T> {
  const { address, events, signal, msMax } = patience
  const started = performance.now()
  const pause = backoff(patience)
  for (;;) {
    try {
      return await attempt()
    } catch (error) {
      const verdict = verdictOn(error, address)
      if (verdict.kind === 'fatal') throw verdict.error
      if (verdict.kind !== 'retry' || signal?.aborted === true) throw error
      if (performance.now() - started > msMax) throw gaveUp(error, address, msMax)
      events.onRetry(verdict.cause)
      await pause(error)
      if (verdict.cause !== 'transaction') await cluster.refresh().catch(() => {})
    }
  }
}

/** Waits longer every time; says so once when it has taken long. */
export function backoff({ address, logger, signal }: Patience): (error: unknown) => Promise<void> {
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
