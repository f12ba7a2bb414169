import assert from 'node:assert/strict'
import { appendFileSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Kafka, logLevel } from 'kafkajs'
import { loadConfig } from '../../../src/config.ts'
import { readBatches } from '../../../src/kafka/wire/batch.ts'
import { topicSpecs } from '../../../src/log/open.ts'
import { succeed } from '../../e2e/command.ts'
import { bytes, pollCount, readAll, unique } from '../../log/helpers.ts'
import { ROOT } from '../../support.ts'
import { Broker } from '../broker.ts'
import { kafkaSite, readTopic } from '../scene.ts'
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

const FRAMES = join(ROOT, 'test/kafka/frames')
const SEGMENT = '00000000000000000000.log'
const SIZE_AT = 8
const BODY_AT = 12

/** `bytes` of batches, numbered from `offset` on: it stands before what a batch's checksum covers. */
function numbered(bytes: Buffer, offset: number): Buffer {
  for (let at = 0; at < bytes.length; at += BODY_AT + bytes.readInt32BE(at + SIZE_AT)) {
    bytes.writeBigInt64BE(bytes.readBigInt64BE(at) + BigInt(offset), at)
  }
  return bytes
}

// Into the broker's own segment: a broker of today refuses two LZ4 frames in one batch, others pass them on.
test('every batch that another client has compressed goes through tail and run, record by record', async t => {
  const broker = await Broker.start()
  t.after(() => broker.close())
  const site = kafkaSite(t, broker.address)
  const log = await site.open()
  t.after(() => log.close())
  await log.ensureTopics(topicSpecs(loadConfig(site.config, {}).log))
  await broker.stop()
  const topic = join(broker.place.folder, 'log', `${site.topics.examples}-0`)
  const sent: string[] = []
  for (const name of readdirSync(FRAMES).filter(name => name.endsWith('.batches'))) {
    const batches = readFileSync(join(FRAMES, name))
    const { records } = readBatches(batches, { topic: name, partition: 0, from: 0 }, [])
    appendFileSync(join(topic, SEGMENT), numbered(batches, sent.length))
    sent.push(...records.map(({ value }) => Buffer.from(value!).toString()))
  }
  await broker.start()
  const config = ['--config', site.config]
  const { stdout } = await succeed(['tail', 'examples', ...config, '--all', '--json'])
  const shown = stdout
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line).value)
  assert.deepEqual(
    shown,
    sent.map(text => JSON.parse(text)),
  )
  const ended = await succeed(['run', ...config, '--until-idle', '--json'])
  const examples = sent.filter(text => text.includes('conversations'))
  assert.equal(JSON.parse(ended.stdout).examples.assigned, examples.length)
  const letters = await readTopic(log, site.topics.deadLetters)
  assert.deepEqual(
    letters.map(({ value }) => Buffer.from(value!).toString()).sort(),
    sent.filter(text => !examples.includes(text)).sort(),
  )
  assert.equal(examples.length, 3 * 12)
})
