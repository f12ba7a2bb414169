/**
 * Writing to an environment, and when to read. Writes run one at a time, each in its own transaction,
 * flushed to disk before its promise resolves. LMDB runs the callback on this thread while a thread of
 * its own takes the lock and commits, so this thread waits neither for other processes nor for the disk.
 */
import { messageOf, XmasdError } from '../../errors.ts'
import type { Environment } from './environment.ts'

/**
 * Runs `work` in one transaction and returns its result. Where `work` throws, nothing of it stays and
 * its error is thrown. Where it returns a promise, other code runs meanwhile: reads wait for its end
 * (`settled`). Throws LOG_UNAVAILABLE where the disk refuses the commit.
 */
export async function write<T>(environment: Environment, work: () => T | Promise<T>): Promise<T> {
  const mine = environment.writing.then(() => runWrite(environment, work))
  environment.writing = mine.catch(() => undefined)
  return await mine
}

async function runWrite<T>(environment: Environment, work: () => T | Promise<T>): Promise<T> {
  if (environment.failed !== undefined) throw environment.failed
  let over: (() => void) | undefined
  try {
    // A child transaction: a plain asynchronous one commits what was written before an error.
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
    const isOurs =
      error instanceof XmasdError || error instanceof RangeError || error instanceof TypeError
    throw isOurs ? error : await unwritten(environment, error)
  } finally {
    environment.halfDone = undefined
    over?.()
    environment.polls.wake()
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

/**
 * Resolves when reads see only what is committed, and renews their snapshot. What is read before the
 * next `await` is one consistent state of the log.
 */
export async function settled(environment: Environment): Promise<void> {
  while (environment.halfDone !== undefined) await environment.halfDone
  environment.root.resetReadTxn()
}
