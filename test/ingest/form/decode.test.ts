import assert from 'node:assert/strict'
import test from 'node:test'
import fc from 'fast-check'
import { type ErrorCode, XmasdError } from '../../../src/errors.ts'
import { decodeExample } from '../../../src/ingest/form/decode.ts'
import { ID_BYTES_MAX } from '../../../src/ingest/form/example.ts'
import { hasCode } from '../fixtures.ts'

const human = (value: unknown) => ({ from: 'human', value })
const gpt = (value: unknown) => ({ from: 'gpt', value })
const user = (text: string) => ({ role: 'user', text })
const assistant = (text: string) => ({ role: 'assistant', text })
const talk = [human('<image>\nWhat is it?'), gpt('A cat.')]
const good = { id: 'a', image: 'a.png', conversations: talk }
const plain = { id: 'a', conversations: [human('Hi'), gpt('Hello')] }
const plainTurns = [user('Hi'), assistant('Hello')]

const bytesOf = (value: unknown) =>
  value instanceof Uint8Array
    ? value
    : Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))
const withTurns = (...conversations: unknown[]) => ({ ...plain, conversations })

/** JSON.parse takes it, JSON.stringify does not. */
const deep = '['.repeat(100_000) + ']'.repeat(100_000)

/** The bad inputs that need no image: what, value, code. */
const BAD: [string, unknown, ErrorCode][] = [
  ['no bytes', '', 'NOT_JSON'],
  ['not JSON', '{"id": "a", ', 'NOT_JSON'],
  ['two objects in one record', '{}{}', 'NOT_JSON'],
  ['invalid UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d]), 'NOT_UTF8'],
  ['a surrogate encoded in UTF-8', Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]), 'NOT_UTF8'],
  ['null', 'null', 'NOT_AN_OBJECT'],
  ['an array', '[{}]', 'NOT_AN_OBJECT'],
  ['a string', '"a"', 'NOT_AN_OBJECT'],
  ['an array that opens 200,000 times', '['.repeat(200_000), 'NOT_JSON'],
  ['an array 100,000 deep', deep, 'NOT_AN_OBJECT'],
  ['conversations 100,000 deep', `{"id": "a", "conversations": ${deep}}`, 'CONVERSATIONS_INVALID'],
  ['an id 100,000 deep', `{"id": {"a": ${deep}}}`, 'ID_INVALID'],
  ['an empty id', { ...plain, id: '' }, 'ID_INVALID'],
  ['a blank id', { ...plain, id: ' \t' }, 'ID_INVALID'],
  ['an id that is true', { ...plain, id: true }, 'ID_INVALID'],
  ['an infinite id', '{"id": 1e999, "conversations": []}', 'ID_INVALID'],
  ['an id that is a huge float', '{"id": 1e30}', 'ID_INVALID'],
  ['a NUL in the id', { ...plain, id: 'a\0b' }, 'ID_INVALID'],
  ['an id of 10 kB', { ...plain, id: 'x'.repeat(10_000) }, 'ID_TOO_LONG'],
  ['an id whose UTF-8 is too long', { ...plain, id: 'é'.repeat(600) }, 'ID_TOO_LONG'],
  ['a lone surrogate in the id', '{"id": "a\\ud800"}', 'TEXT_INVALID'],
  ['no conversations', { id: 'a' }, 'CONVERSATIONS_INVALID'],
  ['no turns', withTurns(), 'CONVERSATIONS_INVALID'],
  ['conversations that are an object', { id: 'a', conversations: {} }, 'CONVERSATIONS_INVALID'],
  ['a turn that is null', withTurns(null, gpt('b')), 'CONVERSATIONS_INVALID'],
  ['a turn without a value', withTurns({ from: 'human' }, gpt('b')), 'CONVERSATIONS_INVALID'],
  ['a turn whose value is null', withTurns(human(null), gpt('b')), 'CONVERSATIONS_INVALID'],
  ['a turn whose value is true', withTurns(human(true), gpt('b')), 'CONVERSATIONS_INVALID'],
  ['an unknown role', withTurns({ from: 'narrator', value: 'x' }, gpt('b')), 'ROLE_UNKNOWN'],
  ['no role', withTurns({ value: 'x' }, gpt('b')), 'ROLE_UNKNOWN'],
  ['a question without an answer', withTurns(human('a')), 'TURNS_MISORDERED'],
  ['two questions in a row', withTurns(human('a'), human('b')), 'TURNS_MISORDERED'],
  ['an answer alone', withTurns(gpt('a')), 'TURNS_MISORDERED'],
  ['two answers first', withTurns(gpt('a'), gpt('b')), 'TURNS_MISORDERED'],
  [
    'a system turn in the middle',
    withTurns(human('a'), { from: 'system', value: 's' }),
    'TURNS_MISORDERED',
  ],
  ['a lone surrogate in a turn', plainWith('\\udc00 x'), 'TEXT_INVALID'],
  [
    'a lone surrogate in the image',
    JSON.stringify(good).replace('a.png', '\\ud800.png'),
    'TEXT_INVALID',
  ],
  ['an image that is a number', { ...good, image: 7 }, 'IMAGE_FIELD_INVALID'],
  ['a list of images with a number', { ...good, image: ['a.png', 7] }, 'IMAGE_FIELD_INVALID'],
  ['a list with an empty image', { ...good, image: ['a.png', ''] }, 'IMAGE_FIELD_INVALID'],
  ['two images and one <image>', { ...good, image: ['a.png', 'b.png'] }, 'IMAGE_COUNT_MISMATCH'],
  [
    'two images and three <image>',
    { ...withTurns(human('<image><image><image>'), gpt('b')), image: ['a', 'b'] },
    'IMAGE_COUNT_MISMATCH',
  ],
  ['an image without path and bytes', { ...good, image: { name: 'a' } }, 'IMAGE_FIELD_INVALID'],
  ['<image> without an image', { ...good, image: undefined }, 'PLACEHOLDER_WITHOUT_IMAGE'],
  ['<image> with an empty image', { ...good, image: '' }, 'PLACEHOLDER_WITHOUT_IMAGE'],
  [
    'an inline image',
    withTurns(human('<img>a.png</img>What?'), gpt('b')),
    'PLACEHOLDER_WITHOUT_IMAGE',
  ],
  [
    'the mark of another form',
    withTurns(human('<|image|>What?'), gpt('b')),
    'PLACEHOLDER_WITHOUT_IMAGE',
  ],
  ['a numbered mark', withTurns(human('<image1>What?'), gpt('b')), 'PLACEHOLDER_WITHOUT_IMAGE'],
  ['the mark of a video', withTurns(human('<video>What?'), gpt('b')), 'MODALITY_UNSUPPORTED'],
  ['a video', { ...plain, video: 'a.mp4' }, 'MODALITY_UNSUPPORTED'],
  ['a video beside an image', { ...good, video: 'a.mp4' }, 'MODALITY_UNSUPPORTED'],
  ['sounds', { ...plain, audios: ['a.wav'] }, 'MODALITY_UNSUPPORTED'],
  ['a number under images', { ...plain, images: [7] }, 'IMAGE_FIELD_INVALID'],
  ['a picture under another name', { ...plain, picture: { path: 'a.JPG' } }, 'IMAGE_FIELD_INVALID'],
  [
    'a picture under __proto__',
    JSON.stringify(plain).replace('{', '{"__proto__": {"image": "a.png"}, '),
    'IMAGE_FIELD_INVALID',
  ],
  ['more text than is read', withTurns(human('a'.repeat(131_072)), gpt('b')), 'TEXT_TOO_LONG'],
  [
    'more turns than are read',
    withTurns(...Array.from({ length: 513 }, () => [human('a'), gpt('b')]).flat()),
    'TURNS_TOO_MANY',
  ],
  ['65 marks on one letter', withTurns(human(`a${'\u0301'.repeat(65)}`), gpt('b')), 'TEXT_INVALID'],
  [
    'NaN in place of the answer',
    '{"id": "a", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": NaN}]}',
    'CONVERSATIONS_INVALID',
  ],
  [
    'an image with the mark of another form',
    { ...withTurns(human('<|image|>What?'), gpt('b')), image: 'a' },
    'IMAGE_WITHOUT_PLACEHOLDER',
  ],
  [
    '<image> in two questions',
    { ...good, conversations: [...talk, ...talk] },
    'PLACEHOLDER_MISPLACED',
  ],
  [
    '<image> in a question and an answer',
    { ...good, conversations: [human('<image> a'), gpt('b <image>')] },
    'PLACEHOLDER_MISPLACED',
  ],
  [
    'an <image> that appears when another is taken out',
    { ...good, conversations: [human('<ima<image>ge> a'), gpt('b')] },
    'PLACEHOLDER_MISPLACED',
  ],
]

function plainWith(escaped: string): string {
  return JSON.stringify(withTurns(human('@'), gpt('b'))).replace('@', escaped)
}

for (const [what, value, code] of BAD) {
  test(`${what} is refused as ${code}`, () => {
    assert.throws(() => decodeExample(bytesOf(value)), hasCode(code))
  })
}

test('an example in LLaVA form decodes to its id, turns and images', () => {
  const turns = [user('<image>\nWhat is it?'), assistant('A cat.')]
  assert.deepEqual(decodeExample(bytesOf(good)), { id: 'a', turns, images: ['a.png'] })
})

test('numbers are ids by their decimal text, and the longest id passes', () => {
  assert.equal(decodeExample(bytesOf({ ...plain, id: 101005 })).id, '101005')
  assert.equal(decodeExample(bytesOf({ ...plain, id: 0 })).id, '0')
  const long = JSON.stringify({ ...plain, id: 7 }).replace('7', '12345678901234567890')
  assert.equal(decodeExample(bytesOf(long)).id, '12345678901234567890')
  const id = 'x'.repeat(ID_BYTES_MAX)
  assert.equal(decodeExample(bytesOf({ ...plain, id })).id, id)
})

test('user and assistant are human and gpt', () => {
  const turns = [
    { from: 'user', value: 'Hi' },
    { from: 'assistant', value: 'Hello' },
  ]
  const decoded = decodeExample(bytesOf(withTurns(...turns)))
  assert.deepEqual(decoded.turns, plainTurns)
})

test('a first turn that is an answer is dropped, as the trainers do; a system turn stays', () => {
  const greeted = decodeExample(bytesOf(withTurns(gpt('Welcome.'), ...plain.conversations)))
  assert.deepEqual(greeted.turns, plainTurns)
  const system = { from: 'system', value: 'Be brief.' }
  const told = decodeExample(bytesOf(withTurns(system, ...plain.conversations)))
  assert.deepEqual(told.turns, [{ role: 'system', text: 'Be brief.' }, ...plainTurns])
})

test('an image may be absent, null, empty, a string, or a list of strings', () => {
  for (const image of [undefined, null, '', [], ['']]) {
    assert.deepEqual(decodeExample(bytesOf({ ...plain, image })).images, [])
  }
  assert.deepEqual(decodeExample(bytesOf({ ...good, image: ['a.png'] })).images, ['a.png'])
})

test('several images have as many marks, in one question or in several', () => {
  const image = ['a.png', 'b.png', 'a.png']
  const one = withTurns(human('<image><image>\nor <image>?'), gpt('No.'))
  assert.deepEqual(decodeExample(bytesOf({ ...one, image })).images, image)
  const [first, second] = [human('<image>?'), human('Or <image> and <image>?')]
  const several = withTurns(first, gpt('No.'), human('Really?'), gpt('No.'), second, gpt('Yes.'))
  assert.deepEqual(decodeExample(bytesOf({ ...several, image })).images, image)
})

test('whole surrogate pairs, a byte order mark and unknown keys are fine', () => {
  const text = JSON.stringify({ ...withTurns(human('🙂'), gpt('ok')), __proto__: null, extra: 1 })
  const escaped = text.replace('🙂', '\\ud83d\\ude42')
  assert.equal(decodeExample(bytesOf(`\ufeff${escaped}`)).turns[0]?.text, '🙂')
})

test('whatever the bytes, the outcome is an example or an XmasdError', () => {
  const json = fc.json().map(text => Buffer.from(text))
  const nearly = fc
    .record({ id: fc.anything(), image: fc.anything(), conversations: fc.array(fc.anything()) })
    .map(value => Buffer.from(fc.stringify(value)))
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), json, nearly), bytes => {
      try {
        assert.ok(['assistant', 'tool_call'].includes(decodeExample(bytes).turns.at(-1)!.role))
      } catch (error) {
        assert.ok(error instanceof XmasdError, String(error))
      }
    }),
  )
})

test('an answer that is a number is read as its text, and roles in any case', () => {
  const { turns } = decodeExample(
    bytesOf(withTurns({ from: 'Human', value: 'How many?' }, { from: 'GPT', value: 3 })),
  )
  assert.deepEqual(turns, [user('How many?'), assistant('3')])
})

test('NaN and Infinity where nobody reads them leave the example as it is', () => {
  const text = JSON.stringify({ ...good, note: 'NaN, "Infinity"', a: 1, b: 2 })
  const odd = text.replace('"a":1', '"a":NaN').replace('"b":2', '"b":[-Infinity]')
  assert.notEqual(odd, text)
  assert.deepEqual(decodeExample(bytesOf(odd)), decodeExample(bytesOf(text)))
})

test('<image> in the answer of an example without a picture is text', () => {
  const { images, turns } = decodeExample(bytesOf(withTurns(human('a'), gpt('<image>'))))
  assert.deepEqual({ images, answer: turns[1]!.text }, { images: [], answer: '<image>' })
})

test('an absent image, null, an empty string and an empty list are the same: none', () => {
  for (const image of [undefined, null, '', [], [''], [null]]) {
    assert.deepEqual(decodeExample(bytesOf({ ...plain, image })).images, [])
  }
})

test('a picture part beside <image> in the text is told to leave one of them out', () => {
  const content = [{ type: 'image' }, { type: 'text', text: '<image>\nWhat is it?' }]
  const messages = [
    { role: 'user', content },
    { role: 'assistant', content: 'A cat.' },
  ]
  const record = Buffer.from(JSON.stringify({ id: 'a', messages, images: ['a.png'] }))
  assert.throws(() => decodeExample(record), {
    code: 'IMAGE_COUNT_MISMATCH',
    message: /1 images and 2 times <image>/,
    hint: /part, as \{"type": "image"\}, is its mark: leave <image> out of the text/,
  })
})

test('a line that score wrote is told where it belongs', () => {
  const scored = { id: 'a', key: 'a@0', trajectory: [1, 2], instability: 1, singularValues: null }
  assert.throws(() => decodeExample(Buffer.from(JSON.stringify(scored))), {
    code: 'CONVERSATIONS_INVALID',
    hint: /xmasd score.*produce --trajectories FILE/,
  })
  assert.throws(() => decodeExample(Buffer.from('{"id": "a"}')), {
    code: 'CONVERSATIONS_INVALID',
    hint: /^give the turns as a list/,
  })
})
