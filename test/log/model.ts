/** Random operations on a log beside the plainest model of one: arrays, and numbers into them. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import type { Consumer, Log, OutRecord, Position, StateKey } from '../../src/log/log.ts'
import { bytes, pollCount, readAll, text, unique } from './helpers.ts'

const PARTITIONS = 2

type Operation =
  | { kind: 'append'; records: [number, number][] }
  | { kind: 'poll'; count: number }
  | { kind: 'commit'; outputs: [number, number][]; puts: [number, string][]; removes: number[] }
  | { kind: 'failing commit'; outputs: [number, number][] }
  | { kind: 'rewind' }
  | { kind: 'reopen' }

const places = (maxLength: number) =>
  fc.array(fc.tuple(fc.nat(1), fc.nat(PARTITIONS - 1)), { maxLength })

const operation: fc.Arbitrary<Operation> = fc.oneof(
  fc.record({ kind: fc.constant('append' as const), records: places(12) }),
  fc.record({ kind: fc.constant('poll' as const), count: fc.integer({ min: 1, max: 9 }) }),
  fc.record({
    kind: fc.constant('commit' as const),
    outputs: places(6),
    puts: fc.array(fc.tuple(fc.integer({ min: -9, max: 9 }), fc.string()), { maxLength: 4 }),
    removes: fc.array(fc.integer({ min: -9, max: 9 }), { maxLength: 3 }),
  }),
  fc.record({ kind: fc.constant('failing commit' as const), outputs: places(3) }),
  fc.record({ kind: fc.constant('rewind' as const) }),
  fc.record({ kind: fc.constant('reopen' as const) }),
)

export async function randomOperationsMatchTheModel(
  open: () => Promise<Log>,
  runs: number,
): Promise<void> {
  const property = fc.asyncProperty(fc.array(operation, { maxLength: 30 }), async operations => {
    const pair = await Pair.start(open)
    try {
      for (const one of operations) await pair.apply(one)
      await pair.compare()
    } finally {
      await pair.close()
    }
  })
  await fc.assert(property, { numRuns: runs })
}

/** One partition in the model: its values in order, and how many were polled and committed. */
type Lane = { values: string[]; offsets: number[]; polled: number; committed: number }

class Pair {
  readonly #open: () => Promise<Log>
  readonly #topics = [unique('model-a'), unique('model-b')]
  readonly #group = unique('model')
  readonly #lanes = new Map<string, Lane>()
  readonly #state = new Map<number, string>()
  #serial = 0
  #log!: Log
  #consumer!: Consumer

  private constructor(open: () => Promise<Log>) {
    this.#open = open
    for (const topic of this.#topics) {
      for (let partition = 0; partition < PARTITIONS; partition++) {
        const lane = { values: [], offsets: [], polled: 0, committed: 0 }
        this.#lanes.set(`${topic}/${partition}`, lane)
      }
    }
  }

  static async start(open: () => Promise<Log>): Promise<Pair> {
    const pair = new Pair(open)
    await pair.#start()
    return pair
  }

  async #start(): Promise<void> {
    this.#log = await this.#open()
    await this.#log.ensureTopics(this.#topics.map(name => ({ name, partitions: PARTITIONS })))
    this.#consumer = await this.#log.consume({ group: this.#group, topics: this.#topics })
  }

  async close(): Promise<void> {
    await this.#consumer.close()
    await this.#log.close()
  }

  async apply(one: Operation): Promise<void> {
    if (one.kind === 'append') {
      const records = this.#records(one.records)
      await this.#log.append(records)
      this.#appended(records)
    } else if (one.kind === 'poll') await this.#poll(one.count)
    else if (one.kind === 'commit') await this.#commit(one)
    else if (one.kind === 'failing commit') await this.#failingCommit(one.outputs)
    else {
      if (one.kind === 'reopen') {
        await this.close()
        await this.#start()
      } else await this.#consumer.rewind()
      for (const lane of this.#lanes.values()) lane.polled = lane.committed
    }
  }

  #records(places: [number, number][]): OutRecord[] {
    return places.map(([topic, partition]) => {
      const value = bytes(String(this.#serial++))
      return { topic: this.#topics[topic]!, key: `k${this.#serial % 5}`, value, partition }
    })
  }

  /** None where nothing moves. */
  #outputs(positions: readonly Position[], places: [number, number][]): OutRecord[] {
    return positions.length === 0 ? [] : this.#records(places)
  }

  #appended(records: OutRecord[]): void {
    for (const { topic, partition, value } of records) {
      this.#lanes.get(`${topic}/${partition}`)!.values.push(text(value)!)
    }
  }

  async #poll(count: number): Promise<void> {
    const lanes = [...this.#lanes.values()]
    const left = lanes.reduce((sum, lane) => sum + lane.values.length - lane.polled, 0)
    const expected = Math.min(left, count)
    const records = await pollCount(this.#consumer, expected, { recordsMax: count })
    for (const record of records) {
      const lane = this.#lanes.get(`${record.topic}/${record.partition}`)!
      assert.equal(text(record.value), lane.values[lane.polled])
      lane.offsets[lane.polled++] = record.offset
    }
    if (left === 0) {
      assert.deepEqual(await this.#consumer.poll({ recordsMax: count, waitMsMax: 1 }), [])
    }
  }

  #positions(): Position[] {
    return [...this.#lanes].flatMap(([place, lane]) => {
      if (lane.polled === lane.committed) return []
      const [topic, partition] = place.split('/') as [string, string]
      return [{ topic, partition: Number(partition), offset: lane.offsets[lane.polled - 1]! + 1 }]
    })
  }

  async #commit(one: Extract<Operation, { kind: 'commit' }>): Promise<void> {
    const positions = this.#positions()
    const outputs = this.#outputs(positions, one.outputs)
    await this.#consumer.commit({
      positions,
      outputs,
      state: writer => {
        for (const [key, value] of one.puts) writer.put(['n', key], bytes(value))
        for (const key of one.removes) writer.remove(['n', key])
      },
    })
    this.#appended(outputs)
    for (const lane of this.#lanes.values()) lane.committed = lane.polled
    for (const [key, value] of one.puts) this.#state.set(key, value)
    for (const key of one.removes) this.#state.delete(key)
    const entry = (key: StateKey, value: Uint8Array) => [key, text(value)]
    assert.deepEqual(
      [...this.#consumer.state.range(['n'], ['o'])].map(({ key, value }) => entry(key, value)),
      [...this.#state]
        .sort(([a], [b]) => a - b)
        .map(([key, value]) => entry(['n', key], bytes(value))),
    )
  }

  async #failingCommit(places: [number, number][]): Promise<void> {
    const positions = this.#positions()
    const outputs = this.#outputs(positions, places)
    const commit = this.#consumer.commit({
      positions,
      outputs: [...outputs, { topic: 'absent', key: null, value: null }],
      state: writer => writer.put(['n', 100], bytes('never')),
    })
    await assert.rejects(commit, RangeError)
  }

  /** Everything on the log, and every committed position, is as in the model. */
  async compare(): Promise<void> {
    for (const topic of this.#topics) {
      const records = await readAll(this.#log, topic)
      const committed = await this.#log.committed(this.#group, topic)
      for (let partition = 0; partition < PARTITIONS; partition++) {
        const lane = this.#lanes.get(`${topic}/${partition}`)!
        const found = records.filter(record => record.partition === partition)
        assert.deepEqual(
          found.map(record => text(record.value)),
          lane.values,
        )
        const offset = lane.committed === 0 ? 0 : lane.offsets[lane.committed - 1]! + 1
        assert.equal(committed[partition], offset)
      }
    }
  }
}
