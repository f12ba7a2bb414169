/**
 * Examples are prepared once for all of a schedule, as its first checkpoint says: what the others bring
 * along must say the same.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { XmasdError } from '../errors.ts'
import { type ImageProcessor, readImageProcessor } from './preprocess.ts'
import { readTokenizerJson } from './tokenizer.ts'

/** One of `files`, the first that is there, and what it means. */
type Source = {
  files: readonly string[]
  read: (folder: string) => Readonly<Record<string, unknown>>
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
    { files: ['tokenizer.json'], read: readTokenizerJson },
    {
      files: ['preprocessor_config.json', 'processor_config.json'],
      read: folder => readImageProcessor(folder, { aspect }),
    },
  ]
  for (const source of sources) checkSame(folders, source)
}

function checkSame([first = '', ...others]: readonly string[], { files, read }: Source): void {
  const fileOf = (folder: string) =>
    files.map(name => join(folder, name)).find(file => existsSync(file))
  const firstFile = fileOf(first)
  const bytes = firstFile === undefined ? undefined : readFileSync(firstFile)
  let meant: ReturnType<Source['read']> | undefined
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
