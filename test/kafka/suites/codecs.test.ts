import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Kafka, logLevel } from 'kafkajs'
import { bytes, pollCount, readAll, unique } from '../../log/helpers.ts'
import { logsOn, sharedBroker } from '../setup.ts'

for (const codec of ['gzip', 'snappy', 'lz4', 'zstd', 'uncompressed']) {
  test(`what a broker or a producer has compressed with ${codec} is read`, async t => {
    const { plain } = sharedBroker()
    const topic = unique(codec)
    const admin = new Kafka({ brokers: [plain], logLevel: logLevel.NOTHING }).admin()
    await admin.connect()
    const configEntries = [{ name: 'compression.type', value: codec }]
    await admin.createTopics({ topics: [{ topic, numPartitions: 1, configEntries }] })
    await admin.disconnect()
    const log = await logsOn(t, plain).open()
    t.after(() => log.close())
    const records = Array.from({ length: 3_000 }, (_, i) => {
      return { topic, key: `k${i}`, value: bytes(`{"id":${i},"text":"${'word '.repeat(i % 60)}"}`) }
    })
    await log.append(records)
    const plainly = ({ key, value }: { key: string | null; value: Uint8Array | null }) =>
      `${key} ${Buffer.from(value!)}`
    assert.deepEqual((await readAll(log, topic)).map(plainly), records.map(plainly))
    const consumer = await log.consume({ group: unique('g'), topics: [topic] })
    assert.deepEqual((await pollCount(consumer, 3_000)).map(plainly), records.map(plainly))
    await consumer.close()
  })
}
