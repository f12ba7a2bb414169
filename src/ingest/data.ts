/**
 * The examples of a LLaVA data file as raw bytes, in file order, streamed: `.jsonl`/`.ndjson` holds
 * one example a line, everything else one JSON array. Bytes pass untouched, so that what is wrong
 * with one example (even invalid UTF-8) is that example's error and not the file's.
 */
import { createReadStream } from 'node:fs'
import { messageOf, XmasdError } from '../errors.ts'

/** Largest example in bytes. A file of another kind is noticed here instead of filling the memory. */
export const EXAMPLE_BYTES_MAX = 64 * 1024 * 1024

const LF = 0x0a
const QUOTE = 0x22
const COMMA = 0x2c
const OPEN_BRACKET = 0x5b
const BACKSLASH = 0x5c
const CLOSE_BRACKET = 0x5d
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const BYTE_ORDER_MARK = [0xef, 0xbb, 0xbf]

const isSpace = (byte: number): boolean =>
  byte === 0x20 || byte === LF || byte === 0x0d || byte === 0x09

/**
 * Yields the bytes of each example of `file`, at most `limit` of them. Blank lines of a .jsonl are
 * skipped. Throws FILE_UNREADABLE, or DATA_INVALID naming file and line where the array itself is
 * broken.
 */
export async function* readExamples(
  file: string,
  limit: number = Number.POSITIVE_INFINITY,
): AsyncGenerator<Uint8Array> {
  let left = limit
  for await (const example of scanExamples(file)) {
    if (left-- <= 0) return
    yield example
  }
}

/** How many examples `readExamples` would yield; reads the file once. Throws as it does. */
export async function countExamples(
  file: string,
  limit: number = Number.POSITIVE_INFINITY,
): Promise<number> {
  let count = 0
  for await (const _ of readExamples(file, limit)) count++
  return count
}

async function* scanExamples(file: string): AsyncGenerator<Uint8Array> {
  const scan = /\.(jsonl|ndjson)$/i.test(file) ? scanLines(file) : scanArray(file)
  for await (const chunk of readChunks(file)) yield* scan.push(chunk)
  yield* scan.end()
}

async function* readChunks(file: string): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of createReadStream(file, { highWaterMark: 1 << 18 })) {
      yield chunk as Uint8Array
    }
  } catch (error) {
    throw new XmasdError(
      'FILE_UNREADABLE',
      `cannot read ${file}: ${messageOf(error)}`,
      'pass a readable LLaVA .json or .jsonl file',
      { cause: error },
    )
  }
}

type Scanner = { push(chunk: Uint8Array): Iterable<Uint8Array>; end(): Iterable<Uint8Array> }

/** The bytes of one example, which may lie in several chunks. */
function collector(file: string) {
  let parts: Uint8Array[] = []
  let bytes = 0
  return {
    add(part: Uint8Array, line: number): void {
      bytes += part.length
      if (bytes > EXAMPLE_BYTES_MAX) {
        throw invalid(file, line, `an example is longer than ${EXAMPLE_BYTES_MAX} bytes`)
      }
      if (part.length > 0) parts.push(part)
    },
    take(): Uint8Array {
      const whole = Buffer.concat(parts)
      parts = []
      bytes = 0
      return whole
    },
  }
}

function scanLines(file: string): Scanner {
  const pending = collector(file)
  let line = 1
  return {
    *push(chunk) {
      let from = 0
      for (;;) {
        const at = chunk.indexOf(LF, from)
        pending.add(chunk.subarray(from, at < 0 ? undefined : at), line)
        if (at < 0) return
        const example = pending.take()
        if (!example.every(isSpace)) yield example
        from = at + 1
        line++
      }
    },
    *end() {
      const example = pending.take()
      if (!example.every(isSpace)) yield example
    },
  }
}

/** Where the scanner of an array stands: before `[`, before an example, inside or after one, after `]`. */
type Place = 'start' | 'before' | 'inside' | 'done'

/** Is told the bytes of array elements one by one; answers true at the comma or bracket behind one. */
function elementReader(): (byte: number) => boolean {
  let [depth, inString, escaped] = [0, false, false]
  return byte => {
    if (inString) {
      if (escaped) escaped = false
      else if (byte === BACKSLASH) escaped = true
      else if (byte === QUOTE) inString = false
      return false
    }
    if (byte === QUOTE) inString = true
    else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++
    else if (depth > 0 && (byte === CLOSE_BRACE || byte === CLOSE_BRACKET)) depth--
    else if (depth === 0) return byte === COMMA || byte === CLOSE_BRACKET
    return false
  }
}

/** Finds the commas between the examples: depth of brackets and strings, nothing more of JSON. */
function scanArray(file: string): Scanner {
  const pending = collector(file)
  let place: Place = 'start'
  const endsExample = elementReader()
  let [line, startLine, position, first] = [1, 1, 0, true]

  /** Reads one byte outside an example; returns where the scanner stands then. */
  const outside = (byte: number): Place => {
    if (place === 'start') {
      if (byte === OPEN_BRACKET) return 'before'
      if (byte === BYTE_ORDER_MARK[position]) return 'start'
      throw invalid(file, line, 'the file is not a JSON array of examples')
    }
    if (place === 'done') throw invalid(file, line, 'something follows the array of examples')
    if (byte === CLOSE_BRACKET && first) return 'done'
    if (byte === COMMA || byte === CLOSE_BRACKET) {
      throw invalid(file, line, `'${String.fromCharCode(byte)}' where an example should stand`)
    }
    first = false
    startLine = line
    return 'inside'
  }

  return {
    *push(chunk) {
      let from = 0
      for (let i = 0; i < chunk.length; i++, position++) {
        const byte = chunk[i]!
        if (byte === LF) line++
        if (place !== 'inside') {
          if (isSpace(byte)) continue
          place = outside(byte)
          from = i
          if (place !== 'inside') continue
        }
        if (!endsExample(byte)) continue
        pending.add(chunk.subarray(from, i), startLine)
        yield trimEnd(pending.take())
        place = byte === COMMA ? 'before' : 'done'
      }
      if (place === 'inside') pending.add(chunk.subarray(from), startLine)
    },
    end() {
      if (place === 'inside') throw invalid(file, startLine, 'the example here never ends')
      if (place !== 'done') throw invalid(file, line, 'the array of examples never ends')
      return []
    },
  }
}

function trimEnd(bytes: Uint8Array): Uint8Array {
  let end = bytes.length
  while (end > 0 && isSpace(bytes[end - 1]!)) end--
  return bytes.subarray(0, end)
}

function invalid(file: string, line: number, what: string): XmasdError {
  return new XmasdError(
    'DATA_INVALID',
    `${file}, line ${line}: ${what}`,
    'LLaVA data is a .json file with one array of examples, or a .jsonl file with one example a line',
  )
}
