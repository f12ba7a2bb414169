import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { readBatches } from '../../../src/kafka/wire/batch.ts'
import { encodeOutputs } from '../../../src/kafka/write/encode.ts'
import { Partitioner, partitionOf } from '../../../src/kafka/write/partition.ts'
import type { OutRecord } from '../../../src/log/log.ts'
import { isCode } from '../../log/helpers.ts'

const TOPICS = new Map([
  ['plain', { name: 'plain', partitions: 3, compacted: false }],
  ['subset', { name: 'subset', partitions: 1, compacted: true }],
])
const STAMP = { producerId: 1, epoch: 0, sequence: 0 }

function encode(records: readonly OutRecord[], batchBytesMax = 2_000) {
  return encodeOutputs(records, async name => TOPICS.get(name)!, new Partitioner(), batchBytesMax)
}

test('no batch is larger than allowed, every record is in its partition, in order', async () => {
  const record = fc.record({
    topic: fc.constant('plain'),
    key: fc.option(fc.string({ maxLength: 20 }), { freq: 5 }),
    value: fc.uint8Array({ maxLength: 700 }),
  })
  const property = fc.asyncProperty(fc.array(record, { maxLength: 40 }), async records => {
    const outputs = await encode(records)
    const read = new Map<number, { key: string | null; value: number[] }[]>()
    for (const { partition, batches } of outputs) {
      for (const batch of batches) {
        const bytes = batch.stamped(STAMP)
        assert.ok(bytes.length <= 2_000, `${bytes.length} bytes`)
        const { records: found } = readBatches(bytes, { topic: 'plain', partition, from: 0 }, [])
        const list = read.get(partition) ?? []
        list.push(...found.map(({ key, value }) => ({ key, value: [...value!] })))
        read.set(partition, list)
      }
    }
    let turn = 0
    const wanted = new Map<number, { key: string | null; value: number[] }[]>()
    for (const { key, value } of records) {
      const partition = key === null ? turn++ % 3 : partitionOf(key, 3)
      wanted.set(partition, [...(wanted.get(partition) ?? []), { key, value: [...value] }])
    }
    assert.deepEqual([...read].sort(), [...wanted].sort())
  })
  await fc.assert(property, { numRuns: 100 })
})

test('what no log could hold is refused before anything is sent', async () => {
  const value = Buffer.alloc(1_990)
  await assert.rejects(encode([{ topic: 'plain', key: 'k', value }]), isCode('RECORD_TOO_LARGE'))
  await assert.rejects(encode([{ topic: 'subset', key: null, value: null }]), RangeError)
  await assert.rejects(
    encode([{ topic: 'plain', key: 'k', value: null, partition: 3 }]),
    RangeError,
  )
  assert.deepEqual(await encode([]), [])
})
