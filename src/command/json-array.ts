/** Many JSON texts in a file, one a line, streamed; the file appears whole or not at all. */
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { messageOf, XmasdError } from '../errors.ts'

type Texts = AsyncIterable<string> | Iterable<string>

/**
 * One array of `entries`, which are JSON texts. Returns how many there were.
 *
 * @throws XmasdError FILE_UNWRITABLE where the file can't be written; what `entries` throws
 */
export function writeJsonArray(file: string, entries: Texts): Promise<number> {
  return writeWhole(file, entries, { first: '[\n', next: ',\n', last: '\n]\n', none: '[]\n' })
}

/** As `writeJsonArray`, as JSON lines. */
export function writeJsonLines(file: string, entries: Texts): Promise<number> {
  return writeWhole(file, entries, { first: '', next: '\n', last: '\n', none: '' })
}

/** What stands before the first entry, before each other, after the last, and in place of them all. */
type Frame = { first: string; next: string; last: string; none: string }

async function writeWhole(file: string, entries: Texts, frame: Frame): Promise<number> {
  const temporary = `${file}.${process.pid}.tmp`
  try {
    const written = await writeEntries(temporary, entries, frame)
    await rename(temporary, file)
    return written
  } catch (error) {
    await rm(temporary, { force: true })
    if (error instanceof XmasdError) throw error
    throw new XmasdError(
      'FILE_UNWRITABLE',
      `cannot write ${file}: ${messageOf(error)}`,
      'Check that the folder exists, is writable and has room.',
    )
  }
}

async function writeEntries(file: string, entries: Texts, frame: Frame): Promise<number> {
  const out = createWriteStream(file)
  await once(out, 'open')
  let written = 0
  for await (const entry of entries) {
    const isFull = !out.write(`${written === 0 ? frame.first : frame.next}${entry}`)
    written++
    if (isFull) await once(out, 'drain')
  }
  out.end(written === 0 ? frame.none : frame.last)
  await once(out, 'close')
  return written
}
