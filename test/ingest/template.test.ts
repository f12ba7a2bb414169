import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { XmasdError } from '../../src/errors.ts'
import { decodeExample } from '../../src/ingest/form/decode.ts'
import type { Turn } from '../../src/ingest/form/example.ts'
import { buildPrompt, chooseTemplate, TEMPLATES, type Template } from '../../src/ingest/template.ts'
import { shared, temporaryFolder } from '../support.ts'
import { hasCode } from './fixtures.ts'

/** The template that is chosen for llava over `family`, and no tokenizer. */
const resolveTemplate = (name: string | undefined, proxyDir: string, family: string) =>
  chooseTemplate(name, { proxyDir, checkpointDir: proxyDir, config: llava(family) }).template
const llava = (family: string) => ({ kind: 'llava', text: { family } })
const bare: Template = {
  system: 'S|',
  image: '<image>\n{{content}}',
  user: 'U:{{content}}|',
  assistant: 'A:{{content}}|',
}
const turns = (...values: string[]): Turn[] =>
  values.map((text, i) => ({ role: i % 2 === 0 ? 'user' : 'assistant', text }))
const turnsOf = (record: object) => decodeExample(Buffer.from(JSON.stringify(record))).turns
/** The prompt of a conversation with so many images. */
const prompt = (images: number, ...values: string[]): string =>
  buildPrompt(bare, { turns: turns(...values), images: { length: images } })

test('<image> moves to the front of its question, wherever and however often it stood', () => {
  assert.equal(prompt(1, '<image>\nWhat?', 'B'), 'S|U:<image>\nWhat?|A:B|')
  assert.equal(prompt(1, 'What?\n<image>', 'B'), 'S|U:<image>\nWhat?|A:B|')
  assert.equal(prompt(1, ' <image>a<image> ', 'B'), 'S|U:<image>\na|A:B|')
  assert.equal(prompt(1, '<image>', 'B'), 'S|U:<image>|A:B|')
})

test('of several images those of one question stay where they stand; one alone moves to the front', () => {
  assert.equal(prompt(2, ' <image>a\n<image> ', 'B'), 'S|U: <image>a\n<image> |A:B|')
  const two = 'S|U:<image>\na|A:b|U:<image>\nc|A:d|'
  assert.equal(prompt(2, 'a <image>', 'b', '<image>c', 'd'), two)
  const three = 'S|U:x<image><image>|A:b|U:<image>\nc|A:d|'
  assert.equal(prompt(3, 'x<image><image>', 'b', 'c<image>', 'd'), three)
})

test('texts without <image> are taken as they are, spaces included', () => {
  assert.equal(prompt(0, ' a ', ' b\n', 'c', 'd'), 'S|U: a |A: b\n|U:c|A:d|')
})

test('replacement patterns and slots in the text stay literal', () => {
  const text = "$& $1 $$ $` $' {{content}}"
  assert.equal(prompt(0, text, text), `S|U:${text}|A:${text}|`)
  assert.equal(prompt(1, `<image>${text}`, 'b'), `S|U:<image>\n${text}|A:b|`)
})

test('stripping follows Python: separators go, a byte order mark stays', () => {
  const stripped = prompt(1, '<image>\x1c\x85\u2003a\ufeff\x1f', 'b')
  assert.equal(stripped, 'S|U:<image>\na\ufeff|A:b|')
})

for (const set of ['llava-clip-llama', 'llava-siglip-qwen2', 'tinyllava-clip-stablelm']) {
  test(`the prompts of ${set} equal the goldens, by the built-in template`, t => {
    const folder = shared(t, 'goldens', set)
    if (folder === undefined) return
    const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'))
    const data = JSON.parse(readFileSync(join(folder, 'data.json'), 'utf8'))
    const template = resolveTemplate(expected.template.name, folder, 'none')
    for (const { index, prompt, has_image } of expected.examples) {
      const images = { length: has_image ? 1 : 0 }
      assert.equal(buildPrompt(template, { turns: turnsOf(data[index]), images }), prompt)
    }
  })
}

test('a template is found by name, file, template.json, or what the model implies', t => {
  const folder = temporaryFolder(t)
  assert.equal(resolveTemplate(undefined, folder, 'llama'), TEMPLATES.llama)
  assert.equal(resolveTemplate(undefined, folder, 'qwen2'), TEMPLATES.qwen2_base)
  assert.equal(resolveTemplate(undefined, folder, 'stablelm'), TEMPLATES.phi)
  writeFileSync(join(folder, 'template.json'), JSON.stringify({ name: 'mine', ...bare }))
  assert.deepEqual(resolveTemplate(undefined, folder, 'llama'), bare)
  assert.equal(resolveTemplate('chatml', folder, 'llama'), TEMPLATES.chatml)
  assert.deepEqual(resolveTemplate(join(folder, 'template.json'), '/', 'llama'), bare)
})

test('an unknown template is an error that lists the names', t => {
  const folder = temporaryFolder(t)
  for (const name of ['lama', 'constructor', undefined]) {
    assert.throws(
      () => resolveTemplate(name, folder, 'mamba'),
      error =>
        hasCode('TEMPLATE_UNKNOWN')(error) &&
        error instanceof XmasdError &&
        Object.keys(TEMPLATES).every(known => error.hint.includes(known)),
    )
  }
})

test('a template file with a missing, unknown or unusable slot is refused', t => {
  const file = join(temporaryFolder(t), 'template.json')
  const bad = [
    '{',
    { ...bare, assistant: undefined },
    { ...bare, extra: 'x' },
    { ...bare, user: 'USER:' },
    { ...bare, system: '<image>' },
    { ...bare, image: '{{content}}' },
    { ...bare, image: '<image><image>{{content}}' },
  ]
  for (const content of bad) {
    writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content))
    assert.throws(() => resolveTemplate(file, '/', 'llama'), hasCode('TEMPLATE_INVALID'))
  }
})
