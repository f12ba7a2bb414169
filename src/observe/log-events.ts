/** What a log tells of its own work while it happens, and the metrics made of it. */
import type { Metrics } from './metrics.ts'

export const TRANSACTION_OUTCOMES = ['committed', 'fenced', 'aborted'] as const
export type TransactionOutcome = (typeof TRANSACTION_OUTCOMES)[number]

/** Why something is tried again. A closed list: `other` is what fits nowhere. */
export const RETRY_CAUSES = [
  'connection',
  'timeout',
  'leader',
  'coordinator',
  'transaction',
  'other',
] as const
export type RetryCause = (typeof RETRY_CAUSES)[number]

export type LogEvents = {
  /**
   * One atomic write of outputs and positions ended, after that long: `committed`; `fenced`, another
   * member of the group had moved on; or `aborted`, it failed otherwise and nothing of it stays.
   */
  onTransaction(outcome: TransactionOutcome, seconds: number): void
  /** The group's partitions were dealt, or dealt anew: this process now has that many of them. */
  onRebalance(group: string, partitions: number): void
  /** A request failed and is tried again. */
  onRetry(cause: RetryCause): void
}

export const NO_EVENTS: LogEvents = {
  onTransaction: () => {},
  onRebalance: () => {},
  onRetry: () => {},
}

/** `roleOf` says which role a consumer group belongs to. */
export function countLogEvents(metrics: Metrics, roleOf: (group: string) => string): LogEvents {
  return {
    onTransaction: (outcome, seconds) => {
      metrics.transactions.inc({ outcome })
      metrics.transactionSeconds.observe(seconds)
    },
    onRebalance: (group, partitions) => {
      metrics.rebalances.inc({ role: roleOf(group) })
      metrics.partitions.set({ role: roleOf(group) }, partitions)
    },
    onRetry: cause => metrics.logRetries.inc({ cause }),
  }
}
