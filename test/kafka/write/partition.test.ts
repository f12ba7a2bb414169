import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Partitioners } from 'kafkajs'
import { partitionOf } from '../../../src/kafka/write/partition.ts'

test('a key goes to the partition that the Kafka client would choose', () => {
  const choose = Partitioners.DefaultPartitioner()
  const text = fc.oneof(fc.string(), fc.string({ unit: 'grapheme' }), fc.string({ maxLength: 4 }))
  const property = fc.property(text, fc.integer({ min: 1, max: 50 }), (key, partitions) => {
    const partitionMetadata = Array.from({ length: partitions }, (_, partitionId) => {
      return { partitionId, partitionErrorCode: 0, leader: 1, replicas: [], isr: [] }
    })
    const expected = choose({ topic: 't', partitionMetadata, message: { key, value: null } })
    assert.equal(partitionOf(key, partitions), expected)
  })
  fc.assert(property, { numRuns: 2000 })
})
