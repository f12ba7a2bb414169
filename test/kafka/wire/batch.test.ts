import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { crc32c } from '@node-rs/crc32'
import fc from 'fast-check'
import { codeOf } from '../../../src/kafka/link/errors.ts'
import { BatchWriter, readBatches, recordBytes } from '../../../src/kafka/wire/batch.ts'
import type { LogRecord, OutRecord, RawHeaders } from '../../../src/log/log.ts'

const require = createRequire(import.meta.url)
/** The client library's own decoder. */
const Decoder = require('kafkajs/src/protocol/decoder.js')
const decodeBatch = require('kafkajs/src/protocol/recordBatch/v0/decoder.js')

const STAMP = { producerId: 4_294_967_301, epoch: 7, sequence: 2_147_483_000 }
const PLACE = { topic: 't', partition: 0, from: 0 }

const texts = fc.oneof(fc.string(), fc.string({ unit: 'grapheme' }))
/** The client library can't hold a header that is named like what every object has ('valueOf'). */
const isHeldByClient = (name: string): boolean => !(name in {})
const records: fc.Arbitrary<OutRecord[]> = fc.array(
  fc.record({
    topic: fc.constant('t'),
    key: fc.option(texts),
    value: fc.option(fc.uint8Array({ maxLength: 300 })),
    headers: fc.dictionary(texts.filter(isHeldByClient), texts, { maxKeys: 3 }),
  }),
  { minLength: 1, maxLength: 80 },
)

function batchOf(list: readonly OutRecord[], stamp = STAMP): Buffer {
  const writer = new BatchWriter(64)
  for (const record of list) writer.add(record, recordBytes(record, writer.count))
  return Buffer.from(writer.stamped(stamp))
}

/** Gives a batch that was changed the size and the checksum that it then has. */
function sealed(bytes: Buffer): Buffer {
  bytes.writeInt32BE(bytes.length - 12, 8)
  bytes.writeUInt32BE(crc32c(bytes.subarray(21)), 17)
  return bytes
}

function plain(record: Pick<LogRecord, 'key' | 'value' | 'headers'>): unknown {
  const value = record.value === null ? null : [...record.value]
  return [record.key, value, { ...record.headers }]
}

test('a batch reads as it was written, by us and by the client library', async () => {
  const property = fc.asyncProperty(records, async list => {
    const bytes = batchOf(list)
    const ours = readBatches(bytes, PLACE, [])
    const wanted = list.map(record => plain({ ...record, headers: record.headers ?? {} }))
    assert.deepEqual(ours.records.map(plain), wanted)
    assert.deepEqual(
      ours.records.map(({ offset }) => offset),
      list.map((_, i) => i),
    )
    assert.equal(ours.next, list.length)
    const theirs = await decodeBatch(new Decoder(bytes))
    assert.equal(theirs.producerId, String(STAMP.producerId))
    assert.equal(theirs.inTransaction, true)
    const text = (bytes: Buffer | null) => bytes?.toString() ?? null
    const decoded = theirs.records.map((record: { key: Buffer; value: Buffer; headers: object }) =>
      plain({
        key: text(record.key),
        value: record.value,
        headers: Object.fromEntries(
          Object.entries(record.headers).map(([name, value]) => [name, String(value)]),
        ),
      }),
    )
    assert.deepEqual(decoded, wanted)
  })
  await fc.assert(property, { numRuns: 300 })
})

test('headers that repeat or are no text are read in full, and as text', () => {
  const raw = (...values: (Uint8Array | null)[]) => values.map(value => ['h', value] as const)
  const read = (rawHeaders: RawHeaders) => {
    const list = [{ topic: 't', key: null, value: null, rawHeaders }]
    return readBatches(batchOf(list), PLACE, []).records[0]!
  }
  const [text, other, bytes] = [Buffer.from('a'), Buffer.from('b'), Buffer.from([0xc3, 0x28])]
  for (const wanted of [raw(text, other), raw(bytes), raw(null), raw(other, null, bytes)]) {
    const { headers, rawHeaders } = read(wanted)
    assert.deepEqual(rawHeaders, wanted)
    assert.deepEqual(Object.entries(headers), [['h', String(wanted.at(-1)![1] ?? '')]])
  }
  assert.equal(read(raw(text)).rawHeaders, undefined)
  assert.equal(read([]).rawHeaders, undefined)
})

test('headers may be named like what every object has', () => {
  const named = ['valueOf', 'constructor', '__proto__'].map(name => [name, `the ${name}`] as const)
  const list = [{ topic: 't', key: null, value: null, headers: Object.fromEntries(named) }]
  const [record] = readBatches(batchOf(list), PLACE, []).records
  assert.deepEqual(Object.entries(record!.headers), named)
})

test('the size of a record is known before it is written', () => {
  const property = fc.property(records, list => {
    const writer = new BatchWriter(64)
    for (const record of list) {
      const [bytes, before] = [recordBytes(record, writer.count), writer.size]
      writer.add(record, bytes)
      assert.ok(writer.size - before - bytes >= 1 && writer.size - before - bytes <= 5)
    }
  })
  fc.assert(property)
})

/** A batch at an offset, as a broker would have stored it. */
function stored(
  list: readonly OutRecord[],
  offset: number,
  {
    producerId = 1,
    isTransactional = true,
    kind,
  }: { producerId?: number; isTransactional?: boolean; kind?: 'abort' | 'commit' } = {},
): Buffer {
  const bytes = batchOf(list, { producerId, epoch: 0, sequence: 0 })
  bytes.writeBigInt64BE(BigInt(offset), 0)
  bytes.writeInt16BE((isTransactional ? 16 : 0) | (kind === undefined ? 0 : 32), 21)
  return sealed(bytes)
}

function marker(offset: number, producerId: number, kind: 'abort' | 'commit'): Buffer {
  // version 0, kind: a control record's key is no text, so it is patched in.
  const bytes = stored([{ topic: 't', key: 'vvkk', value: Buffer.alloc(6) }], offset, {
    producerId,
    kind,
  })
  bytes.writeInt16BE(0, bytes.indexOf('vvkk'))
  bytes.writeInt16BE(kind === 'abort' ? 0 : 1, bytes.indexOf('kk'))
  return sealed(bytes)
}

const one = (key: string): OutRecord[] => [{ topic: 't', key, value: Buffer.from(key) }]

test('records of aborted transactions and markers are left out, whatever stands between them', () => {
  const log = Buffer.concat([
    stored(one('committed 1'), 0, { producerId: 1 }),
    stored(one('aborted 2'), 1, { producerId: 2 }),
    stored(one('plain'), 2, { producerId: -1, isTransactional: false }),
    marker(3, 1, 'commit'),
    stored(one('aborted 2 again'), 4, { producerId: 2 }),
    marker(5, 2, 'abort'),
    stored(one('committed 2'), 6, { producerId: 2 }),
    marker(7, 2, 'commit'),
  ])
  const aborted = [{ producerId: 2, firstOffset: 1 }]
  const { records: found, next } = readBatches(log, PLACE, aborted)
  assert.deepEqual(
    found.map(({ key, offset }) => [key, offset]),
    [
      ['committed 1', 0],
      ['plain', 2],
      ['committed 2', 6],
    ],
  )
  assert.equal(next, 8)
})

// A broker's index of aborted transactions is in the order of their markers; taken as sorted by first offset,
// the records of an earlier one were read as committed.
test('aborted transactions that end in another order than they began in', () => {
  const log = Buffer.concat([
    stored(one('aborted 3'), 301, { producerId: 3 }),
    stored(one('committed 5'), 302, { producerId: 5 }),
    stored(one('aborted 8'), 308, { producerId: 8 }),
    stored(one('aborted 7'), 310, { producerId: 7 }),
    marker(311, 7, 'abort'),
    marker(312, 3, 'abort'),
    marker(313, 5, 'commit'),
    stored(one('committed 3'), 314, { producerId: 3 }),
    marker(315, 8, 'abort'),
    marker(316, 3, 'commit'),
  ])
  const aborted = [
    { producerId: 7, firstOffset: 310 },
    { producerId: 3, firstOffset: 301 },
    { producerId: 8, firstOffset: 308 },
  ]
  const { records: found } = readBatches(log, PLACE, aborted)
  assert.deepEqual(
    found.map(({ key }) => key),
    ['committed 5', 'committed 3'],
  )
})

test('a batch that is cut off is left for the next fetch, records before the position are left out', () => {
  const first = stored([...one('a'), ...one('b'), ...one('c')], 10)
  const second = stored(one('d'), 13)
  const cut = Buffer.concat([first, second.subarray(0, second.length - 1)])
  const { records: found, next } = readBatches(cut, { ...PLACE, from: 11 }, [])
  assert.deepEqual(
    found.map(({ key, offset }) => [key, offset]),
    [
      ['b', 11],
      ['c', 12],
    ],
  )
  assert.equal(next, 13)
  assert.equal(readBatches(cut.subarray(0, 30), { ...PLACE, from: 11 }, []).next, 11)
})

const GZIP = 1

function compressed(bytes: Buffer, body: Buffer): Buffer {
  const batch = Buffer.concat([bytes.subarray(0, 61), body])
  batch.writeInt16BE(GZIP, 21)
  return sealed(batch)
}

test('a control batch whose record was compacted away ends its transaction and is skipped', () => {
  const empty = marker(2, 1, 'abort').subarray(0, 61)
  empty.writeInt32BE(0, 57)
  const log = Buffer.concat([
    stored(one('aborted'), 0, { producerId: 1 }),
    stored(one('other'), 1, { producerId: 2 }),
    sealed(empty),
    stored(one('later'), 3, { producerId: 1 }),
  ])
  const { records: found, next } = readBatches(log, PLACE, [{ producerId: 1, firstOffset: 0 }])
  assert.deepEqual(
    found.map(({ key }) => key),
    ['other', 'later'],
  )
  assert.equal(next, 4)
})

test('bytes that are not those that were sealed are an error, wherever they differ', () => {
  const whole = stored([...one('a'), ...one('b')], 0)
  for (let at = 21; at < whole.length; at++) {
    const damaged = Buffer.from(whole)
    damaged[at]! ^= 1
    assert.throws(
      () => readBatches(damaged, PLACE, []),
      error => codeOf(error) === 'CORRUPT_MESSAGE',
      `byte ${at}`,
    )
  }
})

test('a batch that would end before it begins is an error, and no endless loop', () => {
  for (const size of [-12, -1, 0, 13]) {
    const bytes = stored(one('a'), 0)
    bytes.writeInt32BE(size, 8)
    const read = () => readBatches(bytes, PLACE, [])
    assert.throws(read, error => codeOf(error) === 'CORRUPT_MESSAGE')
  }
})

test('a batch that cannot be decoded is one record with an error, and what follows is read', () => {
  const bytes = stored([...one('x'), ...one('y')], 0)
  const body = bytes.subarray(61)
  const cut = sealed(Buffer.from(bytes.subarray(0, bytes.length - 1)))
  const padded = sealed(Buffer.concat([bytes, Buffer.alloc(3)]))
  const fewer = Buffer.from(bytes)
  fewer.writeInt32BE(1, 57)
  const more = Buffer.from(bytes)
  more.writeInt32BE(3, 57)
  const longKey = Buffer.from(bytes)
  longKey[61 + 4] = 0x7e
  const old = Buffer.from(bytes)
  old[16] = 1
  const negative = Buffer.from(bytes)
  negative.writeInt32BE(-1, 57)
  for (const broken of [
    compressed(bytes, body),
    compressed(bytes, gzipSync(body).subarray(0, 20)),
    compressed(bytes, gzipSync(body.subarray(1))),
    cut,
    padded,
    old,
    ...[fewer, more, longKey, negative].map(sealed),
  ]) {
    const after = stored(one('z'), 2)
    const { records: found, next } = readBatches(Buffer.concat([broken, after]), PLACE, [])
    assert.deepEqual(
      found.map(({ key, offset, error }) => [key, offset, error?.code]),
      [
        [null, 0, 'BATCH_UNREADABLE'],
        ['z', 2, undefined],
      ],
    )
    assert.deepEqual(found[0]!.value, broken)
    assert.equal(next, 3)
  }
  const whole = readBatches(compressed(bytes, gzipSync(body)), PLACE, []).records
  assert.deepEqual(
    whole.map(({ key }) => key),
    ['x', 'y'],
  )
})

test('any bytes at all are read, refused, or left for the next fetch', () => {
  const property = fc.property(records, fc.nat(), fc.nat(255), (list, where, value) => {
    const bytes = stored(list, 0)
    const at = 61 + (where % (bytes.length - 61))
    bytes[at] = value
    const { records: found, next } = readBatches(sealed(bytes), PLACE, [])
    assert.ok(found.length === list.length || found[0]?.error?.code === 'BATCH_UNREADABLE')
    assert.equal(next, list.length)
  })
  fc.assert(property, { numRuns: 500 })
})
