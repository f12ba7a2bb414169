import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { countExamples, readExamples } from '../../../src/ingest/data/read.ts'
import { EXAMPLE_BYTES_MAX } from '../../../src/ingest/data/scan.ts'
import { withField } from '../../../src/ingest/form/bytes.ts'
import { temporaryFolder } from '../../support.ts'
import { hasCode } from '../fixtures.ts'

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
  ['text', '\nhello', /line 2: the file is not a JSON array of examples: 'h'/],
  ['a zip file', 'PK\x03\x04....', /the file is zip/],
  [
    'something between indented objects',
    '{\n"a":1\n}\n{\n"a":2\n},\n',
    /line 6: ',' between objects/,
  ],
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

const EXAMPLES = [1, 2, 3].map(id => ({ id, conversations: [{ from: 'human', value: 'é {"[' }] }))
const LINES = EXAMPLES.map(one => JSON.stringify(one))
const ARRAY = JSON.stringify(EXAMPLES, null, 2)
const swapped = (text: string) => Buffer.from(text, 'utf16le').swap16()

const CONTENTS: [string, string, string | Uint8Array, RegExp | null][] = [
  ['lines with a byte order mark', 'a.jsonl', `\ufeff${LINES.join('\n')}`, null],
  [
    'lines of joined files with marks',
    'a.jsonl',
    LINES.map(line => `\ufeff${line}`).join('\n'),
    null,
  ],
  ['lines in a .json', 'a.json', LINES.join('\n'), /one example a line/],
  ['an indented array in a .jsonl', 'a.jsonl', ARRAY, /one JSON array/],
  [
    'indented objects',
    'a.jsonl',
    EXAMPLES.map(one => JSON.stringify(one, null, 2)).join('\n'),
    /indented/,
  ],
  [
    'an array wrapped in an object',
    'a.json',
    `{"v": [1, {"a": 2}], "data": ${ARRAY}, "n": 3}`,
    /under "data"/,
  ],
  [
    'UTF-16 with a mark',
    'a.jsonl',
    Buffer.from(`\ufeff${LINES.join('\n')}`, 'utf16le'),
    /UTF-16LE/,
  ],
  ['UTF-16, the other way round, without a mark', 'a.json', swapped(ARRAY), /UTF-16BE/],
  ['gzip', 'a.jsonl.gz', gzipSync(LINES.join('\n')), /gzip/],
  [
    'gzip in two members, named otherwise',
    'a.json',
    Buffer.concat([gzipSync(`${LINES[0]}\n`), gzipSync(LINES.slice(1).join('\n'))]),
    /gzip, one example a line/,
  ],
]

for (const [what, name, content, note] of CONTENTS) {
  test(`${what} read as what they are, and that is said`, async t => {
    const notes: string[] = []
    const found: unknown[] = []
    const file = write(t, name, content)
    for await (const bytes of readExamples(file, undefined, text => notes.push(text))) {
      found.push(JSON.parse(Buffer.from(bytes).toString()))
    }
    assert.deepEqual(found, EXAMPLES)
    if (note === null) assert.deepEqual(notes, [])
    else assert.match(notes.join(), note)
    assert.equal(await countExamples(file), EXAMPLES.length)
  })
}

test('a gzip file that is cut is unreadable', async t => {
  const cut = gzipSync(ARRAY.repeat(1)).subarray(0, 60)
  await assert.rejects(read(write(t, 'a.json.gz', cut)), hasCode('FILE_UNREADABLE'))
})

test('a FIFO is read once, and not counted', async t => {
  const fifo = join(temporaryFolder(t), 'fifo')
  execFileSync('mkfifo', [fifo])
  assert.equal(await countExamples(fifo), undefined)
  const writing = writeFile(fifo, LINES.join('\n'))
  assert.deepEqual(await texts(fifo), LINES)
  await writing
})

test('one field of an example is replaced and every other byte stays', () => {
  const change = (text: string) =>
    Buffer.from(withField(Buffer.from(text), 'image', '"new"')).toString()
  const text = ' {"id": 1760001234567890123, "x": {"image": 1}, "image" : ["a", "b}"] , "n": NaN }'
  assert.equal(change(text), text.replace('["a", "b}"]', '"new"'))
  assert.equal(change('{"image":"a","image":"b"}'), '{"image":"a","image":"new"}')
  assert.equal(change('{"x":"image"}'), '{"x":"image"}')
  assert.equal(change('not json'), 'not json')
})

test('any field of any object is replaced as a parsed object would have it', () => {
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), fc.jsonValue()),
      fc.constantFrom(0, 1),
      (object, indent) => {
        const text = JSON.stringify({ ...object, image: 'old' }, null, indent)
        const back = JSON.parse(
          Buffer.from(withField(Buffer.from(text), 'image', '[1]')).toString(),
        )
        assert.deepEqual(back, JSON.parse(JSON.stringify({ ...object, image: [1] })))
      },
    ),
  )
})

test('a file of something else is noticed before it fills the memory', async t => {
  const file = write(t, 'a.jsonl', Buffer.alloc(EXAMPLE_BYTES_MAX + 1, 0x61))
  await assert.rejects(read(file), hasCode('DATA_INVALID'))
})

test('a missing file and a folder are unreadable', async t => {
  const folder = temporaryFolder(t)
  await assert.rejects(read(join(folder, 'none.json')), hasCode('FILE_UNREADABLE'))
  await assert.rejects(read(folder), hasCode('FILE_UNREADABLE'))
})
