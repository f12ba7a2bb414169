import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  layoutsDistance,
  pictureCodes,
  readLayouts,
  stateDistance,
  stateOf,
} from '../../src/bundle/similarity.ts'
import { learnSimilarity } from '../../src/cluster/learn-similarity.ts'
import { assignmentOf, SCORES } from '../select/dedup/near.ts'

/** 800 examples of 200 questions, each about pictures that differ; every 20th once more, re-encoded. */
function history() {
  const examples = Array.from({ length: 800 }, (_, i) => {
    const example = { words: i % 200, pictures: [i], state: i, noise: 0, seed: i }
    return assignmentOf(example, i)
  })
  const copies = Array.from({ length: 40 }, (_, i) => {
    const example = {
      words: (20 * i) % 200,
      pictures: [20 * i],
      state: 20 * i,
      noise: 0.01,
      seed: i,
    }
    return assignmentOf(example, 1000 + i)
  })
  const all = [...examples, ...copies]
  const data = Float64Array.from(all.flatMap(({ trajectory }) => trajectory!))
  const compared = all.map(({ words, layout, embedding }) => {
    return { words: words!, layout: layout!, embedding: embedding! }
  })
  return { trajectories: { data, count: all.length, dimensions: SCORES }, compared, examples }
}

test('a share of the history has another example within a radius; copies do not make it smaller', () => {
  const { trajectories, compared, examples } = history()
  const model = learnSimilarity({ trajectories, compared }, { share: 0.02, seed: 1 })
  assert.deepEqual(learnSimilarity({ trajectories, compared }, { share: 0.02, seed: 1 }), model)
  // Pictures of random colours lie 1.4 apart: the limit holds.
  assert.equal(model.layoutRadius, 0.35)
  const states = examples.map(
    ({ trajectory, embedding }) => stateOf(model, trajectory!, embedding!)!,
  )
  const layouts = examples.map(({ layout }) => readLayouts(layout!)!)
  const near = states.filter((state, i) =>
    states.some((other, j) => {
      const apart = stateDistance(state, 0, other, 0, state.length)
      return i !== j && apart <= model.stateRadius
    }),
  )
  assert.ok(near.length >= 8 && near.length <= 24, `${near.length} of 800`)
  assert.ok(layoutsDistance(layouts[0]!, layouts[1]!) > 1)
})

test('codes part pictures in halves, and come back when a picture is a little off', () => {
  const { trajectories, compared, examples } = history()
  const model = learnSimilarity({ trajectories, compared }, { share: 0.01, seed: 1 })
  for (const [i, a] of model.layoutAxes.entries()) {
    for (const [j, b] of model.layoutAxes.entries()) {
      const product = a.reduce((sum, value, at) => sum + value * b[at]!, 0)
      assert.ok(Math.abs(product - Number(i === j)) < 1e-9)
    }
  }
  const codes = examples.map(({ layout }) => pictureCodes(model, readLayouts(layout!)!)[0]!)
  for (const bit of model.layoutAxes.keys()) {
    const above = codes.filter(code => code & (1 << bit)).length
    assert.ok(Math.abs(above - 400) < 40, `bit ${bit}: ${above} of 800`)
  }
  const found = codes.filter((code, i) => {
    const again = assignmentOf({ words: 0, pictures: [i], state: 0, noise: 0.1, seed: i }, i)
    return pictureCodes(model, readLayouts(again.layout!)!).includes(code)
  })
  assert.ok(found.length > 700, `${found.length} of 800`)
})

test('a state of another schedule is none', () => {
  const { trajectories, compared, examples } = history()
  const model = learnSimilarity({ trajectories, compared }, { share: 0.01, seed: 1 })
  assert.equal(stateOf(model, [1], examples[0]!.embedding!), undefined)
})
