/**
 * The whole ingest stage: from the bytes of a record of `examples` to its key and, where it has an
 * image, the sequence that the proxy runs on.
 */

import { createHash } from 'node:crypto'
import { resolve } from 'node:path'
import { XmasdError } from '../errors.ts'
import { encodeDirection } from '../math/vectors.ts'
import { keyOf } from '../record.ts'
import { answerPositions, positionsInText, questionPositions } from './answers.ts'
import { type ChatTemplate, questionPlaces, renderPrompt } from './chat-template.ts'
import { parseAddressRanges } from './fetch/address.ts'
import { fetchImage, type ImageSource } from './fetch/image.ts'
import { checkedId, type DecodeOptions, decodeExample } from './form/decode.ts'
import { type Example, hashedRole, IMAGE_MARK, type Turn } from './form/example.ts'
import { type RegistryOptions, unframed } from './form/framing.ts'
import { decodeImage } from './image/decode.ts'
import { colourLayout } from './image/layout.ts'
import type { Picture, Pictures, SequenceImage } from './image/picture.ts'
import { type ImageLimits, type PixelRoom, type Rgb, UNLIMITED_ROOM } from './image/pixels.ts'
import { tokenizerFolder } from './same-preparation.ts'
import {
  answerSpans,
  buildPrompt,
  type Dialog,
  type Place,
  questionSpans,
  type Template,
} from './template.ts'
import {
  type EncodedPrompt,
  type EncodeOptions,
  encodePrompt,
  encodeWhole,
  readTokenizer,
  type Tokenizer,
} from './tokenizer.ts'
import { wordsHash } from './words.ts'

/** Everything a preparer needs. Plain data, so that it can be sent to a worker thread. */
export type PreparerOptions = Omit<ExampleSource, 'root' | 'onOtherName'> & {
  /** Folder that image paths are relative to. */
  imageRoot: string
  /** The checkpoint whose tokenizer and image processor all of the schedule shares. */
  checkpointDir: string
  /** See PreparationSource. */
  baseDir?: string | undefined
  template: Template | ChatTemplate
  imageTokens: number
  imageTokenId: number
  /** Longest sequence, in positions after the image is expanded. */
  lengthMax: number
  /** Are the answers' positions wanted, and the text rows not. Default: no. */
  answers?: boolean
  /** Are the positions of the user turns' text wanted, too. Default: no. */
  questions?: boolean
  /** Are the answers' positions and the conversation without its pictures wanted, too. Default: no. */
  gain?: boolean
}

/** What the proxy runs on. T positions, I image positions, R text rows, N patches of P × P pixels. */
export type Sequence = {
  /** [T] token ids; the image's positions hold `imageTokenId`. */
  ids: Int32Array
  /** [I] image positions, those of each image in turn; the last may be cut off. */
  columns: Int32Array
  /** [R] text rows, from the last image position + 2 to the end. */
  rows: Int32Array
  /** Positions of the answers' tokens, ascending; empty where nobody asked. */
  answers: Int32Array
  /** Positions of the text tokens of the user turns, ascending; absent or empty where nobody asked. */
  questions?: Int32Array | undefined
  /** In the order of their positions; at least one. */
  images: SequenceImage[]
  /** The conversation without its pictures; absent where nobody asked. */
  bare?: BareSequence | undefined
}

/**
 * The prompt without the text and the tokens of its pictures, up to the last of the answers' tokens that
 * the prompt with them has within its longest length.
 */
export type BareSequence = Pick<Sequence, 'ids' | 'answers'>

/** `sequence` is null for a text-only example. `truncated`: was the text cut at `lengthMax`. */
export type Prepared = {
  id: string
  key: string
  content: string
  /** What a near-duplicate shares: see `wordsHash`; of each image `colourLayout` as a direction. */
  words: string
  layout: string | null
  /** Of all its images, as they came. */
  pixels: number
  truncated: boolean
  sequence: Sequence | null
  /** What a user should know of how it was read. */
  notes: readonly string[]
}

/** Where an example's images come from, and how its record is read. */
export type ExampleSource = ImageSource & {
  form?: DecodeOptions | undefined
  /** What records are framed by. */
  registry?: RegistryOptions | undefined
}

export type IdentifyOptions = {
  /** The key of the record on the log: the id of an example that has none. */
  key?: string | null | undefined
  room?: PixelRoom
}

/** An example's identity, and what `use` made of each decoded image. */
export type Identified<T> = {
  id: string
  key: string
  content: string
  dialog: Pick<Example, 'turns' | 'tools'>
  images: T[]
  /** Of all its images. */
  pixels: number
  notes: readonly string[]
}

export type Preparer = {
  /** Throws an XmasdError that says why the example cannot be used. */
  prepare(value: Uint8Array, options?: IdentifyOptions): Promise<Prepared>
}

/**
 * Reads the tokenizer, once. `pictures` are the proxy's. Throws TOKENIZER_INVALID or CONFIG_INVALID.
 */
export function createPreparer(options: PreparerOptions, pictures: Pictures): Preparer {
  parseAddressRanges(options.addressesAllowed)
  const { checkpointDir: dir, baseDir: base } = options
  const tokenizer = readTokenizer(tokenizerFolder({ dir, base }))
  const source = { ...options, root: resolve(options.imageRoot) }
  const cut = (rgb: Rgb, hash: string, count: number): CutImage => {
    const { variant = '', text, ...picture } = pictures.cut(rgb, count, options.limits)
    const layout = encodeDirection(colourLayout(rgb))
    return { layout, text, image: { hash: hash + variant, ...picture } }
  }
  return {
    prepare: async (value, where) => {
      const identified = await identify(value, source, cut, where)
      const { id, key, content, dialog, images, pixels, notes } = identified
      const words = wordsHash(dialog.turns)
      if (images.length === 0) {
        const none = { layout: null, pixels, truncated: false, sequence: null }
        return { id, key, content, words, ...none, notes }
      }
      const { placeholder, inOnePiece } = pictures
      const expansions = images.map(({ text }) => text)
      const shown = { ...options, pictures: { placeholder, inOnePiece, expansions } }
      const whole = { ...dialog, images }
      const encoded = encodeExample(tokenizer, whole, shown)
      const { ids, columns, rows, answers, questions, lengthUntruncated } = encoded
      const bare = options.gain && { bare: encodeBare(tokenizer, whole, shown, answers.length) }
      const sequence = {
        ...{ ids, columns, rows, answers, questions, ...bare },
        images: images.map(({ image }) => image),
      }
      const truncated = lengthUntruncated > ids.length
      const layout = images.map(image => image.layout).join('')
      return { id, key, content, words, layout, pixels, truncated, sequence, notes }
    },
  }
}

type CutImage = { layout: string; text: Picture['text']; image: SequenceImage }

/**
 * Id, key and content hash of an example: all that needs no proxy. Images are decoded one at a time,
 * and the pixels are dropped once `use` has returned. Throws as `prepare`.
 */
export async function identify<T>(
  value: Uint8Array,
  source: ExampleSource,
  use: (rgb: Rgb, hash: string, count: number) => T,
  { key: recordKey, room = UNLIMITED_ROOM }: IdentifyOptions = {},
): Promise<Identified<T>> {
  const { limits } = source
  const json = await unframed(value, source.registry)
  const { id: given, images: references, ...dialog } = decodeExample(json, source.form)
  checkCount(references.length, limits)
  const onWait = (): void => room.onWait?.()
  const images: T[] = []
  const hashes: string[] = []
  const notes: string[] = []
  const noting = { ...source, onOtherName: (note: string) => void notes.push(note) }
  let pixels = 0
  for (const reference of references) {
    const bytes = await fetchImage(reference, noting, onWait)
    const rgb = await decodeImage(bytes, limits, pixels, room)
    pixels += rgb.width * rgb.height
    const hash = imageHash(rgb)
    hashes.push(hash)
    images.push(use(rgb, hash, references.length))
    room.leave()
  }
  const content = contentHash(dialog.turns, hashes, dialog.tools)
  const id = given ?? keyAsId(recordKey) ?? content.slice(0, ID_DIGITS)
  return { id, key: keyOf(id, content), content, dialog, images, pixels, notes }
}

/** Of the content hash, where an example has no other id. */
const ID_DIGITS = 16

function keyAsId(key: string | null | undefined): string | undefined {
  return key == null || key.trim() === '' ? undefined : checkedId(key)
}

function checkCount(images: number, { countMax }: ImageLimits): void {
  if (images <= countMax) return
  throw new XmasdError(
    'IMAGES_TOO_MANY',
    `the example has ${images} images, more than ${countMax}`,
    'split it, or raise images.countMax',
  )
}

/** A prompt, and where the answers and the questions lie where they are asked for. */
export type EncodedDialog = EncodedPrompt & {
  text: string
  answers: Int32Array
  questions: Int32Array
}

/** How pictures stand in a prompt: see `Pictures`. `expansions`: the text of each. */
export type PromptPictures = Pick<Pictures, 'placeholder' | 'inOnePiece'> & {
  expansions: readonly string[]
}

export type DialogOptions = EncodeOptions &
  Pick<PreparerOptions, 'template' | 'answers' | 'questions'> & {
    /** Default: as many image tokens for each, tokenised apart but for a chat template. */
    pictures?: PromptPictures
  }

/** The prompt of a conversation as ids: by the four pieces of a template, or by a chat template. */
export function encodeDialog(
  tokenizer: Tokenizer,
  dialog: Dialog,
  options: DialogOptions,
): EncodedDialog {
  const { template, imageTokens, answers: isAsked = false, pictures } = options
  const { questions: asksQuestions = false } = options
  if ('chat' in template) {
    const { imageToken } = template
    const { addedTokens: added } = tokenizer
    const { text, answers } = renderPrompt(template, dialog, isAsked ? added : undefined)
    const questions = asksQuestions ? questionPlaces(template, dialog, text) : []
    const own = Array.from(dialog.images, () => imageToken.repeat(imageTokens))
    const expansions = pictures?.expansions ?? own
    const images = { imageToken, mark: imageToken, expansions }
    return inOnePiece(tokenizer, { text, answers, questions, ...images }, options)
  }
  const text = buildPrompt(template, dialog)
  if (pictures?.inOnePiece) {
    const { placeholder: imageToken, expansions } = pictures
    const answers = isAsked ? answerSpans(template, dialog) : []
    const questions = asksQuestions ? questionSpans(template, dialog) : []
    const images = { imageToken, mark: IMAGE_MARK, expansions }
    return inOnePiece(tokenizer, { text, answers, questions, ...images }, options)
  }
  const prompt = encodePrompt(tokenizer, text, dialog.images.length, options)
  const answers = isAsked
    ? answerPositions(tokenizer, template, dialog, { ...options, start: 'spaced' })
    : new Int32Array(0)
  const questions = asksQuestions
    ? questionPositions(tokenizer, template, dialog, { ...prompt, imageTokens })
    : new Int32Array(0)
  return { ...prompt, text, answers, questions }
}

type WholePrompt = {
  text: string
  answers: readonly Place[]
  questions: readonly Place[]
  /** What stands for an image in `text`, and the token that its expansion holds. */
  mark: string
  imageToken: string
  expansions: readonly string[]
}

function inOnePiece(
  tokenizer: Tokenizer,
  { text, answers, questions, ...images }: WholePrompt,
  options: EncodeOptions,
): EncodedDialog {
  const prompt = encodeWhole(tokenizer, text, images, options)
  const inAnswers = answers.map(place => expanded(place, text, images))
  const inQuestions = questions.map(place => expanded(place, text, images))
  return {
    ...prompt,
    text,
    answers: positionsInText(tokenizer, prompt, inAnswers, { spaced: false }),
    questions: positionsInText(tokenizer, prompt, inQuestions, { spaced: true }),
  }
}

/** A place in the rendered prompt, as one in the text whose images are written out. */
function expanded(
  { from, to }: Place,
  text: string,
  { mark, expansions }: Pick<WholePrompt, 'mark' | 'expansions'>,
): Place {
  const images = text.slice(0, from).split(mark).length - 1
  const longer = expansions.slice(0, images).join('').length - images * mark.length
  return { from: from + longer, to: to + longer }
}

function encodeExample(
  tokenizer: Tokenizer,
  dialog: Dialog,
  options: PreparerOptions & DialogOptions,
): EncodedDialog {
  const { answers: isAsked = false, gain = false } = options
  const prompt = encodeDialog(tokenizer, dialog, { ...options, answers: isAsked || gain })
  const { answers } = prompt
  const [what, wanted] = isAsked ? ['answer', answers] : ['text', prompt.rows]
  if (wanted.length > 0) return prompt
  throw new XmasdError(
    'NO_TEXT_ROWS',
    `no ${what} is left behind the image within ${options.lengthMax} of ${prompt.lengthUntruncated} positions`,
    'shorten what stands before the image, or use a proxy with a longer sequence',
  )
}

/** Each picture stands for no text and no token; all else is as it was. `count`: of the answers' tokens. */
export function encodeBare(
  tokenizer: Tokenizer,
  dialog: Dialog,
  options: DialogOptions & { pictures: PromptPictures },
  count: number,
): BareSequence {
  const expansions = options.pictures.expansions.map(() => '')
  const pictures = { ...options.pictures, expansions }
  const without = { ...options, imageTokens: 0, answers: true, questions: false, pictures }
  const { ids, answers } = encodeDialog(tokenizer, dialog, without)
  const kept = answers.slice(0, count)
  return { ids: ids.slice(0, (kept.at(-1) ?? -1) + 1), answers: kept }
}

/* What an example says, whatever it is called: the content hash behind keys and exact duplicates. */

/** SHA-256, hex, of an image: its width and height, then its decoded RGB bytes. */
export function imageHash(rgb: Rgb): string {
  return createHash('sha256').update(`${rgb.width}x${rgb.height}\n`).update(rgb.data).digest('hex')
}

/**
 * SHA-256, hex, over the normalised conversation, its tools where it has some, and the images'
 * hashes, in order. Normalised: canonical roles; NFC; CRLF as LF; trimmed. The framing is a JSON array followed by a line for each
 * image, so that no two contents have the same bytes.
 */
export function contentHash(
  turns: readonly Turn[],
  images: readonly string[],
  tools?: string,
): string {
  const conversation = turns.map(({ role, text }) => [hashedRole(role), normalised(text)])
  if (tools !== undefined) conversation.unshift(['tools', normalised(tools)])
  return createHash('sha256')
    .update(JSON.stringify(conversation))
    .update(images.map(hash => `\n${hash}`).join(''))
    .digest('hex')
}

function normalised(text: string): string {
  return text.normalize('NFC').replaceAll('\r\n', '\n').trim()
}
