import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { answerPositions, questionPositions } from '../../src/ingest/answers.ts'
import { IMAGE_MARK, type Turn } from '../../src/ingest/form/example.ts'
import {
  answerSpans,
  buildPrompt,
  type Dialog,
  questionSpans,
  TEMPLATES,
  type Template,
} from '../../src/ingest/template.ts'
import {
  type EncodeOptions,
  encodePrompt,
  readTokenizer,
  type Tokenizer,
} from '../../src/ingest/tokenizer.ts'
import { ROOT, shared } from '../support.ts'

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
const turns = (...values: string[]): Turn[] =>
  values.map((text, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', text }))

/** The texts of the tokens at the answers' positions. */
function answersOf(
  dialog: { turns: Turn[]; images: { length: number } },
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

/** The texts of the tokens at the questions' positions. */
function questionsOf(dialog: Dialog, lengthMax = options.lengthMax): string[] {
  const prompt = buildPrompt(TEMPLATES.llama!, dialog)
  const found = encodePrompt(words, prompt, dialog.images.length, { ...options, lengthMax })
  const places = { ...found, imageTokens: options.imageTokens }
  const positions = questionPositions(words, TEMPLATES.llama!, dialog, places)
  return Array.from(positions, position => pieces[found.ids[position]!]!)
}

test("the questions' text, without images, the template's words and what the longest length cuts off", () => {
  const dialog = {
    turns: turns('See <image><image> and\n<image> 3', 'No', '<image>', 'Yes', 'Why not?', 'So'),
    images: { length: 4 },
  }
  const first = [' See', ' ', ' and', '\n', ' ', '3']
  assert.deepEqual(questionsOf(dialog), [...first, ' Why', ' not', '?'])
  const { ids } = encodePrompt(words, buildPrompt(TEMPLATES.llama!, dialog), 4, options)
  assert.deepEqual(questionsOf(dialog, ids.lastIndexOf(idOf('?'))), [...first, ' Why', ' not'])
  assert.deepEqual(questionsOf(dialog, ids.lastIndexOf(idOf(' and'))), [' See', ' '])
  assert.deepEqual(questionsOf({ turns: turns('<image>', 'Yes'), images: { length: 1 } }), [])
})

/** The same positions, every prefix encoded from its beginning. */
function answersByPrefix(
  tokenizer: Tokenizer,
  template: Template,
  dialog: Dialog,
  where: EncodeOptions,
): number[] {
  const prompt = buildPrompt(template, dialog)
  const lengthOf = (index: number): number => {
    const text = prompt.slice(0, index)
    const unlimited = { ...where, lengthMax: 1e9 }
    return encodePrompt(tokenizer, text, text.split(IMAGE_MARK).length - 1, unlimited)
      .lengthUntruncated
  }
  return answerSpans(template, dialog).flatMap(span => {
    const [from, to] = [lengthOf(span.spaced), Math.min(lengthOf(span.to), where.lengthMax)]
    return Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i)
  })
}

/** The tokens that overlap the questions, the spaces before them included, each beginning encoded anew. */
function questionsByPrefix(
  { tokenizer, where }: { tokenizer: Tokenizer; where: EncodeOptions },
  template: Template,
  dialog: Dialog,
): number[] {
  const prompt = buildPrompt(template, dialog)
  const { ids, columns } = encodePrompt(tokenizer, prompt, dialog.images.length, where)
  const positions = new Set<number>()
  for (const { from, to } of questionSpans(template, dialog)) {
    const before = prompt.slice(0, from).lastIndexOf(IMAGE_MARK)
    const front = before < 0 ? 0 : before + IMAGE_MARK.length
    const start = before < 0 ? 0 : columns[0]! + where.imageTokens
    const tokensTo = (index: number): { count: number; isEnd: boolean } => {
      const encoded = tokenizer.encode(prompt.slice(front, index))
      const isBos = front > 0 && encoded[0] === tokenizer.bosId && tokenizer.bosId !== null
      const tokens = isBos ? encoded.slice(1) : encoded
      const differs = tokens.findIndex((token, i) => token !== ids[start + i])
      return { count: differs < 0 ? tokens.length : differs, isEnd: differs < 0 }
    }
    const spaces = / *$/.exec(prompt.slice(front, from))![0].length
    const [first, last] = [tokensTo(from - spaces).count, tokensTo(to)]
    const end = Math.min(start + last.count + (last.isEnd ? 0 : 1), ids.length)
    for (let p = start + first; p < end; p++) positions.add(p)
  }
  return [...positions]
}

const TOKENIZERS = ['config/demo/proxy/checkpoint-100']
const SHARED_TOKENIZERS = [
  'goldens/llava-clip-llama/run/checkpoint-10',
  'goldens/llava-siglip-qwen2/variants/bf16/checkpoint-40',
  'goldens/tokenizer-spm/metaspace',
]

test('answers and questions are where encoding every prefix anew puts them, under every tokenizer', t => {
  const folders = [
    ...TOKENIZERS.map(name => join(ROOT, name)),
    ...SHARED_TOKENIZERS.map(name => shared(t, name)).filter(name => name !== undefined),
  ]
  const piece = fc.oneof(
    fc.constantFrom(
      ' ',
      '\n',
      '</s>',
      '<|im_end|>',
      '<|endoftext|>',
      '3 cats',
      'é',
      '的',
      '  a',
      '<s>',
    ),
    fc.string({ maxLength: 8 }).filter(text => !text.includes('<image')),
  )
  const value = fc.array(piece, { maxLength: 5 }).map(pieces => pieces.join(''))
  const talk = fc.array(fc.tuple(value, value), { minLength: 1, maxLength: 5 })
  for (const folder of folders) {
    const tokenizer = readTokenizer(folder)
    fc.assert(
      fc.property(
        talk,
        fc.constantFrom('llama', 'qwen2', 'chatml', 'phi'),
        fc.integer({ min: 3, max: 90 }),
        (pairs, name, lengthMax) => {
          const where = { imageTokens: 3, imageTokenId: 0, lengthMax }
          const values = pairs.flatMap(([question, answer], i) => [
            i === 0 ? `<image>${question}` : question,
            answer,
          ])
          const dialog = { turns: turns(...values), images: { length: 1 } }
          const template = TEMPLATES[name]!
          const found = answerPositions(tokenizer, template, dialog, { ...where, start: 'spaced' })
          assert.deepEqual([...found], answersByPrefix(tokenizer, template, dialog, where))
          const prompt = encodePrompt(tokenizer, buildPrompt(template, dialog), 1, where)
          const asked = questionPositions(tokenizer, template, dialog, {
            ...prompt,
            imageTokens: 3,
          })
          assert.deepEqual([...asked], questionsByPrefix({ tokenizer, where }, template, dialog))
        },
      ),
      { numRuns: 60 },
    )
  }
})

test('answers and questions of 1,024 turns take no longer than the text', () => {
  const tokenizer = readTokenizer(join(ROOT, 'config/demo/proxy/checkpoint-100'))
  const dialog = {
    turns: turns(...Array.from({ length: 1024 }, () => 'question of some length')),
    images: { length: 0 },
  }
  const where = { ...options, lengthMax: 1_000_000, start: 'spaced' as const }
  const before = process.cpuUsage()
  assert.ok(answerPositions(tokenizer, TEMPLATES.llama!, dialog, where).length > 1024)
  const { images } = dialog
  for (const name of ['llama', 'chatml', 'phi']) {
    const template = TEMPLATES[name]!
    const prompt = encodePrompt(tokenizer, buildPrompt(template, dialog), images.length, where)
    const positions = questionPositions(tokenizer, template, dialog, { ...prompt, imageTokens: 3 })
    assert.ok(positions.length > 1024)
  }
  assert.ok(process.cpuUsage(before).user < 3_000_000)
})
