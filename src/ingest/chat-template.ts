/**
 * The prompt as the checkpoint's own chat template makes it: a Jinja template over the whole conversation,
 * answers included. (transformers' apply_chat_template, without a generation prompt)
 */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createContext, Script } from 'node:vm'
import { Template as Jinja } from '@huggingface/jinja'
import { messageOf, XmasdError } from '../errors.ts'
import { IMAGE_MARK } from './form/example.ts'
import type { Json } from './form/json.ts'
import {
  type ChosenTemplate,
  chooseTemplate,
  type Dialog,
  impliedName,
  type Place,
  strip,
  type Template,
  type TemplateHints,
} from './template.ts'
import { addedToken } from './tokenizer.ts'

/** Plain data, for workers. */
export type ChatTemplate = {
  /** Jinja. */
  chat: string
  file: string
  /** What the template may name: `bos_token`, `eos_token`, … */
  tokens: Record<string, string>
  /** The text of one image in the rendered prompt. */
  imageToken: string
}

/** `answers`: where they lie in the text, with the end token right behind each. */
export type RenderedPrompt = { text: string; answers: Place[] }

/** Where a checkpoint keeps its template, in the order in which transformers looks. */
const FILES: readonly (readonly [name: string, read: (text: string) => unknown])[] = [
  ['chat_template.jinja', text => text],
  ['chat_template.json', text => (JSON.parse(text) as Json).chat_template],
  ['tokenizer_config.json', text => (JSON.parse(text) as Json).chat_template],
]

/** The template of a folder and its file; undefined where it has none. Throws TEMPLATE_INVALID. */
export function readChatTemplate(folder: string): { chat: string; file: string } | undefined {
  for (const [name, read] of FILES) {
    const file = join(folder, name)
    if (!existsSync(file)) continue
    try {
      const chat = defaultOf(read(readFileSync(file, 'utf8')))
      if (chat !== undefined) return { chat, file }
    } catch (error) {
      throw invalid(`${file} cannot be read: ${messageOf(error)}`)
    }
  }
  return undefined
}

/** A template is a text, or one of several that have names. */
function defaultOf(said: unknown): string | undefined {
  if (!Array.isArray(said)) return typeof said === 'string' && said !== '' ? said : undefined
  return said.find(one => one?.name === 'default')?.template
}

/** The special tokens of tokenizer_config.json by their keys. */
export function specialTokens(folder: string): Record<string, string> {
  const tokens: Record<string, string> = {}
  for (const name of ['special_tokens_map.json', 'tokenizer_config.json']) {
    const file = join(folder, name)
    if (!existsSync(file)) continue
    for (const [key, value] of Object.entries(JSON.parse(readFileSync(file, 'utf8')) as Json)) {
      const text = (value as { content?: unknown } | null)?.content ?? value
      if (key.endsWith('_token') && typeof text === 'string') tokens[key] = text
    }
  }
  return tokens
}

/** What names a template in a bundle, beside the prompt that it makes of a fixed conversation. */
export function digestOf({ chat, tokens }: ChatTemplate): string {
  return createHash('sha256')
    .update(JSON.stringify([chat, tokens]))
    .digest('hex')
    .slice(0, 12)
}

/* Rendering. The template is a stranger's program: its time is bounded. */

const RENDER_MS_MAX = 2000

/** The library renders within this context's script, which the engine can interrupt. */
const sandbox = createContext({ render: undefined as (() => string) | undefined })
const call = new Script('render()')

function bounded(render: () => string): string {
  sandbox.render = render
  return call.runInContext(sandbox, { timeout: RENDER_MS_MAX }) as string
}

const parsed = new Map<string, Jinja>()

function parse({ chat }: ChatTemplate): Jinja {
  const template = parsed.get(chat) ?? new Jinja(chat)
  parsed.set(chat, template)
  return template
}

function render(template: ChatTemplate, conversation: Conversation): string {
  return bounded(() => {
    const { tokens } = template
    return parse(template).render({ ...tokens, ...conversation, add_generation_prompt: false })
  })
}

type Part = { type: 'image' } | { type: 'text'; text: string }
type Call = { type: 'function'; function: unknown }
type Message = { role: string; content: Part[]; tool_calls?: Call[] }
type Conversation = { messages: Message[]; tools: unknown }

function conversationOf(dialog: Dialog): Conversation {
  const tools = dialog.tools === undefined ? null : JSON.parse(dialog.tools)
  return { messages: messagesOf(dialog), tools }
}

/** As many image parts stand in front of a question's text as it has marks; one image has one part. */
function messagesOf({ turns, images }: Dialog): Message[] {
  return turns.map(({ role, text: value }) => {
    if (role === 'tool_call') return callOf(value)
    if (role === 'assistant') return { role, content: [{ type: 'text', text: value }] }
    const marks = value.split(IMAGE_MARK).length - 1
    const count = images.length === 1 ? Math.min(marks, 1) : marks
    const pictures = Array.from({ length: count }, () => ({ type: 'image' as const }))
    const text = strip(value.replaceAll(IMAGE_MARK, ''))
    return { role, content: [...pictures, { type: 'text', text }] }
  })
}

/** The JSON of one call or of several, as transformers' messages have them; other text as an answer. */
function callOf(text: string): Message {
  try {
    const calls: unknown[] = [JSON.parse(text)].flat()
    const tool_calls = calls.map(call => ({ type: 'function' as const, function: call }))
    return { role: 'assistant', content: [], tool_calls }
  } catch {
    return { role: 'assistant', content: [{ type: 'text', text }] }
  }
}

/**
 * The prompt of a conversation, with `imageToken` once for each image, and where the answers lie, where
 * `endTokens` are given: the tokenizer's added tokens. The one right behind an answer belongs to it.
 *
 * @throws XmasdError TEMPLATE_INVALID where the template fails, refuses the conversation, or takes longer
 * than 2 s; PLACEHOLDER_MISPLACED where it has another number of images
 */
export function renderPrompt(
  template: ChatTemplate,
  dialog: Dialog,
  endTokens?: readonly string[],
): RenderedPrompt {
  const conversation = conversationOf(dialog)
  const text = attempt(template, () => render(template, conversation))
  const images = text.split(template.imageToken).length - 1
  if (images !== dialog.images.length) {
    throw new XmasdError(
      'PLACEHOLDER_MISPLACED',
      `the prompt has ${images} times ${template.imageToken} for ${dialog.images.length} images`,
      `take ${template.imageToken} out of the text, or give a template that puts it once for each image: --template`,
    )
  }
  if (endTokens === undefined) return { text, answers: [] }
  const places = textPlaces(template, conversation, text, 'assistant')
  if (places === undefined) {
    throw invalid(`the chat template ${template.file} does not write every answer once, as it is`)
  }
  return { text, answers: places.map(place => withEndToken(text, place, endTokens)) }
}

/**
 * Where the text of the user turns lies in the prompt `text`; nowhere where the template does not write each
 * once, as it is, or refuses other text.
 *
 * @throws XmasdError TEMPLATE_INVALID where the template takes longer than 2 s
 */
export function questionPlaces(template: ChatTemplate, dialog: Dialog, text: string): Place[] {
  const conversation = conversationOf(dialog)
  try {
    return textPlaces(template, conversation, text, 'user') ?? []
  } catch (error) {
    if (error instanceof XmasdError && !isLate(error.cause)) return []
    throw error
  }
}

function attempt<T>(template: ChatTemplate, make: () => T): T {
  try {
    return make()
  } catch (error) {
    const why = isLate(error) ? `it takes longer than ${RENDER_MS_MAX / 1000} s` : messageOf(error)
    const message = `the chat template ${template.file} makes no prompt of the conversation: ${why}`
    throw invalid(message, error)
  }
}

function isLate(error: unknown): boolean {
  return (error as NodeJS.ErrnoException | undefined)?.code === 'ERR_SCRIPT_EXECUTION_TIMEOUT'
}

/** Stands for text number `i`: letters of the private use area, which a template leaves alone. */
const standIn = (i: number): string => `\ue000${i}\ue001`

/**
 * Where the texts of a role lie: the same conversation is rendered with stand-ins, and what stands between
 * them is looked for in the prompt. A template may trim texts. Undefined where it does not write each once,
 * as it is.
 */
function textPlaces(
  template: ChatTemplate,
  { messages, tools }: Conversation,
  text: string,
  role: 'user' | 'assistant',
): Place[] | undefined {
  const texts: string[] = []
  const marked = messages.map(message => {
    const part = message.content.at(-1)
    if (message.role !== role || part?.type !== 'text') return message
    const other = { type: 'text' as const, text: standIn(texts.push(part.text) - 1) }
    return { ...message, content: [...message.content.slice(0, -1), other] }
  })
  const frame = attempt(template, () => render(template, { messages: marked, tools })).split(
    /\ue000\d+\ue001/,
  )
  if (frame.length !== texts.length + 1) return undefined
  let at = 0
  const places: Place[] = []
  for (const [i, own] of texts.entries()) {
    const from = at + frame[i]!.length
    const found = [own, own.trim()].find(one => text.startsWith(one + frame[i + 1]!, from))
    if (found === undefined) return undefined
    at = from + found.length
    places.push({ from, to: at })
  }
  return text.slice(at) === frame.at(-1) ? places : undefined
}

function withEndToken(text: string, { from, to }: Place, endTokens: readonly string[]): Place {
  const behind = endTokens.filter(token => text.startsWith(token, to))
  return { from, to: to + Math.max(0, ...behind.map(({ length }) => length)) }
}

function invalid(message: string, cause?: unknown): XmasdError {
  return new XmasdError(
    'TEMPLATE_INVALID',
    message,
    'mend the template, or name another one: --template, or proxy.template in the configuration',
    { cause },
  )
}

/* Which template makes the prompts. */

export type ChosenPrompt = Omit<ChosenTemplate, 'template'> & { template: Template | ChatTemplate }

export type PromptHints = TemplateHints & {
  /** The base model of a LoRA checkpoint. */
  baseDir?: string | undefined
  /** The folder of the tokenizer, and the id of the image token in it. */
  tokenizerDir: string
  imageTokenId: number
}

/**
 * How a proxy's prompts are made: by the template that is named, `template.json` in the proxy's folder, the
 * checkpoint's (or its base's) chat template, or what the family implies, in this order. Throws as
 * `chooseTemplate`, and TEMPLATE_INVALID for a chat template that cannot be parsed or takes too long.
 */
export function choosePrompt(nameOrFile: string | undefined, hints: PromptHints): ChosenPrompt {
  const isGiven = nameOrFile !== undefined || existsSync(join(hints.proxyDir, 'template.json'))
  const chat = isGiven ? undefined : findChatTemplate(hints)
  if (chat === undefined) return chooseTemplate(nameOrFile, hints)
  const before = impliedName(hints)
  return {
    template: chat,
    origin: `${chat.file}, the checkpoint's chat template`,
    ...(before !== undefined && { formerly: before }),
  }
}

const PICTURE: Dialog = {
  turns: [
    { role: 'user', text: `${IMAGE_MARK}\nWhat is it?` },
    { role: 'assistant', text: 'A cat.' },
  ],
  images: [null],
}

/** Undefined also where the template knows no pictures: that of a language model alone. */
function findChatTemplate(hints: PromptHints): ChatTemplate | undefined {
  const imageToken = addedToken(hints.tokenizerDir, hints.imageTokenId)
  if (imageToken === undefined) return undefined
  for (const folder of [hints.checkpointDir, hints.baseDir ?? hints.checkpointDir]) {
    const found = readChatTemplate(folder)
    if (found === undefined) continue
    const template = { ...found, tokens: specialTokens(folder), imageToken }
    attempt(template, () => parse(template))
    return takesPictures(template) ? template : undefined
  }
  return undefined
}

function takesPictures(template: ChatTemplate): boolean {
  try {
    renderPrompt(template, PICTURE)
    return true
  } catch (error) {
    if (error instanceof XmasdError && !isLate(error.cause)) return false
    throw error
  }
}
