/** Every form of docs/data.md in every situation, with the example that must come out. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { XmasdError } from '../../../src/errors.ts'
import { decodeExample } from '../../../src/ingest/form/decode.ts'
import type { Fields } from '../../../src/ingest/form/fields.ts'
import { IMAGE_LIMITS } from '../../../src/ingest/image/pixels.ts'
import { identify } from '../../../src/ingest/prepare.ts'
import { wordsHash } from '../../../src/ingest/words.ts'
import { temporaryFolder } from '../../support.ts'
import { FORMS, type Given, type Lack } from './forms.ts'

const decode = (record: unknown, fields?: Fields) =>
  decodeExample(Buffer.from(JSON.stringify(record)), { fields })
const user = (text: string) => ({ role: 'user', text })
const assistant = (text: string) => ({ role: 'assistant', text })
const system = (text: string) => ({ role: 'system', text })

const ONE: Given = { id: 'a', pictures: [{ path: 'a.png' }], talk: [['What is it?', 'A cat.']] }
const TWO: Given = { ...ONE, pictures: [{ path: 'a.png' }, { path: 'b.png' }] }
const INLINE: Given = { ...ONE, pictures: [{ base64: 'iVBORw0KGgo=', type: 'image/png' }] }
const ASKED = [user('<image>\nWhat is it?'), assistant('A cat.')]

type Situation = { what: string; given: Given; lack?: Lack; expected: object }

const SITUATIONS: Situation[] = [
  { what: 'one image', given: ONE, expected: { id: 'a', turns: ASKED, images: ['a.png'] } },
  {
    what: 'several images',
    given: TWO,
    expected: {
      id: 'a',
      turns: [user('<image>\n<image>\nWhat is it?'), assistant('A cat.')],
      images: ['a.png', 'b.png'],
    },
  },
  {
    what: 'no image',
    given: { ...ONE, pictures: [] },
    expected: { id: 'a', turns: [user('What is it?'), assistant('A cat.')], images: [] },
  },
  {
    what: 'a system turn',
    given: { ...ONE, system: 'Be brief.' },
    lack: 'system',
    expected: { id: 'a', turns: [system('Be brief.'), ...ASKED], images: ['a.png'] },
  },
  {
    what: 'several turns',
    given: { ...ONE, talk: [...ONE.talk, ['Which colour?', 'Red.']] },
    lack: 'several turns',
    expected: {
      id: 'a',
      turns: [...ASKED, user('Which colour?'), assistant('Red.')],
      images: ['a.png'],
    },
  },
  {
    what: 'an empty answer',
    given: { ...ONE, talk: [['What is it?', '']] },
    expected: {
      id: 'a',
      turns: [user('<image>\nWhat is it?'), assistant('')],
      images: ['a.png'],
    },
  },
  {
    what: 'no id',
    given: { pictures: ONE.pictures, talk: ONE.talk },
    expected: { id: undefined, turns: ASKED, images: ['a.png'] },
  },
  {
    what: 'a number as id',
    given: { ...ONE, id: 101005 },
    expected: { id: '101005', turns: ASKED, images: ['a.png'] },
  },
  {
    what: 'a missing tag',
    given: { ...TWO, marks: 0 },
    lack: 'missing tag',
    expected: {
      id: 'a',
      turns: [user('<image>\n<image>\nWhat is it?'), assistant('A cat.')],
      images: ['a.png', 'b.png'],
    },
  },
]

for (const { name, record, lacks } of FORMS) {
  for (const { what, given, lack, expected } of SITUATIONS) {
    if (lack !== undefined && lacks.includes(lack)) continue
    test(`${name} with ${what} is the example`, () => {
      assert.deepEqual(decode(record(given)), expected)
    })
  }

  test(`${name} with an image inline is the example, its bytes a data: URL`, () => {
    const { images, ...rest } = decode(record(INLINE))
    assert.deepEqual(rest, { id: 'a', turns: ASKED })
    assert.match(images.join(), /^data:image\/png;base64,iVBORw0KGgo=$/)
  })

  test(`${name} with a video is unsupported`, () => {
    assert.equal(codeOf(() => decode(record({ ...ONE, video: true }))).code, 'MODALITY_UNSUPPORTED')
  })

  if (lacks.includes('too many tags')) continue
  test(`${name} with too many tags is refused with both counts`, () => {
    const { code, message } = codeOf(() => decode(record({ ...TWO, marks: 3 })))
    assert.equal(code, 'IMAGE_COUNT_MISMATCH', message)
    assert.match(message, /2 images and 3 times <image>/)
  })
}

function codeOf(use: () => unknown): XmasdError {
  try {
    use()
  } catch (error) {
    assert.ok(error instanceof XmasdError, String(error))
    return error
  }
  assert.fail('nothing is thrown')
}

const PNG =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=='

test('one conversation has one content, one key and the same words in every form', async t => {
  const root = temporaryFolder(t)
  writeFileSync(join(root, 'rgb.png'), Buffer.from(PNG, 'base64'))
  const source = {
    root,
    limits: IMAGE_LIMITS,
    hosts: [],
    addressesAllowed: [],
  }
  const [byPath, inline] = [[{ path: 'rgb.png' }], [{ base64: PNG, type: 'image/png' }]]
  const found = new Set<string>()
  for (const { record } of FORMS) {
    for (const pictures of [byPath, inline]) {
      const value = Buffer.from(JSON.stringify(record({ ...ONE, pictures })))
      const { key, content, dialog } = await identify(value, source, () => undefined)
      found.add([key, content, wordsHash(dialog.turns)].join())
    }
  }
  assert.equal(found.size, 1)
})

test('an example without an id has its key, else the start of its content hash, as id', async () => {
  const source = { root: '/', limits: IMAGE_LIMITS, hosts: [], addressesAllowed: [] }
  const value = (fields: object) =>
    Buffer.from(
      JSON.stringify({ ...fields, messages: [USER_HI, { role: 'assistant', content: 'b' }] }),
    )
  const idOf = async (fields: object, key?: string | null) =>
    (await identify(value(fields), source, () => undefined, { key })).id
  assert.equal(await idOf({}, 'k-1'), 'k-1')
  assert.equal(await idOf({ id: 'own' }, 'k-1'), 'own')
  assert.equal(await idOf({ id: null }, 'k-1'), 'k-1')
  const { content } = await identify(value({}), source, () => undefined)
  for (const key of [undefined, null, '', ' '])
    assert.equal(await idOf({}, key), content.slice(0, 16))
})

const USER_HI = { role: 'user', content: 'Hi' }

test('records that differ in their system turn or their tools alone are two contents', async () => {
  const source = { root: '/', limits: IMAGE_LIMITS, hosts: [], addressesAllowed: [] }
  const talk = [USER_HI, { role: 'assistant', content: 'Hello' }]
  const hello = {
    conversations: [
      { from: 'human', value: 'Hi' },
      { from: 'gpt', value: 'Hello' },
    ],
  }
  const contents = await Promise.all(
    [
      { messages: talk },
      hello,
      { messages: [{ role: 'system', content: 'A' }, ...talk] },
      { messages: [{ role: 'system', content: 'B' }, ...talk] },
      { messages: talk, tools: [{ name: 'f' }] },
      { messages: talk, tools: '[{"name":"f"}]' },
    ].map(async record => {
      const value = Buffer.from(JSON.stringify(record))
      return (await identify(value, source, () => undefined)).content
    }),
  )
  assert.equal(contents[0], '8544a65060cbb6b87b73ef4e5697ee07191b53e8aa49d89694975ccef112b267')
  assert.deepEqual([contents[1], contents[5]], [contents[0], contents[4]])
  assert.equal(new Set(contents).size, 4)
})

test('calls of tools are turns, in LLaMA-Factory’s form and in OpenAI’s', () => {
  const call = '{"name":"f","arguments":{"x":1}}'
  const turns = [
    user('Sum?'),
    { role: 'tool_call', text: call },
    { role: 'tool', text: '3' },
    assistant('3.'),
  ]
  const sharegpt = [
    { from: 'human', value: 'Sum?' },
    { from: 'function_call', value: call },
    { from: 'observation', value: '3' },
    { from: 'gpt', value: '3.' },
  ]
  const toolCalls = [{ type: 'function', function: { name: 'f', arguments: '{"x":1}' } }]
  const messages = [
    { role: 'user', content: 'Sum?' },
    { role: 'assistant', content: null, tool_calls: toolCalls },
    { role: 'tool', content: '3' },
    { role: 'assistant', content: '3.' },
  ]
  assert.deepEqual(decode({ conversations: sharegpt }).turns, turns)
  assert.deepEqual(decode({ messages }).turns, turns)
})

test('of instruction and input either may be empty', () => {
  const turns = [user('What?'), assistant('This.')]
  const output = 'This.'
  assert.deepEqual(decode({ instruction: 'What?', input: '', output }).turns, turns)
  assert.deepEqual(decode({ instruction: '', input: 'What?', output }).turns, turns)
  assert.deepEqual(decode({ query: 'What?', response: output }).turns, turns)
  assert.equal(
    codeOf(() => decode({ instruction: '', input: '', output })).code,
    'CONVERSATIONS_INVALID',
  )
})

test('a video that is a list of frames is several images at the place of its tag', () => {
  const messages = [
    { role: 'user', content: '<video>What happens? <image>' },
    { role: 'assistant', content: 'Nothing.' },
  ]
  const { turns, images } = decode({ messages, videos: [['0.png', '1.png']], images: ['a.png'] })
  assert.equal(turns[0]!.text, '<image><image>What happens? <image>')
  assert.deepEqual(images, ['0.png', '1.png', 'a.png'])
  assert.equal(codeOf(() => decode({ messages, images: ['a.png'] })).code, 'MODALITY_UNSUPPORTED')
})

test('an image may stand in an answer, where the counts agree', () => {
  const messages = [
    { role: 'user', content: 'Show a cat.' },
    { role: 'assistant', content: '<image>' },
  ]
  const { turns, images } = decode({ messages, images: ['a.png'] })
  assert.deepEqual(
    { turns, images },
    { turns: [user('Show a cat.'), assistant('<image>')], images: ['a.png'] },
  )
})

test('fields and roles under other names are read by data.fields', () => {
  const columns = { id: 'uid', messages: 'dialog', images: 'pictures', system: 'preamble' }
  const tags = {
    role_tag: 'speaker',
    content_tag: 'says',
    user_tag: 'customer',
    assistant_tag: 'agent',
  }
  const record = {
    uid: 7,
    preamble: 'Be brief.',
    dialog: [
      { speaker: 'customer', says: '<image>\nWhat is it?' },
      { speaker: 'agent', says: 'A cat.' },
    ],
    pictures: 'a.png',
    conversations: 'unused',
  }
  assert.deepEqual(decode(record, { columns, tags }), {
    id: '7',
    turns: [system('Be brief.'), ...ASKED],
    images: ['a.png'],
  })
})
