/**
 * The examples of data files as raw bytes, in order, streamed and read once. What a file holds is found
 * by its content, not by its name: text (see scan.ts), Parquet or a WebDataset tar; plain, gzip or zstd;
 * UTF-8, or UTF-16 by its mark. Bytes of UTF-8 pass untouched: what is wrong with one example is that
 * example's error and not the file's.
 */
import { messageOf, XmasdError } from '../../errors.ts'
import { shellWord } from '../../observe/text.ts'
import { filesOf, sizeOf } from './files.ts'
import { countParquet, readParquet } from './parquet.ts'
import { EXAMPLE_BYTES_MAX, invalid, scannerFor, unmarked } from './scan.ts'
import { type Chunks, chunksOf, packingOf, peek, spooled, unpacked } from './stream.ts'
import { readTar } from './tar.ts'

/** Bytes that are looked at to find out what a text holds, and what a file is. */
const TEXT_HEAD_BYTES = 1 << 20
const FILE_HEAD_BYTES = 512

/** `leftOut`: how many records the note says are left out. */
type Note = (note: string, leftOut?: number) => void

/** Told which share of all files has been read, 0 to 1; never where one can be read once only. */
type OnShare = (share: number) => void

/** Told each file before its examples, and how many examples came before it. */
type OnFile = (file: string, before: number) => void

/**
 * Yields the bytes of each example of `data`: a file, "-" for standard input, a pattern such as
 * `shard-*.parquet`, or a list of them; at most `limit` examples. Blank lines are skipped. `onNote` is
 * told what a file holds where its name says otherwise, and which rows of a broken one are left out.
 * Throws FILE_UNREADABLE, or DATA_INVALID naming file and line where the file as such is broken.
 */
export async function* readExamples(
  data: string | readonly string[],
  limit: number = Number.POSITIVE_INFINITY,
  onNote: Note = () => {},
  onShare: OnShare = () => {},
  onFile: OnFile = () => {},
): AsyncGenerator<Uint8Array> {
  let read = 0
  const files = await filesOf(data)
  const sizes = files.map(sizeOf)
  const isKnown = sizes.every(size => size !== undefined)
  const all = sizes.reduce<number>((sum, size = 0) => sum + size, 0)
  let before = 0
  for (const [i, file] of files.entries()) {
    onFile(file, read)
    const size = sizes[i] ?? 0
    const onPart = (part: number) => isKnown && onShare((before + part * size) / all)
    for await (const example of readFile(file, onNote, onPart)) {
      if (read >= limit) return
      read++
      yield example
    }
    before += size
  }
}

/**
 * How many examples `readExamples` would yield, by reading the files; undefined for what can be read
 * once only. Throws as it does.
 */
export async function countExamples(
  data: string | readonly string[],
  limit: number = Number.POSITIVE_INFINITY,
): Promise<number | undefined> {
  const files = await filesOf(data)
  if (files.some(file => sizeOf(file) === undefined)) return undefined
  let count = 0
  for (const file of files) {
    if (count >= limit) break
    count += await countFile(file)
  }
  return Math.min(count, limit)
}

async function countFile(file: string): Promise<number> {
  const { head, all } = await opened(file)
  await all.return(undefined)
  if (isParquet(head)) return await named(file, () => countParquet(file))
  let count = 0
  for await (const _ of readFile(file, () => {})) count++
  return count
}

function opened(file: string, onBytes: (bytes: number) => void = () => {}) {
  return named(file, () => peek(chunksOf(file, onBytes), FILE_HEAD_BYTES))
}

/** Errors of `use` say which file they are of. */
async function named<T>(file: string, use: () => Promise<T>): Promise<T> {
  try {
    return await use()
  } catch (error) {
    throw unreadable(file, error)
  }
}

function unreadable(file: string, error: unknown): XmasdError {
  if (error instanceof XmasdError) return error
  const isFolder = error instanceof Error && 'code' in error && error.code === 'EISDIR'
  return new XmasdError(
    'FILE_UNREADABLE',
    `cannot read ${file}: ${isFolder ? 'it is a folder' : messageOf(error)}`,
    isFolder
      ? `name the files in it, by a pattern too: ${shellWord(`${file}/*.jsonl`)}`
      : 'pass a readable .json, .jsonl, .parquet or .tar file',
    { cause: error },
  )
}

async function* readFile(
  file: string,
  onNote: Note,
  onPart: (part: number) => void = () => {},
): AsyncGenerator<Uint8Array> {
  const notes: string[] = []
  try {
    const size = sizeOf(file) ?? 0
    const peeked = await opened(file, bytes => onPart(Math.min(1, bytes / Math.max(1, size))))
    if (isParquet(peeked.head) && size > 0) {
      await peeked.all.return(undefined)
      yield* readParquet(file, file, onNote, (done, of) => onPart(done / of))
      return
    }
    yield* readStream(file, peeked.head, peeked.all, notes, onNote)
  } catch (error) {
    throw unreadable(file, error)
  }
}

/** `notes` says what the stream was unpacked from. */
async function* readStream(
  file: string,
  head: Buffer,
  all: Chunks,
  notes: string[],
  onNote: Note,
): AsyncGenerator<Uint8Array> {
  const packing = packingOf(head)
  if (packing !== undefined) {
    notes.push(packing)
    const inner = await peek(unpacked(all, packing), FILE_HEAD_BYTES)
    yield* readStream(file, inner.head, inner.all, notes, onNote)
  } else if (isParquet(head)) {
    yield* spooled(all, path => readParquet(path, file, onNote))
  } else if (isTar(head)) {
    yield* readTar(all, EXAMPLE_BYTES_MAX, (note, leftOut) => onNote(`${file}: ${note}`, leftOut))
  } else {
    yield* readText(file, head, all, notes, onNote)
  }
}

function isParquet(head: Buffer): boolean {
  return head.toString('latin1', 0, 4) === 'PAR1'
}

function isTar(head: Buffer): boolean {
  return head.toString('latin1', 257, 262) === 'ustar'
}

/** Formats that are refused by name, by the first bytes. */
const OTHER_FORMATS: readonly [string, string][] = [
  ['fd377a58', 'xz'],
  ['425a68', 'bzip2'],
  ['504b0304', 'zip'],
  ['4152524f57', 'Arrow'],
]

async function* readText(
  file: string,
  start: Buffer,
  bytes: Chunks,
  notes: string[],
  onNote: Note,
): AsyncGenerator<Uint8Array> {
  const hex = start.toString('hex', 0, 8)
  const other = OTHER_FORMATS.find(([magic]) => hex.startsWith(magic))?.[1]
  if (other !== undefined) throw invalid(file, 1, `the file is ${other}, which is not read`)
  const utf16 = utf16Of(start)
  if (utf16 !== undefined) notes.push(utf16.toUpperCase())
  const decoded = utf16 === undefined ? withoutMark(bytes) : reencoded(bytes, utf16)
  const { head, isWhole, all } = await peek(decoded, TEXT_HEAD_BYTES)
  const scan = scannerFor(file, head, isWhole, notes)
  if (notes.length > 0) onNote(`${file}: ${notes.join(', ')}`)
  for await (const chunk of all) yield* scan.push(chunk)
  yield* scan.end()
}

/** By its mark, or by the zero bytes beside the first character, which is ASCII in JSON. */
function utf16Of(head: Buffer): 'utf-16le' | 'utf-16be' | undefined {
  if (head.length < 2) return undefined
  const [first, second] = head
  if ((first === 0xff && second === 0xfe) || (first !== 0 && second === 0)) return 'utf-16le'
  if ((first === 0xfe && second === 0xff) || (first === 0 && second !== 0)) return 'utf-16be'
  return undefined
}

async function* withoutMark(chunks: Chunks): AsyncGenerator<Uint8Array> {
  let isFirst = true
  for await (const chunk of chunks) {
    yield isFirst ? unmarked(chunk) : chunk
    isFirst = false
  }
}

async function* reencoded(chunks: Chunks, encoding: string): AsyncGenerator<Uint8Array> {
  const decoder = new TextDecoder(encoding)
  for await (const chunk of chunks) yield Buffer.from(decoder.decode(chunk, { stream: true }))
  yield Buffer.from(decoder.decode())
}
