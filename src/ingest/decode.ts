/** One record of `examples`, from bytes to a checked example. Every bad form has its own code. */
import { type ErrorCode, XmasdError } from '../errors.ts'

/** Longest id in bytes of UTF-8: it is part of keys on the log and in the state. */
export const ID_BYTES_MAX = 1024

/** Where an image stands in a question. */
export const IMAGE_MARK = '<image>'

export type DialogTurn = { from: 'human' | 'gpt'; value: string }

/**
 * A checked example. `turns` alternate human, gpt and end with gpt. Without images no turn holds
 * `<image>`; one image has it in exactly one human turn (possibly several times: the prompt gives it
 * one place); several have as many in human turns as there are images, in their order.
 */
export type DecodedExample = { id: string; turns: DialogTurn[]; images: string[] }

const LONE_SURROGATE = /\p{Surrogate}/u

type Role = DialogTurn['from'] | 'system'

const ROLES: ReadonlyMap<unknown, Role> = new Map([
  ['human', 'human'],
  ['user', 'human'],
  ['gpt', 'gpt'],
  ['assistant', 'gpt'],
  ['system', 'system'],
])

/**
 * Checks one example in LLaVA form. Roles may be human/user and gpt/assistant. A first turn that is
 * not human's (a system prompt, a greeting) is dropped, as LLaVA's and TinyLLaVA's trainers do.
 * Throws an XmasdError whose code says what is wrong.
 */
export function decodeExample(value: Uint8Array): DecodedExample {
  const record = parseObject(value)
  const id = decodeId(record.id)
  const turns = decodeTurns(record.conversations)
  const images = decodeImageField(record.image)
  checkPlaceholders(turns, images.length)
  return { id, turns, images }
}

function parseObject(value: Uint8Array): Record<string, unknown> {
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
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch (error) {
    throw new XmasdError(
      'NOT_JSON',
      `the record is not JSON: ${shown(text)}`,
      'write each example as one JSON object',
      { cause: error },
    )
  }
  if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) {
    return parsed as Record<string, unknown>
  }
  throw new XmasdError(
    'NOT_AN_OBJECT',
    `the record is no JSON object but ${shown(parsed)}`,
    'write each example as one JSON object with id and conversations',
  )
}

function decodeId(id: unknown): string {
  const hint = 'give every example an id: a string, or a number that JSON keeps exactly'
  const exact = typeof id === 'number' && Number.isFinite(id) && !isRoundedInteger(id)
  if (typeof id !== 'string' && !exact) {
    throw new XmasdError('ID_INVALID', `id is ${shown(id)}`, hint)
  }
  const text = wellFormed(String(id), 'id')
  if (text.trim() === '' || text.includes('\0')) {
    throw new XmasdError('ID_INVALID', `id is ${shown(id)}`, hint)
  }
  const bytes = Buffer.byteLength(text)
  if (bytes > ID_BYTES_MAX) {
    throw new XmasdError(
      'ID_TOO_LONG',
      `id has ${bytes} bytes: ${shown(text)}`,
      `keep ids within ${ID_BYTES_MAX} bytes`,
    )
  }
  return text
}

/** Integers beyond 2^53 lose digits on their way through JSON: two ids could become one. */
function isRoundedInteger(id: number): boolean {
  return Number.isInteger(id) && !Number.isSafeInteger(id)
}

function decodeTurns(conversations: unknown): DialogTurn[] {
  if (!Array.isArray(conversations) || conversations.length === 0) {
    throw new XmasdError(
      'CONVERSATIONS_INVALID',
      `conversations is ${shown(conversations)}`,
      'conversations must be an array of turns {"from", "value"}, at least a question and an answer',
    )
  }
  const all = conversations.map(decodeTurn)
  const turns = all[0]!.from === 'human' ? all : all.slice(1)
  const wrong = turns.findIndex((turn, i) => turn.from !== (i % 2 === 0 ? 'human' : 'gpt'))
  if (wrong >= 0 || turns.length === 0 || turns.length % 2 !== 0) {
    const order = all.map(turn => turn.from).slice(0, 12)
    throw new XmasdError(
      'TURNS_MISORDERED',
      `the turns come from ${order.join(', ')}${all.length > order.length ? ', …' : ''}`,
      'alternate human and gpt, beginning with human and ending with gpt',
    )
  }
  return turns.map(({ from, value }) => ({ from: from === 'human' ? 'human' : 'gpt', value }))
}

function decodeTurn(turn: unknown, index: number): { from: Role; value: string } {
  const { from, value } = (typeof turn === 'object' && turn !== null ? turn : {}) as {
    from?: unknown
    value?: unknown
  }
  if (typeof value !== 'string') {
    throw new XmasdError(
      'CONVERSATIONS_INVALID',
      `turn ${index} has no text: ${shown(turn)}`,
      'every turn is an object {"from", "value"} whose value is a string',
    )
  }
  const role = ROLES.get(from)
  if (role === undefined) {
    throw new XmasdError(
      'ROLE_UNKNOWN',
      `turn ${index} is from ${shown(from)}`,
      `use one of ${[...ROLES.keys()].join(', ')}`,
    )
  }
  return { from: role, value: wellFormed(value, `turn ${index}`) }
}

function decodeImageField(image: unknown): string[] {
  if (image === undefined || image === null || image === '') return []
  const list: unknown[] = Array.isArray(image) ? image : [image]
  if (list.every(one => typeof one === 'string' && (one !== '' || list.length === 1))) {
    return (list as string[]).filter(one => one !== '').map(one => wellFormed(one, 'image'))
  }
  throw new XmasdError(
    'IMAGE_FIELD_INVALID',
    `image is ${shown(image)}`,
    'image must be a string, or a list of them: paths below the image root, data: URLs or http(s) URLs',
  )
}

function checkPlaceholders(turns: DialogTurn[], images: number): void {
  const marked = turns.filter(turn => turn.value.includes(IMAGE_MARK))
  const questions = marked.filter(turn => turn.from === 'human')
  if (images === 0 && marked.length > 0) {
    throw placeholderError(
      'PLACEHOLDER_WITHOUT_IMAGE',
      `the conversation has ${IMAGE_MARK} but the example has no image`,
    )
  }
  if (images === 0) return
  if (questions.length === 0) {
    throw placeholderError(
      'IMAGE_WITHOUT_PLACEHOLDER',
      `the example has an image but no question has ${IMAGE_MARK}`,
    )
  }
  // Taking the marks out of "<ima<image>ge>" leaves a mark: the prompt would have two.
  const left = questions.some(({ value }) => value.replaceAll(IMAGE_MARK, '').includes(IMAGE_MARK))
  if (marked.length > questions.length || left || (images === 1 && questions.length > 1)) {
    throw placeholderError(
      'PLACEHOLDER_MISPLACED',
      `${IMAGE_MARK} stands in ${marked.length} turns, ${questions.length} of them questions`,
    )
  }
  const marks = questions.reduce((sum, { value }) => sum + value.split(IMAGE_MARK).length - 1, 0)
  if (images > 1 && marks !== images) {
    throw placeholderError(
      'IMAGE_COUNT_MISMATCH',
      `the example has ${images} images and ${marks} times ${IMAGE_MARK}`,
    )
  }
}

function placeholderError(code: ErrorCode, message: string): XmasdError {
  return new XmasdError(
    code,
    message,
    `an example with one image has ${IMAGE_MARK} in exactly one question, one with several has it once for each, one without has it nowhere`,
  )
}

function wellFormed(text: string, where: string): string {
  if (!LONE_SURROGATE.test(text)) return text
  throw new XmasdError(
    'TEXT_INVALID',
    `${where} has a lone surrogate: ${shown(text)}`,
    'write characters beyond U+FFFF as whole surrogate pairs, or directly in UTF-8',
  )
}

/** A value as JSON, cut to what fits a message. */
export function shown(value: unknown): string {
  const text = textOf(value)
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
