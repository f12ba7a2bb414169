/** The contract of polling. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import type { LogRecord } from '../../src/log/log.ts'
import { numbered, pollCount, type Scene, unique } from './helpers.ts'

export function pollTests(name: string, scene: Scene): void {
  test(`${name}: a poll gives at most recordsMax and about bytesMax`, async t => {
    const { log, topic } = await scene(t)
    const value = new Uint8Array(10_000)
    await log.append(Array.from({ length: 100 }, (_, i) => ({ topic, key: `k${i}`, value })))
    const consumer = await log.consume({ group: unique('g'), topics: [topic] })
    await pollCount(consumer, 1)
    const few = await consumer.poll({ recordsMax: 7, waitMsMax: 5000 })
    assert.ok(few.length >= 1 && few.length <= 7)
    const some = await consumer.poll({ recordsMax: 99, bytesMax: 50_000, waitMsMax: 5000 })
    assert.ok(some.length >= 1 && some.length <= 10, `${some.length} records`)
    const rest = await pollCount(consumer, 100 - 1 - few.length - some.length)
    assert.equal(rest.at(-1)?.key, 'k99')
    const one = await consumer.poll({ recordsMax: 1, bytesMax: 1, waitMsMax: 50 })
    assert.deepEqual(one, [])
    await consumer.close()
  })

  test(`${name}: a record larger than bytesMax comes all the same`, async t => {
    const { log, topic } = await scene(t)
    await log.append([{ topic, key: 'a', value: new Uint8Array(100_000) }])
    const consumer = await log.consume({ group: unique('g'), topics: [topic] })
    let records: LogRecord[] = []
    for (let i = 0; i < 20 && records.length === 0; i++) {
      records = await consumer.poll({ recordsMax: 5, bytesMax: 10, waitMsMax: 1000 })
    }
    assert.equal(records[0]?.value?.length, 100_000)
    await consumer.close()
  })

  test(`${name}: an idle poll ends in time and wakes for what arrives`, async t => {
    const { log, topic } = await scene(t)
    const consumer = await log.consume({ group: unique('g'), topics: [topic] })
    await log.append(numbered(topic, 1))
    await pollCount(consumer, 1)
    const started = performance.now()
    assert.deepEqual(await consumer.poll({ recordsMax: 5, waitMsMax: 300 }), [])
    const tookMs = performance.now() - started
    assert.ok(tookMs > 200 && tookMs < 3000, `${tookMs} ms`)
    const waiting = consumer.poll({ recordsMax: 5, waitMsMax: 15_000 })
    await setTimeout(100)
    const appended = performance.now()
    await log.append(numbered(topic, 1, 1))
    assert.equal((await waiting).length, 1)
    assert.ok(performance.now() - appended < 5000)
    await consumer.close()
  })

  test(`${name}: closing ends a poll that waits`, async t => {
    const { log, topic } = await scene(t)
    const consumer = await log.consume({ group: unique('g'), topics: [topic] })
    const waiting = consumer.poll({ recordsMax: 5, waitMsMax: 60_000 })
    await setTimeout(50)
    const started = performance.now()
    await consumer.close()
    assert.deepEqual(await waiting, [])
    assert.ok(performance.now() - started < 10_000)
  })
}
