/**
 * The whole ingest stage: from the bytes of a record of `examples` to its key and, where it has an
 * image, the sequence that the proxy runs on.
 */
import { resolve } from 'node:path'
import sharp from 'sharp'
import { XmasdError } from '../errors.ts'
import { keyOf } from '../record.ts'
import { parseAddressRanges } from './address.ts'
import { contentHash, imageHash } from './content.ts'
import { type DialogTurn, decodeExample } from './decode.ts'
import { fetchImage, type ImageSource } from './fetch-image.ts'
import { decodeImage, type ImageLimits, type Rgb } from './image.ts'
import { type ImageProcessor, patches, preprocess, readImageProcessor } from './preprocess.ts'
import { buildPrompt, type Template } from './template.ts'
import { type EncodedPrompt, encodePrompt, readTokenizer, type Tokenizer } from './tokenizer.ts'

/** Everything a preparer needs. Plain data, so that it can be sent to a worker thread. */
export type PreparerOptions = {
  /** Folder that image paths are relative to. */
  imageRoot: string
  limits: ImageLimits
  /** See ImageSource. */
  hosts: readonly string[]
  /** See ImageSource. */
  addressesAllowed: readonly string[]
  /** The checkpoint whose tokenizer and image processor all of the schedule shares. */
  checkpointDir: string
  template: Template
  imageTokens: number
  imageTokenId: number
  /** Longest sequence, in positions after the image is expanded. */
  lengthMax: number
  /** Side of the vision tower's image, in pixels. */
  imageSize: number
  patchSize: number
  aspect: 'square' | 'pad'
}

/** What the proxy runs on. T positions, I image tokens, R text rows, N patches of P × P pixels. */
export type Sequence = {
  /** [T] token ids; the image's positions hold `imageTokenId`. */
  ids: Int32Array
  /** [I] image positions. */
  columns: Int32Array
  /** [R] text rows, from the last image position + 2 to the end. */
  rows: Int32Array
  /** `hash` names the decoded image; `patches` is [N, 3·P·P]. */
  image: { hash: string; patches: Float32Array }
}

/** `sequence` is null for a text-only example. `truncated`: was the text cut at `lengthMax`. */
export type Prepared = {
  id: string
  key: string
  content: string
  truncated: boolean
  sequence: Sequence | null
}

/** An example's identity, and what was decoded to find it. */
export type Identified = {
  id: string
  key: string
  content: string
  turns: DialogTurn[]
  image: { hash: string; rgb: Rgb } | null
}

export type Preparer = {
  /** Throws an XmasdError that says why the example cannot be used. */
  prepare(value: Uint8Array): Promise<Prepared>
}

/**
 * Reads tokenizer and image processor, once. Throws TOKENIZER_INVALID, PROXY_INVALID,
 * PROXY_UNSUPPORTED or CONFIG_INVALID.
 */
export function createPreparer(options: PreparerOptions): Preparer {
  // Threads are spent on examples, not within one image, and no image comes twice soon.
  sharp.concurrency(1)
  sharp.cache(false)
  parseAddressRanges(options.addressesAllowed)
  const { checkpointDir, aspect } = options
  const tokenizer = readTokenizer(checkpointDir)
  const processor = readImageProcessor(checkpointDir, { aspect })
  checkSide(processor, options)
  const source = imageSourceOf(options)
  return {
    prepare: async value => {
      const { id, key, content, turns, image } = await identify(value, source)
      if (image === null) return { id, key, content, truncated: false, sequence: null }
      const prompt = encodeTurns(tokenizer, turns, options)
      const sequence: Sequence = {
        ids: prompt.ids,
        columns: prompt.columns,
        rows: prompt.rows,
        image: { hash: image.hash, patches: imagePatches(image.rgb, processor, options) },
      }
      const truncated = prompt.lengthUntruncated > prompt.ids.length
      return { id, key, content, truncated, sequence }
    },
  }
}

/** Id, key and content hash of an example: all that needs no proxy. Throws as `prepare`. */
export async function identify(value: Uint8Array, source: ImageSource): Promise<Identified> {
  const { id, turns, image: reference } = decodeExample(value)
  const image = reference === null ? null : await readImage(reference, source)
  const content = contentHash(turns, image?.hash ?? null)
  return { id, key: keyOf(id, content), content, turns, image }
}

async function readImage(
  reference: string,
  source: ImageSource,
): Promise<{ hash: string; rgb: Rgb }> {
  const rgb = await decodeImage(await fetchImage(reference, source), source.limits)
  return { hash: imageHash(rgb), rgb }
}

function encodeTurns(
  tokenizer: Tokenizer,
  turns: DialogTurn[],
  options: PreparerOptions,
): EncodedPrompt {
  const prompt = encodePrompt(tokenizer, buildPrompt(options.template, turns), options)
  if (prompt.rows.length > 0) return prompt
  throw new XmasdError(
    'NO_TEXT_ROWS',
    `no text is left behind the image within ${options.lengthMax} of ${prompt.lengthUntruncated} positions`,
    'shorten what stands before the image, or use a proxy with a longer sequence',
  )
}

function imagePatches(rgb: Rgb, processor: ImageProcessor, options: PreparerOptions): Float32Array {
  const { imageSize, patchSize, limits } = options
  return patches(preprocess(rgb, processor, limits), imageSize, patchSize)
}

function imageSourceOf(options: PreparerOptions): ImageSource {
  const { imageRoot, limits, hosts, addressesAllowed } = options
  return { root: resolve(imageRoot), limits, hosts, addressesAllowed }
}

/** The image processor must make what the vision tower takes: a square of `imageSize`. */
function checkSide({ size, crop }: ImageProcessor, { imageSize }: PreparerOptions): void {
  const made = crop ?? (size !== null && 'width' in size ? size : null)
  if (made !== null && made.width === imageSize && made.height === imageSize) return
  throw new XmasdError(
    'PROXY_INVALID',
    `the image processor makes ${made === null ? 'images of any size' : `${made.width}×${made.height}`}, ` +
      `the vision tower takes ${imageSize}×${imageSize}`,
    'copy preprocessor_config.json of the base model into the checkpoint',
  )
}
