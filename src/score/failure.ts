/**
 * How work fails, in one form, and the one policy that retries it.
 *
 *   a job fails as a whole ──► again in parts, down to one item, which runs alone
 *   an item fails for a passing reason (a time-out, a busy server) ──► again, alone
 *   an item fails alone, again ──► it is to blame
 */
import { isOutOfMemory, MEMORY_HINT } from '../engine/engine.ts'
import { type ErrorCode, messageOf, XmasdError } from '../errors.ts'

/** An operating error as plain data: it crosses threads and processes, and ends in a dead letter. */
export type Failure = {
  code: ErrorCode
  message: string
  hint: string
  /** Another attempt may succeed. */
  retryable?: boolean
  /** A busy server asks to be left alone for so long. */
  retryAfterMs?: number
  /** Of a defect. */
  stack?: string | undefined
}

/** Whatever was thrown. What is no operating error is INTERNAL, or OUT_OF_MEMORY. */
export function failureOf(error: unknown): Failure {
  if (error instanceof XmasdError) {
    const { code, message, hint, retryable, retryAfterMs } = error
    const busy = retryAfterMs === undefined ? {} : { retryAfterMs }
    return { code, message, hint, ...(retryable ? { retryable } : {}), ...busy }
  }
  const message = messageOf(error)
  if (isOutOfMemory(error)) return { code: 'OUT_OF_MEMORY', message, hint: MEMORY_HINT }
  const stack = error instanceof Error ? error.stack : undefined
  const hint = 'This is a defect of xmasd: please report it with the example.'
  return { code: 'INTERNAL', message, hint, stack }
}

export function errorOf(failure: Failure): XmasdError {
  const { code, message, hint, retryable = false, retryAfterMs, stack } = failure
  return new XmasdError(code, message, hint, { retryable, retryAfterMs, cause: stack })
}

/** The workers were ended because this process stops: no item failed, none is done. */
export class Stopped extends Error {
  override readonly name = 'Stopped'

  constructor() {
    super('the workers were ended: this process stops')
  }
}

/** What one item may have done to its whole job. Any other error is no item's fault. */
const SURVIVABLE: readonly ErrorCode[] = [
  'WORKER_DIED',
  'INGEST_TIMEOUT',
  'OUT_OF_MEMORY',
  'ENGINE_FAILED',
  'INTERNAL',
]

export function isSurvivable(error: unknown): error is XmasdError {
  return error instanceof XmasdError && SURVIVABLE.includes(error.code)
}

/** The result of an attempt, or its failure where one item may be to blame. Throws other errors. */
export async function survived<Result>(
  running: Promise<Result>,
): Promise<{ result: Result } | { failure: Failure }> {
  try {
    return { result: await running }
  } catch (error) {
    if (!isSurvivable(error)) throw error
    return { failure: failureOf(error) }
  }
}

export type RetryPolicy<Item, Result> = {
  /** One result an item. `isAlone`: a retry of one item, which shares its worker with no other. */
  attempt(items: readonly Item[], isAlone: boolean): Promise<Result[]>
  /** The result of an item that failed alone, twice. May throw instead. */
  blame(failure: Failure): Result | Promise<Result>
  /** The failure that a result is. Default: none is. */
  failureIn?(result: Result): Failure | undefined
  /** How many parts a failed job is cut into. Default: 8, for few attempts, and few workers that the culprit ends. */
  parts?: number
}

const PARTS = 8

/** One result an item, in order. */
export async function withRetry<Item, Result>(
  items: readonly Item[],
  policy: RetryPolicy<Item, Result>,
  isAgain = false,
): Promise<Result[]> {
  const isAlone = isAgain && items.length === 1
  const first = await survived(policy.attempt(items, isAlone))
  if ('result' in first) {
    const attempts = isAlone ? 2 : 1
    return Promise.all(first.result.map((one, i) => settled(items[i]!, one, policy, attempts)))
  }
  if (isAlone) return [await policy.blame(first.failure)]
  const size = Math.ceil(items.length / (policy.parts ?? PARTS))
  const parts: Promise<Result[]>[] = []
  for (let at = 0; at < items.length; at += size) {
    parts.push(withRetry(items.slice(at, at + size), policy, true))
  }
  return (await Promise.all(parts)).flat()
}

/** A time-out is retried once: the first may be the load's fault, and the second takes as long. */
const TIMEOUTS: readonly ErrorCode[] = ['IMAGE_TIMEOUT']
const ATTEMPTS_MAX = 3
/** A busy server says so; it is asked longer. */
const BUSY_ATTEMPTS_MAX = 7
const FIRST_WAIT_MS = 250

/** Retries an item that failed for a passing reason: a time-out, a busy server, a file being replaced. */
async function settled<Item, Result>(
  item: Item,
  first: Result,
  { attempt, blame, failureIn = () => undefined }: RetryPolicy<Item, Result>,
  attemptsSoFar: number,
): Promise<Result> {
  let result = first
  for (let attempts = attemptsSoFar; attempts < BUSY_ATTEMPTS_MAX; attempts++) {
    const failure = failureIn(result)
    if (failure === undefined) return result
    const { retryAfterMs } = failure
    if (retryAfterMs === undefined && attempts >= ATTEMPTS_MAX) return result
    const isTimeout = TIMEOUTS.includes(failure.code)
    if (isTimeout ? attempts > 1 : failure.retryable !== true) return result
    const waitMs = isTimeout ? 0 : Math.max(retryAfterMs ?? 0, FIRST_WAIT_MS * 2 ** (attempts - 1))
    await new Promise(resolve => setTimeout(resolve, waitMs))
    const again = await survived(attempt([item], true))
    if ('failure' in again) return await blame(again.failure)
    result = again.result[0]!
  }
  return result
}

/** Whatever is scored would fail: no example may be blamed. `code` is that of the last failure. */
export function deviceFailed(why: string, code?: ErrorCode): XmasdError {
  const first =
    code === 'SCORE_NOT_FINITE'
      ? 'Look for NaN and infinities in the weights of the checkpoint that is named; else at'
      : 'Look at'
  return new XmasdError(
    'DEVICE_FAILED',
    `scoring failed on a known-good example: the engine is at fault: ${why}`,
    `${first} the device, its driver and the memory (\`xmasd doctor\`); uncommitted records are read again.`,
  )
}
