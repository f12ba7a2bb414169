import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import fc from 'fast-check'
import { EXAMPLE_BYTES_MAX, readExamples } from '../../src/ingest/data.ts'
import { temporaryFolder } from '../support.ts'
import { hasCode } from './fixtures.ts'

function write(t: TestContext, name: string, content: string | Uint8Array): string {
  const file = join(temporaryFolder(t), name)
  writeFileSync(file, content)
  return file
}

async function read(file: string): Promise<Buffer[]> {
  const examples: Buffer[] = []
  for await (const example of readExamples(file)) examples.push(Buffer.from(example))
  return examples
}

const texts = async (file: string) => (await read(file)).map(bytes => bytes.toString())

test('a .jsonl gives its lines, blank ones skipped, a last line without an end included', async t => {
  const file = write(t, 'a.jsonl', '{"id":1}\n\n  \r\n{"id":2} \nnot json\n{"id":3}')
  assert.deepEqual(await texts(file), ['{"id":1}', '{"id":2} ', 'not json', '{"id":3}'])
})

test('bytes that are not UTF-8 pass untouched', async t => {
  const bad = Buffer.from([0x22, 0xff, 0x00, 0xfe, 0x22])
  const lines = Buffer.concat([bad, Buffer.from('\n'), bad])
  assert.deepEqual(await read(write(t, 'a.jsonl', lines)), [bad, bad])
  const array = Buffer.concat([Buffer.from('['), bad, Buffer.from(','), bad, Buffer.from(']')])
  assert.deepEqual(await read(write(t, 'a.json', array)), [bad, bad])
})

test('a .json gives the bytes of each element as they stand', async t => {
  const file = write(
    t,
    'a.json',
    '\ufeff [\n {"a": "]},[\\"\\\\"} ,\n{"b": [1, {"c": []}]}\n, 7 ]\n',
  )
  assert.deepEqual(await texts(file), ['{"a": "]},[\\"\\\\"}', '{"b": [1, {"c": []}]}', '7'])
  assert.deepEqual(await read(write(t, 'empty.json', ' [ ] ')), [])
})

test('elements come out whole wherever the chunks of the file end', async t => {
  const long = { id: 'x', text: 'é🙂"\\'.repeat(60_000) }
  const all = Array.from({ length: 7 }, (_, i) => JSON.stringify({ ...long, i }))
  assert.deepEqual(await texts(write(t, 'a.json', `[${all.join(',\n')}]`)), all)
  assert.deepEqual(await texts(write(t, 'a.jsonl', all.join('\n'))), all)
})

test('any JSON values written as an array are read back', async t => {
  const file = write(t, 'a.json', '')
  const values = fc.array(fc.jsonValue(), { maxLength: 8 })
  await fc.assert(
    fc.asyncProperty(values, fc.constantFrom(0, 1, 2), async (array, indent) => {
      writeFileSync(file, JSON.stringify(array, null, indent))
      const back = (await texts(file)).map(text => JSON.parse(text))
      assert.deepEqual(back, JSON.parse(JSON.stringify(array)))
    }),
  )
})

const BROKEN: [string, string, RegExp][] = [
  ['an array that never ends', '[{"a":1},\n{"b":2}', /line 2: the example here never ends/],
  ['an array that ends after a comma', '[{"a":1},', /never ends/],
  ['a comma too many', '[{"a":1},\n,{"b":2}]', /line 2: ',' where an example/],
  ['a comma before the end', '[1,]', /line 1: '\]' where an example/],
  ['an object instead of an array', '\n{"a":1}', /line 2: the file is not a JSON array/],
  ['lines in a file called .json', '{"a":1}\n{"a":2}', /not a JSON array/],
  ['something after the array', '[1]\n\n[2]', /line 3: something follows/],
  ['an empty file', '', /never ends/],
]

for (const [what, content, message] of BROKEN) {
  test(`${what} is refused with file and line`, async t => {
    const file = write(t, 'broken.json', content)
    await assert.rejects(read(file), error => {
      hasCode('DATA_INVALID')(error)
      assert.match(String(error), message)
      return String(error).includes(file)
    })
  })
}

test('a file of something else is noticed before it fills the memory', async t => {
  const file = write(t, 'a.jsonl', Buffer.alloc(EXAMPLE_BYTES_MAX + 1, 0x61))
  await assert.rejects(read(file), hasCode('DATA_INVALID'))
})

test('a missing file and a folder are unreadable', async t => {
  const folder = temporaryFolder(t)
  await assert.rejects(read(join(folder, 'none.json')), hasCode('FILE_UNREADABLE'))
  await assert.rejects(read(folder), hasCode('FILE_UNREADABLE'))
})
