/**
 * A stream with known near-duplicates. Each original is followed, some examples later, by a duplicate
 * and by an example that only resembles one. The same picture and question, however encoded, cropped or
 * phrased, is a duplicate. Another question or another answer about the same picture is not.
 */
import sharp, { type Sharp } from 'sharp'

export type Turn = { from: string; value: string }
export type Original = { id: string; image: Buffer; conversations: Turn[] }

export type Labelled = {
  id: string
  /** A data: URL. */
  image: string
  conversations: Turn[]
  /** `original`, or what was done to one. */
  kind: string
  /** The original that it is made from, or itself. */
  of: string
  isDuplicate: boolean
}

type Random = () => number
export type Change = (original: Original, random: Random) => Promise<Original | undefined>
/** By kind: makes a variant of an original, or undefined if the kind does not apply to it. */
export type Changes = Readonly<Record<string, Change>>

export function pick<Item>(items: readonly Item[], random: Random): Item {
  return items[Math.floor(items.length * random())]!
}

export const encoded =
  (encode: (picture: Sharp, side: { width: number; height: number }) => Sharp): Change =>
  async original => {
    const { width = 0, height = 0 } = await sharp(original.image).metadata()
    const image = await encode(sharp(original.image), { width, height }).toBuffer()
    return { ...original, image }
  }

const resized = (factor: number): Change =>
  encoded((picture, { width, height }) =>
    picture
      .resize(Math.round(width * factor), Math.round(height * factor), { fit: 'fill' })
      .jpeg({ quality: 85 }),
  )

/** Each side loses up to `percent` of the width or height. */
const cropped =
  (percent: number): Change =>
  async (original, random) => {
    const { width = 0, height = 0 } = await sharp(original.image).metadata()
    const lost = (length: number): number => Math.round((random() * percent * length) / 100)
    const [left, top] = [lost(width), lost(height)]
    const part = { width: width - left - lost(width), height: height - top - lost(height) }
    const image = await sharp(original.image)
      .extract({ left, top, ...part })
      .jpeg({ quality: 90 })
      .toBuffer()
    return { ...original, image }
  }

/** The question with changed words; undefined if nothing changes. */
export const asked =
  (change: (question: string, random: Random) => string): Change =>
  async (original, random) => {
    const [first, ...rest] = original.conversations as [Turn, ...Turn[]]
    const question = first.value.replace('<image>', '').trim()
    const changed = change(question, random)
    if (changed === question) return undefined
    return { ...original, conversations: [{ ...first, value: `<image>\n${changed}` }, ...rest] }
  }

const both =
  (first: Change, second: Change): Change =>
  async (original, random) => {
    const once = await first(original, random)
    return once && (await second(once, random))
  }

const CASES = [
  (text: string) => text.toUpperCase(),
  (text: string) => text.toLowerCase(),
  (text: string) => text.replaceAll(/\b\p{L}/gu, letter => letter.toUpperCase()),
]
const PUNCTUATION = [
  (text: string) => `${text.replace(/[.?!]+$/, '')}!`,
  (text: string) => text.replace(/[.?!]+$/, ''),
  (text: string) => `  ${text.replaceAll(' ', '  ')} .`,
  (text: string) => `"${text}"`,
]
const POLITE = [
  (text: string) => `Please answer: ${text}`,
  (text: string) => `${text} Thank you very much!`,
  (text: string) => `Could you tell me whether this is so? ${text}`,
  (text: string) => `Hello! ${text}`,
  (text: string) => `Look at the picture, please. ${text}`,
  (text: string) => `In the image, ${text}`,
  (text: string) => `If possible, tell me: ${text}`,
  (text: string) => `I would like to know: ${text}`,
  (text: string) => `Kindly check: ${text}`,
  (text: string) => `${text} Thanks in advance.`,
  (text: string) => `Here is my question: ${text}`,
  (text: string) => `Be honest. ${text}`,
]
/** From a general thesaurus; the benchmark measures which of them the daemon knows. */
const SYNONYMS: readonly [RegExp, string][] = [
  [/\bexactly\b/gi, 'precisely'],
  [/\bitems\b/gi, 'objects'],
  [/\bitem\b/gi, 'object'],
  [/\bobjects\b/gi, 'things'],
  [/\bobject\b/gi, 'item'],
  [/\bgrey\b/gi, 'gray'],
  [/\bcircles\b/gi, 'disks'],
  [/\bcircle\b/gi, 'disk'],
  [/\bcontains\b/gi, 'includes'],
  [/\bhas\b/gi, 'contains'],
  [/\bcolor\b/gi, 'colour'],
  [/\bone\b/gi, '1'],
  [/\btwo\b/gi, '2'],
  [/\bthree\b/gi, '3'],
  [/\blargest\b/gi, 'biggest'],
  [/\btouching\b/gi, 'in contact with'],
  [/\bbox\b/gi, 'container'],
  [/\btower\b/gi, 'stack'],
  [/\bblocks\b/gi, 'bricks'],
  [/\bwall\b/gi, 'border'],
]

function withSynonym(question: string, random: Random): string {
  const known = SYNONYMS.filter(([word]) => question.search(word) >= 0)
  if (known.length === 0) return question
  const [word, other] = pick(known, random)
  return question.replaceAll(word, other)
}

/** Changes of the picture. */
const PICTURES: Changes = {
  'jpeg 90': encoded(picture => picture.jpeg({ quality: 90 })),
  'jpeg 75': encoded(picture => picture.jpeg({ quality: 75 })),
  'jpeg 50': encoded(picture => picture.jpeg({ quality: 50 })),
  png: encoded(picture => picture.png()),
  webp: encoded(picture => picture.webp({ quality: 80 })),
  half: resized(0.5),
  'three quarters': resized(0.75),
  twice: resized(2),
  brighter: encoded(picture => picture.modulate({ brightness: 1.05 }).jpeg({ quality: 90 })),
  'crop 2 %': cropped(2),
  'crop 4 %': cropped(4),
  'crop 6 %': cropped(6),
}
/** Changes of the question. */
const PHRASES: Changes = {
  case: asked((text, random) => pick(CASES, random)(text)),
  punctuation: asked((text, random) => pick(PUNCTUATION, random)(text)),
  politeness: asked((text, random) => pick(POLITE, random)(text)),
  synonym: asked(withSynonym),
}
const BOTH: Changes = {
  'jpeg 75, case': both(
    encoded(picture => picture.jpeg({ quality: 75 })),
    asked((text, random) => pick(CASES, random)(text)),
  ),
  'half, politeness': both(
    resized(0.5),
    asked((text, random) => pick(POLITE, random)(text)),
  ),
  'crop 2 %, punctuation': both(
    cropped(2),
    asked((text, random) => pick(PUNCTUATION, random)(text)),
  ),
}

/** Changes that make a duplicate, by what they change. */
export const DUPLICATES = { picture: PICTURES, phrase: PHRASES, both: BOTH }

/** Rings of words: each is replaced by the next. */
const RINGS = [
  ['black', 'blue', 'yellow', 'red', 'green', 'purple', 'orange'],
  ['one', 'two', 'three', 'four'],
  ['circle', 'square', 'triangle'],
  ['circles', 'squares', 'triangles'],
  ['top', 'base', 'left', 'right'],
  ['touching', 'near'],
  ['least', 'most'],
  ['largest', 'smallest'],
]

function withAnotherWord(question: string, random: Random): string {
  const words = question.split(' ')
  const known = words.flatMap((word, i) => {
    const ring = RINGS.find(ring => ring.includes(word.toLowerCase()))
    return ring === undefined ? [] : [{ i, ring }]
  })
  if (known.length === 0) return question
  const { i, ring } = pick(known, random)
  const at = ring.indexOf(words[i]!.toLowerCase())
  words[i] = ring[(at + 1) % ring.length]!
  return words.join(' ')
}

function withAnotherAnswer(others: readonly string[]): Change {
  return async (original, random) => {
    const { conversations } = original
    const last = conversations.at(-1)!
    const other = others.filter(answer => answer !== last.value)
    const value =
      last.value === 'true' ? 'false' : last.value === 'false' ? 'true' : pick(other, random)
    return { ...original, conversations: [...conversations.slice(0, -1), { ...last, value }] }
  }
}

/** Changes that make an example that only resembles a duplicate. */
export function lookalikes(originals: readonly Original[]): Changes {
  const answers = [...new Set(originals.map(({ conversations }) => conversations.at(-1)!.value))]
  return {
    'another question': async (original, random) => {
      const { conversations } = pick(originals, random)
      const isSame = conversations[0]!.value === original.conversations[0]!.value
      return isSame ? undefined : { ...original, conversations }
    },
    'another word': asked(withAnotherWord),
    'another answer': withAnotherAnswer(answers),
  }
}

/** Originals in order, each followed by its variants within `lag` examples. Kinds take turns. */
export async function labelledStream(
  originals: readonly Original[],
  changes: { duplicates: Changes; lookalikes: Changes },
  { random, lag }: { random: Random; lag: number },
): Promise<Labelled[]> {
  const placed: { at: number; example: Labelled }[] = []
  for (const [i, original] of originals.entries()) {
    placed.push({ at: i, example: labelled(original, 'original', original.id, false) })
    for (const [ofKind, isDuplicate] of [
      [changes.duplicates, true],
      [changes.lookalikes, false],
    ] as const) {
      const kinds = Object.keys(ofKind)
      const kind = kinds[i % kinds.length]!
      const changed = await ofKind[kind]!(original, random)
      if (changed === undefined) continue
      const id = `${original.id}/${isDuplicate ? 'duplicate' : 'lookalike'}`
      const example = labelled({ ...changed, id }, kind, original.id, isDuplicate)
      placed.push({ at: i + 0.5 + lag * random(), example })
    }
  }
  return placed.sort((a, b) => a.at - b.at).map(({ example }) => example)
}

function labelled(
  { id, image, conversations }: Original,
  kind: string,
  of: string,
  isDuplicate: boolean,
): Labelled {
  const url = `data:application/octet-stream;base64,${image.toString('base64')}`
  return { id, image: url, conversations, kind, of, isDuplicate }
}
