/**
 * Examples in text: one a line, one JSON array, an object that wraps an array, or indented objects one
 * after the other. Which of them a file holds is found by its first bytes.
 */
import { XmasdError } from '../../errors.ts'
import {
  BACKSLASH,
  BYTE_ORDER_MARK,
  CLOSE_BRACE,
  CLOSE_BRACKET,
  COMMA,
  endOfString,
  endOfValue,
  isSpace,
  OPEN_BRACE,
  OPEN_BRACKET,
  parsedOr,
  QUOTE,
} from '../form/bytes.ts'

/** Largest example in bytes. A file of another kind is noticed here instead of filling the memory. */
export const EXAMPLE_BYTES_MAX = 64 * 1024 * 1024

const LF = 0x0a

export type Scanner = { push(chunk: Uint8Array): Iterable<Uint8Array>; end(): Iterable<Uint8Array> }

/** `notes` gets what the file holds where its name says otherwise. */
export function scannerFor(file: string, head: Buffer, isWhole: boolean, notes: string[]): Scanner {
  const isNamedLines = /\.(jsonl|ndjson)(\.gz|\.zst)?$/i.test(file)
  const start = head.findIndex(byte => !isSpace(byte))
  if (head[start] === OPEN_BRACKET) {
    if (isNamedLines) notes.push('one JSON array')
    return scanArray(file)
  }
  if (head[start] !== OPEN_BRACE) return isNamedLines ? scanLines(file) : scanArray(file)
  const wrapped = wrappedArray(head.subarray(start))
  if (wrapped !== undefined) {
    notes.push(`an array under ${wrapped.key}`)
    return scanArray(file, start + wrapped.at)
  }
  if (isIndented(head.subarray(start), isWhole)) {
    notes.push('indented objects')
    return scanObjects(file)
  }
  if (!isNamedLines) notes.push('one example a line')
  return scanLines(file)
}

/** Does the first object reach over several lines. A line that is broken does not count as one. */
function isIndented(head: Buffer, isWhole: boolean): boolean {
  const end = endOfValue(head)
  const text = head.subarray(0, end).toString()
  if (!text.includes('\n')) return false
  return end === undefined ? !isWhole && /^\{\s*\n\s*"/.test(text) : parsedOr(text) !== undefined
}

/**
 * The first array of examples in an object that wraps them: its key, and where its bracket stands. The
 * arrays of an example itself hold turns or file names, not examples.
 */
function wrappedArray(head: Buffer): { key: string; at: number } | undefined {
  let key = ''
  let depth = 0
  for (let at = 0; at < head.length; at++) {
    const byte = head[at]!
    if (byte === QUOTE) {
      const end = endOfString(head, at)
      if (depth === 1) key = head.subarray(at, end).toString()
      at = end - 1
    } else if (byte === OPEN_BRACKET && depth === 1) {
      const first = head.subarray(at + 1)
      const from = first.findIndex(one => !isSpace(one))
      const element = first[from] === OPEN_BRACE ? first.subarray(from) : undefined
      if (element !== undefined && isExample(element)) return { key, at }
      depth++
    } else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++
    else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) {
      if (--depth === 0) return undefined
    }
  }
  return undefined
}

const EXAMPLE_KEYS = ['conversations', 'messages', 'texts', 'prompt', 'instruction']

function isExample(bytes: Buffer): boolean {
  const value = parsedOr(bytes.subarray(0, endOfValue(bytes)).toString())
  const keys = typeof value === 'object' && value !== null ? Object.keys(value) : []
  return keys.some(key => EXAMPLE_KEYS.includes(key))
}

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
  /** Files that were joined bring their marks along. */
  const take = (): Uint8Array => unmarked(pending.take())
  return {
    *push(chunk) {
      let from = 0
      for (;;) {
        const at = chunk.indexOf(LF, from)
        pending.add(chunk.subarray(from, at < 0 ? undefined : at), line)
        if (at < 0) return
        const example = take()
        if (!example.every(isSpace)) yield example
        from = at + 1
        line++
      }
    },
    *end() {
      const example = take()
      if (!example.every(isSpace)) yield example
    },
  }
}

/**
 * Is told bytes of JSON one by one; answers what each does: 'comma' or 'close' outside all brackets,
 * 'end' where it closes the last open bracket, undefined otherwise.
 */
function structureReader(): (byte: number) => 'comma' | 'close' | 'end' | undefined {
  let [depth, inString, escaped] = [0, false, false]
  return byte => {
    if (inString) {
      if (escaped) escaped = false
      else if (byte === BACKSLASH) escaped = true
      else if (byte === QUOTE) inString = false
      return undefined
    }
    if (byte === QUOTE) inString = true
    else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++
    else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) {
      if (depth > 0) return --depth === 0 ? 'end' : undefined
      return byte === CLOSE_BRACKET ? 'close' : undefined
    } else if (byte === COMMA && depth === 0) return 'comma'
    return undefined
  }
}

/** Objects one after the other, over as many lines as they like. */
function scanObjects(file: string): Scanner {
  const pending = collector(file)
  const read = structureReader()
  let [line, startLine, isInside] = [1, 1, false]
  return {
    *push(chunk) {
      let from = 0
      for (let i = 0; i < chunk.length; i++) {
        const byte = chunk[i]!
        if (byte === LF) line++
        if (!isInside) {
          if (isSpace(byte)) continue
          if (byte !== OPEN_BRACE) throw invalid(file, line, `${shownByte(byte)} between objects`)
          isInside = true
          from = i
          startLine = line
        }
        if (read(byte) !== 'end') continue
        pending.add(chunk.subarray(from, i + 1), startLine)
        yield pending.take()
        isInside = false
      }
      if (isInside) pending.add(chunk.subarray(from), startLine)
    },
    end() {
      if (isInside) throw invalid(file, startLine, 'the example here never ends')
      return []
    },
  }
}

/** Where the scanner of an array stands: before `[`, before an example, inside or after one, after `]`. */
type Place = 'start' | 'before' | 'inside' | 'done'

/**
 * Finds the commas between the examples: depth of brackets and strings, nothing more of JSON. An array
 * that begins at `from` is wrapped in an object, and what follows it is not looked at.
 */
function scanArray(file: string, from = 0): Scanner {
  const pending = collector(file)
  let place: Place = 'start'
  const read = structureReader()
  let [line, startLine, position, isFirst] = [1, 1, 0, true]

  /** Reads one byte outside an example; returns where the scanner stands then. */
  const outside = (byte: number): Place => {
    if (place === 'start') {
      if (byte === OPEN_BRACKET) return 'before'
      throw invalid(file, line, `the file is not a JSON array of examples: ${shownByte(byte)}`)
    }
    if (place === 'done') throw invalid(file, line, 'something follows the array of examples')
    if (byte === CLOSE_BRACKET && isFirst) return 'done'
    if (byte === COMMA || byte === CLOSE_BRACKET) {
      throw invalid(file, line, `${shownByte(byte)} where an example should stand`)
    }
    isFirst = false
    startLine = line
    return 'inside'
  }

  return {
    *push(chunk) {
      let start = 0
      for (let i = 0; i < chunk.length; i++, position++) {
        const byte = chunk[i]!
        if (byte === LF) line++
        if (position < from || (place === 'done' && from > 0)) continue
        if (place !== 'inside') {
          if (isSpace(byte)) continue
          place = outside(byte)
          start = i
          if (place !== 'inside') continue
        }
        const found = read(byte)
        if (found !== 'comma' && found !== 'close') continue
        pending.add(chunk.subarray(start, i), startLine)
        yield trimEnd(pending.take())
        place = found === 'comma' ? 'before' : 'done'
      }
      if (place === 'inside') pending.add(chunk.subarray(start), startLine)
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

function shownByte(byte: number): string {
  return `'${String.fromCharCode(byte)}'`
}

export function invalid(file: string, line: number, what: string): XmasdError {
  return new XmasdError(
    'DATA_INVALID',
    `${file}, line ${line}: ${what}`,
    'give examples as one JSON array, one JSON object a line, Parquet or WebDataset tar; plain, gzip or zstd (docs/data.md)',
  )
}

/** Without a byte order mark. */
export function unmarked(bytes: Uint8Array): Uint8Array {
  return BYTE_ORDER_MARK.equals(bytes.subarray(0, 3)) ? bytes.subarray(3) : bytes
}
