/** Pictures of a record: the references in its fields and parts, and their places in the turns. */
import { type ErrorCode, XmasdError } from '../../errors.ts'
import { IMAGE_MARK, type Role, type Turn } from './example.ts'
import { isNothing, isObject, type Json, shown, wellFormed } from './json.ts'

/** A turn as read; of each `<image>` in its text the picture that the turn itself names. */
export type MarkedTurn = Turn & {
  marks: (string | undefined)[]
  /** Some of the marks are parts, others stand in the text of parts. */
  isMarkedTwice?: boolean
}

/** Top-level pictures in order. A video that is a list of frames is its frames. */
export type Pictures = {
  images: string[]
  frames: string[][]
  /** LLaVA's `image` with one picture: its mark may be repeated within one question. */
  isSingular: boolean
}

const HINT =
  'name pictures as paths below the image root, http(s) or data: URLs, or {"bytes", "path"} with the bytes in base64'

/** Throws IMAGE_FIELD_INVALID; MODALITY_UNSUPPORTED where there is a video or a sound. */
export function readPictures(record: Json): Pictures {
  const named = (['image', 'images'] as const).filter(name => !isNothing(held(record[name])))
  const lists = named.map(name => referencesOf(record[name], name))
  if (lists.length === 2 && JSON.stringify(lists[0]) !== JSON.stringify(lists[1])) {
    throw new XmasdError(
      'IMAGE_FIELD_INVALID',
      `image is ${shown(record.image)} but images is ${shown(record.images)}`,
      'name the pictures in one of the fields',
    )
  }
  const images = lists[0] ?? []
  return {
    images,
    frames: framesOf(record),
    isSingular: images.length === 1 && named[0] === 'image',
  }
}

function referencesOf(field: unknown, name: string): string[] {
  const list: unknown[] = Array.isArray(field) ? field : [field]
  return list.map(one => {
    const reference = referenceOf(one)
    if (reference !== undefined) return wellFormed(reference, name)
    throw new XmasdError('IMAGE_FIELD_INVALID', `${name} is ${shown(field)}`, HINT)
  })
}

/** A picture's field with nothing in it is nothing. */
function held(field: unknown): unknown {
  if (Array.isArray(field)) return field.map(held)
  return isObject(field) && Object.values(field).every(isNothing) ? undefined : field
}

/** Undefined for what is no picture. Bytes become a data: URL. */
function referenceOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value === '' ? undefined : value
  if (!isObject(value)) return undefined
  const { bytes, path, url } = value
  if (typeof bytes === 'string' && bytes !== '') return dataUrl(bytes)
  return [path, url].find((one): one is string => typeof one === 'string' && one !== '')
}

/** How the base64 of a picture begins. */
const TYPES = { '/9j/': 'jpeg', iVBORw: 'png', R0lGOD: 'gif', UklGR: 'webp' }

/** It names a media type: ms-swift refuses a data: URL without one. */
export function dataUrl(base64: string, type: unknown = typeOf(base64)): string {
  return base64.startsWith('data:') ? base64 : `data:${type};base64,${base64}`
}

/** Shorter ones may be a path. */
const BASE64_CHARACTERS_MIN = 64

/** Are these a picture's bytes in base64 that lack `data:`. */
export function isBareBase64(reference: string): boolean {
  if (reference.length < BASE64_CHARACTERS_MIN) return false
  const isPicture = Object.keys(TYPES).some(start => reference.startsWith(start))
  return isPicture && !/[^A-Za-z0-9+/=\s]/.test(reference)
}

function typeOf(base64: string): string {
  const found = Object.entries(TYPES).find(([start]) => base64.startsWith(start))
  return found === undefined ? 'application/octet-stream' : `image/${found[1]}`
}

/** A video or a sound is never left out silently. */
function framesOf(record: Json): string[][] {
  const { videos } = record
  const isFrames = Array.isArray(videos) && videos.length > 0 && videos.every(Array.isArray)
  const others = ['video', 'audio', 'audios', ...(isFrames ? [] : ['videos'])]
  const field = others.find(name => !isNothing(record[name]))
  if (field !== undefined) throw unsupported(`the example has ${field} ${shown(record[field])}`)
  return isFrames ? videos.map(frames => referencesOf(frames, 'videos')) : []
}

export function unsupported(message: string): XmasdError {
  return new XmasdError(
    'MODALITY_UNSUPPORTED',
    message,
    'leave out examples with video or audio, or give the frames as images',
  )
}

/* The content of a turn. */

type Segment = { text: string; marks: (string | undefined)[]; isPicture: boolean }

/** A text, or a list of parts, or one part. */
type Content = string | number | unknown[] | Json

export function isContent(content: unknown): content is Content {
  if (isObject(content)) return 'type' in content
  return ['string', 'number'].includes(typeof content) || Array.isArray(content)
}

/**
 * The text of a turn's content, with `<image>` where its pictures stand. A line break parts a
 * picture's part from the parts beside it.
 */
export function readContent(
  content: Content,
  role: Role,
  frames: string[][],
): Omit<MarkedTurn, 'role'> {
  if (typeof content !== 'object') {
    const { text, marks } = textSegment(String(content), role, frames)
    return { text, marks }
  }
  const list = Array.isArray(content) ? content : [content]
  const segments = list.map(part => partSegment(part, role, frames))
  let text = ''
  for (const [i, segment] of segments.entries()) {
    const isApart = i > 0 && (segment.isPicture || segments[i - 1]!.isPicture)
    const isBroken = text.endsWith('\n') || segment.text.startsWith('\n') || segment.text === ''
    text += isApart && text !== '' && !isBroken ? `\n${segment.text}` : segment.text
  }
  const isMarkedTwice =
    segments.some(({ isPicture }) => isPicture) &&
    segments.some(({ isPicture, marks }) => !isPicture && marks.length > 0)
  return { text, marks: segments.flatMap(({ marks }) => marks), isMarkedTwice }
}

const ANY_MARK = /<image>|<video>/g

/** A tag of a video whose frames are given stands for as many pictures. */
function textSegment(text: string, role: Role, frames: string[][]): Segment {
  const marks: Segment['marks'] = []
  const marked = text.replace(ANY_MARK, mark => {
    if (mark === IMAGE_MARK) {
      marks.push(undefined)
      return mark
    }
    const pictures = frames.shift()
    if (pictures !== undefined) {
      marks.push(...pictures)
      return IMAGE_MARK.repeat(pictures.length)
    }
    if (role === 'assistant') return mark
    throw unsupported('the conversation has <video> but the example has no frames of a video')
  })
  return { text: marked, marks, isPicture: false }
}

const PICTURE_PARTS = ['image', 'image_url', 'input_image']
const TEXT_PARTS = ['text', 'input_text', 'output_text']

function partSegment(part: unknown, role: Role, frames: string[][]): Segment {
  if (typeof part === 'string') return textSegment(part, role, frames)
  const fields = isObject(part) ? part : {}
  const text = [fields.text, fields.value, fields.content].find(one => typeof one === 'string')
  const type = fields.type ?? (typeof text === 'string' ? 'text' : 'image')
  if (TEXT_PARTS.includes(type as string) && typeof text === 'string') {
    return textSegment(text, role, frames)
  }
  if (PICTURE_PARTS.includes(type as string) && isObject(part)) {
    const reference = partReference(fields)
    const mark = reference === undefined ? undefined : wellFormed(reference, 'image')
    return { text: IMAGE_MARK, marks: [mark], isPicture: true }
  }
  if (/video|audio/.test(String(type))) throw unsupported(`a turn has the part ${shown(part)}`)
  throw new XmasdError(
    'CONVERSATIONS_INVALID',
    `a turn has the part ${shown(part)}`,
    'parts are {"type": "text", "text"} and {"type": "image"} or {"type": "image_url"}',
  )
}

/** Undefined for a part that takes its picture from the record's list. */
function partReference(part: Json): string | undefined {
  const { source } = part
  if (isObject(source)) {
    const { data, media_type, url } = source
    return typeof data === 'string' ? dataUrl(data, media_type) : referenceOf({ url })
  }
  const given = [part.image_url, part.image, part.value, part.url, part].map(referenceOf)
  const found = given.find(one => one !== undefined)
  const named = ['image_url', 'image', 'value', 'url'].find(name => !isNothing(held(part[name])))
  if (found !== undefined || named === undefined) return found
  throw new XmasdError('IMAGE_FIELD_INVALID', `${named} of a part is ${shown(part[named])}`, HINT)
}

/* Pictures and marks brought together. */

/** Marks of other forms. */
const OTHER_MARK = /<\|image(?:_pad)?\|>|<image_?\d{1,3}>|<img>[^<]{0,4096}<\/img>|<audio>/

/** Every picture at its place. Throws a code that says which of pictures and marks are too many. */
export function placePictures(
  turns: MarkedTurn[],
  { images, frames, isSingular }: Pictures,
): { turns: Turn[]; images: string[] } {
  const listed = [...images, ...frames.flat()]
  const marks = turns.flatMap(turn => turn.marks)
  const own = marks.filter(mark => mark !== undefined)
  const plain = turns.map(({ role, text }) => ({ role, text }))
  checkOtherMarks(turns, listed.length + own.length)
  if (listed.length + own.length === 0) {
    checkNoMarks(turns)
    return { turns: plain, images: [] }
  }
  const isListedTwice = own.length === marks.length && `${own}` === `${listed}`
  if (listed.length === marks.length - own.length || isListedTwice) {
    let next = 0
    return checked(
      plain,
      marks.map(mark => mark ?? listed[next++]!),
    )
  }
  if (marks.length === 0) return checked(withMarksInFront(plain, listed.length), listed)
  if (isSingular && own.length === 0) {
    checkOnePlace(turns)
    return checked(plain, listed)
  }
  const message = `the example has ${listed.length + own.length} images and ${marks.length} times ${IMAGE_MARK}`
  if (turns.some(({ isMarkedTwice }) => isMarkedTwice)) {
    throw new XmasdError('IMAGE_COUNT_MISMATCH', message, TWICE_HINT)
  }
  throw placeholderError('IMAGE_COUNT_MISMATCH', message)
}

const TWICE_HINT = `a picture's part, as {"type": "image"}, is its mark: leave ${IMAGE_MARK} out of the text beside it`

/** Where no turn has a mark, the pictures stand before the first question, as InternVL's trainer puts them. */
function withMarksInFront(turns: Turn[], images: number): Turn[] {
  const first = turns.findIndex(({ role }) => role === 'user')
  const front = `${IMAGE_MARK}\n`.repeat(images)
  return turns.map((turn, i) => (i === first ? { ...turn, text: front + turn.text } : turn))
}

/** Taking the marks out of "<ima<image>ge>" leaves a mark: the prompt would have two. */
function checked(turns: Turn[], images: string[]): { turns: Turn[]; images: string[] } {
  const again = turns.find(({ text }) => text.replaceAll(IMAGE_MARK, '').includes(IMAGE_MARK))
  if (again === undefined) return { turns, images }
  throw placeholderError('PLACEHOLDER_MISPLACED', `${IMAGE_MARK} stands within ${IMAGE_MARK}`)
}

function checkOnePlace(turns: readonly MarkedTurn[]): void {
  const marked = turns.filter(({ marks }) => marks.length > 0)
  const questions = marked.filter(({ role }) => role === 'user')
  if (marked.length === 1 && questions.length === 1) return
  throw placeholderError(
    'PLACEHOLDER_MISPLACED',
    `the example has 1 image and ${IMAGE_MARK} in ${marked.length} turns, ${questions.length} of them questions`,
  )
}

/** Answers may speak of any mark; where they stand for a picture, this form is not read. */
function checkOtherMarks(turns: readonly MarkedTurn[], images: number): void {
  const isMarked = turns.some(({ marks }) => marks.length > 0)
  for (const { role, text } of turns) {
    const other = role === 'assistant' ? undefined : OTHER_MARK.exec(text)?.[0]
    if (other === undefined || (images > 0 && isMarked && other !== '<audio>')) continue
    if (other === '<audio>') throw unsupported('the conversation has <audio>')
    throw images > 0
      ? placeholderError(
          'IMAGE_WITHOUT_PLACEHOLDER',
          `the example has ${images} images but no ${IMAGE_MARK}; it has ${other}`,
        )
      : placeholderError(
          'PLACEHOLDER_WITHOUT_IMAGE',
          `the conversation has ${shown(other)} but the example has no image`,
        )
  }
}

/** An answer of a text-only example may speak of `<image>`: that is text. */
function checkNoMarks(turns: readonly MarkedTurn[]): void {
  const marks = turns.flatMap(({ role, marks }) => (role === 'assistant' ? [] : marks))
  if (marks.length === 0) return
  throw placeholderError(
    'PLACEHOLDER_WITHOUT_IMAGE',
    `the conversation has ${marks.length} times ${IMAGE_MARK} but the example has 0 images`,
  )
}

function placeholderError(code: ErrorCode, message: string): XmasdError {
  return new XmasdError(
    code,
    message,
    `write ${IMAGE_MARK} once for each image, in the order of the images; or nowhere, and all stand before the first question`,
  )
}
