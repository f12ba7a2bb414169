/**
 * The training loss: mean cross-entropy of the answers' tokens. Shapes: B batch, T tokens, C
 * channels, V vocabulary, P predicting positions of the whole batch.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { HostTensor } from '../engine/engine.ts'
import { oneHot, tensorflowOps, type WeightSource } from '../engine/tensorflow/ops.ts'
import { familyOf } from '../proxy/checkpoint/config.ts'
import { type ProxyConfig, patchesPerImage } from '../proxy/config.ts'
import { type Attend, decoder, embedSequence, languageHead } from '../proxy/language.ts'
import { rotaryTables } from '../proxy/rope.ts'
import { distinctImages, ImageTable, packingOf, stackPatches } from '../score/batch.ts'
import type { Sample } from './samples.ts'

export type TrainingBatch = {
  /** [M, N, X] of the distinct images. */
  patches: HostTensor
  /** [B, T]: token ids; 0 where an image stands and in the padding. */
  ids: HostTensor
  /** [B, T] rows of the features seen as [M*N, C]; -1 where no image stands. */
  imageRows: HostTensor
  /** [P] rows of the batch seen as [B*T, C]. */
  predictors: Int32Array
  /** [P] the token ids that they are to predict. */
  targets: Int32Array
}

/** Where no sample has an image there is a blank one that no position reads. */
export function packSamples(samples: readonly Sample[], config: ProxyConfig): TrainingBatch {
  const patchCount = patchesPerImage(config.vision)
  const blank = new Float32Array(patchCount * 3 * config.vision.patchSize ** 2)
  const found = distinctImages(samples)
  const images = found.length > 0 ? found : [{ hash: 'none', patches: blank }]
  const table = new ImageTable(images, packingOf(config))
  const tokens = Math.max(...samples.map(sample => sample.ids.length))
  const shape = [samples.length, tokens]
  const ids = new Int32Array(samples.length * tokens)
  const imageRows = new Int32Array(samples.length * tokens).fill(-1)
  const predictors: number[] = []
  const targets: number[] = []
  for (const [b, sample] of samples.entries()) {
    ids.set(sample.ids, b * tokens)
    const rows = table.rowsOf(sample)
    for (const [i, column] of sample.columns.entries()) {
      ids[b * tokens + column] = 0
      imageRows[b * tokens + column] = rows[i]!
    }
    for (const p of sample.predictors) {
      predictors.push(b * tokens + p)
      targets.push(sample.ids[p + 1]!)
    }
  }
  return {
    patches: stackPatches(images, patchCount),
    ids: { data: ids, shape },
    imageRows: { data: imageRows, shape },
    predictors: Int32Array.from(predictors),
    targets: Int32Array.from(targets),
  }
}

/** The mean over P of -log p(target). Differentiable in the weights; tidy it. */
export function answerLoss(
  weights: WeightSource,
  config: ProxyConfig,
  batch: TrainingBatch,
): tf.Scalar {
  return crossEntropy(answerLogits(weights, config, batch), batch.targets)
}

/** [P, V] of the predicting positions. Differentiable in the weights; tidy it. */
export function answerLogits(
  weights: WeightSource,
  config: ProxyConfig,
  batch: TrainingBatch,
): tf.Tensor2D {
  const ops = tensorflowOps(weights)
  const { ids, imageRows } = batch
  const [count, tokens] = ids.shape as [number, number]
  const patches = tf.tensor(batch.patches.data, [...batch.patches.shape])
  const { tower, connector } = familyOf(config)
  const [features] = tower.run(ops, config, { patches })
  const { images } = connector.run(ops, config, features)
  const x = embedSequence(ops, {
    images,
    ids: tf.tensor(ids.data, [...ids.shape], 'int32'),
    imageRows: tf.tensor(
      imageRows.data.map(row => Math.max(0, row)),
      [count, tokens],
      'int32',
    ),
    isImage: tf.tensor(
      Float32Array.from(imageRows.data, row => (row < 0 ? 0 : 1)),
      [count, tokens, 1],
    ),
  }) // [B, T, C]
  const positions = Int32Array.from(ids.data, (_, i) => i % tokens)
  const turned = rotaryTables(config.text, positions, positions.length)
  const [cos, sin] = [turned.cos, turned.sin].map(table =>
    tf.tensor(table, [count, tokens, config.text.rotaryDims / 2]),
  ) as [tf.Tensor, tf.Tensor]
  // Each sequence on its own. Right padding needs no mask: no row reads the padded positions.
  const attend: Attend<tf.Tensor> = (q, k, v, shape) =>
    ops.attention(q, k, v, { ...shape, causal: true })
  const hidden = decoder(ops, config.text, { x, cos, sin, attend }, () => {}, false)
  const rows = tf.tensor2d(batch.predictors, [1, batch.predictors.length], 'int32')
  const logits = languageHead(ops, config.text, ops.gatherFlatRows(hidden, rows)) // [1, P, V]
  return tf.reshape(logits, [-1, config.text.vocab])
}

/** logits [P, V], targets [P] -> their mean cross-entropy */
function crossEntropy(logits: tf.Tensor, targets: Int32Array): tf.Scalar {
  const loss = tf.customGrad((logits, save) => {
    const z = logits as tf.Tensor2D
    const wanted = oneHot(tf.tensor1d(targets, 'int32'), z.shape[1])
    const shifted = tf.sub(z, tf.max(z, -1, true))
    const logSums = tf.log(tf.sum(tf.exp(shifted), -1)) // [P]
    const picked = tf.sum(tf.mul(shifted, wanted), -1)
    ;(save as tf.GradSaveFunc)([tf.softmax(z), wanted])
    return {
      value: tf.mean(tf.sub(logSums, picked)),
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) =>
        tf.mul(tf.sub(saved[0]!, saved[1]!), tf.div(dy, targets.length)),
    }
  })
  return loss(logits) as tf.Scalar
}

/** logits [P, V], targets [P] -> [P], -log p(target) of each. Not differentiable here; tidy it. */
export function tokenLosses(logits: tf.Tensor2D, targets: Int32Array): tf.Tensor {
  const wanted = oneHot(tf.tensor1d(targets, 'int32'), logits.shape[1])
  const shifted = tf.sub(logits, tf.max(logits, -1, true))
  return tf.sub(tf.log(tf.sum(tf.exp(shifted), -1)), tf.sum(tf.mul(shifted, wanted), -1))
}
