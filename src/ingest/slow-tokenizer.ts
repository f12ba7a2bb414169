/**
 * tokenizer.json of a checkpoint that has none: GPT-2's and Qwen2's slow tokenizers leave vocab.json and
 * merges.txt, which say all of it. (transformers' convert_slow_tokenizer: GPT2Converter, Qwen2Converter)
 */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Json } from './form/json.ts'

const QWEN2_REGEX =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const byteLevel = (add_prefix_space: boolean, use_regex: boolean): Json => {
  return { type: 'ByteLevel', add_prefix_space, trim_offsets: true, use_regex }
}

/** What is particular to each tokenizer class. */
const CLASSES: Readonly<Record<string, (config: Json) => Json>> = {
  GPT2Tokenizer: ({ add_prefix_space }) => {
    return { normalizer: null, pre_tokenizer: byteLevel(add_prefix_space === true, true) }
  },
  Qwen2Tokenizer: () => {
    const pattern = { Regex: QWEN2_REGEX }
    const split = { type: 'Split', pattern, behavior: 'Isolated', invert: false }
    const pretokenizers = [split, byteLevel(false, false)]
    return { normalizer: { type: 'NFC' }, pre_tokenizer: { type: 'Sequence', pretokenizers } }
  },
}

/**
 * `config` is tokenizer_config.json. Throws an Error where the folder does not hold such a tokenizer.
 */
export function convertSlowTokenizer(folder: string, config: Json): Json {
  const [vocabFile, mergesFile] = [join(folder, 'vocab.json'), join(folder, 'merges.txt')]
  const type = String(config.tokenizer_class).replace(/^CodeGenTokenizer$/, 'GPT2Tokenizer')
  const convert = Object.hasOwn(CLASSES, type) ? CLASSES[type] : undefined
  if (convert === undefined || !existsSync(vocabFile) || !existsSync(mergesFile)) {
    throw new Error(
      `there is no tokenizer.json, and no vocab.json and merges.txt of ${Object.keys(CLASSES).join(' or ')}`,
    )
  }
  const vocab = JSON.parse(readFileSync(vocabFile, 'utf8')) as Record<string, number>
  const lines = readFileSync(mergesFile, 'utf8').split('\n')
  const merges = lines.filter((line, i) => line !== '' && !(i === 0 && line.startsWith('#version')))
  const added_tokens = addedTokens(folder, config)
  const bos =
    config.add_bos_token === true ? added_tokens.find(isNamed(config.bos_token)) : undefined
  return {
    added_tokens,
    ...convert(config),
    post_processor: bos === undefined ? { type: 'ByteLevel' } : bosFirst(bos),
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab, merges },
  }
}

type AddedToken = { id: number; content: string }

/** tokenizer_config.json's `added_tokens_decoder`; before transformers 4.34, added_tokens.json. */
function addedTokens(folder: string, config: Json): AddedToken[] {
  const decoder = config.added_tokens_decoder as Record<string, { content: string }> | undefined
  if (decoder !== undefined) {
    return Object.entries(decoder).map(([id, token]) => ({ ...token, id: Number(id) }))
  }
  const file = join(folder, 'added_tokens.json')
  const ids = existsSync(file)
    ? (JSON.parse(readFileSync(file, 'utf8')) as Record<string, number>)
    : {}
  const special = [config.bos_token, config.eos_token, config.pad_token, config.unk_token]
  return Object.entries(ids).map(([content, id]) => {
    return { id, content, special: special.some(token => isNamed(token)({ content })) }
  })
}

/** A special token of a config is its text, or an object that holds it. */
function isNamed(token: unknown): (added: { content: string }) => boolean {
  const text = (token as { content?: unknown } | null)?.content ?? token
  return ({ content }) => content === text
}

function bosFirst({ id, content }: AddedToken): Json {
  return {
    type: 'TemplateProcessing',
    single: [{ SpecialToken: { id: content, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    special_tokens: { [content]: { id: content, ids: [id], tokens: [content] } },
  }
}
