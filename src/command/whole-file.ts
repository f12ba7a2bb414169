/** A file that appears whole or not at all: it is written beside its place first, and what is not finished goes. */
import { rmSync } from 'node:fs'
import { rename } from 'node:fs/promises'
import { messageOf, XmasdError } from '../errors.ts'

const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/** What is being written now. */
const unfinished = new Set<string>()

/**
 * `write` fills the file that it is given the name of. Returns what it returns.
 *
 * @throws XmasdError FILE_UNWRITABLE where the file can't be written; whatever else `write` throws
 */
export async function writeWhole<T>(
  file: string,
  write: (temporary: string) => Promise<T>,
): Promise<T> {
  const temporary = `${file}.${process.pid}.tmp`
  begin(temporary)
  try {
    const result = await write(temporary)
    await rename(temporary, file)
    return result
  } catch (error) {
    rmSync(temporary, { force: true })
    if (!(error instanceof Error && 'syscall' in error)) throw error
    throw new XmasdError(
      'FILE_UNWRITABLE',
      `cannot write ${file}: ${messageOf(error)}`,
      'Check that the folder exists, is writable and has room.',
    )
  } finally {
    end(temporary)
  }
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
