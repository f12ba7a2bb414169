/** tokenizer.json to token ids, and a prompt to the positions that the score needs. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers'
import { messageOf, XmasdError } from '../errors.ts'
import { IMAGE_MARK } from './decode.ts'

/** Turns text into token ids, special tokens of the post-processor included. */
export type Tokenizer = { encode(text: string): number[]; bosId: number | null }

export type EncodeOptions = { imageTokens: number; imageTokenId: number; lengthMax: number }

/**
 * A prompt with one image, expanded. `ids` has every position (the image's hold `imageTokenId`),
 * `columns` the image positions, `rows` the text rows: from the last image position + 2 to the end.
 * `lengthUntruncated` is the length before `lengthMax` cut it.
 */
export type EncodedPrompt = {
  ids: Int32Array
  columns: Int32Array
  rows: Int32Array
  lengthUntruncated: number
}

/** Rows begin this far behind the last image position. */
const ROWS_AFTER_IMAGE = 2

/**
 * Reads tokenizer.json, and tokenizer_config.json for the BOS token, of a checkpoint. Throws
 * TOKENIZER_INVALID naming the file.
 */
export function readTokenizer(checkpointDir: string): Tokenizer {
  const file = join(checkpointDir, 'tokenizer.json')
  const config = readObject(join(checkpointDir, 'tokenizer_config.json'))
  const bos = bosOf(config)
  try {
    const tokenizer = new HfTokenizer(readObject(file), config)
    // The library is lazy about some faults: one encoding shows them here and not at an example.
    tokenizer.encode('a b')
    const bosId = bos === null ? null : (tokenizer.token_to_id(bos) ?? null)
    return { encode: text => tokenizer.encode(text).ids, bosId }
  } catch (error) {
    if (error instanceof XmasdError) throw error
    throw invalid(file, messageOf(error), error)
  }
}

function bosOf(config: Record<string, unknown>): string | null {
  const bos = config.bos_token
  const text =
    typeof bos === 'object' && bos !== null ? (bos as { content?: unknown }).content : bos
  return typeof text === 'string' && text !== '' ? text : null
}

function readObject(file: string): Record<string, unknown> {
  try {
    const json: unknown = JSON.parse(readFileSync(file, 'utf8'))
    if (typeof json === 'object' && json !== null) return json as Record<string, unknown>
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
 * Encodes a prompt that holds `<image>` once. The texts before and after it are tokenised alone; a
 * leading BOS stays only at the very front; `imageTokens` positions stand for the image; `lengthMax`
 * cuts the expanded sequence. (np_reference.encode_prompt, expand)
 */
export function encodePrompt(
  tokenizer: Tokenizer,
  prompt: string,
  { imageTokens, imageTokenId, lengthMax }: EncodeOptions,
): EncodedPrompt {
  const [before, after, ...more] = prompt.split(IMAGE_MARK)
  if (before === undefined || after === undefined || more.length > 0) {
    throw new XmasdError(
      'PLACEHOLDER_MISPLACED',
      `the prompt has ${more.length + (after === undefined ? 0 : 1)} image slots and not one`,
      `an example with an image has ${IMAGE_MARK} in exactly one question`,
    )
  }
  const head = tokenizer.encode(before)
  const tail = withoutBos(tokenizer.encode(after), tokenizer.bosId)
  const lengthUntruncated = head.length + imageTokens + tail.length
  const length = Math.min(lengthUntruncated, lengthMax)
  const ids = new Int32Array(length).fill(imageTokenId)
  ids.set(head.slice(0, length))
  const tailStart = head.length + imageTokens
  if (tailStart < length) ids.set(tail.slice(0, length - tailStart), tailStart)
  const imageEnd = Math.min(tailStart, length)
  return {
    ids,
    columns: range(head.length, imageEnd),
    rows: range(imageEnd - 1 + ROWS_AFTER_IMAGE, length),
    lengthUntruncated,
  }
}

function withoutBos(ids: number[], bosId: number | null): number[] {
  return bosId !== null && ids[0] === bosId ? ids.slice(1) : ids
}

/** from, from + 1, … below `to`; empty where `to` is not above `from`. */
function range(from: number, to: number): Int32Array {
  return Int32Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i)
}
