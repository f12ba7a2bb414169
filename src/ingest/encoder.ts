/**
 * tokenizer.json to token ids, as Hugging Face's Rust tokenizers compute them: added tokens, normaliser,
 * pre-tokeniser, BPE, post-processor. The library converts Oniguruma's patterns. What is not listed
 * here is refused by name when the file is read.
 */
import * as tokenizers from '@huggingface/tokenizers'
import { z } from 'zod'
import { createBpe } from './bpe.ts'
import { isObject } from './form/json.ts'

/** Its declarations leave this out for TypeScript's node resolution. */
const { SplitPreTokenizer } = tokenizers as unknown as {
  SplitPreTokenizer: new (config: object) => { pattern: RegExp }
}

/**
 * The parts of tokenizer.json that decide ids, defaults filled in. Throws an Error that names what is
 * not supported or malformed.
 */
export function parseTokenizer(json: unknown): z.infer<typeof TokenizerFile> {
  const parsed = TokenizerFile.safeParse(json)
  if (parsed.success) return parsed.data
  throw new Error(refusal(parsed.error, json))
}

/** Throws as `parseTokenizer`. */
export function createEncoder(json: unknown): (text: string) => number[] {
  const file = parseTokenizer(json)
  const normalise = file.normalizer === null ? (text: string) => text : normaliser(file.normalizer)
  checkFirst(file)
  const splitters = file.pre_tokenizer === null ? [] : preTokenizers(file.pre_tokenizer)
  const encodeWord = createBpe(file.model)
  const frame = postProcessor(file.post_processor)
  const [literal, normalised] = [false, true].map(isNormalised =>
    addedTokenSplitter(
      file.added_tokens
        .filter(token => token.normalized === isNormalised)
        .map(token => ({
          ...token,
          content: isNormalised ? normalise(token.content) : token.content,
        })),
    ),
  )
  return text => {
    const ids: number[] = []
    for (const section of literal!({ text, isFirst: true })) {
      const pieces =
        section.id === undefined
          ? normalised!({ ...section, text: normalise(section.text) })
          : [section]
      for (const piece of pieces) {
        if (piece.id !== undefined) ids.push(piece.id)
        else for (const word of splitters.reduce(applySplitter, [piece])) encodeWord(word.text, ids)
      }
    }
    return frame(ids)
  }
}

function refusal({ issues: [issue] }: z.ZodError, json: unknown): string {
  const value = issue!.path.reduce((at, key) => (at as Record<PropertyKey, unknown>)?.[key], json)
  const supported = 'options' in issue! ? ` (supported: ${issue.options})` : ''
  return `${issue!.path.join('.')} ${JSON.stringify(value)} is not supported${supported}: ${issue!.message}`
}

/** A stretch of the text; `isFirst`: nothing of the original text precedes it. */
type Piece = { text: string; isFirst: boolean }
type Splitter = (piece: Piece) => Piece[]

function applySplitter(pieces: readonly Piece[], splitter: Splitter): Piece[] {
  return pieces.flatMap(splitter).filter(({ text }) => text !== '')
}

/* What tokenizer.json may say. */

const Pattern = z.union([
  z.strictObject({ Regex: z.string() }),
  z.strictObject({ String: z.string() }),
])
type Pattern = z.infer<typeof Pattern>

const BEHAVIOURS = [
  'Isolated',
  'Removed',
  'MergedWithPrevious',
  'MergedWithNext',
  'Contiguous',
] as const
type Behaviour = (typeof BEHAVIOURS)[number]
const Behaviour = z.enum(BEHAVIOURS)

const UnicodeForm = z.enum(['NFC', 'NFD', 'NFKC', 'NFKD'])
const Normaliser = z.discriminatedUnion('type', [
  z.object({ type: UnicodeForm }),
  z.object({ type: z.literal('Lowercase') }),
  z.object({ type: z.literal('StripAccents') }),
  z.object({ type: z.literal('Strip'), strip_left: z.boolean(), strip_right: z.boolean() }),
  z.object({ type: z.literal('Prepend'), prepend: z.string() }),
  z.object({ type: z.literal('Replace'), pattern: Pattern, content: z.string() }),
  z.object({
    type: z.literal('Sequence'),
    get normalizers(): z.ZodArray<typeof Normaliser> {
      return z.array(Normaliser)
    },
  }),
])
type Normaliser = z.infer<typeof Normaliser>

const PreTokenizer = z.discriminatedUnion('type', [
  z.object({
    type: z.literal('Split'),
    pattern: Pattern,
    behavior: Behaviour,
    invert: z.boolean().default(false),
  }),
  z.object({
    type: z.literal('ByteLevel'),
    add_prefix_space: z.boolean().default(true),
    use_regex: z.boolean().default(true),
  }),
  z.object({ type: z.literal('Digits'), individual_digits: z.boolean().default(false) }),
  z.object({
    type: z.literal('Metaspace'),
    replacement: z.string().default('▁'),
    add_prefix_space: z.boolean().nullish(),
    prepend_scheme: z.enum(['always', 'first', 'never']).nullish(),
    split: z.boolean().nullish(),
  }),
  z.object({ type: z.literal('Punctuation'), behavior: Behaviour.default('Isolated') }),
  z.object({ type: z.literal('Whitespace') }),
  z.object({ type: z.literal('WhitespaceSplit') }),
  z.object({
    type: z.literal('Sequence'),
    get pretokenizers(): z.ZodArray<typeof PreTokenizer> {
      return z.array(PreTokenizer)
    },
  }),
])
type PreTokenizer = z.infer<typeof PreTokenizer>

const TemplateItem = z.union([
  z.strictObject({ SpecialToken: z.object({ id: z.string() }) }),
  z.strictObject({ Sequence: z.object({ id: z.literal(['A', 'B']) }) }),
])
const EndToken = z.tuple([z.string(), z.int()])
const PostProcessor = z.discriminatedUnion('type', [
  z.object({ type: z.literal('ByteLevel') }),
  z.object({
    type: z.literal('TemplateProcessing'),
    single: z.array(TemplateItem),
    special_tokens: z.record(z.string(), z.object({ ids: z.array(z.int()) })),
  }),
  z.object({
    type: z.literal(['BertProcessing', 'RobertaProcessing']),
    cls: EndToken,
    sep: EndToken,
  }),
  z.object({
    type: z.literal('Sequence'),
    get processors(): z.ZodArray<typeof PostProcessor> {
      return z.array(PostProcessor)
    },
  }),
])
type PostProcessor = z.infer<typeof PostProcessor>

/** Checked by hand: vocabularies are large. */
const Vocab = z.custom<Record<string, number>>(
  value => isObject(value) && Object.values(value).every(Number.isSafeInteger),
  'an object of ids is expected',
)
const Merges = z.custom<(string | string[])[]>(
  value => Array.isArray(value) && value.every(merge => typeof merge === 'string' || isPair(merge)),
  'a list of pairs is expected',
)

function isPair(merge: unknown): boolean {
  return Array.isArray(merge) && merge.length === 2 && merge.every(one => typeof one === 'string')
}

const Bpe = z.object({
  type: z.literal('BPE'),
  vocab: Vocab,
  merges: Merges,
  dropout: z.literal(0).nullish(),
  continuing_subword_prefix: z.literal('').nullish(),
  end_of_word_suffix: z.string().nullish(),
  unk_token: z.string().nullish(),
  fuse_unk: z.boolean().nullish(),
  byte_fallback: z.boolean().nullish(),
  ignore_merges: z.boolean().nullish(),
})

const AddedToken = z.object({
  id: z.int(),
  content: z.string(),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  normalized: z.boolean().optional(),
  special: z.boolean().default(false),
})

const TokenizerFile = z.object({
  added_tokens: z
    .array(AddedToken)
    .default([])
    .transform(tokens =>
      tokens.map(token => ({ ...token, normalized: token.normalized ?? !token.special })),
    ),
  normalizer: Normaliser.nullable().default(null),
  pre_tokenizer: PreTokenizer.nullable().default(null),
  post_processor: PostProcessor.nullable().default(null),
  model: Bpe,
})
type AddedToken = z.infer<typeof TokenizerFile>['added_tokens'][number]

/* Added tokens: found in the text before anything else, the longest at each place. */

type Section = Piece & { id?: number }

function addedTokenSplitter(tokens: readonly AddedToken[]): (piece: Piece) => Section[] {
  const byContent = new Map(tokens.map(token => [token.content, token]))
  byContent.delete('')
  if (byContent.size === 0) return piece => (piece.text === '' ? [] : [piece])
  const longestFirst = [...byContent.keys()].sort((a, b) => b.length - a.length)
  const any = new RegExp(longestFirst.map(escaped).join('|'), 'gu')
  return ({ text, isFirst }) => {
    const sections: Section[] = []
    let end = 0
    const addText = (to: number) => {
      if (to > end) sections.push({ text: text.slice(end, to), isFirst: isFirst && end === 0 })
    }
    for (const { 0: content, index } of text.matchAll(any)) {
      const token = byContent.get(content)!
      let [from, to] = [index, index + content.length]
      if (token.single_word && (isWord(text, from - 1) || isWord(text, to))) continue
      while (token.lstrip && from > end && SPACE.test(text[from - 1]!)) from--
      while (token.rstrip && to < text.length && SPACE.test(text[to]!)) to++
      addText(from)
      sections.push({ text: content, isFirst: false, id: token.id })
      end = to
    }
    addText(text.length)
    return sections
  }
}

const SPACE = /\p{White_Space}/u
const WORD = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u

/** Whether the letter that `at` is a unit of counts as part of a word. */
function isWord(text: string, at: number): boolean {
  if (at < 0 || at >= text.length) return false
  const isLowHalf = /[\udc00-\udfff]/.test(text[at]!) && at > 0
  return WORD.test(String.fromCodePoint(text.codePointAt(isLowHalf ? at - 1 : at)!))
}

function escaped(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')
}

/* Normalisers. */

function normaliser(said: Normaliser): (text: string) => string {
  switch (said.type) {
    case 'Sequence': {
      const steps = said.normalizers.map(normaliser)
      return text => steps.reduce((done, step) => step(done), text)
    }
    case 'Lowercase':
      // Letter by letter: a whole text would have its final sigmas looked at.
      return text => Array.from(text, letter => letter.toLowerCase()).join('')
    case 'StripAccents':
      return text => text.replace(/\p{Mn}/gu, '')
    case 'Strip':
      return text => {
        let [from, to] = [0, text.length]
        while (said.strip_left && from < to && SPACE.test(text[from]!)) from++
        while (said.strip_right && to > from && SPACE.test(text[to - 1]!)) to--
        return text.slice(from, to)
      }
    case 'Prepend':
      return text => (text === '' ? text : said.prepend + text)
    case 'Replace': {
      const pattern = regexOf(said.pattern)
      return text => text.replace(pattern, () => said.content)
    }
    default:
      return text => text.normalize(said.type)
  }
}

/* Pre-tokenisers. */

/** What ByteLevel splits by where `use_regex` is not false. */
const BYTE_LEVEL_REGEX =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

function preTokenizers(said: PreTokenizer): Splitter[] {
  switch (said.type) {
    case 'Sequence':
      return said.pretokenizers.flatMap(preTokenizers)
    case 'Split':
      return [splitter(regexOf(said.pattern), said.behavior, said.invert)]
    case 'Digits':
      return [splitter(/\p{N}/gu, said.individual_digits ? 'Isolated' : 'Contiguous')]
    case 'Punctuation':
      return [splitter(/[\p{P}!-/:-@[-`{-~]/gu, said.behavior)]
    case 'WhitespaceSplit':
      return [splitter(/\p{White_Space}/gu, 'Removed')]
    case 'Whitespace': {
      const word = '\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}'
      const words = new RegExp(`[${word}]+|[^${word}\\p{White_Space}]+`, 'gu')
      return [splitter(words, 'Removed', true)]
    }
    case 'ByteLevel':
      return byteLevel(said.add_prefix_space, said.use_regex)
    case 'Metaspace': {
      const { replacement, add_prefix_space, prepend_scheme, split } = said
      const scheme = add_prefix_space === false ? 'never' : (prepend_scheme ?? 'always')
      const pieces = splitter(new RegExp(escaped(replacement), 'gu'), 'MergedWithNext')
      const marked: Splitter = ({ text, isFirst }) => {
        const replaced = text.replaceAll(' ', () => replacement)
        const isPrefixed = scheme === 'always' || (scheme === 'first' && isFirst)
        const prefix = isPrefixed && !replaced.startsWith(replacement) ? replacement : ''
        return [{ text: prefix + replaced, isFirst }]
      }
      return split === false ? [marked] : [marked, pieces]
    }
  }
}

/** Normalisers that leave the start of a text at its start. */
const KEEPS_START = new Set<string>([...UnicodeForm.options, 'Lowercase'])

/** Whether a piece is the first is told by its place in the text before it is normalised. */
function checkFirst({ normalizer, pre_tokenizer }: z.infer<typeof TokenizerFile>): void {
  const steps = (said: PreTokenizer | Normaliser): (PreTokenizer | Normaliser)[] =>
    'pretokenizers' in said
      ? (said as Extract<PreTokenizer, { type: 'Sequence' }>).pretokenizers.flatMap(steps)
      : 'normalizers' in said
        ? (said as Extract<Normaliser, { type: 'Sequence' }>).normalizers.flatMap(steps)
        : [said]
  const [before, after] = [normalizer, pre_tokenizer].map(said =>
    said === null ? [] : steps(said),
  )
  const moves = before!.find(({ type }) => !KEEPS_START.has(type))
  const isAsked = after!.some(said => said.type === 'Metaspace' && said.prepend_scheme === 'first')
  if (moves === undefined || !isAsked) return
  throw new Error(`Metaspace with prepend_scheme "first" behind ${moves.type} is not supported`)
}

function byteLevel(addPrefixSpace: boolean, usesRegex: boolean): Splitter[] {
  const prefixed: Splitter = ({ text, isFirst }) => [
    { text: text.startsWith(' ') ? text : ` ${text}`, isFirst },
  ]
  const words = splitter(regexOf({ Regex: BYTE_LEVEL_REGEX }), 'Isolated')
  const bytes: Splitter = ({ text, isFirst }) => [
    { text: Array.from(Buffer.from(text), byte => BYTE_LETTERS[byte]!).join(''), isFirst },
  ]
  return [...(addPrefixSpace ? [prefixed] : []), ...(usesRegex ? [words] : []), bytes]
}

/** GPT-2's letters for bytes: printable Latin-1 stands for itself, the others follow U+0100. */
export const BYTE_LETTERS: readonly string[] = (() => {
  let others = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const isPrintable = /[!-~¡-¬®-ÿ]/.test(String.fromCharCode(byte))
    return String.fromCharCode(isPrintable ? byte : others++)
  })
})()

type Span = { from: number; to: number; isMatch: boolean }

function splitter(pattern: RegExp, behaviour: Behaviour, invert = false): Splitter {
  return ({ text, isFirst }) => {
    const spans = spansOf(text, pattern).map(span => ({
      ...span,
      isMatch: span.isMatch !== invert,
    }))
    return joined(spans, behaviour).map(({ from, to }) => ({
      text: text.slice(from, to),
      isFirst: isFirst && from === 0,
    }))
  }
}

/** Matches and what is between them, in order. */
function spansOf(text: string, pattern: RegExp): Span[] {
  const spans: Span[] = []
  let end = 0
  for (const { 0: match, index } of text.matchAll(pattern)) {
    if (index > end) spans.push({ from: end, to: index, isMatch: false })
    end = index + match.length
    spans.push({ from: index, to: end, isMatch: true })
  }
  if (end < text.length) spans.push({ from: end, to: text.length, isMatch: false })
  return spans
}

/** (tokenizers' NormalizedString::split) */
function joined(spans: readonly Span[], behaviour: Behaviour): Span[] {
  switch (behaviour) {
    case 'Isolated':
      return [...spans]
    case 'Removed':
      return spans.filter(({ isMatch }) => !isMatch)
    case 'Contiguous':
      return merged(spans, (span, previous) => span.isMatch === previous.isMatch)
    case 'MergedWithPrevious':
      return merged(spans, (span, previous) => span.isMatch && !previous.isMatch)
    case 'MergedWithNext':
      return merged(spans.toReversed(), (span, next) => span.isMatch && !next.isMatch).toReversed()
  }
}

function merged(spans: readonly Span[], joins: (span: Span, last: Span) => boolean): Span[] {
  const groups: Span[] = []
  for (const [i, span] of spans.entries()) {
    const group = groups.at(-1)
    if (group === undefined || !joins(span, spans[i - 1]!)) groups.push({ ...span })
    else {
      group.from = Math.min(group.from, span.from)
      group.to = Math.max(group.to, span.to)
    }
  }
  return groups
}

/** The library rewrites Oniguruma's syntax, and \s as Unicode's white space. */
function regexOf(pattern: Pattern): RegExp {
  if ('String' in pattern) return new RegExp(escaped(pattern.String) || '(?!)', 'gu')
  return new SplitPreTokenizer({ pattern, invert: false }).pattern
}

/* The tokens around a sequence. */

function postProcessor(said: PostProcessor | null): (ids: number[]) => number[] {
  if (said === null) return ids => ids
  switch (said.type) {
    case 'ByteLevel':
      return ids => ids
    case 'Sequence': {
      const steps = said.processors.map(postProcessor)
      return ids => steps.reduce((done, step) => step(done), ids)
    }
    case 'TemplateProcessing': {
      const parts = said.single.map(item =>
        'Sequence' in item ? null : specialIds(said.special_tokens, item.SpecialToken.id),
      )
      return ids => parts.flatMap(part => part ?? ids)
    }
    default:
      return ids => [said.cls[1], ...ids, said.sep[1]]
  }
}

function specialIds(tokens: Record<string, { ids: number[] }>, name: string): number[] {
  const token = Object.hasOwn(tokens, name) ? tokens[name] : undefined
  if (token === undefined) throw new Error(`post_processor: special token ${name} is not defined`)
  return token.ids
}
