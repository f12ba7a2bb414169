import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import fc from 'fast-check'
import { open } from 'lmdb'
import { XmasdError } from '../../../src/errors.ts'
import { openLocalLog } from '../../../src/log/local/log.ts'
import type { Log, LogRecord, OutRecord, StateKey } from '../../../src/log/log.ts'
import { NO_EVENTS } from '../../../src/observe/logger.ts'
import { temporaryFolder } from '../../support.ts'
import { logContract } from '../contract.ts'
import { after, bytes, readAll, text } from '../helpers.ts'

logContract(
  'local log',
  async t => {
    const path = temporaryFolder(t)
    return { open: () => openLocalLog({ path }) }
  },
  { modelRuns: 150 },
)

async function openTopic(t: TestContext, partitions = 1, compacted = false): Promise<Log> {
  const log = await openLocalLog({ path: temporaryFolder(t) })
  t.after(() => log.close())
  await log.ensureTopics([
    { name: 'in', partitions, compacted },
    { name: 'out', partitions: 1 },
  ])
  return log
}

function small(count: number, topic = 'in'): OutRecord[] {
  return Array.from({ length: count }, (_, i) => ({ topic, key: `k${i}`, value: bytes(`${i}`) }))
}

test('local log: partitions merge in the order of appending, whatever the limits', async t => {
  const log = await openTopic(t, 5)
  await log.append(small(400))
  for (const recordsMax of [1, 7, 399, 1000]) {
    const consumer = await log.consume({ group: `g${recordsMax}`, topics: ['in'] })
    const records: LogRecord[] = []
    for (;;) {
      const some = await consumer.poll({ recordsMax, bytesMax: 500, waitMsMax: 0 })
      if (some.length === 0) break
      records.push(...some)
    }
    assert.deepEqual(
      records.map(record => text(record.value)),
      small(400).map(record => text(record.value)),
    )
  }
})

test('local log: offsets are dense from 0', async t => {
  const log = await openTopic(t)
  await log.append(small(3))
  await assert.rejects(
    log.append([...small(3), { topic: 'in', key: 'k', value: null, partition: 9 }]),
  )
  await log.append(small(2))
  assert.deepEqual(
    (await readAll(log, 'in')).map(record => record.offset),
    [0, 1, 2, 3, 4],
  )
  assert.deepEqual(await log.ends('in'), [5])
})

test('local log: a compacted topic keeps one record a key, tombstones too', async t => {
  const log = await openTopic(t, 1, true)
  const record = (key: string, value: string | null) => {
    return { topic: 'in', key, value: value === null ? null : bytes(value) }
  }
  await log.append([record('a', '1'), record('b', '1'), record('a', '2')])
  await log.append([record('b', null), record('c', '1')])
  assert.deepEqual(
    (await readAll(log, 'in')).map(({ offset, key, value }) => [offset, key, text(value)]),
    [
      [2, 'a', '2'],
      [3, 'b', null],
      [4, 'c', '1'],
    ],
  )
  assert.equal(await log.get('in', 0, 0), undefined)
  assert.deepEqual(await log.ends('in'), [5])
  const consumer = await log.consume({ group: 'g', topics: ['in'] })
  assert.equal((await consumer.poll({ recordsMax: 9, waitMsMax: 0 })).length, 3)
})

test('local log: a commit past the end, or after another member moved, writes nothing', async t => {
  const log = await openTopic(t)
  await log.append(small(4))
  const [a, b] = [
    await log.consume({ group: 'g', topics: ['in'] }),
    await log.consume({ group: 'g', topics: ['in'] }),
  ]
  const outputs = small(2, 'out')
  const past = [{ topic: 'in', partition: 0, offset: 5 }]
  await assert.rejects(a.commit({ positions: past, outputs }), RangeError)
  const records = await a.poll({ recordsMax: 4, waitMsMax: 0 })
  await b.poll({ recordsMax: 4, waitMsMax: 0 })
  await a.commit({ positions: after(records.slice(0, 1)), outputs: [] })
  const state = (writer: { put(key: string, value: Uint8Array): void }) =>
    writer.put('k', bytes('v'))
  await assert.rejects(b.commit({ positions: [], outputs: [], state }), { code: 'LOG_FENCED' })
  await assert.rejects(b.commit({ positions: after(records), outputs, state }), {
    code: 'LOG_FENCED',
  })
  assert.deepEqual(await readAll(log, 'out'), [])
  assert.equal(b.state.get('k'), undefined)
  assert.deepEqual(await log.committed('g', 'in'), [1])
  await b.rewind()
  assert.equal((await b.poll({ recordsMax: 9, waitMsMax: 0 })).length, 3)
})

test('local log: commits asked for at once run in their order', async t => {
  const log = await openTopic(t)
  await log.append(small(3))
  const consumer = await log.consume({ group: 'g', topics: ['in'] })
  const records = await consumer.poll({ recordsMax: 3, waitMsMax: 0 })
  await Promise.all(
    records.map(record =>
      consumer.commit({ positions: after([record]), outputs: small(1, 'out') }),
    ),
  )
  assert.equal((await readAll(log, 'out')).length, 3)
  assert.deepEqual(await log.committed('g', 'in'), [3])
})

test('local log: a huge append is one transaction, never half visible, and does not block', async t => {
  const log = await openTopic(t, 2)
  const records = small(150_000)
  const delay = monitorEventLoopDelay({ resolution: 5 })
  let isOver = false
  const seen = new Set<number>()
  const watch = async () => {
    while (!isOver) {
      const ends = await log.ends('in')
      seen.add(ends[0]! + ends[1]!)
      seen.add((await log.get('in', 0, 5)) === undefined ? 0 : 150_000)
      await setTimeout(1)
    }
  }
  const watching = watch()
  delay.enable()
  await log.append(records)
  delay.disable()
  isOver = true
  await watching
  assert.deepEqual(
    [...seen, 150_000].every(count => count === 0 || count === 150_000),
    true,
  )
  t.diagnostic(`longest delay of the event loop ${(delay.max / 1e6).toFixed(1)} ms`)
  assert.ok(delay.max < 250e6, `${delay.max / 1e6} ms`)
  let count = 0
  for await (const record of log.read('in', { partition: 1 })) count += record.partition
  assert.equal(count, (await log.ends('in'))[1])
})

test('local log: values of 10 MB go through append, poll, read and state', async t => {
  const log = await openTopic(t)
  const value = Buffer.alloc(10_000_000, 'abcdefg')
  await log.append([0, 1, 2].map(i => ({ topic: 'in', key: `k${i}`, value })))
  const consumer = await log.consume({ group: 'g', topics: ['in'] })
  const records = await consumer.poll({ recordsMax: 10, bytesMax: 15_000_000, waitMsMax: 0 })
  assert.equal(records.length, 2)
  assert.ok(records.every(record => value.equals(record.value!)))
  await consumer.commit({
    positions: after(records),
    outputs: [{ topic: 'out', key: null, value }],
    state: writer => writer.put('large', value),
  })
  assert.ok(value.equals(consumer.state.get('large')!))
  assert.ok(value.equals((await log.get('out', 0, 0))!.value!))
})

test('local log: state keys and their order survive any text and number', async t => {
  const log = await openTopic(t)
  const part = fc.oneof(
    fc.string({
      unit: fc.constantFrom('a', 'b', '\u0000', '\u0001', '\u0002', '\u001b', 'é', '🦊'),
    }),
    fc.double({ noNaN: true }).map(x => x + 0),
    fc.integer(),
  )
  const key = fc.array(part, { minLength: 1, maxLength: 3 })
  let group = 0
  const property = fc.asyncProperty(fc.array(key, { maxLength: 12 }), async keys => {
    const consumer = await log.consume({ group: `g${group++}\u0000`, topics: ['in'] })
    const expected = new Map(keys.map(one => [JSON.stringify(one), one]))
    await consumer.commit({
      positions: [],
      outputs: [],
      state: writer => {
        for (const one of keys) writer.put(one, bytes(JSON.stringify(one)))
      },
    })
    const entries = [...consumer.state.range([-Infinity], ['\u{10ffff}'])]
    const sorted = [...expected.values()].sort(compareKeys)
    assert.deepEqual(
      entries.map(entry => text(entry.value)),
      sorted.map(one => JSON.stringify(one)),
    )
    assert.deepEqual(
      entries.map(entry => entry.key),
      sorted.map(one => (one.length === 1 ? one[0] : one)),
    )
    for (const one of keys) assert.equal(text(consumer.state.get(one)), JSON.stringify(one))
  })
  await fc.assert(property, { numRuns: 200 })
})

function compareKeys(a: (string | number)[], b: (string | number)[]): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    const [x, y] = [a[i]!, b[i]!]
    if (typeof x !== typeof y) return typeof x === 'number' ? -1 : 1
    const order =
      typeof x === 'number' ? x - Number(y) : Buffer.compare(Buffer.from(x), Buffer.from(String(y)))
    if (order !== 0 && !Number.isNaN(order)) return order
  }
  return a.length - b.length
}

test('local log: a long range of state comes in order and stops where asked', async t => {
  const log = await openTopic(t)
  const consumer = await log.consume({ group: 'g', topics: ['in'] })
  await consumer.commit({
    positions: [],
    outputs: [],
    state: writer => {
      for (let i = 0; i < 2000; i++) writer.put(['n', i], bytes(String(i)))
    },
  })
  const keys: StateKey[] = []
  for (const { key } of consumer.state.range(['n', 100], ['n', 1900])) keys.push(key)
  assert.equal(keys.length, 1800)
  assert.deepEqual(
    [keys[0], keys[1799]],
    [
      ['n', 100],
      ['n', 1899],
    ],
  )
  assert.throws(() => consumer.state.get('x'.repeat(3000)), RangeError)
})

test('local log: two logs of one folder in one process share it, the last one closes it', async t => {
  const path = join(temporaryFolder(t), 'with.extension')
  const [a, b] = [await openLocalLog({ path }), await openLocalLog({ path })]
  await a.ensureTopics([{ name: 'in', partitions: 1 }])
  await b.append(small(2))
  await a.close()
  await a.close()
  assert.equal((await readAll(b, 'in')).length, 2)
  await assert.rejects(a.ends('in'), /closed/)
  const closing = b.close()
  const c = await openLocalLog({ path })
  await closing
  assert.equal((await readAll(c, 'in')).length, 2)
  await c.close()
})

test('local log: tells every commit, how it ended and how long it took', async t => {
  const told: string[] = []
  const onTransaction = (outcome: string, seconds: number): void => {
    assert.ok(seconds > 0 && seconds < 60)
    told.push(outcome)
  }
  const path = temporaryFolder(t)
  const dealt: unknown[] = []
  const onRebalance = (...args: unknown[]) => dealt.push(args)
  const log = await openLocalLog({ path, events: { ...NO_EVENTS, onTransaction, onRebalance } })
  await log.ensureTopics([{ name: 'in', partitions: 1 }])
  await log.append(small(2))
  const [a, b] = [
    await log.consume({ group: 'g', topics: ['in'] }),
    await log.consume({ group: 'g', topics: ['in'] }),
  ]
  await a.commit({ positions: [{ topic: 'in', partition: 0, offset: 1 }], outputs: [] })
  const second = { positions: [{ topic: 'in', partition: 0, offset: 2 }], outputs: [] }
  await assert.rejects(b.commit(second), { code: 'LOG_FENCED' })
  await assert.rejects(
    a.commit({ positions: [{ topic: 'in', partition: 0, offset: 9 }], outputs: [] }),
    RangeError,
  )
  assert.deepEqual(told, ['committed', 'fenced', 'aborted'])
  assert.deepEqual(dealt, Array(2).fill(['g', 1]))
  await log.close()
})

test('local log: readonly reads and refuses to write', async t => {
  const path = temporaryFolder(t)
  const log = await openLocalLog({ path })
  await log.ensureTopics([{ name: 'in', partitions: 1 }])
  await log.append(small(3))
  await log.close()
  const reader = await openLocalLog({ path, readonly: true })
  assert.equal((await readAll(reader, 'in')).length, 3)
  await reader.ensureTopics([{ name: 'in', partitions: 1 }])
  await assert.rejects(reader.ensureTopics([{ name: 'new', partitions: 1 }]), {
    code: 'TOPIC_MISSING',
  })
  await assert.rejects(reader.append(small(1)), /reading only/)
  await reader.close()
})

test('local log: a folder that can not be a log is refused with a hint', async t => {
  const folder = temporaryFolder(t)
  const refused = async (path: string, code: string, readonly = false) => {
    await assert.rejects(openLocalLog({ path, readonly }), error => {
      assert.ok(error instanceof XmasdError, String(error))
      assert.equal(error.code, code)
      assert.ok(error.message.includes(path) && error.hint.length > 10)
      return true
    })
  }
  const file = join(folder, 'file')
  writeFileSync(file, 'text')
  await refused(file, 'LOG_UNAVAILABLE')
  await refused(join(file, 'below'), 'LOG_UNAVAILABLE')
  await refused(join(folder, 'absent'), 'LOG_UNAVAILABLE', true)
  const empty = join(folder, 'empty')
  mkdirSync(empty)
  await refused(empty, 'LOG_UNAVAILABLE', true)
  const garbage = join(folder, 'garbage')
  mkdirSync(garbage)
  writeFileSync(join(garbage, 'data.mdb'), Buffer.alloc(100_000, 'garbage'))
  await refused(garbage, 'STATE_INVALID')
  await refused(garbage, 'STATE_INVALID', true)
  for (const name of ['data.mdb', 'lock.mdb']) {
    const path = join(folder, `with-${name}`)
    mkdirSync(join(path, name), { recursive: true })
    await refused(path, 'LOG_UNAVAILABLE')
  }
  for (const [name, key, value] of [
    ['foreign', 'hello', { a: 1 }],
    ['newer', 'format', { magic: 'xmasd-log', version: 99 }],
    ['other', 'format', { magic: 'another' }],
  ] as const) {
    const path = join(folder, name)
    const root = open({ path, encoding: 'json', overlappingSync: false })
    await root.put(key, value)
    await root.close()
    await refused(path, 'STATE_INVALID')
  }
})
