import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { BatchWriter, readBatches, recordBytes } from '../../src/log/kafka-batch.ts'
import { crc32c } from '../../src/log/kafka-crc.ts'
import type { LogRecord, OutRecord } from '../../src/log/log.ts'

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
  return bytes
}

function marker(offset: number, producerId: number, kind: 'abort' | 'commit'): Buffer {
  // version 0, kind: a control record's key is no text, so it is patched in.
  const bytes = stored([{ topic: 't', key: 'vvkk', value: Buffer.alloc(6) }], offset, {
    producerId,
    kind,
  })
  bytes.writeInt16BE(0, bytes.indexOf('vvkk'))
  bytes.writeInt16BE(kind === 'abort' ? 0 : 1, bytes.indexOf('kk'))
  return bytes
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

test('a batch that cannot be decompressed is an error that says so', () => {
  const bytes = stored(one('x'), 0)
  bytes.writeInt16BE(1, 21)
  assert.throws(() => readBatches(bytes, PLACE, []), /can't be decompressed \(codec 1\)/)
  const body = gzipSync(bytes.subarray(61))
  const compressed = Buffer.concat([bytes.subarray(0, 61), body])
  compressed.writeInt32BE(compressed.length - 12, 8)
  assert.equal(readBatches(compressed, PLACE, []).records[0]?.key, 'x')
})

test("CRC-32C is Castagnoli's, as computed bit by bit", () => {
  const bits = (bytes: Uint8Array): number => {
    let crc = -1
    for (const byte of bytes) {
      crc ^= byte
      for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1
    }
    return ~crc >>> 0
  }
  assert.equal(crc32c(Buffer.from('123456789'), 0, 9), 0xe3069283)
  const property = fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(9), (bytes, start) => {
    const from = Math.min(start, bytes.length)
    assert.equal(crc32c(bytes, from, bytes.length), bits(bytes.subarray(from)))
  })
  fc.assert(property, { numRuns: 500 })
})
