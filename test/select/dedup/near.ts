/** What the tests of near-duplicates share: a model, and examples that are drawn near to each other. */
import fc from 'fast-check'
import type { SimilarityModel } from '../../../src/bundle/similarity.ts'
import { LAYOUT_VALUES } from '../../../src/ingest/image/layout.ts'
import { normalDeviates, seededRandom } from '../../../src/math/random.ts'
import { encodeDirection } from '../../../src/math/vectors.ts'
import { type Assignment, keyOf } from '../../../src/record.ts'

const EMBEDDING = 6
export const SCORES = 2
const D = SCORES + EMBEDDING

/** Codes by the signs of some values. */
export const MODEL: SimilarityModel = {
  layoutRadius: 0.3,
  stateRadius: 0.2,
  scores: SCORES,
  mean: Array<number>(D).fill(0),
  deviation: Array<number>(D).fill(1),
  layoutAxes: Array.from({ length: 8 }, (_, a) =>
    Array.from({ length: LAYOUT_VALUES }, (_, at) => Number(at === a)),
  ),
  layoutMiddles: Array<number>(8).fill(0),
}

/** Few words, pictures and states, each slightly off: many are near to each other, many just not. */
export type Seen = {
  words: number
  /** Kinds of its pictures; none: text-only. */
  pictures: readonly number[]
  state: number
  /** How far it is off its kinds. */
  noise: number
  seed: number
}

export const seen: fc.Arbitrary<Seen> = fc.record({
  words: fc.nat(3),
  pictures: fc.oneof(
    { weight: 6, arbitrary: fc.tuple(fc.nat(2)) },
    { weight: 3, arbitrary: fc.constant([]) },
    { weight: 1, arbitrary: fc.array(fc.nat(2), { minLength: 2, maxLength: 3 }) },
  ),
  state: fc.nat(3),
  noise: fc.constantFrom(0, 0.02, 0.1, 0.3),
  seed: fc.nat(1000),
})

/** An assignment that looks as `example` says; `number` makes content and id its own. */
export function assignmentOf(example: Seen, number: number, id = `id${number}`): Assignment {
  const { words, pictures, state, noise, seed } = example
  const random = seededRandom(seed)
  const near = (kind: number, length: number): number[] => {
    const centre = normalDeviates(seededRandom(kind), length)
    const off = normalDeviates(random, length)
    return Array.from(centre, (value, i) => value + noise * off[i]!)
  }
  const content = (number * 2654435761).toString(16).padStart(16, '0').padEnd(64, 'a')
  const isText = pictures.length === 0
  const trajectory = isText ? null : near(100 + state, SCORES)
  return {
    v: 1,
    key: keyOf(id, content),
    id,
    cluster: isText ? 'text' : state,
    singularValues: null,
    trajectory,
    instability: isText ? null : seed,
    distance: isText ? null : 0,
    content,
    bundle: 'b1',
    source: { topic: 'examples', partition: 0, offset: number },
    words: `${words}`.padStart(16, '0'),
    layout: isText
      ? null
      : pictures.map(kind => encodeDirection(near(kind, LAYOUT_VALUES))).join(''),
    embedding: isText ? null : encodeDirection(near(200 + state, EMBEDDING)),
  }
}
