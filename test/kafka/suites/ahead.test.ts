/** How far a consumer reads ahead of its polls: what waits is memory. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import type { Consumer, Log } from '../../../src/log/log.ts'
import { pollCount, unique } from '../../log/helpers.ts'
import { logsOn, sharedBroker } from '../setup.ts'

const RECORD_BYTES = 1_000
const BATCH_RECORDS = 900

/** A consumer of a topic that holds this many batches, of almost a megabyte each, in each partition. */
async function backlog(
  t: TestContext,
  ...batches: number[]
): Promise<{ log: Log; consumer: Consumer }> {
  const log = await logsOn(t, sharedBroker().plain).open()
  t.after(() => log.close())
  const topic = unique('in')
  await log.ensureTopics([{ name: topic, partitions: batches.length }])
  const value = Buffer.alloc(RECORD_BYTES)
  const batchOf = (partition: number) =>
    Array.from({ length: BATCH_RECORDS }, () => ({ topic, key: null, value, partition }))
  for (const [partition, count] of batches.entries()) {
    for (let i = 0; i < count; i++) await log.append(batchOf(partition))
  }
  const consumer = await log.consume({ group: unique('g'), topics: [topic], isStateless: true })
  return { log, consumer }
}

test('of a long backlog little more waits than the next polls take', async t => {
  const { consumer } = await backlog(t, 24)
  await pollCount(consumer, 10)
  const before = process.memoryUsage().arrayBuffers
  for (let polls = 0; polls < 20; polls++) {
    assert.equal((await consumer.poll({ recordsMax: 10, waitMsMax: 5_000 })).length, 10)
    await setTimeout(50)
  }
  const more = process.memoryUsage().arrayBuffers - before
  assert.ok(more < 4 << 20, `${more} bytes more`)
  await pollCount(consumer, 24 * BATCH_RECORDS - 210)
})

test('a partition has its turn, however much waits in another', async t => {
  const { consumer } = await backlog(t, 12, 3)
  const seen = [0, 0]
  while (seen[1]! < 3 * BATCH_RECORDS) {
    const records = await consumer.poll({ recordsMax: 100, waitMsMax: 5_000 })
    assert.ok(records.length > 0)
    for (const { partition } of records) seen[partition]!++
  }
  assert.ok(seen[0]! <= 9 * BATCH_RECORDS, `${seen}`)
})
