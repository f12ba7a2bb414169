import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  layoutsDistance,
  pictureCodes,
  readLayouts,
  stateDistance,
  stateOf,
} from '../../../src/bundle/similarity.ts'
import { contentOf } from '../../../src/select/columns/hash-table.ts'
import { type Appearance, Exemplars, type Match } from '../../../src/select/dedup/exemplars.ts'
import { assignmentOf, MODEL, type Seen, seen } from './near.ts'

function appearanceOf(example: Seen, number: number): Appearance {
  const { words, layout, trajectory, embedding } = assignmentOf(example, number)
  const state = embedding == null ? undefined : stateOf(MODEL, trajectory!, embedding)
  return { words: contentOf(words!)!, layouts: readLayouts(layout!)!, state }
}

/** Text-only examples have none. */
function codesOf(layouts: Appearance['layouts']): number[] {
  return layouts.count === 0 ? [] : [...pictureCodes(MODEL, layouts)]
}

type Kept = { appearance: Appearance; sequence: number; row: number }

/** By a scan of everything that is remembered: pictures with another code are no candidates by state. */
function naiveFind(kept: readonly Kept[], wanted: Appearance): Match | undefined {
  const codes = codesOf(wanted.layouts)
  const near = kept.flatMap(({ appearance, sequence }) => {
    const { words, layouts, state } = appearance
    const picture = layoutsDistance(layouts, wanted.layouts)
    if (picture > MODEL.layoutRadius) return []
    const isWord = words.high === wanted.words.high && words.low === wanted.words.low
    const apart =
      state === undefined || wanted.state === undefined
        ? Number.POSITIVE_INFINITY
        : stateDistance(state, 0, wanted.state, 0, state.length)
    return [{ sequence, isWord, picture, apart, isProbed: codes.includes(codesOf(layouts)[0]!) }]
  })
  const sameWords = near.filter(({ isWord }) => isWord)
  const byPicture = sameWords.sort((a, b) => a.picture - b.picture || a.sequence - b.sequence)[0]
  if (byPicture !== undefined) {
    const measure = wanted.layouts.count === 0 ? 'words' : 'layout'
    return { sequence: byPicture.sequence, measure, distance: byPicture.picture }
  }
  const byState = near
    .filter(({ isProbed, apart }) => isProbed && apart <= MODEL.stateRadius)
    .sort((a, b) => a.apart - b.apart || a.sequence - b.sequence)[0]
  return byState && { sequence: byState.sequence, measure: 'state', distance: byState.apart }
}

test('exemplars find what a scan finds, and go on from their rows as if they had never stopped', () => {
  const found = { words: 0, layout: 0, state: 0, none: 0 }
  fc.assert(
    fc.property(
      fc.array(seen, { maxLength: 80, size: 'max' }),
      fc.integer({ min: 4, max: 60 }),
      fc.integer({ min: 1, max: 30 }),
      (examples, capacity, stopEvery) => {
        let exemplars = new Exemplars(MODEL, capacity)
        const kept: Kept[] = []
        for (const [number, example] of examples.entries()) {
          const wanted = appearanceOf(example, number)
          const remembered = kept.filter(({ row }) => row >= exemplars.first)
          const match = exemplars.find(wanted)
          assert.deepEqual(match, naiveFind(remembered, wanted))
          found[match?.measure ?? 'none']++
          if (match === undefined) {
            kept.push({ appearance: wanted, sequence: 7 * number, row: exemplars.end })
            exemplars.add(wanted, 7 * number)
          }
          if (number % stopEvery === 0) exemplars = restored(exemplars, capacity)
        }
      },
    ),
    { numRuns: 300 },
  )
  for (const [measure, count] of Object.entries(found)) assert.ok(count > 20, `${measure} ${count}`)
})

function restored(exemplars: Exemplars, capacity: number): Exemplars {
  const again = new Exemplars(MODEL, capacity, { from: exemplars.first })
  while (again.end < exemplars.end) again.addRow(exemplars.row(again.end))
  return again
}

test('a question that everybody asks is compared with so many, and with all pictures of its code', () => {
  const exemplars = new Exemplars(MODEL, 10_000)
  const words = { high: 1, low: 2 }
  const picture = (pattern: number): Appearance => {
    const bytes = Int8Array.from({ length: 54 }, (_, i) => ((pattern >> (i % 13)) % 2 ? 100 : -100))
    const layouts = { count: 1, bytes, squares: Uint32Array.of(540_000) }
    return { words, layouts, state: undefined }
  }
  const count = 6_000
  for (let number = 0; number < count; number++) exemplars.add(picture(number), number)
  assert.equal(exemplars.find(picture(count - 500))?.sequence, count - 500)
  assert.equal(exemplars.find(picture(1_000))?.sequence, 1_000)
  const blank = { count: 1, bytes: new Int8Array(54), squares: new Uint32Array(1) }
  assert.equal(exemplars.find({ words, layouts: blank, state: undefined }), undefined)
  for (let number = count; number < 2 * count; number++) {
    exemplars.add({ words, layouts: blank, state: undefined }, number)
  }
  const found = exemplars.find({ words, layouts: blank, state: undefined })
  assert.equal(found?.sequence, 2 * count - 1_024)
})
