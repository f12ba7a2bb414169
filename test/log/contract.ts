/**
 * What every implementation of the log port must do. Offsets may have gaps, compaction may come
 * later, and a consumer may get its partitions one after the other: so tests count records.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { XmasdError } from '../../src/errors.ts'
import type { Consumer, Log, LogRecord, OutRecord, Position } from '../../src/log/log.ts'
import { randomOperationsMatchTheModel } from './model.ts'

export type MakeLog = (t: TestContext) => Promise<{ open(): Promise<Log> }>

/** Registers the contract's tests for one implementation. `modelRuns`: random sequences to try. */
export function logContract(name: string, makeLog: MakeLog, options: { modelRuns?: number } = {}) {
  const scene = async (t: TestContext, partitions = 1) => {
    const made = await makeLog(t)
    const log = await made.open()
    t.after(() => log.close())
    const topic = unique('in')
    await log.ensureTopics([{ name: topic, partitions }])
    return { ...made, log, topic }
  }
  appendTests(name, scene)
  positionTests(name, scene)
  commitTests(name, scene)
  pollTests(name, scene)
  stateTests(name, scene)
  compactionTests(name, makeLog)
  test(`${name}: random operations match an in-memory model, reopened in between`, async t => {
    const { open } = await makeLog(t)
    await randomOperationsMatchTheModel(open, options.modelRuns ?? 40)
  })
}

type Scene = (
  t: TestContext,
  partitions?: number,
) => Promise<{ open(): Promise<Log>; log: Log; topic: string }>

export function unique(word: string): string {
  return `${word}-${randomUUID().slice(0, 8)}`
}

export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text)
}

export function text(value: Uint8Array | null | undefined): string | null {
  return value == null ? null : Buffer.from(value).toString()
}

/** Polls until `count` records have come; fails after `waitMsMax`. */
export async function pollCount(
  consumer: Consumer,
  count: number,
  options: { recordsMax?: number; waitMsMax?: number } = {},
): Promise<LogRecord[]> {
  const { recordsMax = count, waitMsMax = 20_000 } = options
  const records: LogRecord[] = []
  const deadline = performance.now() + waitMsMax
  while (records.length < count && performance.now() < deadline) {
    const max = Math.min(recordsMax, count - records.length)
    records.push(...(await consumer.poll({ recordsMax: max, waitMsMax: 200 })))
  }
  assert.equal(records.length, count, `${records.length} of ${count} records came`)
  return records
}

/** The positions after these records. */
export function after(records: readonly LogRecord[]): Position[] {
  const positions = new Map<string, Position>()
  for (const { topic, partition, offset } of records) {
    positions.set(`${topic}/${partition}`, { topic, partition, offset: offset + 1 })
  }
  return [...positions.values()]
}

export async function readAll(log: Log, topic: string): Promise<LogRecord[]> {
  const records: LogRecord[] = []
  for (const partition of (await log.ends(topic)).keys()) {
    for await (const record of log.read(topic, { partition })) records.push(record)
  }
  return records
}

function numbered(topic: string, count: number, from = 0): OutRecord[] {
  return Array.from({ length: count }, (_, i) => {
    return { topic, key: `k${from + i}`, value: bytes(String(from + i)) }
  })
}

function isCode(code: string): (error: unknown) => boolean {
  return error => error instanceof XmasdError && error.code === code
}

function appendTests(name: string, scene: Scene): void {
  test(`${name}: what was appended is read back, byte for byte`, async t => {
    const { log, topic } = await scene(t)
    const key = 'ключ 🔑 \u0000\n"'
    const value = Uint8Array.from({ length: 256 }, (_, i) => i)
    const headers = { code: 'NOT_JSON', hint: 'größer 🦊', empty: '' }
    const before = Date.now()
    await log.append([{ topic, key, value, headers }])
    const [record] = await readAll(log, topic)
    assert.equal(record?.key, key)
    assert.deepEqual([...(record?.value ?? [])], [...value])
    assert.deepEqual({ ...record?.headers }, headers)
    assert.ok(Math.abs(record!.timestamp - before) < 60_000)
    assert.equal(record?.topic, topic)
    assert.equal(record?.partition, 0)
  })

  test(`${name}: an empty value, a tombstone, an empty key and no key stay what they are`, async t => {
    const { log, topic } = await scene(t)
    await log.append([
      { topic, key: 'empty', value: new Uint8Array(0) },
      { topic, key: 'gone', value: null },
      { topic, key: null, value: bytes('keyless') },
      { topic, key: '', value: bytes('empty key') },
    ])
    const records = await readAll(log, topic)
    assert.deepEqual(
      records.map(record => [record.key, text(record.value)]),
      [
        ['empty', ''],
        ['gone', null],
        [null, 'keyless'],
        ['', 'empty key'],
      ],
    )
    assert.deepEqual({ ...records[0]?.headers }, {})
  })

  test(`${name}: values of 900,000 bytes come back whole`, async t => {
    const { log, topic } = await scene(t)
    const value = Buffer.alloc(900_000, 'abcdefg')
    await log.append([
      { topic, key: 'a', value },
      { topic, key: 'b', value: bytes('small') },
    ])
    const [large, small] = await readAll(log, topic)
    assert.ok(value.equals(large!.value!))
    assert.equal(text(small?.value), 'small')
  })

  test(`${name}: order holds within a partition and a key stays in one partition`, async t => {
    const { log, topic } = await scene(t, 4)
    for (let round = 0; round < 5; round++) await log.append(numbered(topic, 40, 0))
    const records = await readAll(log, topic)
    assert.equal(records.length, 200)
    const partitions = new Map<string, Set<number>>()
    for (const { key, partition } of records) {
      partitions.set(key!, (partitions.get(key!) ?? new Set()).add(partition))
    }
    assert.ok([...partitions.values()].every(set => set.size === 1))
    assert.ok(new Set(records.map(record => record.partition)).size > 1)
    for (let i = 1; i < records.length; i++) {
      const [a, b] = [records[i - 1]!, records[i]!]
      if (a.partition === b.partition) assert.ok(a.offset < b.offset)
    }
  })

  test(`${name}: a partition that is asked for is used, keyless records spread`, async t => {
    const { log, topic } = await scene(t, 3)
    await log.append([{ topic, key: 'k', value: null, partition: 2 }])
    assert.deepEqual(
      (await readAll(log, topic)).map(record => record.partition),
      [2],
    )
    const keyless = Array.from({ length: 30 }, () => ({ topic, key: null, value: bytes('x') }))
    await log.append(keyless)
    assert.equal(new Set((await readAll(log, topic)).map(record => record.partition)).size, 3)
  })

  test(`${name}: read and get find records by offset, ends follow the last record`, async t => {
    const { log, topic } = await scene(t)
    assert.deepEqual(await log.ends(topic), [0])
    await log.append(numbered(topic, 10))
    const records = await readAll(log, topic)
    const [end] = await log.ends(topic)
    assert.ok(end! > records[9]!.offset)
    const some: LogRecord[] = []
    const range = { partition: 0, from: records[3]!.offset, to: records[7]!.offset }
    for await (const record of log.read(topic, range)) some.push(record)
    assert.deepEqual(some, records.slice(3, 7))
    assert.deepEqual(await log.get(topic, 0, records[5]!.offset), records[5])
    assert.equal(await log.get(topic, 0, end! + 100), undefined)
  })

  test(`${name}: an append with one bad record leaves nothing`, async t => {
    const { log, topic } = await scene(t)
    const bad = { topic: unique('absent'), key: 'x', value: null }
    await assert.rejects(log.append([...numbered(topic, 3), bad]), RangeError)
    const outside = { topic, key: 'x', value: null, partition: 1 }
    await assert.rejects(log.append([...numbered(topic, 3), outside]), RangeError)
    assert.deepEqual(await readAll(log, topic), [])
    await log.append([])
  })

  test(`${name}: a topic that differs from what is asked for is a mismatch that says the fix`, async t => {
    const { log, topic } = await scene(t, 2)
    await log.ensureTopics([{ name: topic, partitions: 2 }])
    await assert.rejects(log.ensureTopics([{ name: topic, partitions: 3 }]), error => {
      assert.ok(error instanceof XmasdError && error.code === 'TOPIC_MISMATCH')
      assert.ok(error.message.includes(topic) && error.hint.length > 0)
      return true
    })
    await assert.rejects(
      log.ensureTopics([{ name: topic, partitions: 2, compacted: true }]),
      isCode('TOPIC_MISMATCH'),
    )
    await assert.rejects(log.consume({ group: unique('g'), topics: ['absent'] }), RangeError)
  })
}

function positionTests(name: string, scene: Scene): void {
  test(`${name}: positions start at 0 and move by commits alone`, async t => {
    const { log, topic } = await scene(t)
    const group = unique('g')
    await log.append(numbered(topic, 5))
    const consumer = await log.consume({ group, topics: [topic] })
    const records = await pollCount(consumer, 5)
    assert.deepEqual(await log.committed(group, topic), [0])
    assert.deepEqual(await consumer.positions(), [{ topic, partition: 0, offset: 0 }])
    await consumer.commit({ positions: after(records.slice(0, 3)), outputs: [] })
    const offset = records[2]!.offset + 1
    assert.deepEqual(await log.committed(group, topic), [offset])
    assert.deepEqual(await consumer.positions(), [{ topic, partition: 0, offset }])
    assert.deepEqual(await log.committed(unique('other'), topic), [0])
    await consumer.close()
  })

  test(`${name}: a consumer that opens again goes on after the last commit`, async t => {
    const { open, log, topic } = await scene(t)
    const group = unique('g')
    await log.append(numbered(topic, 6))
    const first = await log.consume({ group, topics: [topic] })
    const records = await pollCount(first, 5)
    await first.commit({ positions: after(records.slice(0, 2)), outputs: [] })
    await first.close()
    const again = await open()
    t.after(() => again.close())
    const second = await again.consume({ group, topics: [topic] })
    const rest = await pollCount(second, 4)
    assert.deepEqual(
      rest.map(record => text(record.value)),
      ['2', '3', '4', '5'],
    )
    await second.close()
  })

  test(`${name}: rewind reads again from the committed positions`, async t => {
    const { log, topic } = await scene(t, 2)
    await log.append(numbered(topic, 20))
    const consumer = await log.consume({ group: unique('g'), topics: [topic] })
    const records = await pollCount(consumer, 20)
    const done = records.filter(record => record.partition === 0).slice(0, 3)
    await consumer.commit({ positions: after(done), outputs: [] })
    await consumer.rewind()
    const again = await pollCount(consumer, 17)
    const keys = (list: LogRecord[]) => list.map(record => record.key).sort()
    assert.deepEqual(keys(again), keys(records.filter(record => !done.includes(record))))
    await consumer.close()
  })

  test(`${name}: a position backwards or of a foreign partition is a programmer's error`, async t => {
    const { log, topic } = await scene(t)
    const group = unique('g')
    await log.append(numbered(topic, 4))
    const consumer = await log.consume({ group, topics: [topic] })
    const records = await pollCount(consumer, 4)
    await consumer.commit({ positions: after(records), outputs: [] })
    const back = { positions: after(records.slice(0, 2)), outputs: numbered(topic, 1) }
    await assert.rejects(consumer.commit(back), RangeError)
    const foreign = { positions: [{ topic, partition: 7, offset: 1 }], outputs: [] }
    await assert.rejects(consumer.commit(foreign), RangeError)
    assert.deepEqual(await log.committed(group, topic), [records[3]!.offset + 1])
    assert.equal((await readAll(log, topic)).length, 4)
    await consumer.close()
  })

  test(`${name}: one consumer reads several topics of several partitions`, async t => {
    const { log, topic } = await scene(t, 2)
    const other = unique('other')
    await log.ensureTopics([{ name: other, partitions: 3 }])
    await log.append([...numbered(topic, 10), ...numbered(other, 15)])
    const group = unique('g')
    const consumer = await log.consume({ group, topics: [topic, other] })
    const records = await pollCount(consumer, 25)
    assert.equal(records.filter(record => record.topic === other).length, 15)
    await consumer.commit({ positions: after(records), outputs: [] })
    assert.equal((await log.committed(group, other)).filter(offset => offset > 0).length, 3)
    assert.deepEqual(await consumer.poll({ recordsMax: 5, waitMsMax: 50 }), [])
    await consumer.close()
  })
}

function commitTests(name: string, scene: Scene): void {
  test(`${name}: a commit makes outputs, positions and state true together`, async t => {
    const { open, log, topic } = await scene(t)
    const out = unique('out')
    const group = unique('g')
    await log.ensureTopics([{ name: out, partitions: 1 }])
    await log.append(numbered(topic, 3))
    const consumer = await log.consume({ group, topics: [topic] })
    const records = await pollCount(consumer, 3)
    await consumer.commit({
      positions: after(records),
      outputs: [{ topic: out, key: 'o', value: bytes('made'), headers: { from: 'commit' } }],
      state: writer => writer.put(['seen', 3], bytes('yes')),
    })
    assert.equal(text(consumer.state.get(['seen', 3])), 'yes')
    await consumer.close()
    const again = await open()
    t.after(() => again.close())
    assert.deepEqual(
      (await readAll(again, out)).map(record => [text(record.value), record.headers.from]),
      [['made', 'commit']],
    )
    assert.deepEqual(await again.committed(group, topic), [records[2]!.offset + 1])
    const second = await again.consume({ group, topics: [topic] })
    assert.equal(text(second.state.get(['seen', 3])), 'yes')
    await second.close()
  })

  test(`${name}: a commit that fails leaves nothing and may be tried again`, async t => {
    const { log, topic } = await scene(t)
    const out = unique('out')
    const group = unique('g')
    await log.ensureTopics([{ name: out, partitions: 1 }])
    await log.append(numbered(topic, 3))
    const consumer = await log.consume({ group, topics: [topic] })
    const positions = after(await pollCount(consumer, 3))
    const outputs = numbered(out, 5)
    const throwing = consumer.commit({
      positions,
      outputs,
      state: writer => {
        writer.put('k', bytes('v'))
        throw new Error('the fold failed')
      },
    })
    await assert.rejects(throwing, /the fold failed/)
    const bad = [...outputs, { topic: 'absent', key: 'x', value: null }]
    const state = (writer: { put(key: string, value: Uint8Array): void }) =>
      writer.put('k', bytes('v'))
    await assert.rejects(consumer.commit({ positions, outputs: bad, state }), RangeError)
    assert.deepEqual(await readAll(log, out), [])
    assert.deepEqual(await log.committed(group, topic), [0])
    assert.equal(consumer.state.get('k'), undefined)
    await consumer.commit({ positions, outputs, state })
    assert.equal((await readAll(log, out)).length, 5)
    assert.equal(text(consumer.state.get('k')), 'v')
    await consumer.close()
  })

  test(`${name}: of two members with the same record in hand one is fenced, nothing is doubled`, async t => {
    const { open, log, topic } = await scene(t)
    const out = unique('out')
    const group = unique('g')
    await log.ensureTopics([{ name: out, partitions: 1 }])
    await log.append(numbered(topic, 1))
    const other = await open()
    t.after(() => other.close())
    const first = await log.consume({ group, topics: [topic] })
    const held = await pollCount(first, 1)
    const second = await other.consume({ group, topics: [topic] })
    const taken = await second.poll({ recordsMax: 10, waitMsMax: 3000 })
    if (taken.length > 0) {
      await second.commit({ positions: after(taken), outputs: numbered(out, 1) })
      const late = first.commit({ positions: after(held), outputs: numbered(out, 1) })
      await assert.rejects(late, error => {
        assert.ok(error instanceof XmasdError && error.code === 'LOG_FENCED' && error.retryable)
        return true
      })
      await first.rewind()
      assert.deepEqual(await first.poll({ recordsMax: 10, waitMsMax: 100 }), [])
    } else {
      await first.commit({ positions: after(held), outputs: numbered(out, 1) })
    }
    assert.equal((await readAll(log, out)).length, 1)
    await first.close()
    await second.close()
  })

  test(`${name}: two members of a group process every record once`, async t => {
    const { open, log, topic } = await scene(t, 4)
    const out = unique('out')
    const group = unique('g')
    await log.ensureTopics([{ name: out, partitions: 1 }])
    await log.append(numbered(topic, 300))
    const other = await open()
    t.after(() => other.close())
    const isDone = async () => (await readAll(log, out)).length >= 300
    const work = async (from: Log) => {
      const consumer = await from.consume({ group, topics: [topic] })
      while (!(await isDone())) await step(consumer, out)
      await consumer.close()
    }
    await Promise.all([work(log), work(other)])
    const keys = (await readAll(log, out)).map(record => record.key)
    assert.equal(keys.length, 300)
    assert.equal(new Set(keys).size, 300)
  })
}

/** One step of a member that copies records to `out`. */
export async function step(consumer: Consumer, out: string, recordsMax = 25): Promise<number> {
  const records = await consumer.poll({ recordsMax, waitMsMax: 100 })
  if (records.length === 0) return 0
  const outputs = records.map(({ key, value }) => ({ topic: out, key, value }))
  try {
    await consumer.commit({ positions: after(records), outputs })
    return records.length
  } catch (error) {
    if (!isCode('LOG_FENCED')(error)) throw error
    await consumer.rewind()
    return 0
  }
}

function pollTests(name: string, scene: Scene): void {
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

function stateTests(name: string, scene: Scene): void {
  test(`${name}: state keys order as tuples of numbers and strings`, async t => {
    const { log, topic } = await scene(t)
    const consumer = await log.consume({ group: unique('g'), topics: [topic] })
    const ordered = [
      ['a', -3],
      ['a', 2],
      ['a', 10],
      ['a', 10.5],
      ['a', 'b'],
      ['a', 'b', 0],
      ['a', 'bb'],
      ['a', 'é'],
      ['b'],
    ] as const
    await consumer.commit({
      positions: [],
      outputs: [],
      state: writer => {
        for (const key of ordered.toReversed()) writer.put(key, bytes(JSON.stringify(key)))
      },
    })
    const range = (from: (string | number)[], to: (string | number)[]) =>
      [...consumer.state.range(from, to)].map(entry => JSON.parse(text(entry.value)!) as unknown)
    assert.deepEqual(range(['a'], ['b']), ordered.slice(0, -1))
    assert.deepEqual(range(['a', 2], ['a', 'b']), ordered.slice(1, 4))
    assert.deepEqual(range(['a', 'b'], ['a', 'bb']), ordered.slice(4, 6))
    assert.deepEqual(range(['c'], ['d']), [])
    assert.deepEqual(
      [...consumer.state.range(['a', -100], ['a', 3])].map(entry => entry.key),
      [
        ['a', -3],
        ['a', 2],
      ],
    )
    await consumer.close()
  })

  test(`${name}: state belongs to its group, is overwritten and removed by commits`, async t => {
    const { log, topic } = await scene(t)
    const mine = await log.consume({ group: unique('g'), topics: [topic] })
    const other = await log.consume({ group: unique('g'), topics: [topic] })
    const put = (value: string) => ({
      positions: [],
      outputs: [],
      state: (writer: { put(key: string, value: Uint8Array): void }) =>
        writer.put('k', bytes(value)),
    })
    await mine.commit(put('1'))
    await other.commit(put('other'))
    await mine.commit(put('2'))
    assert.equal(text(mine.state.get('k')), '2')
    assert.equal(text(other.state.get('k')), 'other')
    await mine.commit({
      positions: [],
      outputs: [],
      state: writer => {
        writer.put('new', new Uint8Array(0))
        writer.remove('k')
        writer.remove('never there')
      },
    })
    assert.equal(mine.state.get('k'), undefined)
    assert.equal(mine.state.get('new')?.length, 0)
    assert.equal(text(other.state.get('k')), 'other')
    await mine.close()
    await other.close()
  })
}

function compactionTests(name: string, makeLog: MakeLog): void {
  test(`${name}: folding a compacted topic by key yields the latest values`, async t => {
    const { open } = await makeLog(t)
    const log = await open()
    t.after(() => log.close())
    const topic = unique('subset')
    await log.ensureTopics([{ name: topic, partitions: 2, compacted: true }])
    const expected = new Map<string, string>()
    for (let round = 0; round < 6; round++) {
      const records = Array.from({ length: 40 }, (_, i) => {
        const key = `${'long '.repeat(i === 7 ? 200 : 0)}k${(i * 7 + round) % 25}`
        const isGone = (i + round) % 5 === 0
        if (isGone) expected.delete(key)
        else expected.set(key, `${round}/${i}`)
        return { topic, key, value: isGone ? null : bytes(`${round}/${i}`) }
      })
      await log.append(records)
    }
    const folded = new Map<string, string>()
    for (const { key, value } of await readAll(log, topic)) {
      if (value === null) folded.delete(key!)
      else folded.set(key!, text(value)!)
    }
    assert.deepEqual([...folded].sort(), [...expected].sort())
  })

  test(`${name}: a record without a key is refused on a compacted topic`, async t => {
    const { open } = await makeLog(t)
    const log = await open()
    t.after(() => log.close())
    const topic = unique('subset')
    await log.ensureTopics([{ name: topic, partitions: 1, compacted: true }])
    const good = { topic, key: 'k', value: bytes('v') }
    await assert.rejects(log.append([good, { topic, key: null, value: bytes('v') }]), RangeError)
    assert.deepEqual(await readAll(log, topic), [])
  })
}
