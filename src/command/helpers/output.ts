/** Files that appear whole or not at all: written beside their place, renamed, removed when unfinished. */

import { once } from 'node:events'
import {
  createWriteStream,
  existsSync,
  readdirSync,
  realpathSync,
  rmSync,
  type Stats,
  statSync,
} from 'node:fs'
import { rename } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import { messageOf, XmasdError } from '../../errors.ts'
import { filesOf } from '../../ingest/data/files.ts'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Temporary files that are being written. */
const unfinished = new Set<string>()

/**
 * `write` gets the name of a temporary file and fills it; the result is what it returns. A symbolic
 * link stays and its target is replaced. A pipe or a device is written to directly. Throws
 * FILE_UNWRITABLE; what else `write` throws.
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

/**
 * Refuses to replace what is read: `inputs` are names and patterns, as for `filesOf`. Throws
 * FILE_EXISTS.
 */
export async function checkNotRead(out: string, inputs: readonly string[]): Promise<void> {
  const there = statOf(out)
  if (!there?.isFile()) return
  for (const file of await filesOf(inputs)) {
    const read = statOf(file)
    if (read?.dev !== there.dev || read.ino !== there.ino) continue
    throw new XmasdError(
      'FILE_EXISTS',
      `${out} is one of the files that are read`,
      'Name another file for the output.',
    )
  }
}

/** False for a pipe or a device. */
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

/** Then the signal ends the process, as it does without a listener. */
function removeAndDie(signal: NodeJS.Signals): void {
  for (const temporary of [...unfinished]) {
    rmSync(temporary, { force: true })
    end(temporary)
  }
  process.kill(process.pid, signal)
}

/* Many JSON texts, streamed into one file. */

type Texts = AsyncIterable<string> | Iterable<string>

/**
 * Writes one array of `entries`, which are JSON texts, and returns how many there were. Throws
 * FILE_UNWRITABLE; what `entries` throws.
 */
export function writeJsonArray(file: string, entries: Texts): Promise<number> {
  const frame = { first: '[\n', next: ',\n', last: '\n]\n', none: '[]\n' }
  return writeWhole(file, temporary => writeEntries(temporary, entries, frame))
}

/** The same as JSON lines. */
export function writeJsonLines(file: string, entries: Texts): Promise<number> {
  const frame = { first: '', next: '\n', last: '\n', none: '' }
  return writeWhole(file, temporary => writeEntries(temporary, entries, frame))
}

/** Text before the first entry, before each other one, after the last, and where there is none. */
type Frame = { first: string; next: string; last: string; none: string }

async function writeEntries(file: string, entries: Texts, frame: Frame): Promise<number> {
  const out = createWriteStream(file)
  await once(out, 'open')
  let written = 0
  const texts = async function* (): AsyncGenerator<string> {
    for await (const entry of entries) {
      yield `${written === 0 ? frame.first : frame.next}${entry}`
      written++
    }
    yield written === 0 ? frame.none : frame.last
  }
  await pipeline(texts, out)
  return written
}

/* Folders that commands write into. */

/** Empty where the folder is missing. */
export function namesIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder) : []
}

export function notEmpty(folder: string, names: readonly string[], hint: string): XmasdError {
  const message = `${folder} is not empty: ${names.slice(0, 5).join(', ')}`
  return new XmasdError('FILE_EXISTS', message, hint)
}
