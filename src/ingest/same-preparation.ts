/**
 * Examples are prepared once for all of a schedule, as its first checkpoint says: what the others bring
 * along must say the same.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { XmasdError } from '../errors.ts'
import { type ImageProcessor, processorFileOf, readImageProcessor } from './preprocess.ts'
import { readTokenizerJson } from './tokenizer.ts'

type Meaning = Readonly<Record<string, unknown>>

/** Where a checkpoint says something, if it does, and what it means. */
type Source = {
  fileOf: (folder: string) => string | undefined
  read: (folder: string) => Meaning
}

/**
 * `folders` of checkpoints. Files that are missing are not missed; those of equal bytes are not parsed.
 * Throws CHECKPOINT_INVALID naming the folder and what differs.
 */
export function checkSamePreparation(
  folders: readonly string[],
  { aspect }: Pick<ImageProcessor, 'aspect'>,
): void {
  const sources: Source[] = [
    { fileOf: tokenizerFileOf, read: readEncoding },
    { fileOf: processorFileOf, read: folder => readImageProcessor(folder, { aspect }) },
  ]
  for (const source of sources) checkSame(folders, source)
}

function tokenizerFileOf(folder: string): string | undefined {
  const file = join(folder, 'tokenizer.json')
  return existsSync(file) ? file : undefined
}

/** What tokenizer.json says of encoding, in one spelling: versions of its library write merges and defaults differently. */
function readEncoding(folder: string): Meaning {
  const { decoder, version, model, ...json } = readTokenizerJson(folder)
  if (typeof model !== 'object' || model === null) return { ...json, model }
  const said = Object.entries(model).filter(([, value]) => value !== null && value !== false)
  return { ...json, model: Object.fromEntries(said.map(([key, value]) => [key, spelled(value)])) }
}

/** A merge is "a b", or ["a", "b"]. */
function spelled(value: unknown): unknown {
  if (!Array.isArray(value)) return value
  return value.map(one => (Array.isArray(one) ? one.join(' ') : one))
}

function checkSame([first = '', ...others]: readonly string[], { fileOf, read }: Source): void {
  const firstFile = fileOf(first)
  const bytes = firstFile === undefined ? undefined : readFileSync(firstFile)
  let meant: Meaning | undefined
  for (const folder of others) {
    const file = fileOf(folder)
    if (file === undefined || bytes?.equals(readFileSync(file))) continue
    meant ??= read(first)
    const own = read(folder)
    const keys = new Set([...Object.keys(meant), ...Object.keys(own)])
    const key = [...keys].find(key => !isDeepStrictEqual(meant?.[key], own[key]))
    if (key === undefined) continue
    throw new XmasdError(
      'CHECKPOINT_INVALID',
      `${file} says another ${key} than ${firstFile ?? first}`,
      'One fine-tuning prepares its examples in one way: copy the file of the first checkpoint, or take this checkpoint away.',
    )
  }
}
