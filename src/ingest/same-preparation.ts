/**
 * Examples are prepared once for the whole schedule, with the files of its first checkpoint. The files of
 * the other checkpoints must say the same.
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { XmasdError } from '../errors.ts'
import { readChatTemplate } from './chat-template.ts'
import { parseTokenizer } from './encoder.ts'
import { processorFileOf } from './image/preprocess.ts'
import { readTokenizerJson } from './tokenizer.ts'

type Meaning = Readonly<Record<string, unknown>>

/** A file of a checkpoint, where it has one, and what it means. */
type Source = {
  fileOf: (folder: string) => string | undefined
  read: (folder: string) => Meaning
}

/**
 * `folders` of checkpoints; `describe` says what a folder's image processor is set to. A checkpoint may lack
 * the files; files of equal bytes are not parsed. `hasChat`: the chat template makes the prompts. Throws
 * CHECKPOINT_INVALID naming the file and what differs.
 */
export function checkSamePreparation(
  folders: readonly string[],
  { describe, hasChat = false }: { describe: (folder: string) => Meaning; hasChat?: boolean },
): void {
  const sources: Source[] = [
    { fileOf: tokenizerFileOf, read: encodingOf },
    { fileOf: processorFileOf, read: describe },
  ]
  if (hasChat) {
    sources.push({
      fileOf: folder => readChatTemplate(folder)?.file,
      read: folder => ({ ...readChatTemplate(folder), file: '' }),
    })
  }
  for (const source of sources) checkSame(folders, source)
}

/** A checkpoint, and the base model of a LoRA adapter: it has the files that the adapter's folder lacks. */
export type PreparationSource = { dir: string; base?: string | undefined }

export function tokenizerFolder(source: PreparationSource): string {
  return folderWith(tokenizerFileOf, source)
}

export function processorFolder(source: PreparationSource): string {
  return folderWith(processorFileOf, source)
}

function folderWith(fileOf: Source['fileOf'], { dir, base }: PreparationSource): string {
  return base === undefined || fileOf(dir) !== undefined ? dir : base
}

function tokenizerFileOf(folder: string): string | undefined {
  const files = ['tokenizer.json', 'vocab.json'].map(name => join(folder, name))
  return files.find(file => existsSync(file))
}

/**
 * What the tokenizer's files say about encoding, in one spelling: versions of the library write merges
 * and defaults differently.
 */
export function encodingOf(folder: string): Meaning {
  const { decoder, version, ...json } = readTokenizerJson(folder)
  const { model, ...stages } = parseTokenizer(json)
  const { merges, ...options } = model
  const isSaid = (value: unknown) => value != null && value !== false && value !== ''
  const said = Object.entries(options).filter(([, value]) => isSaid(value))
  const pairs = merges.map(merge => (typeof merge === 'string' ? merge : merge.join(' ')))
  return { ...json, ...stages, model: { ...Object.fromEntries(said), merges: pairs } }
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
      'One fine-tuning prepares its examples in one way: copy the file of the first checkpoint, or remove this checkpoint.',
    )
  }
}
