/** The turns of a record, whichever field they stand in. */
import { XmasdError } from '../../errors.ts'
import { parsedOr } from './bytes.ts'
import type { Role, TextLimits } from './example.ts'
import type { Fields, Tags } from './fields.ts'
import { isContent, type MarkedTurn, type Pictures, readContent } from './images.ts'
import { isNothing, isObject, type Json, shown, wellFormed } from './json.ts'

const NAMED_ROLES: ReadonlyMap<unknown, Role> = new Map([
  ['human', 'user'],
  ['user', 'user'],
  ['gpt', 'assistant'],
  ['assistant', 'assistant'],
  ['system', 'system'],
  ['developer', 'system'],
  ['function_call', 'tool_call'],
  ['tool_call', 'tool_call'],
  ['observation', 'tool'],
  ['tool', 'tool'],
  ['tool_response', 'tool'],
  ['function', 'tool'],
])

const TAG_ROLES: readonly [keyof Tags, Role][] = [
  ['user_tag', 'user'],
  ['assistant_tag', 'assistant'],
  ['observation_tag', 'tool'],
  ['function_tag', 'tool_call'],
  ['system_tag', 'system'],
]

/** A turn as it stands in the record. */
type RawTurn = { role: unknown; content: unknown; raw: unknown; calls?: unknown }

/** All turns in order; frames that a tag stands for are taken from the pictures. Throws CONVERSATIONS_INVALID, TURNS_TOO_MANY or ROLE_UNKNOWN. */
export function readTurns(
  record: Json,
  { frames }: Pictures,
  { tags = {} }: Fields,
  { turnsMax }: TextLimits,
): MarkedTurn[] {
  const raw = rawTurns(record, tags)
  if (raw.length > turnsMax) {
    throw new XmasdError(
      'TURNS_TOO_MANY',
      `the conversation has ${raw.length} turns, more than ${turnsMax}`,
      'split it, or raise text.turnsMax',
    )
  }
  return raw.flatMap((turn, i) => readTurn(turn, i, frames, tags))
}

function readTurn(turn: RawTurn, index: number, frames: string[][], tags: Tags): MarkedTurn[] {
  const { content } = turn
  const calls = callsOf(turn.calls)
  const said: MarkedTurn[] = []
  if (calls === undefined || !isNothing(content)) {
    if (!isContent(content)) throw withoutText(turn.raw, index)
    const role = roleOf(turn.role, index, tags)
    said.push({ role, ...readContent(content, role, frames) })
  }
  if (calls !== undefined) said.push({ role: 'tool_call', text: calls, marks: [] })
  for (const { text } of said) wellFormed(text, `turn ${index}`)
  return said
}

function withoutText(raw: unknown, index: number): XmasdError {
  return new XmasdError(
    'CONVERSATIONS_INVALID',
    `turn ${index} has no text: ${shown(raw)}`,
    'every turn is {"from", "value"} or {"role", "content"}, with a string or a list of parts',
  )
}

function roleOf(name: unknown, index: number, tags: Tags): Role {
  const tagged = TAG_ROLES.find(([tag]) => tags[tag] !== undefined && tags[tag] === name)?.[1]
  const role = tagged ?? NAMED_ROLES.get(typeof name === 'string' ? name.toLowerCase() : name)
  if (role !== undefined) return role
  throw new XmasdError(
    'ROLE_UNKNOWN',
    `turn ${index} is from ${shown(name)}`,
    `use one of ${[...NAMED_ROLES.keys()].join(', ')}, or name yours under data.fields.tags`,
  )
}

/** OpenAI's calls beside an assistant's content, as the JSON that others write into a turn. */
function callsOf(calls: unknown): string | undefined {
  if (!Array.isArray(calls) || calls.length === 0) return undefined
  const said = calls.map(call => {
    const { name, arguments: given } = (
      isObject(call) && isObject(call.function) ? call.function : call
    ) as Json
    return { name, arguments: typeof given === 'string' ? (parsedOr(given) ?? given) : given }
  })
  return JSON.stringify(said.length === 1 ? said[0] : said)
}

/* Where the turns stand. */

const TURN_FIELDS = ['conversations', 'messages', 'texts'] as const
const ANSWER_FIELDS = ['completion', 'chosen', 'response', 'output'] as const

/** The fields that turns are read from; pictures that they name are read with them. */
export const TEXT_FIELDS: ReadonlySet<string> = new Set([
  ...TURN_FIELDS,
  ...ANSWER_FIELDS,
  ...['prompt', 'rejected', 'instruction', 'input', 'query', 'history', 'system', 'tools'],
])

function rawTurns(record: Json, tags: Tags): RawTurn[] {
  const field = TURN_FIELDS.find(name => isTurns(record[name]))
  const list = field === undefined ? undefined : (record[field] as unknown[])
  const turns =
    list === undefined ? withoutList(record, tags) : list.flatMap(turn => rawTurn(turn, tags))
  const { system } = record
  const isGiven = typeof system === 'string' && system !== ''
  const isFirst = !isGiven || String(turns[0]?.role).toLowerCase() === 'system'
  const all = isFirst ? turns : [plainTurn('system', system), ...turns]
  return list === undefined ? all : [...all, ...chosenBehind(all, record, tags)]
}

function isTurns(field: unknown): boolean {
  return Array.isArray(field) && field.length > 0
}

function plainTurn(role: Role, content: unknown): RawTurn {
  return { role, content, raw: content }
}

/** FineVision's turns hold a question and its answer. */
function rawTurn(turn: unknown, tags: Tags): RawTurn[] {
  const { role_tag = 'from', content_tag = 'value' } = tags
  const fields = isObject(turn) ? turn : {}
  const role = fields[role_tag] ?? fields.from ?? fields.role
  if (role === undefined && 'user' in fields && 'assistant' in fields) {
    return [plainTurn('user', fields.user), plainTurn('assistant', fields.assistant)]
  }
  const content = fields[content_tag] ?? fields.value ?? fields.content
  return [{ role, content, raw: turn, calls: fields.tool_calls }]
}

/** Of preferences the chosen answer. */
function chosenBehind(turns: readonly RawTurn[], { chosen }: Json, tags: Tags): RawTurn[] {
  const last = String(turns.at(-1)?.role).toLowerCase()
  const isAsked = ['human', 'user', tags.user_tag].includes(last)
  return isAsked && isAnswer(chosen) ? answerTurns(chosen, tags) : []
}

/** An answer may be empty. */
function isAnswer(field: unknown): boolean {
  return field === '' || !isNothing(field)
}

function answerTurns(answer: unknown, tags: Tags): RawTurn[] {
  if (Array.isArray(answer)) return answer.flatMap(turn => rawTurn(turn, tags))
  return isObject(answer) ? rawTurn(answer, tags) : [plainTurn('assistant', answer)]
}

const TURNS_HINT =
  'give the turns as a list under conversations or messages, or as prompt and completion (docs/data.md)'

export const SCORED_HINT =
  'this is a line that `xmasd score` wrote: append its file with `xmasd produce --trajectories FILE`, or the examples that were scored with --data'

/** Does a record hold scores, and no turns. */
export function isScoredLine(record: Json): boolean {
  const isScored = 'trajectory' in record && 'instability' in record
  return isScored && ![...TEXT_FIELDS].some(name => !isNothing(record[name]))
}

/** TRL's `prompt` and `completion`, preferences, alpaca's `instruction`, `input` and `output`. */
function withoutList(record: Json, tags: Tags): RawTurn[] {
  const answers = ANSWER_FIELDS.map(name => record[name])
  const answer = answers.find(one => !isNothing(one)) ?? answers.find(isAnswer)
  const prompt = record.prompt ?? record.instruction
  const more = record.query ?? record.input
  if (answer === undefined || (isNothing(prompt) && isNothing(more) && !isTurns(answer))) {
    const found = TURN_FIELDS.find(name => record[name] !== undefined) ?? 'conversations'
    throw new XmasdError(
      'CONVERSATIONS_INVALID',
      `${found} is ${shown(record[found])}`,
      isScoredLine(record) ? SCORED_HINT : TURNS_HINT,
    )
  }
  const said = answerTurns(answer, tags)
  const isWhole = ['human', 'user', 'system'].includes(String(said[0]?.role).toLowerCase())
  if (isWhole && !Array.isArray(prompt)) return said
  if (Array.isArray(prompt)) return [...prompt.flatMap(turn => rawTurn(turn, tags)), ...said]
  const asked = [prompt, more].filter(one => !isNothing(one))
  const question = asked.length > 1 && typeof prompt === 'string' ? asked.join('\n') : asked[0]
  return [...historyTurns(record.history), plainTurn('user', question), ...said]
}

/** alpaca's earlier rounds: pairs of a question and its answer. */
function historyTurns(history: unknown): RawTurn[] {
  const said: unknown[] = Array.isArray(history) ? history.flat() : []
  return said.map((text, i) => plainTurn(i % 2 === 0 ? 'user' : 'assistant', text))
}
