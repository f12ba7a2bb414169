/**
 * What a job's failure means for its items: one of them may be to blame, or none. A job that fails is
 * done again in parts, so that only the culprit is lost.
 */
import { type ErrorCode, XmasdError } from '../errors.ts'

/** An operating error as plain data. */
export type Failure = { code: ErrorCode; message: string; hint: string }

/** What one item may have done to its whole job. */
const SURVIVABLE: readonly ErrorCode[] = [
  'WORKER_DIED',
  'OUT_OF_MEMORY',
  'ENGINE_FAILED',
  'INTERNAL',
]

export function isSurvivable(error: unknown): error is XmasdError {
  return error instanceof XmasdError && SURVIVABLE.includes(error.code)
}

/** What an attempt gave, or how it failed where one item may be to blame. Throws other failures. */
export async function survived<Result>(
  running: Promise<Result>,
): Promise<{ result: Result } | { failure: Failure }> {
  try {
    return { result: await running }
  } catch (error) {
    if (!isSurvivable(error)) throw error
    const { code, message, hint } = error
    return { failure: { code, message, hint } }
  }
}

/** A job that failed is cut into so many: few attempts, and few workers that die of the culprit. */
const PARTS = 8

/**
 * One result an item, from one job for all of them where that succeeds. An item that fails alone, twice,
 * has what `blame` makes of it, which may throw instead.
 */
export async function runSurviving<Item, Result>(
  items: readonly Item[],
  run: (items: readonly Item[]) => Promise<Result[]>,
  blame: (failure: Failure) => Result | Promise<Result>,
  isAgain = false,
): Promise<Result[]> {
  const first = await survived(run(items))
  if ('result' in first) return first.result
  if (items.length === 1 && isAgain) return [await blame(first.failure)]
  const size = Math.ceil(items.length / PARTS)
  const parts: Promise<Result[]>[] = []
  for (let at = 0; at < items.length; at += size) {
    parts.push(runSurviving(items.slice(at, at + size), run, blame, true))
  }
  return (await Promise.all(parts)).flat()
}

/** Whatever is scored would fail: nothing of it may be blamed. `code` is of the last failure. */
export function deviceFailed(why: string, code?: ErrorCode): XmasdError {
  const first =
    code === 'SCORE_NOT_FINITE'
      ? 'Look for NaN and infinities in the weights of the checkpoint that is named; else at'
      : 'Look at'
  return new XmasdError(
    'DEVICE_FAILED',
    `scoring is broken, no example is to blame: ${why}`,
    `${first} the device, its driver and the memory (\`xmasd doctor\`); what was not committed is done again.`,
  )
}
