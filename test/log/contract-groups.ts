/** The contract of positions, commits and state. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { XmasdError } from '../../src/errors.ts'
import type { Log, LogRecord } from '../../src/log/log.ts'
import {
  after,
  bytes,
  numbered,
  pollCount,
  readAll,
  type Scene,
  step,
  text,
  unique,
} from './helpers.ts'

export function positionTests(name: string, scene: Scene): void {
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

export function commitTests(name: string, scene: Scene): void {
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

  test(`${name}: outputs of a commit that moves no position are a programmer's error`, async t => {
    const { log, topic } = await scene(t)
    const out = unique('out')
    await log.ensureTopics([{ name: out, partitions: 1 }])
    await log.append(numbered(topic, 2))
    const consumer = await log.consume({ group: unique('g'), topics: [topic] })
    const positions = after(await pollCount(consumer, 2))
    await consumer.commit({ positions, outputs: [] })
    for (const still of [positions, []]) {
      const commit = consumer.commit({ positions: still, outputs: numbered(out, 1) })
      await assert.rejects(commit, RangeError)
    }
    assert.deepEqual(await readAll(log, out), [])
    await consumer.close()
  })

  test(`${name}: outputs of several partitions are in the order in which they were given`, async t => {
    const { log, topic } = await scene(t, 2)
    const out = unique('out')
    await log.ensureTopics([{ name: out, partitions: 1 }])
    await log.append(numbered(topic, 20))
    const consumer = await log.consume({ group: unique('g'), topics: [topic] })
    const positions = after(await pollCount(consumer, 20))
    assert.equal(positions.length, 2)
    const outputs = numbered(out, 50)
    await consumer.commit({ positions, outputs })
    assert.deepEqual(
      (await readAll(log, out)).map(({ key }) => key),
      outputs.map(({ key }) => key),
    )
    await consumer.close()
  })

  test(`${name}: rewinding one partition leaves the others where they are`, async t => {
    const { log, topic } = await scene(t, 2)
    await log.append(numbered(topic, 20))
    const consumer = await log.consume({ group: unique('g'), topics: [topic] })
    const records = await pollCount(consumer, 20)
    await consumer.rewind([{ topic, partition: 1 }])
    const again = records.filter(record => record.partition === 1)
    assert.deepEqual(await pollCount(consumer, again.length), again)
    assert.deepEqual(await consumer.poll({ recordsMax: 5, waitMsMax: 50 }), [])
    await consumer.close()
  })

  test(`${name}: the lag is what is left to read, 0 at the end`, async t => {
    const { log, topic } = await scene(t, 2)
    const group = unique('g')
    const behind = async () =>
      (await log.lag(group, topic)).reduce((sum, lag) => sum + lag.behind, 0)
    assert.equal(await behind(), 0)
    await log.append(numbered(topic, 10))
    await log.append(numbered(topic, 10, 10))
    assert.ok((await behind()) >= 20)
    const [{ oldest } = { oldest: 0 }] = await log.lag(group, topic)
    assert.ok(Math.abs(oldest! - Date.now()) < 60_000)
    const consumer = await log.consume({ group, topics: [topic] })
    const records = await pollCount(consumer, 20)
    await consumer.commit({ positions: after(records.slice(0, 1)), outputs: [] })
    assert.ok((await behind()) >= 19)
    await consumer.commit({ positions: after(records), outputs: [] })
    assert.equal(await behind(), 0)
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

export function stateTests(name: string, scene: Scene): void {
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
