/**
 * The words of a conversation: what is left of it under other case, punctuation, spacing, spelling and
 * politeness. Two conversations have the same words, or they ask different things: in a short text
 * nothing tells a synonym from another question ("a black square", "a black triangle"), so that only
 * the few of a list count as one word.
 */
import { createHash } from 'node:crypto'
import { type DialogTurn, IMAGE_MARK } from './decode.ts'

const DIGITS = 16

/** 16 hex digits of SHA-256 over who says which words, in order. */
export function wordsHash(turns: readonly DialogTurn[]): string {
  const said = turns.map(turn => [turn.from, ...wordsOf(turn.value)])
  return createHash('sha256').update(JSON.stringify(said)).digest('hex').slice(0, DIGITS)
}

/**
 * The words that count, in order; all of them where none would be left. Scripts without spaces give
 * single characters.
 */
export function wordsOf(text: string): string[] {
  const plain = text
    .replaceAll(IMAGE_MARK, ' ')
    .normalize('NFKC')
    .toLowerCase()
    .replaceAll(APOSTROPHE, '')
    .replaceAll(UNSPACED, ' $& ')
    .replaceAll(/\s+/g, ' ')
  const words = (said: string): string[] =>
    (said.match(WORD) ?? []).map(word => SAME.get(word) ?? word)
  const counting = words(plain.replaceAll(PHRASE, ' ')).filter(word => !LEFT_OUT.has(word))
  return counting.length > 0 ? counting : words(plain)
}

const APOSTROPHE = /(?<=\p{L})['’](?=\p{L})/gu
const WORD = /[\p{L}\p{M}\p{N}]+/gu
const UNSPACED =
  /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}]/gu

/** What is said around a question, and would leave words behind. */
const PHRASE = new RegExp(
  `\\b(?:${[
    '(?:in|from|on|at|to|of|about) (?:the|this) (?:given |provided |following )?(?:image|picture|photo|photograph)',
    'thanks? (?:you )?(?:very much|so much|a lot|in advance)',
    'if (?:possible|you can|you could)',
    'take a (?:close )?look',
    '(?:be )?so kind as to',
    '(?:i )?(?:would like|id like|want) to know',
  ].join('|')})\\b`,
  'gu',
)

/** Words that a question may have or not: articles, forms of to be, politeness, the picture as such. */
const LEFT_OUT: ReadonlySet<string> = new Set(
  [
    'a an the of is are was were be been being am do does did it its this that these those there here',
    'please kindly thanks thank you your me us i we my our can could may would will shall',
    'tell say answer respond reply check verify confirm determine decide look looking let know whether',
    'question questions following given based hi hello hey so just simply image picture photo photograph',
  ].flatMap(line => line.split(' ')),
)

/** Spellings, numbers as words, and the commonest synonyms of questions about pictures. */
const SAME: ReadonlyMap<string, string> = new Map(
  [
    'zero 0,one 1,two 2,three 3,four 4,five 5,six 6,seven 7,eight 8,nine 9,ten 10,eleven 11,twelve 12',
    'color colour hue,colors colours,gray grey,center centre middle,circle disc disk,circles discs disks',
    'object item thing,objects items things,kind type sort,kinds types sorts',
    'large big,larger bigger,largest biggest,small little,exactly precisely',
    'show shows display displays depict depicts,shown displayed depicted,showing displaying depicting',
    'has have contains contain includes include,located situated positioned,visible seen',
    'person individual human,people persons humans,man guy,woman lady,child kid,children kids',
    'car automobile,cars automobiles,sofa couch,street road,bicycle bike,phone telephone cellphone',
    'airplane plane aeroplane,television tv,yes yeah yep,begin start,end finish',
  ]
    .flatMap(line => line.split(','))
    .flatMap(group => {
      const [first, ...others] = group.split(' ') as [string, ...string[]]
      return others.map((word): [string, string] => [word, first])
    }),
)
