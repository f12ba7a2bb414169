/** What the tests of the fold share: assignments in a form that fast-check shrinks well. */
import fc from 'fast-check'
import type { StateKey, StateReader, StateWriter } from '../../src/log/log.ts'
import {
  type Assignment,
  type Cluster,
  type Control,
  type Decision,
  keyOf,
} from '../../src/record.ts'

/** `content` and `id` are drawn from few: redeliveries and duplicates are common. */
export type Arrival = { content: number; id: number; cluster: Cluster; instability: number }
export type Arriving = Arrival | 'settle'

export function recordOf(arrival: Arriving): Assignment | Control {
  if (arrival === 'settle') return { v: 1, control: 'settle' }
  const content = (arrival.content * 2654435761).toString(16).padStart(16, '0').padEnd(64, 'a')
  const id = `id${arrival.id}`
  const isText = arrival.cluster === 'text'
  return {
    v: 1,
    key: keyOf(id, content),
    id,
    cluster: arrival.cluster,
    singularValues: null,
    trajectory: isText ? null : [arrival.instability, 0],
    instability: isText ? null : arrival.instability,
    distance: isText ? null : 0,
    content,
    bundle: arrival.content % 5 === 0 ? 'b2' : 'b1',
    source: { topic: 'examples', partition: 0, offset: 0 },
  }
}

const arrivals = fc.record({
  content: fc.nat(300),
  id: fc.nat(3),
  cluster: fc.oneof(
    { weight: 5, arbitrary: fc.nat(5) as fc.Arbitrary<Cluster> },
    { weight: 1, arbitrary: fc.constant<Cluster>('text') },
  ),
  instability: fc.nat(6),
})

/** Pairs of a record and the gap of offsets before it (transaction markers, other records). */
export const streams: fc.Arbitrary<{ arrival: Arriving; gap: number }[]> = fc.array(
  fc.record({
    arrival: fc.oneof(
      { weight: 15, arbitrary: arrivals as fc.Arbitrary<Arriving> },
      { weight: 1, arbitrary: fc.constant<Arriving>('settle') },
    ),
    gap: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(4) }),
  }),
  { maxLength: 160, size: 'max' },
)

export const percents = fc.oneof(
  fc.integer({ min: 0, max: 100 }),
  fc.integer({ min: 0, max: 10_000 }).map(hundredths => hundredths / 100),
)

/** State in memory with a commit's semantics: writes show once `commit` returns. */
export class MemoryState implements StateReader {
  #entries: { key: StateKey; value: Uint8Array }[] = []

  get(key: StateKey): Uint8Array | undefined {
    return this.#entries.find(entry => compareKeys(entry.key, key) === 0)?.value
  }

  *range(from: StateKey, to: StateKey): Generator<{ key: StateKey; value: Uint8Array }> {
    for (const entry of this.#entries) {
      if (compareKeys(entry.key, from) >= 0 && compareKeys(entry.key, to) < 0) yield entry
    }
  }

  commit(write: (writer: StateWriter) => void): void {
    const entries = [...this.#entries]
    const remove = (key: StateKey): void => {
      const at = entries.findIndex(entry => compareKeys(entry.key, key) === 0)
      if (at >= 0) entries.splice(at, 1)
    }
    const put = (key: StateKey, value: Uint8Array): void => {
      remove(key)
      entries.push({ key, value: Uint8Array.from(value) })
    }
    write({ put, remove })
    this.#entries = entries.sort((a, b) => compareKeys(a.key, b.key))
  }
}

/** The same for many entries, whose keys are a name and a number: a commit copies none of them. */
export class MapState implements StateReader {
  readonly #entries = new Map<string, { key: StateKey; value: Uint8Array }>()

  get(key: StateKey): Uint8Array | undefined {
    return this.#entries.get(JSON.stringify(key))?.value
  }

  *range(from: StateKey, to: StateKey): Generator<{ key: StateKey; value: Uint8Array }> {
    const found = [...this.#entries.values()].filter(
      ({ key }) => compareKeys(key, from) >= 0 && compareKeys(key, to) < 0,
    )
    yield* found.sort((a, b) => compareKeys(a.key, b.key))
  }

  commit(write: (writer: StateWriter) => void): void {
    write({
      put: (key, value) => {
        this.#entries.set(JSON.stringify(key), { key, value: Uint8Array.from(value) })
      },
      remove: key => {
        this.#entries.delete(JSON.stringify(key))
      },
    })
  }

  count(name: string): number {
    return [...this.#entries.keys()].filter(key => key.startsWith(`["${name}"`)).length
  }

  drop(name: string): void {
    for (const key of [...this.#entries.keys()]) {
      if (key.startsWith(`["${name}"`)) this.#entries.delete(key)
    }
  }
}

/** Tuples part by part; numbers before strings. */
function compareKeys(a: StateKey, b: StateKey): number {
  const partsA = typeof a === 'object' ? a : [a]
  const partsB = typeof b === 'object' ? b : [b]
  for (let at = 0; at < Math.min(partsA.length, partsB.length); at++) {
    const x = partsA[at]!
    const y = partsB[at]!
    if (x === y) continue
    if (typeof x !== typeof y) return typeof x === 'number' ? -1 : 1
    return x < y ? -1 : 1
  }
  return partsA.length - partsB.length
}

/** The subset that the decisions make; throws where one is not legal. */
export class Subset {
  readonly kept = new Set<string>()
  readonly decided = new Map<string, Decision>()

  apply(decisions: readonly Decision[]): void {
    const seen = new Set<string>()
    for (const decision of decisions) {
      const { key, action } = decision
      const isFirst = action === 'keep' || action === 'drop'
      if (seen.has(key)) throw new Error(`${key} was decided twice in one settlement`)
      if (this.decided.has(key) === isFirst) throw new Error(`${key}: ${action} out of order`)
      if (this.kept.has(key) !== (action === 'evict')) throw new Error(`${key}: ${action}`)
      seen.add(key)
      if (isFirst) this.decided.set(key, decision)
      if (action === 'keep' || action === 'restore') this.kept.add(key)
      if (action === 'evict') this.kept.delete(key)
    }
  }
}
