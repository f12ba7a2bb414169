/** Prompt templates, and the prompt of a conversation, as TinyLLaVA's Template classes make it. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { messageOf, XmasdError } from '../errors.ts'
import { type Example, IMAGE_MARK, type Turn } from './form/example.ts'

const CONTENT = '{{content}}'

const TemplateFile = z.strictObject({
  name: z.string().optional(),
  system: z.string(),
  systemTurn: z.string().optional(),
  image: z.string(),
  user: z.string(),
  assistant: z.string(),
})

/** The pieces of a prompt. All but `system` hold `{{content}}`; `image` alone holds `<image>`. */
export type Template = {
  system: string
  /** A system turn, in place of `system`. Default: its text, with the space that ends `system`. */
  systemTurn?: string | undefined
  image: string
  user: string
  assistant: string
}

/** What implies a template: the family of the language model, and a checkpoint's tokenizer. */
export type TemplateHints = {
  proxyDir: string
  checkpointDir: string
  config: { kind: string; text: { family: string } }
}

export type ChosenTemplate = {
  template: Template
  /** Its name, or file, and why it was chosen. */
  origin: string
  /** The template that releases up to 0.1.0 chose, where that was another one. */
  formerly?: string
}

const SYSTEM =
  'A chat between a curious user and an artificial intelligence assistant. ' +
  "The assistant gives helpful, detailed, and polite answers to the user's questions. "

const vicuna = (end: string): Template => ({
  system: SYSTEM,
  image: `${IMAGE_MARK}\n${CONTENT}`,
  user: `USER: ${CONTENT} `,
  assistant: `ASSISTANT: ${CONTENT}${end}`,
})

/**
 * The built-in templates by name. LLaVA-1.5's `v1` and TinyLLaVA-Factory's all speak Vicuna's way
 * and differ in their end token; StableLM goes with `phi` there.
 */
export const TEMPLATES: Readonly<Record<string, Template>> = {
  v1: vicuna('</s>'),
  llama: vicuna('</s>'),
  phi: vicuna('<|endoftext|>'),
  stablelm: vicuna('<|endoftext|>'),
  qwen2: vicuna('<|endoftext|>'),
  qwen2_base: vicuna('<|endoftext|>'),
  qwen2_instruct: vicuna('<|im_end|>'),
  chatml: {
    system: '<|im_start|>system\nAnswer the questions.<|im_end|>\n',
    systemTurn: `<|im_start|>system\n${CONTENT}<|im_end|>\n`,
    image: `${IMAGE_MARK}\n${CONTENT}`,
    user: `<|im_start|>user\n${CONTENT}<|im_end|>\n`,
    assistant: `<|im_start|>assistant\n${CONTENT}<|im_end|>\n`,
  },
}

/** The template of each language model, and the one of a tokenizer that ends turns with `<|im_end|>`. */
const IMPLIED: ReadonlyMap<string, { plain: string; chat?: string }> = new Map([
  ['llama', { plain: 'llama' }],
  ['qwen2', { plain: 'qwen2_base', chat: 'qwen2_instruct' }],
  ['stablelm', { plain: 'phi' }],
  ['phi', { plain: 'phi' }],
])

/** What a prompt is made of. */
export type Dialog = Pick<Example, 'tools'> & {
  turns: readonly Turn[]
  images: { readonly length: number }
}

/**
 * The prompt of a whole conversation, answers included. A question's `<image>` mark moves into the
 * image slot before the rest of the question, as in TinyLLaVA and LLaVA; several marks of one question
 * count as one if the example has one image. With several images, several marks in one question keep
 * their places, as in Hugging Face's and LLaVA-NeXT's prompts.
 */
export function buildPrompt(template: Template, dialog: Dialog): string {
  const { turns, images } = dialog
  const pieces = turns.map(turn => piece(template, turn, images.length))
  return startOf(template, dialog) + pieces.join('')
}

/** A system turn stands in place of the template's own. */
function startOf({ system }: Template, { turns, tools }: Dialog): string {
  if (tools !== undefined) throw withoutPlace('the example has tools')
  return turns[0]?.role === 'system' ? '' : system
}

function withoutPlace(what: string): XmasdError {
  return new XmasdError(
    'ROLE_UNKNOWN',
    `${what}, which the template has no place for`,
    'use a proxy whose chat template takes tools, or leave such examples out',
  )
}

/** A place in a prompt, [from, to) in UTF-16 units. */
export type Place = { from: number; to: number }
/** One in `buildPrompt`'s text; `spaced` is where the spaces before it begin. */
type Span = Place & { spaced: number }

/** Each answer, with the end token that the template puts behind it. */
export function answerSpans(template: Template, dialog: Dialog): Span[] {
  return spansOf(template, dialog, 'assistant').map(({ span }) => span)
}

/** The text of each user turn, without what the template puts around it, cut where images stand in it. */
export function questionSpans(template: Template, dialog: Dialog): Place[] {
  return spansOf(template, dialog, 'user').flatMap(({ span, text }) => {
    let { from } = span
    const parts = withImageSlot(template, text, dialog.images.length).split(IMAGE_MARK)
    const spans = parts.map(part => {
      const own = { from, to: from + part.length }
      from = own.to + IMAGE_MARK.length
      return own
    })
    return spans.filter(span => span.to > span.from)
  })
}

/** Of each turn of a role: from its content to the end of its piece; and its text. */
function spansOf(
  template: Template,
  dialog: Dialog,
  role: 'user' | 'assistant',
): { span: Span; text: string }[] {
  const { turns, images } = dialog
  const before = template[role].slice(0, template[role].indexOf(CONTENT))
  const [lead, unspaced] = [before.length, before.replace(/ +$/, '').length]
  const spans: { span: Span; text: string }[] = []
  let at = startOf(template, dialog).length
  for (const turn of turns) {
    const to = at + piece(template, turn, images.length).length
    const span = { spaced: at + unspaced, from: at + lead, to }
    if (turn.role === role) spans.push({ span, text: turn.text })
    at = to
  }
  return spans
}

function piece(template: Template, { role, text }: Turn, images: number): string {
  if (role === 'user') return fill(template.user, withImageSlot(template, text, images))
  if (role === 'assistant') return fill(template.assistant, text)
  if (role !== 'system') throw withoutPlace(`a turn is from ${role}`)
  const space = /\s*$/.exec(template.system)![0]
  return fill(template.systemTurn ?? `${CONTENT}${space === '' ? ' ' : space}`, text)
}

function withImageSlot(template: Template, question: string, images: number): string {
  const marks = question.split(IMAGE_MARK).length - 1
  if (marks === 0 || (marks > 1 && images > 1)) return question
  return strip(fill(template.image, strip(question.replaceAll(IMAGE_MARK, ''))))
}

/** A function replaces, because a string would have its `$&` interpreted. */
function fill(slot: string, content: string): string {
  return slot.replace(CONTENT, () => content)
}

/** Python's str.strip(): unlike trim() it takes U+001C-U+001F and U+0085, and leaves U+FEFF. */
export function strip(text: string): string {
  const space =
    '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'
  return text
    .replace(new RegExp(`^${space}+`), '')
    .replace(new RegExp(`(?<!${space})${space}+$`), '')
}

/**
 * The template of a proxy: a built-in name, a JSON file, `template.json` in the proxy's folder, or
 * what tokenizer and language model imply, in this order. Throws TEMPLATE_UNKNOWN listing the names, or
 * TEMPLATE_INVALID for a file that is none.
 */
export function chooseTemplate(
  nameOrFile: string | undefined,
  { proxyDir, checkpointDir, config }: TemplateHints,
): ChosenTemplate {
  if (nameOrFile !== undefined) {
    const known = builtIn(nameOrFile)
    if (known !== undefined) return { template: known, origin: `${nameOrFile}, as configured` }
    if (existsSync(nameOrFile)) return { template: readTemplate(nameOrFile), origin: nameOrFile }
    throw unknown(`there is no template and no file called ${JSON.stringify(nameOrFile)}`)
  }
  const file = join(proxyDir, 'template.json')
  if (existsSync(file)) return { template: readTemplate(file), origin: file }
  const { family } = config.text
  const implied = IMPLIED.get(family)
  if (implied === undefined) {
    throw unknown(`a ${config.kind} model over ${family} implies no template`)
  }
  const { plain, chat } = implied
  if (chat === undefined || !endsTurns(checkpointDir)) {
    return { template: TEMPLATES[plain]!, origin: `${plain}, of ${family}` }
  }
  const origin = `${chat}, of ${family} with a tokenizer that has ${END_OF_TURN} as a special token`
  return { template: TEMPLATES[chat]!, origin, formerly: plain }
}

/** The template that releases up to 0.1.0 chose where none was given; undefined where they chose none. */
export function impliedName({ config }: Pick<TemplateHints, 'config'>): string | undefined {
  return IMPLIED.get(config.text.family)?.plain
}

const END_OF_TURN = '<|im_end|>'

/** Whether the tokenizer's config declares ChatML's end token, as its own end or beside it. */
function endsTurns(checkpointDir: string): boolean {
  const file = join(checkpointDir, 'tokenizer_config.json')
  if (!existsSync(file)) return false
  const config = TokenizerConfig.safeParse(JSON.parse(readFileSync(file, 'utf8'))).data
  const extra = [config?.additional_special_tokens, config?.extra_special_tokens]
  const tokens = [config?.eos_token, ...extra.flatMap(found => Object.values(found ?? {}))]
  return tokens.some(token => textOf(token) === END_OF_TURN)
}

const TokenizerConfig = z.looseObject({
  eos_token: z.unknown(),
  additional_special_tokens: z.looseObject({}).or(z.array(z.unknown())).nullish(),
  extra_special_tokens: z.looseObject({}).or(z.array(z.unknown())).nullish(),
})

/** A token is its text, or an object that holds it. */
function textOf(token: unknown): unknown {
  return (token as { content?: unknown } | null)?.content ?? token
}

function builtIn(name: string): Template | undefined {
  return Object.hasOwn(TEMPLATES, name) ? TEMPLATES[name] : undefined
}

function unknown(message: string): XmasdError {
  return new XmasdError(
    'TEMPLATE_UNKNOWN',
    message,
    `name one of ${Object.keys(TEMPLATES).join(', ')}, or a JSON file with system, image, user, assistant`,
  )
}

function readTemplate(file: string): Template {
  try {
    const { name: _, ...template } = TemplateFile.parse(JSON.parse(readFileSync(file, 'utf8')))
    checkSlots(template)
    return template
  } catch (error) {
    const message = error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error)
    throw new XmasdError(
      'TEMPLATE_INVALID',
      `${file} is no template: ${message}`,
      `write {"system", "image", "user", "assistant"}; the last three hold ${CONTENT}, image alone holds ${IMAGE_MARK}`,
      { cause: error },
    )
  }
}

function checkSlots(template: Template): void {
  for (const slot of ['image', 'user', 'assistant', 'systemTurn'] as const) {
    if (template[slot]?.includes(CONTENT) === false) throw new Error(`"${slot}" has no ${CONTENT}`)
  }
  for (const slot of ['system', 'user', 'assistant'] as const) {
    if (template[slot].includes(IMAGE_MARK)) throw new Error(`"${slot}" has ${IMAGE_MARK}`)
  }
  if (template.image.split(IMAGE_MARK).length !== 2) {
    throw new Error(`"image" has not exactly one ${IMAGE_MARK}`)
  }
}
