/** Many JSON texts in a file, one a line, streamed; the file appears whole or not at all. */
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import { writeWhole } from './whole-file.ts'

type Texts = AsyncIterable<string> | Iterable<string>

/**
 * One array of `entries`, which are JSON texts. Returns how many there were.
 *
 * @throws XmasdError FILE_UNWRITABLE where the file can't be written; what `entries` throws
 */
export function writeJsonArray(file: string, entries: Texts): Promise<number> {
  const frame = { first: '[\n', next: ',\n', last: '\n]\n', none: '[]\n' }
  return writeWhole(file, temporary => writeEntries(temporary, entries, frame))
}

/** As `writeJsonArray`, as JSON lines. */
export function writeJsonLines(file: string, entries: Texts): Promise<number> {
  const frame = { first: '', next: '\n', last: '\n', none: '' }
  return writeWhole(file, temporary => writeEntries(temporary, entries, frame))
}

/** What stands before the first entry, before each other, after the last, and in place of them all. */
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
