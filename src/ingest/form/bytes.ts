/** The bytes of a JSON object, walked without parsing it: where its strings, values and fields lie. */
import { parsePythonJson } from './json.ts'

export const QUOTE = 0x22
export const COMMA = 0x2c
export const OPEN_BRACKET = 0x5b
export const BACKSLASH = 0x5c
export const CLOSE_BRACKET = 0x5d
export const OPEN_BRACE = 0x7b
export const CLOSE_BRACE = 0x7d

export const BYTE_ORDER_MARK = Buffer.from('\ufeff')

export const isSpace = (byte: number): boolean =>
  byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09

/** Undefined for what is no JSON. */
export function parsedOr(text: string): unknown {
  try {
    return parsePythonJson(text)
  } catch {
    return undefined
  }
}

/** Behind the string that begins at `at`. */
export function endOfString(bytes: Uint8Array, at: number): number {
  for (let i = at + 1; i < bytes.length; i++) {
    if (bytes[i] === BACKSLASH) i++
    else if (bytes[i] === QUOTE) return i + 1
  }
  return bytes.length
}

/** Behind the object or array that `bytes` begin with; undefined where it does not end in them. */
export function endOfValue(bytes: Uint8Array): number | undefined {
  let depth = 0
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]!
    if (byte === QUOTE) at = endOfString(bytes, at) - 1
    else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++
    else if ((byte === CLOSE_BRACE || byte === CLOSE_BRACKET) && --depth === 0) return at + 1
  }
  return undefined
}

/**
 * The JSON object `bytes` with the value of its field `name` replaced by `json`, all else byte for byte;
 * as it is where it has no such field. Of fields of one name the last counts, as in JSON.parse.
 */
export function withField(bytes: Uint8Array, name: string, json: string): Uint8Array {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const span = spanOf(view, name)
  if (span === undefined) return bytes
  return Buffer.concat([view.subarray(0, span[0]), Buffer.from(json), view.subarray(span[1])])
}

/** The text of the field's value as it stands in `bytes`; undefined where there is no such field. */
export function fieldText(bytes: Uint8Array, name: string): string | undefined {
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const span = spanOf(view, name)
  return span === undefined ? undefined : view.toString('utf8', ...span)
}

/** [from, to) of the value of the field `name`. */
function spanOf(view: Buffer, name: string): [number, number] | undefined {
  const skipped = (at: number): number => {
    while (at < view.length && isSpace(view[at]!)) at++
    return at
  }
  let span: [number, number] | undefined
  let at = skipped(BYTE_ORDER_MARK.equals(view.subarray(0, 3)) ? 3 : 0)
  do {
    const from = skipped(at + 1)
    if (view[from] !== QUOTE) break
    const end = endOfString(view, from)
    const value = skipped(skipped(end) + 1)
    at = endOfAny(view, value)
    if (parsedOr(view.toString('utf8', from, end)) === name) span = [value, at]
    at = skipped(at)
  } while (view[at] === COMMA)
  return span
}

/** Behind the JSON value that begins at `at`. */
function endOfAny(bytes: Buffer, at: number): number {
  if (bytes[at] === QUOTE) return endOfString(bytes, at)
  if (bytes[at] === OPEN_BRACE || bytes[at] === OPEN_BRACKET) {
    return at + (endOfValue(bytes.subarray(at)) ?? bytes.length)
  }
  let end = at
  while (end < bytes.length && !isSpace(bytes[end]!) && !ENDS.includes(bytes[end]!)) end++
  return end
}

const ENDS: readonly number[] = [COMMA, CLOSE_BRACE, CLOSE_BRACKET]
