/** Which positions of a sequence the loss is taken at: those of the answers' tokens. */

import type { AnswerPlace } from './chat-template.ts'
import { IMAGE_MARK } from './form/example.ts'
import { answerSpans, buildPrompt, type Dialog, type Template } from './template.ts'
import {
  type EncodeOptions,
  encodeOnce,
  encodeStart,
  type Tokenizer,
  withoutBos,
} from './tokenizer.ts'

/**
 * Positions of the answers' tokens within `lengthMax`, end tokens included, ascending. `start`: from
 * where the spaces before an answer begin, as the published code's labels, or from the answer itself:
 * the same where a tokenizer joins a space with the word behind it. (TinyLLaVA's Template._make_masks)
 */
export function answerPositions(
  tokenizer: Tokenizer,
  template: Template,
  dialog: Dialog,
  { start, ...options }: EncodeOptions & { start: 'spaced' | 'from' },
): Int32Array {
  const prompt = buildPrompt(template, dialog)
  const positionOf = prefixLengths(prompt, endTokenOf(tokenizer, template), tokenizer, options)
  const positions: number[] = []
  for (const span of answerSpans(template, dialog)) {
    const from = positionOf(span[start])
    if (from >= options.lengthMax) break
    const end = Math.min(positionOf(span.to), options.lengthMax)
    for (let p = from; p < end; p++) positions.push(p)
  }
  return Int32Array.from(positions)
}

/**
 * Positions of the tokens that overlap answers or their end tokens, in a text that is tokenised in one
 * piece. `answers` are places in `text`. What stands before an end token is tokenised once.
 */
export function answersInText(
  tokenizer: Tokenizer,
  { text, ids }: { text: string; ids: Int32Array },
  answers: readonly AnswerPlace[],
): Int32Array {
  const positions: number[] = []
  let [base, at, lead] = [0, 0, '']
  /** Tokens of the text from `base` to `to`. */
  const tokensTo = (to: number): number[] => {
    const wanted = ids.length - at
    if (lead === '') return encodeOnce(tokenizer, text.slice(base, to), wanted)
    const tokens = encodeStart(tokenizer, lead + text.slice(base, to), wanted)
    return tokens.slice(tokenizer.encode(lead).length)
  }
  for (const { from, to, endToken } of answers) {
    const start = at + equalTokens(tokensTo(from), ids, at)
    if (start >= ids.length) break
    const whole = tokensTo(to)
    const equal = equalTokens(whole, ids, at)
    const end = at + equal + (equal < whole.length ? 1 : 0)
    for (let p = start; p < Math.min(end, ids.length); p++) positions.push(p)
    if (endToken === '' || equal < whole.length) continue
    base = to
    at = end
    lead = endToken
  }
  return Int32Array.from(positions)
}

/** How many tokens from the first on are those of `ids` from `at` on. */
function equalTokens(tokens: readonly number[], ids: Int32Array, at: number): number {
  const differs = tokens.findIndex((token, i) => token !== ids[at + i])
  return differs < 0 ? tokens.length : differs
}

/** The special token that ends every answer: no token reaches over it. Undefined where there is none. */
function endTokenOf({ addedTokens = [] }: Tokenizer, { assistant }: Template): string | undefined {
  const tail = assistant.slice(assistant.lastIndexOf('}}') + 2)
  const end = addedTokens.find(token => token !== '' && tail.includes(token))
  const isAmbiguous = addedTokens.some(token => token !== end && token.includes(end ?? ''))
  return isAmbiguous ? undefined : end
}

/**
 * The number of positions of a prompt's prefixes, to be asked for in ascending order; exact below
 * `lengthMax`. What stands before the last image or end token is tokenised once, not for each prefix.
 */
function prefixLengths(
  prompt: string,
  endToken: string | undefined,
  tokenizer: Tokenizer,
  { imageTokens, lengthMax }: EncodeOptions,
): (index: number) => number {
  const cuts = nextCuts(prompt, endToken)
  const leadTokens = endToken === undefined ? 0 : tokenizer.encode(endToken).length
  let [from, before, lead] = [0, 0, '']
  /** Tokens of the text from `from` to `to`, as they follow what stands before. */
  const count = (to: number): number => {
    const tokens = encodeStart(tokenizer, lead + prompt.slice(from, to), lengthMax - before)
    if (lead !== '') return tokens.length - leadTokens
    return from === 0 ? tokens.length : withoutBos(tokens, tokenizer.bosId).length
  }
  return index => {
    for (let cut = cuts(from); cut.end <= index && before < lengthMax; cut = cuts(from)) {
      before += count(cut.at) + (cut.isImage ? imageTokens : 0)
      from = cut.end
      lead = cut.isImage ? '' : endToken!
    }
    return before >= lengthMax ? before : before + count(index)
  }
}

/** A place that tokens don't reach over: text counts up to `at` and goes on at `end`. */
type Cut = { at: number; end: number; isImage: boolean }

function nextCuts(prompt: string, endToken: string | undefined): (from: number) => Cut {
  const find = (text: string, from: number): number => {
    const found = prompt.indexOf(text, from)
    return found < 0 ? Number.POSITIVE_INFINITY : found
  }
  let [mark, end] = [-1, endToken === undefined ? Number.POSITIVE_INFINITY : -1]
  return from => {
    if (mark < from) mark = find(IMAGE_MARK, from)
    if (end < from) end = find(endToken!, from)
    if (mark < end) return { at: mark, end: mark + IMAGE_MARK.length, isImage: true }
    const behind = end + (endToken?.length ?? 0)
    return { at: behind, end: behind, isImage: false }
  }
}
