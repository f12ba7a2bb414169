/** A file that appears whole or not at all: it is written beside its place first, and what is not finished goes. */
import { realpathSync, rmSync, type Stats, statSync } from 'node:fs'
import { rename } from 'node:fs/promises'
import { messageOf, XmasdError } from '../errors.ts'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** What is being written now. */
const unfinished = new Set<string>()

/**
 * `write` fills the file that it is given the name of. Returns what it returns. Where a symbolic link stands its
 * target is replaced; what is no file, such as a pipe or a device, is written to as it is.
 *
 * @throws XmasdError FILE_UNWRITABLE where the file can't be written; whatever else `write` throws
 */
export async function writeWhole<T>(
  file: string,
  write: (temporary: string) => Promise<T>,
): Promise<T> {
  const there = statOf(file)
  if (there?.isDirectory()) throw unwritable(file, 'it is a folder')
  if (there !== undefined && !there.isFile()) return write(file)
  const place = there === undefined ? file : realpathSync(file)
  const temporary = `${place}.${process.pid}.tmp`
  begin(temporary)
  try {
    const result = await write(temporary)
    await rename(temporary, place)
    return result
  } catch (error) {
    rmSync(temporary, { force: true })
    if (!(error instanceof Error && 'syscall' in error)) throw error
    throw unwritable(file, messageOf(error))
  } finally {
    end(temporary)
  }
}

/** Whether `file` is a file, or will be: no pipe and no device. */
export function isPlace(file: string): boolean {
  return statOf(file)?.isFile() ?? true
}

function statOf(file: string): Stats | undefined {
  return statSync(file, { throwIfNoEntry: false })
}

function unwritable(file: string, why: string): XmasdError {
  return new XmasdError(
    'FILE_UNWRITABLE',
    `cannot write ${file}: ${why}`,
    'Check that the folder exists, is writable and has room.',
  )
}

function begin(temporary: string): void {
  if (unfinished.size === 0) for (const signal of SIGNALS) process.on(signal, removeAndDie)
  unfinished.add(temporary)
}

function end(temporary: string): void {
  unfinished.delete(temporary)
  if (unfinished.size === 0) for (const signal of SIGNALS) process.off(signal, removeAndDie)
}

/** The signal ends the process as if nobody had listened. */
function removeAndDie(signal: NodeJS.Signals): void {
  for (const temporary of [...unfinished]) {
    rmSync(temporary, { force: true })
    end(temporary)
  }
  process.kill(process.pid, signal)
}
