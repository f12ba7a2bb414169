/**
 * The whole ingest stage: from the bytes of a record of `examples` to its key and, where it has an
 * image, the sequence that the proxy runs on.
 */
import { resolve } from 'node:path'
import sharp from 'sharp'
import { encodeDirection } from '../direction.ts'
import { XmasdError } from '../errors.ts'
import { keyOf } from '../record.ts'
import { parseAddressRanges } from './address.ts'
import { answerPositions } from './answers.ts'
import { contentHash, imageHash } from './content.ts'
import { type DialogTurn, decodeExample } from './decode.ts'
import { fetchImage, type ImageSource } from './fetch-image.ts'
import { decodeImage, type ImageLimits, type Rgb } from './image.ts'
import { colourLayout } from './layout.ts'
import { type ImageProcessor, patches, preprocess, readImageProcessor } from './preprocess.ts'
import { buildPrompt, type Dialog, type Template } from './template.ts'
import { type EncodedPrompt, encodePrompt, readTokenizer, type Tokenizer } from './tokenizer.ts'
import { wordsHash } from './words.ts'

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
  /** Are the answers' positions wanted, and the text rows not. Default: no. */
  answers?: boolean
  /** Side of the vision tower's image, in pixels. */
  imageSize: number
  patchSize: number
  aspect: 'square' | 'pad'
}

/** What the proxy runs on. T positions, I image positions, R text rows, N patches of P × P pixels. */
export type Sequence = {
  /** [T] token ids; the image's positions hold `imageTokenId`. */
  ids: Int32Array
  /** [I] image positions, as many for each image in turn; the last may be cut off. */
  columns: Int32Array
  /** [R] text rows, from the last image position + 2 to the end. */
  rows: Int32Array
  /** Positions of the answers' tokens, ascending; empty where nobody asked. */
  answers: Int32Array
  /** In the order of their positions; at least one. */
  images: SequenceImage[]
}

/** `hash` names the decoded image; `patches` is [N, 3·P·P]. */
export type SequenceImage = { hash: string; patches: Float32Array }

/** `sequence` is null for a text-only example. `truncated`: was the text cut at `lengthMax`. */
export type Prepared = {
  id: string
  key: string
  content: string
  /** What a near-duplicate shares: see `wordsHash`; of each image `colourLayout` as a direction. */
  words: string
  layout: string | null
  truncated: boolean
  sequence: Sequence | null
}

/** An example's identity, and what was decoded to find it. */
export type Identified = {
  id: string
  key: string
  content: string
  turns: DialogTurn[]
  images: { hash: string; rgb: Rgb }[]
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
      const { id, key, content, turns, images } = await identify(value, source)
      const words = wordsHash(turns)
      if (images.length === 0) {
        return { id, key, content, words, layout: null, truncated: false, sequence: null }
      }
      const prompt = encodeDialog(tokenizer, { turns, images }, options)
      const sequence: Sequence = {
        ids: prompt.ids,
        columns: prompt.columns,
        rows: prompt.rows,
        answers: prompt.answers,
        images: images.map(({ hash, rgb }) => {
          return { hash, patches: imagePatches(rgb, processor, options) }
        }),
      }
      const truncated = prompt.lengthUntruncated > prompt.ids.length
      const layout = images.map(({ rgb }) => encodeDirection(colourLayout(rgb))).join('')
      return { id, key, content, words, layout, truncated, sequence }
    },
  }
}

/** Id, key and content hash of an example: all that needs no proxy. Throws as `prepare`. */
export async function identify(value: Uint8Array, source: ImageSource): Promise<Identified> {
  const { id, turns, images: references } = decodeExample(value)
  checkCount(references.length, source.limits)
  const images: Identified['images'] = []
  for (const reference of references) images.push(await readImage(reference, source))
  const content = contentHash(
    turns,
    images.map(({ hash }) => hash),
  )
  return { id, key: keyOf(id, content), content, turns, images }
}

function checkCount(images: number, { countMax }: ImageLimits): void {
  if (images <= countMax) return
  throw new XmasdError(
    'IMAGES_TOO_MANY',
    `the example has ${images} images, more than ${countMax}`,
    'split it, or raise images.countMax',
  )
}

async function readImage(
  reference: string,
  source: ImageSource,
): Promise<{ hash: string; rgb: Rgb }> {
  const rgb = await decodeImage(await fetchImage(reference, source), source.limits)
  return { hash: imageHash(rgb), rgb }
}

function encodeDialog(
  tokenizer: Tokenizer,
  dialog: Dialog,
  options: PreparerOptions,
): EncodedPrompt & { answers: Int32Array } {
  const text = buildPrompt(options.template, dialog)
  const prompt = encodePrompt(tokenizer, text, dialog.images.length, options)
  const isAsked = options.answers === true
  const answers = isAsked
    ? answerPositions(tokenizer, options.template, dialog, { ...options, start: 'spaced' })
    : new Int32Array(0)
  const [what, wanted] = isAsked ? ['answer', answers] : ['text', prompt.rows]
  if (wanted.length > 0) return { ...prompt, answers }
  throw new XmasdError(
    'NO_TEXT_ROWS',
    `no ${what} is left behind the image within ${options.lengthMax} of ${prompt.lengthUntruncated} positions`,
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
