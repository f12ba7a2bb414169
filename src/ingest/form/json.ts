/** A record's bytes as a JSON object, and how its values are told and shown. */
import { XmasdError } from '../../errors.ts'
import { redacted } from '../../observe/text.ts'

export type Json = Record<string, unknown>

export function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Throws NOT_UTF8, NOT_JSON or NOT_AN_OBJECT. */
export function parseObject(value: Uint8Array): Json {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(value)
  } catch (error) {
    throw new XmasdError(
      'NOT_UTF8',
      'the record is not valid UTF-8',
      'write examples as UTF-8 encoded JSON',
      { cause: error },
    )
  }
  const parsed = parseJson(text)
  if (isObject(parsed)) return parsed
  throw new XmasdError(
    'NOT_AN_OBJECT',
    `the record is no JSON object but ${shown(parsed)}`,
    'write each example as one JSON object with its turns (docs/data.md)',
  )
}

function parseJson(text: string): unknown {
  try {
    return parsePythonJson(text)
  } catch (error) {
    throw new XmasdError(
      'NOT_JSON',
      `the record is not JSON: ${shown(text)}`,
      'write each example as one JSON object',
      { cause: error },
    )
  }
}

/** JSON, and the bare NaN and Infinity that Python writes, which read as null. Throws SyntaxError. */
export function parsePythonJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return JSON.parse(withNulls(text))
  }
}

/**
 * The text of a record, as it stands except for what JSON does not allow: a byte order mark goes, and a
 * bare NaN or Infinity becomes null. Throws NOT_JSON.
 */
export function jsonText(value: Uint8Array): string {
  const text = new TextDecoder().decode(value)
  try {
    JSON.parse(text)
    return text
  } catch {
    parseJson(text)
    return withNulls(text)
  }
}

const STRING_OR_NOT_A_NUMBER = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\b(?:NaN|Infinity)\b/gs

function withNulls(text: string): string {
  return text.replaceAll(STRING_OR_NOT_A_NUMBER, found => (found[0] === '"' ? found : 'null'))
}

/** The meanings of "no image": absent, null, an empty string, an empty list. */
export function isNothing(field: unknown): boolean {
  const isEmpty = (one: unknown) => one === undefined || one === null || one === ''
  return Array.isArray(field) ? field.every(isEmpty) : isEmpty(field)
}

const LONE_SURROGATE = /\p{Surrogate}/u

/** The text. Throws TEXT_INVALID where a hash or a tokenizer could not take it. */
export function wellFormed(text: string, where: string): string {
  if (!LONE_SURROGATE.test(text)) return text
  throw new XmasdError(
    'TEXT_INVALID',
    `${where} has a lone surrogate: ${shown(text)}`,
    'write characters beyond U+FFFF as whole surrogate pairs, or directly in UTF-8',
  )
}

/** Of a picture's bytes only these are looked at. */
const SHOWN_FROM = 4096

/** A value as JSON, without the secrets of its URLs, cut to what fits a message. */
export function shown(value: unknown): string {
  const text = redacted(textOf(value).slice(0, SHOWN_FROM))
  return text.length > 120 ? `${text.slice(0, 117).replace(LONE_SURROGATE, '')}...` : text
}

/** JSON.parse takes any depth, JSON.stringify does not. */
function textOf(value: unknown): string {
  try {
    return JSON.stringify(value) ?? String(value)
  } catch {
    return `${Array.isArray(value) ? 'an array' : 'an object'} nested too deep to show`
  }
}
