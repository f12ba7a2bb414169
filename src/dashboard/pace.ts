/**
 * How fast the reader follows the log. While the select role has a backlog, the reader and what it sends
 * take little: every frame makes every open page ask again, on the machine that the fold runs on.
 */
import type { Model } from './model.ts'

const STEP_WAIT_MS = 100
/** The share of the time that the reader follows the log: little where the fold has a backlog. */
const BUSY_SHARE = 0.6
const YIELDING_SHARE = 0.04
/** Records that a step reads then. */
const YIELDING_RECORDS = 1_000
/** A page hears of what comes, however long a step took: the first one opens the bundle. */
const REST_MS_MAX = 1_000
/** Between two frames: changes in between go with the second. */
const FRAME_MS = 250
const YIELDING_FRAME_MS = 2_000

export type Pace = {
  /** Records that a step reads at most; undefined: the model's own bound. */
  records: number | undefined
  /** Between the beginnings of two frames. */
  frameMs: number
  /** How long to rest after `busyMs` of work. */
  restMs: (busyMs: number) => number
}

/** Of now: whether the select role has a backlog, and whether the reader has read the log to its end. */
export function paceOf({
  isFoldBehind,
  isCaughtUp,
}: Pick<Model, 'isFoldBehind' | 'isCaughtUp'>): Pace {
  const share = isFoldBehind ? YIELDING_SHARE : BUSY_SHARE
  const least = isCaughtUp ? STEP_WAIT_MS : 0
  return {
    records: isFoldBehind ? YIELDING_RECORDS : undefined,
    frameMs: isFoldBehind ? YIELDING_FRAME_MS : FRAME_MS,
    restMs: busyMs => Math.max(least, Math.min(REST_MS_MAX, busyMs * (1 / share - 1))),
  }
}
