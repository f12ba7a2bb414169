/** Data files beside text: Parquet, WebDataset shards, packed ones, patterns. */
import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { gzipSync } from 'node:zlib'
import { Encoder } from '@toondepauw/node-zstd'
import { parquetMetadata } from 'hyparquet'
import { parquetWriteBuffer } from 'hyparquet-writer'
import { pack } from 'tar-stream'
import { countExamples, readExamples } from '../../../src/ingest/data/read.ts'
import { decodeExample } from '../../../src/ingest/form/decode.ts'
import { temporaryFolder } from '../../support.ts'
import { hasCode } from '../fixtures.ts'

type Read = { records: Buffer[]; notes: string[]; leftOut: number; shares: number[] }

async function read(data: string | string[], limit?: number): Promise<Read> {
  const [records, notes, shares]: [Buffer[], string[], number[]] = [[], [], []]
  let leftOut = 0
  const examples = readExamples(
    data,
    limit,
    (note, count = 0) => {
      notes.push(note)
      leftOut += count
    },
    share => shares.push(share),
  )
  for await (const record of examples) records.push(Buffer.from(record))
  return { records, notes, leftOut, shares }
}

const JPEG = Uint8Array.from([0xff, 0xd8, 0xff, 0xe0, 0x00])
const BASE64 = Buffer.from(JPEG).toString('base64')
const TALK = [
  { from: 'human', value: '<image>\nWhat is it?' },
  { from: 'gpt', value: 'A cat.' },
]
const ASKED = [
  { role: 'user', text: '<image>\nWhat is it?' },
  { role: 'assistant', text: 'A cat.' },
]

/** LLaVA-OneVision's columns, `rows` of them, in row groups of `rowGroupSize`. */
function oneVision(rows: number, rowGroupSize = 10): Buffer {
  const each = <T>(of: (i: number) => T): T[] => Array.from({ length: rows }, (_, i) => of(i))
  const bytes = parquetWriteBuffer({
    rowGroupSize,
    schema: [
      { name: 'root', num_children: 3 },
      { name: 'id', repetition_type: 'OPTIONAL', type: 'BYTE_ARRAY', converted_type: 'UTF8' },
      { name: 'image', repetition_type: 'OPTIONAL', num_children: 2 },
      { name: 'bytes', repetition_type: 'OPTIONAL', type: 'BYTE_ARRAY' },
      { name: 'path', repetition_type: 'OPTIONAL', type: 'BYTE_ARRAY', converted_type: 'UTF8' },
      {
        name: 'conversations',
        repetition_type: 'OPTIONAL',
        converted_type: 'LIST',
        num_children: 1,
      },
      { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
      { name: 'element', repetition_type: 'OPTIONAL', num_children: 2 },
      { name: 'from', repetition_type: 'OPTIONAL', type: 'BYTE_ARRAY', converted_type: 'UTF8' },
      { name: 'value', repetition_type: 'OPTIONAL', type: 'BYTE_ARRAY', converted_type: 'UTF8' },
    ],
    columnData: [
      { name: 'id', data: each(i => `r${i}`) },
      { name: 'image', data: each(i => ({ bytes: JPEG, path: `${i}.jpg` })) },
      { name: 'conversations', data: each(() => TALK) },
    ],
  })
  return Buffer.from(bytes)
}

function write(
  t: TestContext,
  files: Record<string, Uint8Array | string>,
): (name: string) => string {
  const folder = temporaryFolder(t)
  for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content)
  return name => join(folder, name)
}

const image = `data:image/jpeg;base64,${BASE64}`

test('a Parquet file gives a record a row, its pictures inline', async t => {
  const at = write(t, { 'a.parquet': oneVision(25) })
  const { records, notes, shares } = await read(at('a.parquet'))
  assert.deepEqual([records.length, notes], [25, []])
  for (const [i, record] of records.entries()) {
    assert.deepEqual(decodeExample(record), { id: `r${i}`, turns: ASKED, images: [image] })
  }
  assert.equal(shares.at(-1), 1)
  assert.equal(await countExamples(at('a.parquet')), 25)
  assert.equal(await countExamples(at('a.parquet'), 7), 7)
  assert.equal((await read(at('a.parquet'), 7)).records.length, 7)
})

test('a broken row group of a Parquet file is said with its rows and reason, the others are read', async t => {
  const bytes = oneVision(30)
  const metadata = parquetMetadata(new Uint8Array(bytes).buffer)
  const page = Number(metadata.row_groups[1]!.columns[0]!.meta_data!.data_page_offset)
  bytes.fill(0xff, page, page + 8)
  const at = write(t, { 'a.parquet': bytes })
  const { records, notes, leftOut } = await read(at('a.parquet'))
  assert.equal(leftOut, 10)
  const ids = records.map(record => decodeExample(record).id)
  const sound = Array.from({ length: 30 }, (_, i) => i).filter(i => i < 10 || i >= 20)
  assert.deepEqual(
    ids,
    sound.map(i => `r${i}`),
  )
  assert.match(notes.join(), /a\.parquet, rows 11 to 20 are left out: ./)
})

test('a Parquet file that is packed, or comes through a pipe, is read as it is', async t => {
  const bytes = oneVision(3)
  const at = write(t, { 'a.parquet.gz': gzipSync(bytes), 'b.parquet.zst': zstd(bytes) })
  for (const name of ['a.parquet.gz', 'b.parquet.zst']) {
    const { records, notes } = await read(at(name))
    assert.deepEqual([records.length, notes], [3, []], name)
  }
})

test('a Parquet file without its end is unreadable', async t => {
  const at = write(t, { 'a.parquet': oneVision(3).subarray(0, 300) })
  await assert.rejects(read(at('a.parquet')), error => {
    return hasCode('FILE_UNREADABLE')(error) && String(error).includes('a.parquet')
  })
})

function zstd(bytes: Uint8Array | string): Buffer {
  return new Encoder(3).encodeSync(Buffer.from(bytes))
}

const LINES = Array.from({ length: 2_000 }, (_, i) =>
  JSON.stringify({ id: i, text: 'é'.repeat(i) }),
)

test('lines in gzip and zstd, in several frames too, are read', async t => {
  const [first, second] = [LINES.slice(0, 900), LINES.slice(900)].map(
    part => `${part.join('\n')}\n`,
  )
  const at = write(t, {
    'a.jsonl.gz': gzipSync(LINES.join('\n')),
    'a.jsonl.zst': zstd(LINES.join('\n')),
    'b.jsonl.zst': Buffer.concat([zstd(first!), zstd(second!)]),
  })
  for (const name of ['a.jsonl.gz', 'a.jsonl.zst', 'b.jsonl.zst']) {
    assert.deepEqual((await read(at(name))).records.map(String), LINES, name)
  }
})

test('a zstd file that is cut is unreadable', async t => {
  const whole = zstd(LINES.join('\n'))
  const at = write(t, { 'a.jsonl.zst': whole.subarray(0, whole.length / 2) })
  await assert.rejects(read(at('a.jsonl.zst')), hasCode('FILE_UNREADABLE'))
})

async function tar(members: [string, string | Uint8Array][]): Promise<Buffer> {
  const archive = pack()
  for (const [name, content] of members) archive.entry({ name }, Buffer.from(content))
  archive.finalize()
  const parts: Uint8Array[] = []
  for await (const part of archive) parts.push(part as Uint8Array)
  return Buffer.concat(parts)
}

const json = (record: object) => JSON.stringify(record)

test('a WebDataset shard gives a record a sample, with its pictures and its name as id', async t => {
  const shard = await tar([
    ['s/one.json', json({ conversations: TALK })],
    ['s/one.jpg', JPEG],
    ['s/two.img1.jpg', JPEG],
    ['s/two.img2.jpg', JPEG],
    ['s/two.json', json({ id: 'own', image: ['b.jpg'], conversations: TALK })],
    ['s/named.jpg', JPEG],
    ['s/named.json', json({ id: 7, image: 'named.jpg', conversations: TALK })],
    ['s/broken.json', '{"id": '],
    ['s/alone.jpg', JPEG],
    ['s/film.mp4', JPEG],
    ['s/film.json', json({ conversations: TALK })],
  ])
  const at = write(t, { 'a.tar': shard, 'a.tar.gz': gzipSync(shard) })
  const { records, notes } = await read(at('a.tar'))
  assert.equal(records.length, 5)
  assert.deepEqual(decodeExample(records[0]!), { id: 's/one', turns: ASKED, images: [image] })
  const two = JSON.parse(String(records[1]))
  assert.deepEqual([two.id, two.images.length], ['own', 2])
  assert.deepEqual(decodeExample(records[2]!), { id: '7', turns: ASKED, images: [image] })
  assert.throws(() => decodeExample(records[3]!), hasCode('NOT_JSON'))
  assert.throws(() => decodeExample(records[4]!), hasCode('MODALITY_UNSUPPORTED'))
  assert.match(notes.join(), /a\.tar: the sample s\/alone has no s\/alone\.json and is left out/)
  assert.deepEqual((await read(at('a.tar.gz'))).records, records)
})

test('members whose names have two dots are left out with what to rename', async t => {
  const shard = await tar([
    ['s/photo.v2.jpg', JPEG],
    ['s/photo.v2.json', json({ conversations: TALK })],
    ['s/two.json', json({ conversations: TALK })],
  ])
  const at = write(t, { 'a.tar': shard })
  const { records, notes, leftOut } = await read(at('a.tar'))
  assert.deepEqual([records.length, leftOut], [1, 1])
  assert.match(
    notes.join(),
    /has no s\/photo\.json and is left out; it has s\/photo\.v2\.json, but/,
  )
  assert.match(notes.join(), /rename the members/)
})

test('several files and patterns are read in order, numbers in names as numbers', async t => {
  const at = write(t, {
    's-10.jsonl': '{"id":10}',
    's-9.jsonl': '{"id":9}',
    'other.json': '[{"id":1}]',
    '[x].jsonl': '{"id":"bracket"}',
  })
  const { records, shares } = await read([at('s-*.jsonl'), at('other.json'), at('[x].jsonl')])
  assert.deepEqual(records.map(String), ['{"id":9}', '{"id":10}', '{"id":1}', '{"id":"bracket"}'])
  assert.ok(shares.every((share, i) => i === 0 || share >= shares[i - 1]!) && shares.at(-1) === 1)
  assert.equal(await countExamples([at('s-*.jsonl'), at('other.json')]), 3)
  await assert.rejects(read(at('none-*.jsonl')), hasCode('FILE_UNREADABLE'))
})
