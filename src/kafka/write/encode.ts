/** From records to batches: every one checked, put to its partition, and cut so that no batch is too large. */

import { setImmediate } from 'node:timers/promises'
import { XmasdError } from '../../errors.ts'
import type { KafkaTopic } from '../link/topics.ts'
import { BATCH_HEADER_BYTES, BatchWriter, recordBytes } from '../wire/batch.ts'
import type { OutRecord } from '../wire/model.ts'
import type { Partitioner } from './partition.ts'
import type { Output } from './transaction.ts'

const FIRST_BYTES = 1 << 12
/** Longer work gives way to other code this often. */
const SLICE_RECORDS = 2_048
const SLICE_BYTES = 4 << 20

/**
 * `topicOf` is asked once for each topic of `records`, before anything is encoded. Throws
 * RangeError for an unknown partition and for a null key on a compacted topic, RECORD_TOO_LARGE
 * where one record alone fills more than a batch.
 */
export async function encodeOutputs(
  records: readonly OutRecord[],
  topicOf: (name: string) => Promise<KafkaTopic>,
  partitioner: Partitioner,
  batchBytesMax: number,
): Promise<Output[]> {
  const topics = new Map<string, KafkaTopic>()
  for (const { topic } of records) {
    if (!topics.has(topic)) topics.set(topic, await topicOf(topic))
  }
  const outputs = new Map<string, Map<number, Output>>()
  let bytes = 0
  for (const [i, record] of records.entries()) {
    const topic = topics.get(record.topic)!
    checkRecord(topic, record)
    const partition = record.partition ?? partitioner.choose(topic, record.key)
    const output = outputAt(outputs, topic.name, partition)
    bytes += addTo(output, record, batchBytesMax)
    if (i % SLICE_RECORDS !== SLICE_RECORDS - 1 && bytes < SLICE_BYTES) continue
    bytes = 0
    await setImmediate()
  }
  return [...outputs.values()].flatMap(byPartition => [...byPartition.values()])
}

function checkRecord(topic: KafkaTopic, { partition, key }: OutRecord): void {
  if (topic.compacted && key === null) {
    throw new RangeError(`a record without a key on the compacted topic ${topic.name}`)
  }
  if (partition === undefined) return
  if (Number.isInteger(partition) && partition >= 0 && partition < topic.partitions) return
  throw new RangeError(`topic ${topic.name} has no partition ${partition}`)
}

function outputAt(
  outputs: Map<string, Map<number, Output>>,
  topic: string,
  partition: number,
): Output {
  let byPartition = outputs.get(topic)
  if (byPartition === undefined) {
    byPartition = new Map()
    outputs.set(topic, byPartition)
  }
  let output = byPartition.get(partition)
  if (output === undefined) {
    output = { topic, partition, batches: [new BatchWriter(FIRST_BYTES)] }
    byPartition.set(partition, output)
  }
  return output
}

/** What a record takes in a batch beside its body: its size, at most. */
const SIZE_BYTES = 5

function addTo(output: Output, record: OutRecord, batchBytesMax: number): number {
  let batch = output.batches[output.batches.length - 1]!
  let bytes = recordBytes(record, batch.count)
  if (batch.count > 0 && batch.size + bytes + SIZE_BYTES > batchBytesMax) {
    batch = new BatchWriter(batch.size)
    output.batches.push(batch)
    bytes = recordBytes(record, 0)
  }
  if (BATCH_HEADER_BYTES + bytes + SIZE_BYTES > batchBytesMax) throw tooLarge(record, bytes)
  batch.add(record, bytes)
  return bytes
}

function tooLarge(record: OutRecord, bytes: number): XmasdError {
  return new XmasdError(
    'RECORD_TOO_LARGE',
    `a record of ${bytes} bytes for topic ${record.topic} (key ${record.key})`,
    "send a reference to the image, or raise log.batchBytesMax and the topic's max.message.bytes",
  )
}
