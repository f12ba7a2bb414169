/** Prompts by the checkpoint's own chat template: text, ids, columns, rows and answers of the golden sets. */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type ChatTemplate, choosePrompt, renderPrompt } from '../../src/ingest/chat-template.ts'
import { decodeExample } from '../../src/ingest/form/decode.ts'
import { encodeDialog } from '../../src/ingest/prepare.ts'
import type { Dialog } from '../../src/ingest/template.ts'
import { readTokenizer, type Tokenizer } from '../../src/ingest/tokenizer.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import { shared, temporaryFolder } from '../support.ts'
import { hasCode } from './fixtures.ts'

type Expected = {
  examples: {
    prompt: string
    input_ids: number[]
    columns: number[]
    rows: number[]
    answers: number[]
  }[]
}

for (const name of ['lora-plain', 'lora-pattern', 'lora-rslora', 'lora-modules']) {
  test(`${name}: the chat template's prompts, ids, columns, rows and answers`, t => {
    const set = shared(t, 'goldens/families', name)
    if (set === undefined) return
    const expected: Expected = JSON.parse(readFileSync(join(set, 'expected.json'), 'utf8'))
    const { checkpoints, config } = openSchedule(join(set, 'run'))
    const { dir } = checkpoints[0]!
    const { template, origin, formerly } = choosePrompt(undefined, {
      proxyDir: join(set, 'run'),
      checkpointDir: dir,
      tokenizerDir: dir,
      imageTokenId: config.imageTokenId,
      config,
    })
    assert.match(origin, /chat_template\.jinja, the checkpoint's chat template/)
    assert.ok(formerly === 'llama' || formerly === 'qwen2_base')
    const tokenizer = readTokenizer(dir)
    const data: unknown[] = JSON.parse(readFileSync(join(set, 'data.json'), 'utf8'))
    for (const [i, example] of data.entries()) {
      const dialog = decodeExample(Buffer.from(JSON.stringify(example)))
      const options = { ...config, template, answers: true, questions: true }
      const { text, ids, columns, rows, answers, questions } = encodeDialog(
        tokenizer,
        dialog,
        options,
      )
      const wanted = expected.examples[i]!
      assert.equal(text, wanted.prompt)
      assert.deepEqual([...ids], wanted.input_ids)
      assert.deepEqual([...columns], wanted.columns)
      if (columns.length > 0) assert.deepEqual([...rows], wanted.rows)
      assert.deepEqual([...answers], wanted.answers)
      const short = encodeDialog(tokenizer, dialog, { ...options, lengthMax: ids.length - 5 })
      assert.deepEqual([...short.ids], wanted.input_ids.slice(0, -5))
      const kept = wanted.answers.filter(position => position < ids.length - 5)
      assert.deepEqual([...short.answers], kept)
      const others = new Set([...columns, ...answers])
      assert.ok(questions.length > 0 && !questions.some(position => others.has(position)))
      const askedShort = questions.filter(position => position < ids.length - 5)
      assert.deepEqual([...short.questions], [...askedShort])
    }
  })
}

const chatml =
  "{% for m in messages %}<|{{ m.role }}|>{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text | trim }}{% endfor %}</s>{% endfor %}"
const chat = (source: string): ChatTemplate => {
  return {
    chat: source,
    file: 'chat_template.jinja',
    tokens: { eos_token: '</s>' },
    imageToken: '<image>',
  }
}
const dialog = (images: number, ...values: string[]): Dialog => ({
  turns: values.map((value, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', text: value })),
  images: { length: images },
})

test('answers are found with their end tokens, also where the template trims them or a question repeats them', () => {
  const { text, answers } = renderPrompt(chat(chatml), dialog(1, '<image>a', ' a ', 'b', 'a'), [
    '</s>',
  ])
  assert.equal(text, '<|user|><image>a</s><|assistant|>a</s><|user|>b</s><|assistant|>a</s>')
  assert.deepEqual(
    answers.map(({ from, to }) => text.slice(from, to)),
    ['a</s>', 'a</s>'],
  )
  assert.equal(answers[0]!.from, text.indexOf('<|assistant|>') + '<|assistant|>'.length)
})

/** A token a letter, but special tokens are one. */
const letters: Tokenizer = {
  encode: text => [
    1,
    ...[...text.matchAll(/<[^<>]*>|./gsu)].map(([piece]) =>
      piece === '<image>' ? 0 : 2 + piece.codePointAt(piece.length > 1 ? 2 : 0)!,
    ),
  ],
  bosId: 1,
  addedTokens: ['</s>', '<image>'],
}

test('questions are found without end tokens and images; nowhere where the template does not write them as they are', () => {
  const where = { imageTokens: 3, imageTokenId: 0, lengthMax: 100, questions: true }
  const talk = dialog(1, '<image> why ', 'b', '', 'b', 'who', 'c')
  const { ids, questions } = encodeDialog(letters, talk, { ...where, template: chat(chatml) })
  assert.equal(String.fromCodePoint(...Array.from(questions, at => ids[at]! - 2)), 'whywho')
  const short = { ...where, lengthMax: questions[4]! + 1, template: chat(chatml) }
  assert.deepEqual([...encodeDialog(letters, talk, short).questions], [...questions.slice(0, 5)])
  for (const other of [
    'p.text | upper',
    "raise_exception('no') if '\ue000' in p.text else p.text",
  ]) {
    const template = chat(chatml.replace('p.text | trim', other))
    assert.deepEqual([...encodeDialog(letters, talk, { ...where, template }).questions], [])
  }
})

test('a template that loops, fails, refuses or hides an answer is an error of the example, in bounded time', () => {
  const cases: [string, RegExp][] = [
    [
      '{% for i in range(100000000) %}{% for j in range(100000000) %}{% endfor %}{% endfor %}',
      /longer than 2 s|memory|length/,
    ],
    ["{{ raise_exception('System role not supported') }}", /System role not supported/],
    ['{{ messages | length }}', /does not write every answer once/],
  ]
  for (const [source, message] of cases) {
    const started = performance.now()
    assert.throws(() => renderPrompt(chat(source), dialog(0, 'q', 'a'), []), {
      code: 'TEMPLATE_INVALID',
      message,
    })
    assert.ok(performance.now() - started < 10_000)
  }
})

test('system turns, tools, calls and their results reach the template in transformers form', () => {
  const source =
    "{{ (tools | tojson) if tools else 'none' }}|{% for m in messages %}{{ m.role }}:{% for p in m.content %}{{ p.text }}{% endfor %}{% for c in m.tool_calls or [] %}call {{ c.function.name }}{% endfor %}|{% endfor %}"
  const turns = [
    { role: 'system', text: 'Be brief.' },
    { role: 'user', text: 'Weather?' },
    { role: 'tool_call', text: '{"name": "weather", "arguments": {}}' },
    { role: 'tool', text: 'sun' },
    { role: 'assistant', text: 'Sunny.' },
  ] as const
  const tools = '[{"name":"weather"}]'
  const { text } = renderPrompt(chat(source), { turns, images: [], tools })
  const conversation =
    'system:Be brief.|user:Weather?|assistant:call weather|tool:sun|assistant:Sunny.|'
  assert.equal(text, `[{"name": "weather"}]|${conversation}`)
})

test('an image token in the text is an error that names it', () => {
  assert.throws(
    () => renderPrompt(chat(chatml), dialog(1, '<image>q', 'an <image> tag')),
    hasCode('PLACEHOLDER_MISPLACED'),
  )
})

test('the order is the named template, template.json, the chat template, what the family implies', t => {
  const folder = folderWith(t, { 'chat_template.json': JSON.stringify({ chat_template: chatml }) })
  assert.match(originOf(folder), /chat_template\.json, the checkpoint's/)
  assert.match(originOf(folder, 'phi'), /^phi, as configured/)
  const listed = [
    { name: 'tool_use', template: 'x' },
    { name: 'default', template: chatml },
  ]
  const inConfig = folderWith(t, {
    'tokenizer_config.json': JSON.stringify({ chat_template: listed }),
  })
  assert.match(originOf(inConfig), /tokenizer_config\.json, the checkpoint's/)
  const pieces = {
    system: '',
    image: '<image>{{content}}',
    user: '{{content}}',
    assistant: '{{content}}',
  }
  writeFileSync(join(folder, 'template.json'), JSON.stringify(pieces))
  assert.match(originOf(folder), /template\.json$/)
})

test("a language model's chat template, which knows no pictures, is passed over", t => {
  const textOnly = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"
  assert.equal(originOf(folderWith(t, { 'chat_template.jinja': textOnly })), 'llama, of llama')
  const broken = folderWith(t, { 'chat_template.jinja': '{% for %}' })
  assert.throws(() => originOf(broken), hasCode('TEMPLATE_INVALID'))
})

function folderWith(t: TestContext, files: Record<string, string>): string {
  const folder = temporaryFolder(t)
  const added_tokens = [{ id: 7, content: '<image>' }]
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify({ added_tokens }))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text)
  return folder
}

function originOf(folder: string, name?: string): string {
  const config = { kind: 'llava', text: { family: 'llama' } }
  const where = { proxyDir: folder, checkpointDir: folder, tokenizerDir: folder }
  return choosePrompt(name, { ...where, imageTokenId: 7, config }).origin
}
