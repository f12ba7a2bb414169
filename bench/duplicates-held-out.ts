/**
 * Changes that nothing of the daemon was written with in view: they were made up after its rules were
 * fixed, and no rule has been added for them since. They say what is to be expected of words that come.
 */
import { asked, type Changes, encoded, type Original, pick } from './duplicates-stream.ts'

const OPENINGS = [
  (text: string) => `Regarding this scene: ${text}`,
  (text: string) => `Quick question - ${text}`,
  (text: string) => `True or false? ${text}`,
  (text: string) => `I have been wondering: ${text}`,
  (text: string) => `Consider the photo. ${text}`,
  (text: string) => `Given what you see, ${text}`,
]
const CLOSINGS = [
  (text: string) => `${text} Right?`,
  (text: string) => `${text} Correct?`,
  (text: string) => `${text} Many thanks.`,
  (text: string) => `${text} Take your time.`,
  (text: string) => `${text} Cheers!`,
  (text: string) => `${text} Is that true?`,
]
const TYPOGRAPHY = [
  (text: string) => `“${text}”`,
  (text: string) => `${text.replace(/[.?!]+$/, '')}…`,
  (text: string) => text.replaceAll(' ', '\u00a0'),
  (text: string) => `**${text}**`,
  (text: string) => `- ${text}\n`,
]
const SYNONYMS: readonly [RegExp, string][] = [
  [/\bat ?least\b/gi, 'no fewer than'],
  [/\bon top of\b/gi, 'atop'],
  [/\bbelow\b/gi, 'beneath'],
  [/\bwith\b/gi, 'having'],
  [/\bedge\b/gi, 'rim'],
  [/\bbase\b/gi, 'bottom'],
  [/\bonly\b/gi, 'solely'],
  [/\beach\b/gi, 'every'],
  [/\bgre?ay\b/gi, 'ashen'],
]

/** A turn of phrase; as it is where it does not occur. */
const turned = (from: RegExp, to: string) => (text: string) => text.replace(from, to)

export const HELD_OUT_DUPLICATES = {
  picture: {
    gif: encoded(picture => picture.gif({ colours: 64 })),
    'webp 40': encoded(picture => picture.webp({ quality: 40 })),
    blurred: encoded(picture => picture.blur(1).jpeg({ quality: 90 })),
    'more contrast': encoded(picture => picture.linear(1.1, -12).jpeg({ quality: 90 })),
    'a tenth': encoded((picture, { width, height }) =>
      picture.resize(Math.ceil(width / 10), Math.ceil(height / 10), { fit: 'fill' }).png(),
    ),
    'stretched by 10 %': encoded((picture, { width, height }) =>
      picture.resize(Math.round(width * 1.1), height, { fit: 'fill' }).jpeg({ quality: 85 }),
    ),
    'turned by 1 degree': encoded(picture =>
      picture.rotate(1, { background: '#d3d3d3' }).jpeg({ quality: 90 }),
    ),
  } satisfies Changes,
  phrase: {
    opening: asked((text, random) => pick(OPENINGS, random)(text)),
    closing: asked((text, random) => pick(CLOSINGS, random)(text)),
    typography: asked((text, random) => pick(TYPOGRAPHY, random)(text)),
    contraction: asked(turned(/\bthere is\b/i, "there's")),
    'is there': asked(text =>
      text.replace(/^there (is|are) (.*?)[.?!]*$/i, (_, verb, rest) => `${verb} there ${rest}?`),
    ),
    'one sees': asked(turned(/\bthere (is|are)\b/i, 'one sees')),
    'other synonyms': asked((text, random) => {
      const known = SYNONYMS.filter(([word]) => text.search(word) >= 0)
      if (known.length === 0) return text
      const [word, other] = pick(known, random)
      return text.replaceAll(word, other)
    }),
  } satisfies Changes,
}

const COLOUR = /\b(black|blue|yellow)\b/gi

/** The first two colours that differ change places. */
function withColoursSwapped(text: string): string {
  const found = [...text.matchAll(COLOUR)]
  const [first] = found
  const second = found.find(([colour]) => colour.toLowerCase() !== first?.[0].toLowerCase())
  if (first === undefined || second === undefined) return text
  const [a, b] = [first.index, second.index]
  const between = text.slice(a + first[0].length, b)
  return text.slice(0, a) + second[0] + between + first[0] + text.slice(b + second[0].length)
}

export function heldOutLookalikes(originals: readonly Original[]): Changes {
  return {
    negated: asked(turned(/\bthere (is|are) (?!no\b)/i, 'there $1 no ')),
    'colours swapped': asked(withColoursSwapped),
    'a colour less': asked(text => text.replace(/\b(black|blue|yellow) /i, '')),
    'another picture': async (original, random) => {
      const { conversations, image } = pick(originals, random)
      const isOther = conversations[0]!.value !== original.conversations[0]!.value
      return isOther && !image.equals(original.image) ? { ...original, image } : undefined
    },
  }
}
