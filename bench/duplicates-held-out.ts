/**
 * Changes made up after the rules for words (`ingest/words.ts`) were fixed. No rule has been added for
 * them since, so they estimate what to expect of unseen phrases. Add kinds freely; when a rule is
 * written for a kind, move that kind to the labelled stream.
 */
import { asked, type Changes, encoded, type Original, pick } from './duplicates-stream.ts'

const OPENINGS = [
  (text: string) => `Hey there, can you help me out? ${text}`,
  (text: string) => `Examine the picture closely and judge this statement: ${text}`,
  (text: string) => `My colleague claims the following. ${text}`,
  (text: string) => `Here's a claim about the image - ${text}`,
  (text: string) => `Look carefully before you reply. ${text}`,
  (text: string) => `Is the statement below correct? ${text}`,
  (text: string) => `According to the image: ${text}`,
  (text: string) => `I'm not sure about this, so please check. ${text}`,
]
const CLOSINGS = [
  (text: string) => `${text} Do you agree?`,
  (text: string) => `${text} What do you think?`,
  (text: string) => `${text} Am I right?`,
  (text: string) => `${text} Please respond with true or false only.`,
  (text: string) => `${text} Thanks a million!`,
  (text: string) => `${text} Let me know.`,
  (text: string) => `${text} Yes or no?`,
  (text: string) => `${text} Would you say so?`,
]
/** Question templates of Dai et al., *InstructBLIP* (2023), appendix C. */
const TEMPLATES = [
  (text: string) => `Question: ${text}`,
  (text: string) => `${text} A short answer to the question is`,
  (text: string) => `Q: ${text} A:`,
  (text: string) => `Question: ${text} Short answer:`,
  (text: string) =>
    `Given the image, answer the following question with no more than three words. ${text}`,
  (text: string) =>
    `Based on the image, respond to this question with a short answer: ${text}. Answer:`,
  (text: string) =>
    `Use the provided image to answer the question: ${text} Provide your answer as short as possible:`,
  (text: string) => `What is the answer to the following question? "${text}"`,
  (text: string) => `The question "${text}" can be answered using the image. A short answer is`,
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

/** Replaces a turn of phrase, if it occurs. */
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
    template: asked((text, random) => pick(TEMPLATES, random)(text)),
    typography: asked((text, random) => pick(TYPOGRAPHY, random)(text)),
    contraction: asked(text =>
      text.replaceAll(/\b(is|are|does|do) not\b/gi, "$1n't").replace(/\bthere are\b/i, "there're"),
    ),
    'a typo': asked((text, random) => {
      const long = [...text.matchAll(/\b\p{L}{5,}/gu)]
      if (long.length === 0) return text
      const { 0: word, index } = pick(long, random)
      const at = index + 1 + Math.floor(random() * (word.length - 2))
      return text.slice(0, at) + text[at + 1]! + text[at]! + text.slice(at + 2)
    }),
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

/** Swaps the first two different colours. */
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
