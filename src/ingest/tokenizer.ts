/** tokenizer.json to token ids, and a prompt to the positions that the score needs. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers'
import { messageOf, XmasdError } from '../errors.ts'
import { IMAGE_MARK } from './decode.ts'

/** Turns text into token ids, special tokens of the post-processor included. */
export type Tokenizer = { encode(text: string): number[]; bosId: number | null }

export type EncodeOptions = { imageTokens: number; imageTokenId: number; lengthMax: number }

/**
 * A prompt, expanded. `ids` has every position (the images' hold `imageTokenId`), `columns` the image
 * positions, `rows` the text rows: from the last image position + 2 to the end. `lengthUntruncated`
 * is the length before `lengthMax` cut it.
 */
export type EncodedPrompt = {
  ids: Int32Array
  columns: Int32Array
  rows: Int32Array
  lengthUntruncated: number
}

/** Rows begin this far behind the last image position. */
const ROWS_AFTER_IMAGE = 2

/** A file's JSON object. */
type Json = Record<string, unknown>

/**
 * Reads tokenizer.json, and for the BOS token tokenizer_config.json and special_tokens_map.json, of
 * a checkpoint. Throws TOKENIZER_INVALID naming the file.
 */
export function readTokenizer(checkpointDir: string): Tokenizer {
  const file = join(checkpointDir, 'tokenizer.json')
  const config = readObject(join(checkpointDir, 'tokenizer_config.json'))
  const bos = bosOf(config, join(checkpointDir, 'special_tokens_map.json'))
  try {
    const json = readTokenizerJson(checkpointDir)
    checkAddedTokens(json, file)
    const split = { ...json, pre_tokenizer: withOwnSplit(json.pre_tokenizer) }
    const tokenizer = new HfTokenizer(split, config)
    // The library is lazy about some faults: one encoding shows them here and not at an example.
    tokenizer.encode('a b')
    const bosId = bos === null ? null : (tokenizer.token_to_id(bos) ?? null)
    return { encode: text => tokenizer.encode(text).ids, bosId }
  } catch (error) {
    if (error instanceof XmasdError) throw error
    throw invalid(file, messageOf(error), error)
  }
}

/** tokenizer.json without what a tokenizer does to a batch, which trainers vary and nothing here asks for. */
export function readTokenizerJson(checkpointDir: string): Json {
  const { padding, truncation, ...json } = readObject(join(checkpointDir, 'tokenizer.json'))
  return json
}

/** As AutoTokenizer: what special_tokens_map.json says wins where no `added_tokens_decoder` stands. */
function bosOf(config: Json, mapFile: string): string | null {
  const isAsked = !('added_tokens_decoder' in config) && existsSync(mapFile)
  const { bos_token: bos } = isAsked ? { ...config, ...readObject(mapFile) } : config
  const text =
    typeof bos === 'object' && bos !== null ? (bos as { content?: unknown }).content : bos
  return typeof text === 'string' && text !== '' ? text : null
}

/** The library does not look for word boundaries: it would find such a token within words too. */
function checkAddedTokens({ added_tokens: tokens }: Json, file: string): void {
  if (!Array.isArray(tokens)) return
  const alone = tokens.find(token => token?.single_word === true)
  if (alone === undefined) return
  throw new XmasdError(
    'TOKENIZER_INVALID',
    `${file}: the added token ${JSON.stringify(alone.content)} has single_word, which is not supported`,
    'use a proxy whose tokenizer has no such token',
  )
}

/** What ByteLevel splits by where `use_regex` is not false. */
const BYTE_LEVEL_REGEX =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/**
 * The library's ByteLevel takes U+FEFF for white space and U+0085 for none, its Digits only 0 to 9 for digits; its
 * Split does not.
 */
function withOwnSplit(json: unknown): unknown {
  if (typeof json !== 'object' || json === null) return json
  const { type, pretokenizers, use_regex, add_prefix_space, individual_digits } = json as Json
  if (Array.isArray(pretokenizers)) {
    return { ...json, pretokenizers: pretokenizers.map(withOwnSplit) }
  }
  if (type === 'Digits') return splitBy(individual_digits === true ? '\\p{N}' : '\\p{N}+')
  if (type !== 'ByteLevel' || use_regex === false || add_prefix_space !== false) return json
  const pretoken = splitBy(BYTE_LEVEL_REGEX)
  return { type: 'Sequence', pretokenizers: [pretoken, { ...json, use_regex: false }] }
}

function splitBy(regex: string): Json {
  return { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false }
}

function readObject(file: string): Json {
  try {
    const json: unknown = JSON.parse(readFileSync(file, 'utf8'))
    if (typeof json === 'object' && json !== null) return json as Json
    throw new Error('it is no JSON object')
  } catch (error) {
    throw invalid(file, messageOf(error), error)
  }
}

function invalid(file: string, why: string, cause: unknown): XmasdError {
  return new XmasdError(
    'TOKENIZER_INVALID',
    `${file} is no tokenizer: ${why}`,
    'save the fast tokenizer with the checkpoint: tokenizer.json and tokenizer_config.json',
    { cause },
  )
}

/**
 * Encodes a prompt that holds `<image>` once for each of `images`. The texts around the marks are
 * tokenised alone; a leading BOS stays only at the very front; `imageTokens` positions stand for an
 * image; `lengthMax` cuts the expanded sequence. (np_reference.encode_prompt, expand)
 */
export function encodePrompt(
  tokenizer: Tokenizer,
  prompt: string,
  images: number,
  { imageTokens, imageTokenId, lengthMax }: EncodeOptions,
): EncodedPrompt {
  const chunks = prompt.split(IMAGE_MARK)
  if (chunks.length !== images + 1) {
    throw new XmasdError(
      'PLACEHOLDER_MISPLACED',
      `the prompt has ${chunks.length - 1} image slots and not ${images}`,
      `a template must put ${IMAGE_MARK} once for each image`,
    )
  }
  const ids: number[] = []
  const columns: number[] = []
  for (const [i, chunk] of chunks.entries()) {
    if (i > 0) {
      for (let n = 0; n < imageTokens; n++) columns.push(ids.push(imageTokenId) - 1)
    }
    const encoded = tokenizer.encode(chunk)
    for (const id of i === 0 ? encoded : withoutBos(encoded, tokenizer.bosId)) ids.push(id)
  }
  const length = Math.min(ids.length, lengthMax)
  const kept = columns.filter(column => column < length)
  return {
    ids: Int32Array.from(ids.slice(0, length)),
    columns: Int32Array.from(kept),
    rows: range((columns.at(-1) ?? length) + ROWS_AFTER_IMAGE, length),
    lengthUntruncated: ids.length,
  }
}

function withoutBos(ids: number[], bosId: number | null): number[] {
  return bosId !== null && ids[0] === bosId ? ids.slice(1) : ids
}

/** from, from + 1, … below `to`; empty where `to` is not above `from`. */
function range(from: number, to: number): Int32Array {
  return Int32Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i)
}
