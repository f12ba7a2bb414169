/** The contract of appending, reading and compaction. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { XmasdError } from '../../src/errors.ts'
import type { LogRecord } from '../../src/log/log.ts'
import {
  bytes,
  isCode,
  type MakeLog,
  numbered,
  readAll,
  type Scene,
  text,
  unique,
} from './helpers.ts'

export function appendTests(name: string, scene: Scene): void {
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

  test(`${name}: headers that repeat, are no text or are null are read back as they are`, async t => {
    const { log, topic } = await scene(t)
    const rawHeaders = [
      ['trace', Uint8Array.of(0, 255, 254)],
      ['tag', bytes('one')],
      ['tag', bytes('zwei')],
      ['none', null],
    ] as const
    await log.append([{ topic, key: 'a', value: null, headers: { first: 'é' }, rawHeaders }])
    const [record] = await readAll(log, topic)
    const read = record?.rawHeaders?.map(([header, value]) => [header, value && [...value]])
    assert.deepEqual(
      read,
      [['first', bytes('é')] as const, ...rawHeaders].map(([header, value]) => [
        header,
        value && [...value],
      ]),
    )
    const { first, tag, none } = record!.headers
    assert.deepEqual([first, tag, none], ['é', 'zwei', ''])
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

export function compactionTests(name: string, makeLog: MakeLog): void {
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
