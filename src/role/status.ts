/** What a role shows of itself to `/healthz`, `--until-idle` and the live view. */
export type RoleStatus = {
  role: 'score' | 'select'
  /** performance.now() when the loop last moved: polled, or committed. */
  movedAt: number
  /** Nothing read that is not committed, and the last poll found nothing. */
  idle: boolean
  /** When the oldest record in hand was appended, milliseconds since the epoch; undefined where none is. */
  oldest: number | undefined
  /** What the last batch was, for the view. */
  batches: number
}

export function newStatus(role: RoleStatus['role']): RoleStatus {
  return { role, movedAt: performance.now(), idle: false, oldest: undefined, batches: 0 }
}
