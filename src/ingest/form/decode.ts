/** One record of `examples`, from bytes in any form of docs/data.md to a checked example. */
import { XmasdError } from '../../errors.ts'
import { fieldText, parsedOr } from './bytes.ts'
import {
  type Example,
  ID_BYTES_MAX,
  type Role,
  TEXT_LIMITS,
  type TextLimits,
  type Turn,
} from './example.ts'
import { type Fields, renamed } from './fields.ts'
import { placePictures, readPictures } from './images.ts'
import { isNothing, type Json, parseObject, shown, wellFormed } from './json.ts'
import { readTurns, TEXT_FIELDS } from './turns.ts'

export type DecodeOptions = {
  /** Default: TEXT_LIMITS. */
  text?: TextLimits | undefined
  /** Names of fields and roles other than the forms' own. */
  fields?: Fields | undefined
}

/**
 * Reads one record. A first turn that is an answer (a greeting) is dropped, as LLaVA's and TinyLLaVA's
 * trainers do. Throws an XmasdError whose code says what is wrong.
 */
export function decodeExample(
  value: Uint8Array,
  { text: limits = TEXT_LIMITS, fields = {} }: DecodeOptions = {},
): Example {
  const record = renamed(parseObject(value), fields)
  const id = decodeId(record, value, fields.columns?.id ?? 'id')
  const pictures = readPictures(record)
  const said = readTurns(record, pictures, fields, limits)
  checkText(said, limits)
  const { turns, images } = placePictures(inOrder(said), pictures)
  if (images.length === 0) checkOtherPictures(record)
  const tools = toolsOf(record)
  return { id, turns, images, ...(tools === undefined ? {} : { tools }) }
}

function toolsOf({ tools }: Json): string | undefined {
  const read = typeof tools === 'string' ? (parsedOr(tools) ?? tools) : tools
  if (isNothing(read)) return undefined
  return typeof read === 'string' ? read : JSON.stringify(read)
}

/* The id. */

/** The id of a record that may be broken otherwise; undefined where it has none that can be read. */
export function idIn(value: Uint8Array, { columns }: Fields = {}): string | undefined {
  const name = columns?.id ?? 'id'
  try {
    const id = parseObject(value)[name]
    return typeof id === 'number' ? (digitsOf(id, value, name) ?? String(id)) : textOf(id)
  } catch {
    return undefined
  }
}

function textOf(id: unknown): string | undefined {
  return typeof id === 'string' ? id : undefined
}

/** Undefined where the record has none. */
function decodeId({ id }: Json, value: Uint8Array, column: string): string | undefined {
  if (id === undefined || id === null) return undefined
  const text = typeof id === 'number' ? digitsOf(id, value, column) : id
  return checkedId(textOf(text), id)
}

/** The id. Throws ID_INVALID, ID_TOO_LONG or TEXT_INVALID. */
export function checkedId(text: string | undefined, id: unknown = text): string {
  if (text === undefined || text.trim() === '' || text.includes('\0')) {
    throw new XmasdError(
      'ID_INVALID',
      `id is ${shown(id)}`,
      'give every example an id, a string or a whole number; or leave it out',
    )
  }
  const bytes = Buffer.byteLength(wellFormed(text, 'id'))
  if (bytes <= ID_BYTES_MAX) return text
  throw new XmasdError(
    'ID_TOO_LONG',
    `id has ${bytes} bytes: ${shown(text)}`,
    `keep ids within ${ID_BYTES_MAX} bytes`,
  )
}

/** Integers beyond 2^53 lose digits on their way through JSON: theirs are read from the bytes. */
function digitsOf(id: number, value: Uint8Array, column: string): string | undefined {
  if (Number.isSafeInteger(id) || (Number.isFinite(id) && !Number.isInteger(id))) return String(id)
  const digits = fieldText(value, column)
  return digits !== undefined && /^-?\d+$/.test(digits) ? digits : undefined
}

/* Order and length of the turns. */

const ANSWERS: readonly Role[] = ['assistant', 'tool_call']

/** Which turns a turn may follow; at the start `undefined`. */
const FOLLOWS: Record<Role, readonly (Role | undefined)[]> = {
  system: [undefined],
  user: [undefined, 'system', 'assistant'],
  assistant: ['user', 'tool'],
  tool_call: ['user', 'tool', 'assistant', 'tool_call'],
  tool: ['tool_call', 'tool'],
}

function inOrder<T extends Turn>(all: T[]): T[] {
  const turns = all[0]?.role === 'assistant' ? all.slice(1) : all
  const isWrong = turns.some(({ role }, i) => !FOLLOWS[role].includes(turns[i - 1]?.role))
  const last = turns.at(-1)
  if (!isWrong && last !== undefined && ANSWERS.includes(last.role)) return turns
  const order = all.map(({ role }) => role).slice(0, 12)
  throw new XmasdError(
    'TURNS_MISORDERED',
    `the turns come from ${order.join(', ')}${all.length > order.length ? ', …' : ''}`,
    'alternate user and assistant, beginning with user and ending with assistant; a system turn stands first',
  )
}

/**
 * Longest run of combining marks. Normalisation sorts such a run in quadratic time; the Stream-Safe
 * Text Format (UAX 15) allows 30.
 */
const MARKS_MAX = 64
const MARKS_RUN = new RegExp(`(?<!\\p{M})\\p{M}{${MARKS_MAX + 1}}`, 'u')

/** Keeps the work on a text, which nothing can interrupt, within a fraction of a second. */
function checkText(turns: readonly Turn[], { charactersMax }: TextLimits): void {
  const characters = turns.reduce((sum, { text }) => sum + text.length, 0)
  if (characters > charactersMax) {
    throw new XmasdError(
      'TEXT_TOO_LONG',
      `the conversation has ${characters} characters, more than ${charactersMax}`,
      'shorten it, or raise text.charactersMax',
    )
  }
  const marked = turns.findIndex(({ text }) => MARKS_RUN.test(text))
  if (marked < 0) return
  throw new XmasdError(
    'TEXT_INVALID',
    `turn ${marked} has more than ${MARKS_MAX} combining marks in a row`,
    'mend the text: no script stacks so many marks on one letter',
  )
}

/* Pictures where they are not read. */

const PICTURE =
  /^data:(?:image|video|audio)\/|\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif|heic|mp4|webm|mov|avi|mkv|wav|mp3|flac)(?:$|[?#])/i

/** An example that names pictures where they are not read is an error, not a text-only example. */
function checkOtherPictures(record: Json): void {
  for (const [field, value] of Object.entries(record)) {
    if (field === 'id' || TEXT_FIELDS.has(field) || isNothing(value)) continue
    if (!namesPicture(value, 3)) continue
    throw new XmasdError(
      'IMAGE_FIELD_INVALID',
      `the example has no image but ${JSON.stringify(field)}: ${shown(value)}`,
      'name the pictures in the field "image" or "images", or name yours under data.fields.columns.images',
    )
  }
}

function namesPicture(value: unknown, depth: number): boolean {
  if (typeof value === 'string')
    return PICTURE.test(value.slice(0, 32)) || PICTURE.test(value.slice(-256))
  if (typeof value !== 'object' || value === null || depth === 0) return false
  return Object.values(value).some(inner => namesPicture(inner, depth - 1))
}
