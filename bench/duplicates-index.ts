/** What the index of exemplars costs, filled with examples that are spread as real ones are. */
import { type Nearness, readLayouts, stateOf } from '../src/cluster/nearness.ts'
import { LAYOUT_VALUES } from '../src/ingest/layout.ts'
import type { StateKey, StateReader } from '../src/log/log.ts'
import { seededRandom } from '../src/random.ts'
import { type Appearance, Exemplars } from '../src/select/exemplars.ts'
import type { FoldedAssignment } from '../src/select/parse.ts'

export const NOTHING: StateReader = { get: () => undefined, range: (_: StateKey) => [] }

export type IndexCosts = {
  exemplars: number
  bytesPerExemplar: number
  addMicroseconds: number
  /** Of examples that are near to none, and of copies. */
  lookupMicroseconds: { medianNew: number; p99New: number; medianCopy: number; p99Copy: number }
  copiesFound: number
  restoreSeconds: number
}

const QUERIES = 20_000
/** Each look-up counts with the fastest of so many: what other processes take is not its cost. */
const PASSES = 3
/** Questions that are asked again and again: a share of all, drawn by Zipf's law from so many. */
const POPULAR_SHARE = 0.4
const POPULAR = 20_000

/** `examples`: real ones, of which others are mixed. */
export function measureIndex(
  model: Nearness,
  examples: readonly FoldedAssignment[],
  count: number,
): IndexCosts {
  const make = generator(model, examples)
  const exemplars = new Exemplars(model, count)
  const start = performance.now()
  const made: Appearance[] = []
  let making = 0
  for (let number = 0; number < count; number++) {
    const before = performance.now()
    const appearance = make()
    making += performance.now() - before
    if (number % Math.ceil(count / QUERIES) === 0) made.push(appearance)
    exemplars.add(appearance, number)
  }
  const addMicroseconds = (1000 * (performance.now() - start - making)) / count
  const [fresh, copies] = [made.map(make), made.map(one => nudged(one))]
  const [ofNew, ofCopies] = [timed(exemplars, fresh), timed(exemplars, copies)]
  const restoreStart = performance.now()
  const again = new Exemplars(model, count)
  for (let number = 0; number < count; number++) again.addRow(exemplars.row(number))
  return {
    exemplars: count,
    bytesPerExemplar: round(exemplars.bytes / count),
    addMicroseconds: round(addMicroseconds),
    lookupMicroseconds: {
      medianNew: ofNew.at(0.5),
      p99New: ofNew.at(0.99),
      medianCopy: ofCopies.at(0.5),
      p99Copy: ofCopies.at(0.99),
    },
    copiesFound: round(ofCopies.found / copies.length),
    restoreSeconds: round((performance.now() - restoreStart) / 1000),
  }
}

/**
 * Two random pictures mixed, and a state that lies to a real one as two others lie to each other: the spread of
 * the real ones, and no two alike.
 */
function generator(model: Nearness, examples: readonly FoldedAssignment[]): () => Appearance {
  const random = seededRandom(7)
  const real = examples.flatMap(({ layout, trajectory, embedding }) => {
    const layouts = readLayouts(layout ?? null)
    const state = embedding == null ? undefined : stateOf(model, trajectory!, embedding)
    return layouts?.count === 1 && state !== undefined ? [{ layouts, state }] : []
  })
  const one = () => real[Math.floor(real.length * random())]!
  return () => {
    const [a, b, c] = [one(), one(), one()]
    const share = 0.3 + 0.4 * random()
    const bytes = a.layouts.bytes.map((value, i) =>
      Math.round(share * value + (1 - share) * b.layouts.bytes[i]! + 12 * (random() - 0.5)),
    )
    const state = a.state.map((value, d) => value + 0.7 * (b.state[d]! - c.state[d]!))
    const isPopular = random() < POPULAR_SHARE
    const low = isPopular ? Math.floor(POPULAR ** random()) : Math.floor(2 ** 32 * random())
    return appearance({ high: Number(isPopular), low }, bytes, state)
  }
}

/** As a re-encoding leaves it: the same words, values a little off. */
function nudged({ words, layouts, state }: Appearance): Appearance {
  const off = (value: number, i: number): number => value + ((i * 7919) % 3) - 1
  return appearance(words, layouts.bytes.map(off), state!.map(off))
}

function appearance(words: Appearance['words'], bytes: Int8Array, state: Int16Array): Appearance {
  const square = bytes.reduce((sum, byte) => sum + byte * byte, 0)
  if (bytes.length !== LAYOUT_VALUES) throw new RangeError(`a picture of ${bytes.length} values`)
  return { words, layouts: { count: 1, bytes, squares: Uint32Array.of(square) }, state }
}

function timed(
  exemplars: Exemplars,
  wanted: readonly Appearance[],
): { at: (share: number) => number; found: number } {
  const once = (one: Appearance): number => {
    const started = performance.now()
    exemplars.find(one)
    return 1000 * (performance.now() - started)
  }
  const passes = Array.from({ length: PASSES }, () => wanted.map(once))
  const times = wanted.map((_, i) => Math.min(...passes.map(pass => pass[i]!)))
  times.sort((a, b) => a - b)
  const found = wanted.filter(one => exemplars.find(one) !== undefined).length
  return { at: share => round(times[Math.floor(share * (times.length - 1))]!), found }
}

function round(value: number): number {
  return Math.round(100 * value) / 100
}
