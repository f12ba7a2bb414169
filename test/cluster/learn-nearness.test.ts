import assert from 'node:assert/strict'
import { test } from 'node:test'
import { learnNearness } from '../../src/cluster/learn-nearness.ts'
import { farthestPicture, readLayouts, stateDistance, stateOf } from '../../src/cluster/nearness.ts'
import { assignmentOf, SCORES } from '../select/near.ts'

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
  const likeness = all.map(({ words, layout, embedding }) => {
    return { words: words!, layout: layout!, embedding: embedding! }
  })
  return { trajectories: { data, count: all.length, dimensions: SCORES }, likeness, examples }
}

test('a share of the history has another example within a radius; copies do not make it smaller', () => {
  const { trajectories, likeness, examples } = history()
  const model = learnNearness({ trajectories, likeness }, { share: 0.02, seed: 1 })
  assert.deepEqual(learnNearness({ trajectories, likeness }, { share: 0.02, seed: 1 }), model)
  // Pictures of random colours lie 1.4 apart: the limit holds.
  assert.equal(model.layoutRadius, 0.4)
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
  assert.ok(farthestPicture(layouts[0]!, layouts[1]!) > 1)
})

test('the axes are orthonormal, and no longer than a distance', () => {
  const { trajectories, likeness, examples } = history()
  const model = learnNearness({ trajectories, likeness }, { share: 0.01, seed: 1 })
  const product = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
    Array.from(a).reduce((sum, value, d) => sum + value * b[d]!, 0)
  for (const [i, a] of model.axes.entries()) {
    for (const [j, b] of model.axes.entries()) {
      assert.ok(Math.abs(product(a, b) - Number(i === j)) < 1e-9)
    }
  }
  const states = examples.map(
    ({ trajectory, embedding }) => stateOf(model, trajectory!, embedding!)!,
  )
  for (const [i, state] of states.slice(1).entries()) {
    const distance = stateDistance(state, 0, states[i]!, 0, state.length)
    for (const axis of model.axes) {
      const along = Math.abs(product(axis, state) - product(axis, states[i]!)) / 8192
      assert.ok(along <= distance * (1 + 1e-12), `${along} > ${distance}`)
    }
  }
  assert.equal(stateOf(model, [1], examples[0]!.embedding!), undefined)
})
