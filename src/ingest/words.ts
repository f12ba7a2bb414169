/**
 * The words of a conversation: what is left of it under other case, punctuation, spacing, spelling and
 * politeness. Two conversations have the same words, or they ask different things: in a short text
 * nothing tells a synonym from another question ("a black square", "a black triangle"), so that only
 * the few of a list count as one word.
 */
import { createHash } from 'node:crypto'
import { hashedRole, IMAGE_MARK, type Turn } from './form/example.ts'

const DIGITS = 16

/** 16 hex digits of SHA-256 over who says which words, in order. */
export function wordsHash(turns: readonly Turn[]): string {
  const said = turns.map(({ role, text }) => {
    return [hashedRole(role), ...(role === 'user' ? questionWords(text) : wordsOf(text))]
  })
  return createHash('sha256').update(JSON.stringify(said)).digest('hex').slice(0, DIGITS)
}

/**
 * The words that count, in order; all of them where none would be left, and the text itself where it has
 * no words. Scripts without spaces give single characters. Signs between and before numbers are words.
 */
export function wordsOf(text: string): string[] {
  return countingWords(plainText(text))
}

/** The same without asides: clauses that nothing is asked by ("True or false?", "Take your time."). */
export function questionWords(text: string): string[] {
  const plain = plainText(text)
  const clauses = plain.split(CLAUSE_END).filter(clause => !isAside(clause))
  return countingWords(clauses.length > 0 ? clauses.join(' ') : plain)
}

function plainText(text: string): string {
  let plain = foldedForms(text.replaceAll(IMAGE_MARK, ' ')).toLowerCase()
  plain = plain.replaceAll('’', "'").replaceAll('\u2212', '-')
  for (const [contracted, spelled] of CONTRACTIONS) plain = plain.replaceAll(contracted, spelled)
  return plain.replaceAll(APOSTROPHE, '').replaceAll(UNSPACED, ' $& ').replaceAll(SPACES, ' ')
}

/** NFKC; text of ligatures that it spells out, 18 characters for one, stays as it is. */
function foldedForms(text: string): string {
  const folded = text.normalize('NFKC')
  return folded.length <= 3 * text.length + 64 ? folded : text
}

function countingWords(plain: string): string[] {
  const counting = allWords(plain.replaceAll(PHRASE, ' ')).filter(word => !LEFT_OUT.has(word))
  if (counting.length > 0) return counting
  const words = allWords(plain)
  return words.length > 0 || plain.trim() === '' ? words : [plain.trim()]
}

function allWords(plain: string): string[] {
  return (plain.match(WORD) ?? []).map(word => SAME.get(word) ?? word)
}

function isAside(clause: string): boolean {
  const words = clause.replaceAll(PHRASE, ' ').match(WORD) ?? []
  return words.every(word => LEFT_OUT.has(word) || ASIDE.has(word))
}

const SPACES = /[^\S\n]+/g
const APOSTROPHE = /(?<=\p{L})'(?=\p{L})/gu
const WORD =
  /[\p{L}\p{M}\p{N}]+|[\p{Sm}\p{Sc}\p{So}]|(?<=\p{N}\s?)[-*/](?=\s?\p{N})|(?<![\p{L}\p{N}])-(?=\p{N})|(?<=\p{N}\s?)%|(?<=\p{L})#/gu
const UNSPACED =
  /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}\p{sc=Myanmar}]/gu
/** The lookbehind tries a run of signs once, not anew at each of them. */
const CLAUSE_END = /(?<![.?!:;,])[.?!:;,]+(?=[\s"”')*]|$)|\s[-–—]+\s|\n/u

const CONTRACTIONS: readonly [RegExp, string][] = [
  [/\b(?:can't|cant|cannot)\b/g, 'can not'],
  [/\b(?:won't|wont)\b/g, 'will not'],
  [/\b(do|does|did|is|are|was|were|has|have|had|could|would|should|must)n'?t\b/g, '$1 not'],
  [/\b(that|there|here|what)'?s\b/g, '$1 is'],
  [/\b(it|he|she|who|where|how|when|why|one)'s\b/g, '$1 is'],
  [/\blet's\b/g, 'let us'],
  [/(?<=\p{L})'re\b/gu, ' are'],
  [/(?<=\p{L})'ll\b/gu, ' will'],
  [/(?<=\p{L})'ve\b/gu, ' have'],
  [/\bi'm\b/g, 'i am'],
  [/\b(i|you|he|she|we|they|it)'d\b/g, '$1 would'],
]

/** What is said around a question, and would leave words behind. */
const PHRASE = new RegExp(
  `\\b(?:${[
    '(?:in|from|on|at|to|of|about) (?:the|this) (?:given |provided |following )?(?:image|picture|photo|photograph)',
    'thanks? (?:you )?(?:very much|so much|a lot|in advance)',
    'if (?:possible|you can|you could)',
    'take a (?:close )?look',
    '(?:be )?so kind as to',
    '(?:i )?(?:would like|want) to know',
    '(?:given|from|by|based on|judging by) what (?:you|we|i|one) (?:can |could )?(?:see|know)',
    'good (?:morning|afternoon|evening|day)',
    // LLaVA-1.5's, behind every question that has a short answer.
    'answer the question using a single word or phrase',
    'answer with the options letter from the given choices directly',
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

/**
 * Words that a whole clause may be made of, with those above, and still ask nothing. None of them says
 * where, what colour, how many, which one, or not.
 */
const ASIDE: ReadonlySet<string> = new Set(
  [
    'in on at to for from with about by as and or if then but too also again very really well okay ok',
    'now only sure make want need like love help try wait hope feel think thinking thought',
    'believe guess suppose assume wonder wondering curious see seen get got give given go going come take',
    'taking spend have had has been ask asking asked say saying said speak regarding concerning consider',
    'considering regard respect according reference refer referring view viewing scene content context',
    'quick quickly short brief briefly careful carefully closely honest honestly frank frankly true',
    'truth truthful truthfully false correct correctly accurate accurately exact possible possibly perhaps',
    'maybe probably time moment hurry rush step much many lot advance appreciate',
    'appreciated grateful gratitude cheers welcome sorry excuse pardon bother dear friend everyone sir madam',
    'assistant ai bot something anything thing things task problem attached provided',
    'helpful helping knowledge mind greetings',
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
