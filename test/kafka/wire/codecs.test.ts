/** Compressed bodies as other producers write them. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { readBatches } from '../../../src/kafka/wire/batch.ts'
import { decompress } from '../../../src/kafka/wire/codecs.ts'
import { ROOT } from '../../support.ts'

const LZ4 = 3
const frame = (name: string): Buffer => readFileSync(join(ROOT, 'test/kafka/frames', name))

for (const name of ['block-checksum', 'rust-lz4-default', 'two-frames']) {
  test(`LZ4 frames (${name}) give their content, or an error where they are cut`, () => {
    const bytes = frame(`${name}.lz4`)
    assert.deepEqual(decompress(LZ4, bytes), frame('lz4.raw'))
    assert.throws(() => decompress(LZ4, bytes.subarray(0, -20)))
    assert.throws(() => decompress(LZ4, Buffer.concat([bytes, Buffer.from('and more')])))
  })
}

test('an LZ4 block that is not the one of its checksum is an error', () => {
  const bytes = frame('block-checksum.lz4')
  bytes[100]! ^= 1
  assert.throws(() => decompress(LZ4, bytes), /checksum/i)
})

const CLIENTS = ['java', 'librdkafka', 'franz-go', 'rskafka']

for (const client of CLIENTS) {
  for (const codec of ['gzip', 'snappy', 'lz4', 'zstd']) {
    test(`batches of ${client}, compressed with ${codec}, as a broker has stored them`, () => {
      const place = { topic: 'in', partition: 0, from: 0 }
      const { records, next } = readBatches(frame(`${client}-${codec}.batches`), place, [])
      const wanted = Array.from({ length: 200 }, (_, i) => {
        return [`k${i}`, `{"id":${i},"text":"${'word '.repeat(i % 60)}"}`]
      })
      assert.deepEqual(
        records.map(({ key, value }) => [key, Buffer.from(value!).toString()]),
        wanted,
      )
      assert.equal(next, 200)
    })
  }
}
