/** A checkpoint's tokenizer, and a prompt as token ids with the positions that the score reads. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf, XmasdError } from '../errors.ts'
import { createEncoder } from './encoder.ts'
import { IMAGE_MARK } from './form/example.ts'
import type { Json } from './form/json.ts'
import { convertSlowTokenizer } from './slow-tokenizer.ts'

/** Encodes text as token ids, special tokens of the post-processor included. */
export type Tokenizer = {
  encode(text: string): number[]
  bosId: number | null
  /** Tokens that the text is split at before anything else. */
  addedTokens?: readonly string[]
}

export type EncodeOptions = { imageTokens: number; imageTokenId: number; lengthMax: number }

/**
 * An expanded prompt. `ids` has every position (`imageTokenId` at those of images), `columns` the image
 * positions, `rows` the text rows: from the last image position + 2 to the end. `lengthUntruncated`
 * is the length before the cut at `lengthMax`, or a lower bound above `lengthMax`.
 */
export type EncodedPrompt = {
  ids: Int32Array
  columns: Int32Array
  rows: Int32Array
  lengthUntruncated: number
}

/** Distance of the first row from the last image position. */
const ROWS_AFTER_IMAGE = 2

/**
 * Reads tokenizer.json, or the files of a slow tokenizer, and for the BOS token tokenizer_config.json
 * and special_tokens_map.json, of a checkpoint. Throws TOKENIZER_INVALID naming the file.
 */
export function readTokenizer(checkpointDir: string): Tokenizer {
  const file = join(checkpointDir, 'tokenizer.json')
  const config = readObject(join(checkpointDir, 'tokenizer_config.json'))
  const bos = bosOf(config, join(checkpointDir, 'special_tokens_map.json'))
  const json = readTokenizerJson(checkpointDir)
  try {
    const bosId = bos === null ? null : idOf(json, bos)
    return {
      encode: createEncoder(json),
      bosId,
      addedTokens: addedOf(json).map(({ content }) => content),
    }
  } catch (error) {
    throw invalid(file, messageOf(error), error)
  }
}

function idOf(json: Json, token: string): number | null {
  const { vocab } = json.model as { vocab: Record<string, number> }
  return addedOf(json).find(({ content }) => content === token)?.id ?? vocab[token] ?? null
}

/** The text of an added token; undefined where no added token has this id, or there is no tokenizer. */
export function addedToken(checkpointDir: string, id: number): string | undefined {
  if (!existsSync(join(checkpointDir, 'tokenizer.json'))) return undefined
  return addedOf(readTokenizerJson(checkpointDir)).find(token => token.id === id)?.content
}

function addedOf({ added_tokens: tokens }: Json): { id: number; content: string }[] {
  return Array.isArray(tokens) ? tokens.filter(token => typeof token?.content === 'string') : []
}

/** Without padding and truncation, which trainers vary and encoding a single text never uses. */
export function readTokenizerJson(checkpointDir: string): Json {
  const file = join(checkpointDir, 'tokenizer.json')
  if (existsSync(file)) {
    const { padding, truncation, ...json } = readObject(file)
    return json
  }
  const config = readObject(join(checkpointDir, 'tokenizer_config.json'))
  try {
    return convertSlowTokenizer(checkpointDir, config)
  } catch (error) {
    const save =
      'import sys, transformers as t; t.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])'
    throw new XmasdError(
      'TOKENIZER_INVALID',
      `${checkpointDir}: ${messageOf(error)}`,
      `write tokenizer.json: python -c "${save}" ${checkpointDir}`,
      { cause: error },
    )
  }
}

/** As AutoTokenizer: special_tokens_map.json wins where the config has no `added_tokens_decoder`. */
function bosOf(config: Json, mapFile: string): string | null {
  const isAsked = !('added_tokens_decoder' in config) && existsSync(mapFile)
  const { bos_token: bos } = isAsked ? { ...config, ...readObject(mapFile) } : config
  const text =
    typeof bos === 'object' && bos !== null ? (bos as { content?: unknown }).content : bos
  return typeof text === 'string' && text !== '' ? text : null
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
 * Encodes a prompt that holds `<image>` once for each of `images`. Each text between the marks is
 * tokenised on its own, and keeps a leading BOS only at the front of the prompt; each image takes
 * `imageTokens` positions; `lengthMax` cuts the expanded sequence. (np_reference.encode_prompt, expand)
 */
export function encodePrompt(
  tokenizer: Tokenizer,
  prompt: string,
  images: number,
  { imageTokens, imageTokenId, lengthMax }: EncodeOptions,
): EncodedPrompt {
  const chunks = prompt.split(IMAGE_MARK)
  checkSlots(chunks.length - 1, images)
  const ids: number[] = []
  const columns: number[] = []
  for (const [i, chunk] of chunks.entries()) {
    if (i > 0) {
      for (let n = 0; n < imageTokens; n++) columns.push(ids.push(imageTokenId) - 1)
    }
    const encoded = encodeStart(tokenizer, chunk, lengthMax - ids.length)
    for (const id of i === 0 ? encoded : withoutBos(encoded, tokenizer.bosId)) ids.push(id)
  }
  return placed(ids, columns, lengthMax)
}

function placed(
  ids: readonly number[],
  columns: readonly number[],
  lengthMax: number,
): EncodedPrompt {
  const length = Math.min(ids.length, lengthMax)
  return {
    ids: Int32Array.from(ids.slice(0, length)),
    columns: Int32Array.from(columns.filter(column => column < length)),
    rows: range((columns.at(-1) ?? length) + ROWS_AFTER_IMAGE, length),
    lengthUntruncated: ids.length,
  }
}

/** A prompt as text, every image token written out. */
export type ExpandedText = EncodedPrompt & { text: string }

/**
 * Encodes a prompt that holds `mark` once for each image: written out as `expansions` say, and tokenised in
 * one piece. A BOS that the prompt begins with is not doubled. (transformers' processors)
 */
export function encodeWhole(
  tokenizer: Tokenizer,
  prompt: string,
  images: { mark: string; imageToken: string; expansions: readonly string[] },
  { imageTokenId, lengthMax }: Pick<EncodeOptions, 'imageTokenId' | 'lengthMax'>,
): ExpandedText {
  const { mark, imageToken, expansions } = images
  const chunks = prompt.split(mark)
  checkSlots(chunks.length - 1, expansions.length)
  const text = chunks.map((chunk, i) => (i === 0 ? chunk : expansions[i - 1]! + chunk)).join('')
  const wanted = text.split(imageToken).length - 1
  const ids = encodeOnce(tokenizer, text, lengthMax)
  const columns = [...ids.keys()].filter(at => ids[at] === imageTokenId)
  const { rows, ...found } = placed(ids, columns, lengthMax)
  const isCut = columns.length < wanted
  return { text, ...found, rows: isCut ? new Int32Array(0) : rows }
}

/** As `encodeStart`; a text that begins with the BOS token has it once. */
export function encodeOnce(tokenizer: Tokenizer, text: string, tokens: number): number[] {
  const ids = encodeStart(tokenizer, text, tokens)
  const isDoubled = tokenizer.bosId !== null && ids[0] === tokenizer.bosId && ids[1] === ids[0]
  return isDoubled ? ids.slice(1) : ids
}

function checkSlots(found: number, images: number): void {
  if (found === images) return
  throw new XmasdError(
    'PLACEHOLDER_MISPLACED',
    `the prompt has ${found} image slots and not ${images}`,
    `a template must put ${IMAGE_MARK} once for each image`,
  )
}

/** Characters that are encoded first for each token wanted; doubled while they don't suffice. */
const CHARACTERS_A_TOKEN = 8
/** The last tokens before a cut may differ from those of the whole text. */
const CUT_TOKENS = 64

/**
 * At least the first `tokens` ids of a text as the whole text has them; all of them unless the text is
 * much longer. The proxy reads nothing beyond `lengthMax`, so that need not be encoded.
 */
export function encodeStart(tokenizer: Tokenizer, text: string, tokens: number): number[] {
  const wanted = Math.max(tokens, 1) + CUT_TOKENS
  for (let characters = wanted * CHARACTERS_A_TOKEN; ; characters *= 2) {
    if (characters >= text.length) return tokenizer.encode(text)
    const space = text.lastIndexOf(' ', characters)
    const ids = tokenizer.encode(text.slice(0, space > characters / 2 ? space : characters))
    if (ids.length >= wanted) return ids
  }
}

export function withoutBos(ids: number[], bosId: number | null): number[] {
  return bosId !== null && ids[0] === bosId ? ids.slice(1) : ids
}

/** from, from + 1, … below `to`; empty where `to` is not above `from`. */
function range(from: number, to: number): Int32Array {
  return Int32Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i)
}
