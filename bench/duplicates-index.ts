/** An index of unrelated exemplars: distributed like real examples, none made from another. */
import type { SimilarityModel } from '../src/bundle/similarity.ts'
import { LAYOUT_VALUES } from '../src/ingest/image/layout.ts'
import { normalDeviates, seededRandom } from '../src/math/random.ts'
import { decodeDirection, encodeDirection } from '../src/math/vectors.ts'
import { contentOf } from '../src/select/columns/hash-table.ts'
import { NearDuplicates } from '../src/select/dedup/near-duplicates.ts'
import type { FoldedAssignment } from '../src/select/fold.ts'
import { MemoryState } from '../test/select/stream.ts'
import { arrayBytes } from './child.ts'

/** Sequence numbers of unrelated exemplars start here. */
const STRANGERS_FROM = 2 ** 31

export type IndexCosts = {
  exemplars: number
  bytesPerExemplar: number
  storedBytesPerExemplar: number
  /** Share of the drawn exemplars that lay within the radii of another one. */
  strangersTaken: number
  /** To look an example up that is near to none, and add it; to find a copy. */
  microseconds: { medianNew: number; p99New: number; medianCopy: number; p99Copy: number }
  copiesFound: number
  restoreSeconds: number
}

const QUERIES = 20_000
/** Popular questions: their share of all examples, and their number; drawn by Zipf's law. */
const POPULAR_SHARE = 0.4
const POPULAR = 20_000

/**
 * `count` unrelated exemplars in an index with room for `room` more. Their most popular questions are
 * those of `examples`.
 */
export function fillIndex(
  model: SimilarityModel,
  examples: readonly FoldedAssignment[],
  { count, room }: { count: number; room: number },
): { near: NearDuplicates; costs: () => IndexCosts } {
  const draw = strangers(examples)
  const settings = { exemplarsMax: count + room + 2 * QUERIES }
  const bytesBefore = arrayBytes()
  const near = new NearDuplicates(settings)
  near.learn(model)
  const known: FoldedAssignment[] = []
  let drawn = 0
  for (let added = 0; added < count; drawn++) {
    const stranger = draw()
    if (identify(near, stranger, STRANGERS_FROM + added) !== undefined) continue
    if (added++ % Math.ceil(count / QUERIES) === 0) known.push(stranger)
  }
  const bytesPerExemplar = round((arrayBytes() - bytesBefore) / count)
  const strangersTaken = (drawn - count) / drawn
  return {
    near,
    costs: () => {
      const state = new MemoryState()
      state.commit(writer => near.write(writer))
      const restoreStart = performance.now()
      const again = new NearDuplicates(settings, state)
      const restoreSeconds = round((performance.now() - restoreStart) / 1000)
      const stored = [...state.range([''], ['~'])].reduce((sum, { value }) => sum + value.length, 0)
      const fresh = timed(again, Array.from(known, draw))
      const copies = timed(again, known.map(nudged))
      return {
        exemplars: count,
        bytesPerExemplar,
        storedBytesPerExemplar: round(stored / count),
        strangersTaken,
        microseconds: {
          medianNew: fresh.at(0.5),
          p99New: fresh.at(0.99),
          medianCopy: copies.at(0.5),
          p99Copy: copies.at(0.99),
        },
        copiesFound: copies.found / known.length,
        restoreSeconds,
      }
    },
  }
}

/** The look-up of `Fold` for new content. */
export function identify(near: NearDuplicates, record: FoldedAssignment, sequence: number) {
  return near.identify(record, contentOf(record.content)!, sequence)
}

/** The number of real examples that one unrelated exemplar is drawn from. */
const PARENTS = 8

/**
 * Sums the deviations of real examples from their mean with normal weights. The result has the mean and
 * the covariance of real examples, over pictures, trajectories and embeddings together, and is near to
 * none of them.
 */
function strangers(examples: readonly FoldedAssignment[]): () => FoldedAssignment {
  const random = seededRandom(7)
  const real = examples.flatMap(({ layout, trajectory, embedding }) => {
    if (layout == null || trajectory == null || embedding == null) return []
    const picture = decodeDirection(layout)
    if (picture.length !== LAYOUT_VALUES) return []
    return [Float64Array.of(...picture, ...trajectory, ...decodeDirection(embedding))]
  })
  const scores = examples.find(({ trajectory }) => trajectory != null)!.trajectory!.length
  const mean = real[0]!.map((_, d) => real.reduce((sum, one) => sum + one[d]!, 0) / real.length)
  const asked = [...new Set(examples.map(({ words }) => words!))]
  let number = 0
  return () => {
    const values = Float64Array.from(mean)
    for (const weight of normalDeviates(random, PARENTS)) {
      const parent = real[Math.floor(real.length * random())]!
      for (let d = 0; d < values.length; d++) {
        values[d]! += ((parent[d]! - mean[d]!) * weight) / Math.sqrt(PARENTS)
      }
    }
    const rank = Math.floor(POPULAR ** random())
    const words = random() < POPULAR_SHARE ? (asked[rank] ?? hex(rank)) : hex(2 ** 40 * random())
    return {
      ...{ key: '', id: '', cluster: 0, instability: 0, distance: 0, bundle: 'bench' },
      content: hex(2 ** 48 + number++),
      words,
      layout: encodeDirection(values.subarray(0, LAYOUT_VALUES)),
      trajectory: [...values.subarray(LAYOUT_VALUES, LAYOUT_VALUES + scores)],
      embedding: encodeDirection(values.subarray(LAYOUT_VALUES + scores)),
    }
  }
}

/** A re-encoding: the same words, slightly different values. */
function nudged(stranger: FoldedAssignment, i: number): FoldedAssignment {
  const off = (text: string): string => {
    const bytes = new Int8Array(Buffer.from(text, 'base64'))
    return encodeDirection(Array.from(bytes, (value, at) => value + (((at + i) * 7919) % 3) - 1))
  }
  const { layout, embedding } = stranger
  const content = hex(2 ** 50 + i)
  return { ...stranger, content, layout: off(layout!), embedding: off(embedding!) }
}

function timed(
  near: NearDuplicates,
  records: readonly FoldedAssignment[],
): { at: (share: number) => number; found: number } {
  let found = 0
  const times = records.map((record, i) => {
    const content = contentOf(record.content)!
    const started = performance.now()
    const match = near.identify(record, content, 2 * STRANGERS_FROM - 1 - i)
    if (match !== undefined) found++
    return 1000 * (performance.now() - started)
  })
  times.sort((a, b) => a - b)
  return { at: share => round(times[Math.floor(share * (times.length - 1))]!), found }
}

function hex(value: number): string {
  return Math.floor(value).toString(16).padStart(16, '0')
}

function round(value: number): number {
  return Math.round(100 * value) / 100
}
