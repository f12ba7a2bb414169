/** Which positions of a sequence hold the answers' tokens, and which those of the questions. */

import { IMAGE_MARK } from './form/example.ts'
import {
  answerSpans,
  buildPrompt,
  type Dialog,
  type Place,
  questionSpans,
  type Template,
} from './template.ts'
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

/** A text that is tokenised in one piece, of whose tokens `ids` are the first. `encode` gives those of its beginnings. */
type Piece = {
  text: string
  ids: Int32Array
  encode: (beginning: string, tokens: number) => readonly number[]
}

/**
 * Positions of the text tokens of the user turns, ascending: those that overlap their text. Each text between
 * images is tokenised on its own. `prompt`: of `encodePrompt`.
 */
export function questionPositions(
  tokenizer: Tokenizer,
  template: Template,
  dialog: Dialog,
  { ids, columns, imageTokens }: { ids: Int32Array; columns: Int32Array; imageTokens: number },
): Int32Array {
  const spans = questionSpans(template, dialog)
  const positions: number[] = []
  let [from, start] = [0, 0]
  for (const [i, text] of buildPrompt(template, dialog).split(IMAGE_MARK).entries()) {
    const end = columns[i * imageTokens] ?? ids.length
    const own = spans.filter(span => span.from >= from && span.to <= from + text.length)
    const encode: Piece['encode'] = (beginning, tokens) => {
      const found = encodeStart(tokenizer, beginning, tokens)
      return i === 0 ? found : withoutBos(found, tokenizer.bosId)
    }
    const places = own.map(span => ({ from: span.from - from, to: span.to - from }))
    const piece = { text, ids: ids.subarray(start, end), encode }
    for (const at of positionsInPiece(tokenizer, piece, places, true)) positions.push(start + at)
    from += text.length + IMAGE_MARK.length
    start = end + imageTokens
  }
  return Int32Array.from(positions)
}

/**
 * Positions of the tokens that overlap `places`, which are ascending, in a prompt that is tokenised
 * in one piece. `spaced`: and of the spaces before them.
 */
export function positionsInText(
  tokenizer: Tokenizer,
  prompt: Pick<Piece, 'text' | 'ids'>,
  places: readonly Place[],
  { spaced }: { spaced: boolean },
): Int32Array {
  const encode: Piece['encode'] = (beginning, tokens) => encodeOnce(tokenizer, beginning, tokens)
  return Int32Array.from(positionsInPiece(tokenizer, { ...prompt, encode }, places, spaced))
}

/** Characters before a place that its tokens are found with. */
const LEAD_CHARACTERS = 32

/**
 * As `positionsInText`. Each part of the text is tokenised once: it is begun again at a place where
 * a token ends, with some text before it. Where that gives other tokens than `ids` at once, it is
 * begun at the front.
 */
function positionsInPiece(
  tokenizer: Tokenizer,
  { text, ids, encode }: Piece,
  places: readonly Place[],
  isSpaced: boolean,
): number[] {
  let [base, at] = [0, 0] // a token ends at `base`, with `at` tokens up to there
  const tokensFromBase = (to: number): readonly number[] | undefined => {
    const lead = text.slice(Math.max(0, base - LEAD_CHARACTERS), base)
    const before = tokenizer.encode(lead)
    const whole = encodeStart(
      tokenizer,
      lead + text.slice(base, to),
      before.length + ids.length - at,
    )
    const tokens = whole.slice(before.length)
    const isBroken = before.some((token, i) => token !== whole[i])
    return isBroken || (tokens.length > 0 && tokens[0] !== ids[at]) ? undefined : tokens
  }
  /** How many tokens end at `to` or before, and whether one ends there. */
  const countTo = (to: number): { count: number; isEnd: boolean } => {
    let tokens = base > 0 ? tokensFromBase(to) : undefined
    if (tokens === undefined) {
      ;[base, at] = [0, 0]
      tokens = encode(text.slice(0, to), ids.length)
    }
    const equal = equalTokens(tokens, ids, at)
    const [count, isEnd] = [at + equal, equal === tokens.length]
    if (isEnd) [base, at] = [to, count]
    return { count, isEnd }
  }
  const positions: number[] = []
  for (const { from, to } of places) {
    let front = from
    while (isSpaced && front > base && text[front - 1] === ' ') front--
    const start = Math.max(countTo(front).count, (positions.at(-1) ?? -1) + 1)
    if (start >= ids.length) break
    const { count, isEnd } = countTo(to)
    for (let p = start; p < Math.min(isEnd ? count : count + 1, ids.length); p++) positions.push(p)
  }
  return positions
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
