import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRandom } from '../../src/math/random.ts'
import { packBatch } from '../../src/score/batch.ts'
import { headRows, meanLosses, predictionsOf } from '../../src/score/loss.ts'
import { randomSequence } from '../fixtures-tiny-proxy.ts'

test('each answer token is predicted from the one before it, wherever that is computed', () => {
  const random = seededRandom(3)
  const shape = { before: 4, after: 6, imageTokens: 3, patchValues: 2, hash: 'one' }
  const first = randomSequence(random, shape)
  const second = { ...first, answers: Int32Array.of(0, 5, 12), ids: first.ids.slice() }
  second.ids[10] = 7
  const sequences = [first, second]
  const text = { ropeTheta: 10, rotaryDims: 2, ropeScaling: { kind: 'default' } } as const
  const packed = packBatch(sequences, { imageTokens: 3, text })
  const { predictors, targets, counts } = predictionsOf(sequences, packed)
  assert.deepEqual(counts, [first.answers.length, 2]) // nothing predicts position 0
  const pairs = sequences.flatMap(({ answers, ids }, b) =>
    Array.from(answers)
      .filter(position => position > 0)
      .map(position => [packed.tokens[b]![position - 1]!, ids[position]!]),
  )
  assert.deepEqual(
    [...predictors.data],
    pairs.map(([token]) => token),
  )
  assert.deepEqual(
    [...targets.data],
    pairs.map(([, id]) => id),
  )
  assert.deepEqual(predictors.shape, [1, pairs.length])
})

test('losses are meant sequence by sequence', () => {
  assert.deepEqual(meanLosses([1, 2, 3, 5, 9], [3, 1, 1]), [2, 5, 9])
})

test('the head takes so many positions at a time that its logits stay below 64 MB', () => {
  const rows = (vocab: number): number => headRows({ text: { vocab } } as never)
  assert.equal(rows(32_000), 524)
  assert.equal(rows(152_064), 110)
  assert.equal(rows(4_000_000), 16)
})
