/** Prompt templates and how a conversation fills them, as TinyLLaVA's Template classes do. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import { messageOf, XmasdError } from '../errors.ts'
import { type DialogTurn, IMAGE_MARK } from './decode.ts'

const CONTENT = '{{content}}'

const TemplateFile = z.strictObject({
  name: z.string().optional(),
  system: z.string(),
  image: z.string(),
  user: z.string(),
  assistant: z.string(),
})

/** The four pieces of a prompt. All but `system` hold `{{content}}`; `image` alone holds `<image>`. */
export type Template = { system: string; image: string; user: string; assistant: string }

/** What of a proxy's config implies a template. */
export type TemplateHints = { kind: string; text: { family: string } }

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
    image: `${IMAGE_MARK}\n${CONTENT}`,
    user: `<|im_start|>user\n${CONTENT}<|im_end|>\n`,
    assistant: `<|im_start|>assistant\n${CONTENT}<|im_end|>\n`,
  },
}

const IMPLIED: ReadonlyMap<string, string> = new Map([
  ['llama', 'llama'],
  ['qwen2', 'qwen2_base'],
  ['stablelm', 'phi'],
  ['phi', 'phi'],
])

/** What a prompt is made of. */
export type Dialog = { turns: readonly DialogTurn[]; images: { readonly length: number } }

/**
 * The prompt of a whole conversation, answers included. A question's `<image>` mark is taken out
 * and the image slot put in front of the rest, as TinyLLaVA and LLaVA do; several marks of one question
 * are one place where the example has one image. Of several images several in one question stay
 * where they stand, as in Hugging Face's and LLaVA-NeXT's prompts.
 */
export function buildPrompt(template: Template, { turns, images }: Dialog): string {
  return template.system + turns.map(turn => piece(template, turn, images.length)).join('')
}

/**
 * Where the answers stand in `buildPrompt`'s text: [from, to) in UTF-16 units, each with what the
 * template puts behind it (its end token). `spaced` is where the spaces before it begin.
 */
export type AnswerSpan = { spaced: number; from: number; to: number }

export function answerSpans(template: Template, { turns, images }: Dialog): AnswerSpan[] {
  const before = template.assistant.slice(0, template.assistant.indexOf(CONTENT))
  const [lead, unspaced] = [before.length, before.replace(/ +$/, '').length]
  const spans: AnswerSpan[] = []
  let at = template.system.length
  for (const turn of turns) {
    const to = at + piece(template, turn, images.length).length
    if (turn.from === 'gpt') spans.push({ spaced: at + unspaced, from: at + lead, to })
    at = to
  }
  return spans
}

function piece(template: Template, { from, value }: DialogTurn, images: number): string {
  return from === 'human'
    ? fill(template.user, withImageSlot(template, value, images))
    : fill(template.assistant, value)
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
function strip(text: string): string {
  const space =
    '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'
  return text
    .replace(new RegExp(`^${space}+`), '')
    .replace(new RegExp(`(?<!${space})${space}+$`), '')
}

/**
 * The template of a proxy: a built-in name, a JSON file, `template.json` in the proxy's folder, or
 * what the model's config implies, in this order. Throws TEMPLATE_UNKNOWN listing the names, or
 * TEMPLATE_INVALID for a file that is none.
 */
export function resolveTemplate(
  nameOrFile: string | undefined,
  proxyDir: string,
  config: TemplateHints,
): Template {
  if (nameOrFile !== undefined) {
    const known = builtIn(nameOrFile)
    if (known !== undefined) return known
    if (existsSync(nameOrFile)) return readTemplate(nameOrFile)
    throw unknown(`there is no template and no file called ${JSON.stringify(nameOrFile)}`)
  }
  const file = join(proxyDir, 'template.json')
  if (existsSync(file)) return readTemplate(file)
  const implied = builtIn(IMPLIED.get(config.text.family) ?? '')
  if (implied !== undefined) return implied
  throw unknown(`a ${config.kind} model over ${config.text.family} implies no template`)
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
  for (const slot of ['image', 'user', 'assistant'] as const) {
    if (!template[slot].includes(CONTENT)) throw new Error(`"${slot}" has no ${CONTENT}`)
  }
  for (const slot of ['system', 'user', 'assistant'] as const) {
    if (template[slot].includes(IMAGE_MARK)) throw new Error(`"${slot}" has ${IMAGE_MARK}`)
  }
  if (template.image.split(IMAGE_MARK).length !== 2) {
    throw new Error(`"image" has not exactly one ${IMAGE_MARK}`)
  }
}
