/**
 * Writing to an environment, and when to read. Writes run one at a time, each in its own transaction
 * that is all or nothing, flushed to disk before its promise resolves. lmdb runs the callback on
 * this thread while a thread of its own holds the lock and commits, so that neither waiting for
 * other processes nor the flush blocks here.
 */
import { messageOf, XmasdError } from '../errors.ts'
import type { Environment } from './environment.ts'

/**
 * Runs `work` in one transaction. Where it throws, nothing of it stays, and its error is thrown.
 * Where it returns a promise, other code runs meanwhile: reads wait for its end (`settled`).
 *
 * A child transaction, because an error in a plain asynchronous one would commit what was written
 * before it.
 */
export async function write<T>(environment: Environment, work: () => T | Promise<T>): Promise<T> {
  const before = environment.writing
  const mine = before.then(() => runWrite(environment, work))
  environment.writing = mine.catch(() => undefined)
  return await mine
}

async function runWrite<T>(environment: Environment, work: () => T | Promise<T>): Promise<T> {
  if (environment.failed !== undefined) throw environment.failed
  let over: (() => void) | undefined
  try {
    return await environment.root.childTransaction(() => {
      const result = work()
      if (result instanceof Promise) {
        environment.halfDone = new Promise<void>(resolve => {
          over = resolve
        })
      }
      return result
    })
  } catch (error) {
    if (isOurs(error)) throw error
    throw await unwritten(environment, error)
  } finally {
    environment.halfDone = undefined
    over?.()
    for (const wake of environment.waiting) wake()
  }
}

async function unwritten(environment: Environment, error: unknown): Promise<XmasdError> {
  const isCommit = error instanceof Error && 'commitError' in error
  const cause = await Promise.resolve(isCommit ? error.commitError : undefined).then(
    () => error,
    reason => reason as unknown,
  )
  const failure = new XmasdError(
    'LOG_UNAVAILABLE',
    `nothing was written to the log at ${environment.path}: ${messageOf(cause)}`,
    'free space on its disk, check that this user may write there, then start again',
    { cause },
  )
  if (isCommit) environment.failed = failure
  return failure
}

function isOurs(error: unknown): boolean {
  return error instanceof XmasdError || error instanceof RangeError || error instanceof TypeError
}

/**
 * Resolves when reads see only what is committed, and renews the snapshot they see. What is read
 * before the next `await` is one consistent state of the log.
 */
export async function settled(environment: Environment): Promise<void> {
  while (environment.halfDone !== undefined) await environment.halfDone
  environment.root.resetReadTxn()
}

/** Resolves after this process' next write, at the latest after `waitMs`. */
export function nextWrite(environment: Environment, waitMs: number): Promise<void> {
  return new Promise(resolve => {
    const wake = () => {
      clearTimeout(timer)
      environment.waiting.delete(wake)
      resolve()
    }
    const timer = setTimeout(wake, waitMs)
    environment.waiting.add(wake)
  })
}
