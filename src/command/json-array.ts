/** A JSON array in a file, one entry a line, streamed; the file appears whole or not at all. */
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { messageOf, XmasdError } from '../errors.ts'

/**
 * `entries` are JSON texts. Returns how many there were.
 *
 * @throws XmasdError FILE_UNREADABLE where the file can't be written; what `entries` throws
 */
export async function writeJsonArray(
  file: string,
  entries: AsyncIterable<string> | Iterable<string>,
): Promise<number> {
  const temporary = `${file}.${process.pid}.tmp`
  try {
    const written = await writeEntries(temporary, entries)
    await rename(temporary, file)
    return written
  } catch (error) {
    await rm(temporary, { force: true })
    if (error instanceof XmasdError) throw error
    throw new XmasdError(
      'FILE_UNREADABLE',
      `cannot write ${file}: ${messageOf(error)}`,
      'Check that the folder exists, is writable and has room.',
    )
  }
}

async function writeEntries(
  file: string,
  entries: AsyncIterable<string> | Iterable<string>,
): Promise<number> {
  const out = createWriteStream(file)
  await once(out, 'open')
  let written = 0
  for await (const entry of entries) {
    const isFull = !out.write(`${written === 0 ? '[\n' : ',\n'}${entry}`)
    written++
    if (isFull) await once(out, 'drain')
  }
  out.end(written === 0 ? '[]\n' : '\n]\n')
  await once(out, 'close')
  return written
}
