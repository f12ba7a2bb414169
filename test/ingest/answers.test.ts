import assert from 'node:assert/strict'
import { test } from 'node:test'
import { answerPositions } from '../../src/ingest/answers.ts'
import type { DialogTurn } from '../../src/ingest/decode.ts'
import { buildPrompt, TEMPLATES } from '../../src/ingest/template.ts'
import { encodePrompt, type Tokenizer } from '../../src/ingest/tokenizer.ts'

/** A token a letter, but words with the space before them are one; 1 is BOS. */
const words: Tokenizer = {
  encode: text => [1, ...[...text.matchAll(/ ?\p{L}+|<\/s>|./gsu)].map(([piece]) => idOf(piece))],
  bosId: 1,
}
const pieces: string[] = ['', '<s>']
function idOf(piece: string): number {
  if (!pieces.includes(piece)) pieces.push(piece)
  return pieces.indexOf(piece)
}
const options = { imageTokens: 3, imageTokenId: 0, lengthMax: 1000 }
const turns = (...values: string[]): DialogTurn[] =>
  values.map((value, i) => ({ from: i % 2 === 0 ? 'human' : 'gpt', value }))

/** The texts of the tokens at the answers' positions. */
function answersOf(
  dialog: { turns: DialogTurn[]; images: { length: number } },
  more: { start?: 'spaced' | 'from'; lengthMax?: number } = {},
): string[] {
  const where = { ...options, start: 'spaced' as const, ...more }
  const prompt = buildPrompt(TEMPLATES.llama!, dialog)
  const { ids } = encodePrompt(words, prompt, dialog.images.length, where)
  const positions = answerPositions(words, TEMPLATES.llama!, dialog, where)
  return Array.from(positions, position => pieces[ids[position]!]!)
}

test('the answers and their end tokens, behind images and in every turn', () => {
  const dialog = { turns: turns('<image>\nWhat?', 'A cat', 'Sure?', 'Yes'), images: { length: 1 } }
  assert.deepEqual(answersOf(dialog), [' A', ' cat', '</s>', ' Yes', '</s>'])
  const two = { turns: turns('<image>a<image>', 'No', '<image>', 'Yes'), images: { length: 3 } }
  assert.deepEqual(answersOf(two), [' No', '</s>', ' Yes', '</s>'])
})

test('a space that is a token of its own counts to the answer, where it is asked for', () => {
  const dialog = { turns: turns('What?', '3 cats'), images: { length: 0 } }
  assert.deepEqual(answersOf(dialog), [' ', '3', ' cats', '</s>'])
  assert.deepEqual(answersOf(dialog, { start: 'from' }), ['3', ' cats', '</s>'])
})

test('what the longest length cuts off is not predicted', () => {
  const dialog = { turns: turns('What?', 'A', 'Why?', 'So'), images: { length: 0 } }
  const { length } = encodePrompt(words, buildPrompt(TEMPLATES.llama!, dialog), 0, options).ids
  assert.deepEqual(answersOf(dialog, { lengthMax: length - 1 }), [' A', '</s>', ' So'])
  assert.deepEqual(answersOf(dialog, { lengthMax: 4 }), [])
})
