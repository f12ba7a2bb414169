import assert from 'node:assert/strict'
import test from 'node:test'
import * as tf from '@tensorflow/tfjs-core'
import type { Engine } from '../../../src/engine/engine.ts'
import { onnxEngine } from '../../../src/engine/onnx/engine.ts'
import { startTensorflow } from '../../../src/engine/tensorflow/backend.ts'
import { tensorflowEngine } from '../../../src/engine/tensorflow/engine.ts'
import { tensorflowOps } from '../../../src/engine/tensorflow/ops.ts'
import { seededRandom } from '../../../src/math/random.ts'
import { openSchedule, type Schedule } from '../../../src/proxy/checkpoint/schedule.ts'
import { patchesPerImage } from '../../../src/proxy/config.ts'
import { MODES, type Mode } from '../../../src/score/attention.ts'
import { ownPart, packBatch, type Sequence } from '../../../src/score/batch.ts'
import { compileScore, compileVision } from '../../../src/score/checkpoint-score.ts'
import { randomSequence, TINY, writeTinyProxy } from '../../fixtures-tiny-proxy.ts'
import { featuresOf } from '../../score/passes.ts'
import { temporaryFolder } from '../../support.ts'
import { withBackend } from '../../tensorflow.ts'

const RELATIVE_MAX = 1e-5

const SHAPES = {
  'grouped heads': TINY,
  'one kv head': { ...TINY, kvHeads: 1, layers: 3 },
  'no grouping, tied head, biases': { ...TINY, kvHeads: 4, tied: true, attentionBias: true },
  'wide heads, class token kept': { ...TINY, headDim: 6, strategy: 'full' as const },
}

for (const [name, shape] of Object.entries(SHAPES)) {
  for (const backend of ['wasm', 'tensorflow'] as const) {
    test(`tensorflow (${backend}) and onnx agree on a padded batch: ${name}, both modes`, async t => {
      if (!(await withBackend(t, backend))) return
      const dir = temporaryFolder(t)
      writeTinyProxy(dir, { shape, steps: [1] })
      const schedule = openSchedule(dir)
      const sequences = randomBatch(schedule)
      for (const mode of MODES) {
        const onnx = await scores(onnxEngine({ threads: 1 }), schedule, mode, {
          sequences,
        })
        const engine = tensorflowEngine({ backend })
        const tensorflow = await scores(engine, schedule, mode, { sequences })
        for (const [i, expected] of onnx.entries()) {
          const difference = largestRelativeDifference(tensorflow[i]!, expected)
          assert.ok(difference <= RELATIVE_MAX, `${mode}, example ${i}: ${difference}`)
        }
        const alone = await scores(engine, schedule, mode, { sequences: [sequences[0]!] })
        assert.ok(largestRelativeDifference(alone[0]!, tensorflow[0]!) <= RELATIVE_MAX)
      }
    })
  }
}

test('gradients of a product and of a gather are those of plain tfjs operations', async () => {
  await startTensorflow('wasm')
  const random = seededRandom(3)
  const tensor = (...shape: number[]): tf.Tensor =>
    tf.tensor(Float32Array.from({ length: shape.reduce((a, b) => a * b) }, random), shape)
  const [x, w, table] = [tensor(2, 3, 4), tensor(5, 4), tensor(6, 4)]
  const ids = tf.tensor2d([0, 5, 2, 2, 2, 1], [2, 3], 'int32')
  const ours = tf.grads((x, w, table) => {
    const ops = tensorflowOps(name => ({ 'a.weight': w, table })[name])
    return tf.sum(tf.square(ops.linear(ops.add(x!, ops.embed(ids, 'table')), 'a')))
  })
  const rowsOf = [0, 5, 2, 2, 2, 1].map(id => Array.from({ length: 6 }, (_, i) => +(i === id)))
  const oneHot = tf.tensor2d(rowsOf)
  const plain = tf.grads((x, w, table) => {
    const rows = tf.add(tf.reshape(x!, [6, 4]), tf.matMul(oneHot, table as tf.Tensor2D))
    return tf.sum(tf.square(tf.matMul(rows as tf.Tensor2D, w as tf.Tensor2D, false, true)))
  })
  const [left, right] = [ours([x, w, table]), plain([x, w, table])]
  for (const [i, gradient] of left.entries()) {
    const [a, b] = [gradient.dataSync(), right[i]!.dataSync()]
    assert.deepEqual(gradient.shape, right[i]!.shape)
    assert.ok(largestRelativeDifference(a as Float32Array, b as Float32Array) <= 1e-6)
  }
})

/** Each example's own attention matrix [I, R], states [R, C] and state of its last token [C] at the first checkpoint. */
async function scores(
  engine: Engine,
  { config, checkpoints }: Schedule,
  mode: Mode,
  { sequences }: { sequences: readonly Sequence[] },
): Promise<Float32Array[]> {
  const packed = packBatch(sequences, config)
  const tower = await compileVision(engine, config, checkpoints[0]!)
  const withStates = { withStates: true }
  const score = await compileScore(engine, config, mode, checkpoints[0]!, withStates)
  try {
    const features = await featuresOf(tower, config, packed.images)
    const last = Int32Array.from(packed.tokens, places => places.at(-1)!)
    const questions = { data: last, shape: [1, last.length] }
    const result = await score.run({ ...packed.inputs, features, ...{ questions } })
    const [states, lastStates] = result.others
    const [, rowsMax, width] = states!.shape as [number, number, number]
    return sequences.flatMap((sequence, i) => {
      const from = i * rowsMax * width
      const own = states!.data.slice(from, from + sequence.rows.length * width)
      const lastOwn = lastStates!.data.slice(i * width, (i + 1) * width)
      return [ownPart(result, i, sequence), own, lastOwn]
    })
  } finally {
    await tower.release()
    await score.release()
  }
}

function randomBatch({ config }: Schedule): Sequence[] {
  const random = seededRandom(7)
  const { imageSize, patchSize } = config.vision
  const patchValues = patchesPerImage(config.vision) * 3 * patchSize ** 2
  assert.equal(imageSize % patchSize, 0)
  const lengths: [before: number, after: number][] = [
    [3, 9],
    [0, 4],
    [6, 21],
  ]
  return lengths.map(([before, after]) =>
    randomSequence(random, { before, after, imageTokens: config.imageTokens, patchValues }),
  )
}

/** Of the largest absolute value. */
function largestRelativeDifference(actual: Float32Array, expected: Float32Array): number {
  assert.equal(actual.length, expected.length)
  const scale = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  return (
    actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0) / scale
  )
}
