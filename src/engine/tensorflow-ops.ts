/**
 * The proxy's operations on @tensorflow/tfjs for the `tensorflow` engine, computed at once and
 * differentiable. It trains the proxy, and it is the oracle of the `onnx` engine.
 *
 * Two habits of the wasm backend shape the code: only plain 2-D products without transposition are
 * fast there (13x, measured), so products are flattened to 2-D or taken one by one, transposed
 * explicitly and carry their own gradient; and the gradient of a gather is missing, so ours is a
 * one-hot product.
 *
 * Shapes: B batch, T tokens, C channels, O outputs, H heads, G query heads of a kv head, D channels
 * of a head, N rows.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { Activation, AttentionShape, Ops, RotaryOptions } from '../proxy/ops.ts'

/** A parameter by canonical name: a variable while training, a constant otherwise. */
export type WeightSource = (name: string) => tf.Tensor | undefined

/** The proxy's operations over `weights`. Temporary tensors are the caller's to tidy. */
export function tensorflowOps(weights: WeightSource): Ops<tf.Tensor> {
  const weight = (name: string): tf.Tensor => {
    const found = weights(name)
    if (found === undefined) throw new RangeError(`no parameter ${name}`)
    return found
  }
  const shaped = (name: string, shape?: readonly number[]): tf.Tensor =>
    shape === undefined ? weight(name) : tf.reshape(weight(name), [...shape])
  const linearBy = (x: tf.Tensor, w: tf.Tensor, name: string): tf.Tensor => {
    const y = linear(x, w)
    const bias = weights(`${name}.bias`)
    return bias === undefined ? y : tf.add(y, bias)
  }
  return {
    weight: shaped,
    has: name => weights(name) !== undefined,
    linear: (x, name) => linearBy(x, weight(`${name}.weight`), name),
    linearAs: (x, name, shape) => linearBy(x, shaped(`${name}.weight`, shape), name),
    embed: (ids, name) => gatherRowsOf(weight(name), ids),
    add: (a, b) => tf.add(a, b),
    mul: (a, b) => tf.mul(a, b),
    scale: (x, factor) => tf.mul(x, factor),
    matmulTransposed: (a, b) => batchedProduct(a, tf.transpose(b, [0, 2, 1])),
    softmax: x => tf.softmax(x),
    logSumExp: x => tf.logSumExp(x, -1, true),
    pick: (x, index) => {
      const [b, t, c] = x.shape as [number, number, number]
      const flat = tf.reshape(x, [b * t * c, 1])
      const rows = tf.reshape(index, [1, b * t]) as tf.Tensor2D
      return tf.reshape(gatherRowsOf(flat, offsetByRow(rows, c)), [b, t, 1])
    },
    layerNorm: (x, name, epsilon) =>
      layerNorm(x, weight(`${name}.weight`), weights(`${name}.bias`), epsilon),
    rmsNorm: (x, name, epsilon) => tf.mul(unitRms(x, epsilon), weight(`${name}.weight`)),
    layerNormHeads: (x, names, epsilon) => {
      const scales = tf.stack(names.map(name => weight(`${name}.weight`))) // [H, D]
      return layerNorm(x, scales, undefined, epsilon)
    },
    activation,
    rotary,
    attention,
    gatherRows: (x, index) => gatherRowsOf(flatRows(x), offsetByBatch(index, x.shape[1]!)),
    gatherFlatRows: (x, index) => gatherRowsOf(flatRows(x), index),
    stackRows: (a, b) => tf.expandDims(tf.concat([flatRows(a), flatRows(b)], 0), 0),
    select: (condition, a, b) => tf.add(tf.mul(condition, a), tf.mul(tf.sub(1, condition), b)),
    transpose: x => tf.transpose(x, [0, 2, 1]),
    sumNeighbours: (x, count) => {
      const [b, t, c] = x.shape as [number, number, number]
      return tf.sum(tf.reshape(x, [b, t, c / count, count]), -1)
    },
    splitHeads: (x, heads) => {
      const [b, t, c] = x.shape as [number, number, number]
      return tf.reshape(x, [b, t, heads, c / heads])
    },
    mergeHeads: x => tf.reshape(x, [x.shape[0]!, x.shape[1]!, -1]),
    prependRow: (x, name) => {
      const row = tf.reshape(weight(name), [1, 1, -1]) // [1, 1, C]
      return tf.concat([tf.add(row, tf.zeros([x.shape[0]!, 1, 1])), x], 1)
    },
    dropFirstRow: x => tf.slice(x, [0, 1, 0], [-1, -1, -1]),
  }
}

/** x [..., C], w [O, C] -> [..., O] */
function linear(x: tf.Tensor, w: tf.Tensor): tf.Tensor {
  const channels = x.shape.at(-1)!
  const rows = tf.reshape(x, [-1, channels]) // [N, C]
  const product = tf.customGrad((rows, w, save) => {
    const [x2, w2] = [rows as tf.Tensor2D, w as tf.Tensor2D]
    ;(save as tf.GradSaveFunc)([x2, w2])
    return {
      value: tf.matMul(x2, tf.transpose(w2)),
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => [
        tf.matMul(dy as tf.Tensor2D, saved[1] as tf.Tensor2D),
        tf.matMul(tf.transpose(dy) as tf.Tensor2D, saved[0] as tf.Tensor2D),
      ],
    }
  })
  return tf.reshape(product(rows, w), [...x.shape.slice(0, -1), w.shape[0]!])
}

/** a [B, R, C] @ b [B, C, O] -> [B, R, O], differentiable */
function batchedProduct(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  const product = tf.customGrad((a, b, save) => {
    const [left, right] = [a as tf.Tensor3D, b as tf.Tensor3D]
    ;(save as tf.GradSaveFunc)([left, right])
    return {
      value: productsOf(left, right),
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => [
        productsOf(dy, tf.transpose(saved[1]!, [0, 2, 1])),
        productsOf(tf.transpose(saved[0]!, [0, 2, 1]), dy),
      ],
    }
  })
  return product(a, b)
}

/** On wasm one by one (3x, measured), through host memory because a slice there copies the whole. */
function productsOf(a: tf.Tensor, b: tf.Tensor): tf.Tensor {
  if (tf.getBackend() !== 'wasm') return tf.matMul(a, b)
  const [batch, rows, inner] = a.shape as [number, number, number]
  const columns = b.shape[2]!
  const [left, right] = [a.dataSync(), b.dataSync()]
  const values = new Float32Array(batch * rows * columns)
  for (let i = 0; i < batch; i++) {
    // A tidy that returns an array would walk its elements.
    tf.tidy(() => {
      const x = tf.tensor2d(part(left, i, rows * inner), [rows, inner])
      const y = tf.tensor2d(part(right, i, inner * columns), [inner, columns])
      values.set(tf.matMul(x, y).dataSync(), i * rows * columns)
    })
  }
  return tf.tensor3d(values, [batch, rows, columns])
}

function part(
  values: tf.DataTypeMap['float32'] | Int32Array | Uint8Array,
  index: number,
  size: number,
): Float32Array {
  return (values as Float32Array).subarray(index * size, (index + 1) * size)
}

/** table [N, C], index [B, R] int32 -> [B, R, C] */
function gatherRowsOf(table: tf.Tensor, index: tf.Tensor): tf.Tensor {
  const flat = tf.reshape(index, [-1]) as tf.Tensor1D
  const gather = tf.customGrad((table, save) => {
    const rows = (table as tf.Tensor).shape[0]!
    // What is saved outlives the forward pass; `flat` itself does not.
    ;(save as tf.GradSaveFunc)([flat])
    return {
      value: tf.gather(table as tf.Tensor, flat),
      gradFunc: (dy: tf.Tensor, [index]: tf.Tensor[]) =>
        tf.matMul(tf.transpose(oneHot(index as tf.Tensor1D, rows)), dy as tf.Tensor2D),
    }
  })
  return tf.reshape(gather(table), [...index.shape, table.shape[1]!])
}

/** index [N] -> [N, depth] of 0 and 1. The wasm kernel writes integers whatever type it is asked for. */
export function oneHot(index: tf.Tensor1D, depth: number): tf.Tensor2D {
  return tf.cast(tf.oneHot(index, depth, 1, 0, 'int32'), 'float32') as tf.Tensor2D
}

/** [B, T, C] -> [B*T, C] */
function flatRows(x: tf.Tensor): tf.Tensor {
  return tf.reshape(x, [-1, x.shape.at(-1)!])
}

/** index [B, R] of rows of each sequence -> of rows of all sequences */
function offsetByBatch(index: tf.Tensor, tokens: number): tf.Tensor {
  const batch = index.shape[0]!
  const starts = tf.tensor2d(
    Int32Array.from({ length: batch }, (_, i) => i * tokens),
    [batch, 1],
    'int32',
  )
  return tf.add(index, starts)
}

/** index [1, N] of columns of N rows -> of elements of all rows, `width` each */
function offsetByRow(index: tf.Tensor2D, width: number): tf.Tensor {
  const starts = tf.tensor2d(
    Int32Array.from({ length: index.shape[1] }, (_, i) => i * width),
    index.shape,
    'int32',
  )
  return tf.add(index, starts)
}

function layerNorm(
  x: tf.Tensor,
  scale: tf.Tensor,
  bias: tf.Tensor | undefined,
  epsilon: number,
): tf.Tensor {
  const centred = tf.sub(x, tf.mean(x, -1, true))
  const y = tf.mul(unitRms(centred, epsilon), scale)
  return bias === undefined ? y : tf.add(y, bias)
}

/** x / sqrt(mean(x^2) + epsilon) over the last axis */
function unitRms(x: tf.Tensor, epsilon: number): tf.Tensor {
  return tf.mul(x, tf.rsqrt(tf.add(tf.mean(tf.square(x), -1, true), epsilon)))
}

function activation(x: tf.Tensor, kind: Activation): tf.Tensor {
  switch (kind) {
    case 'gelu':
      return tf.mul(tf.mul(x, 0.5), tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1))
    case 'gelu_pytorch_tanh': {
      const inner = tf.mul(tf.add(x, tf.mul(tf.mul(tf.square(x), x), 0.044715)), GELU_TANH_SCALE)
      return tf.mul(tf.mul(x, 0.5), tf.add(tf.tanh(inner), 1))
    }
    case 'quick_gelu':
      return tf.mul(x, tf.sigmoid(tf.mul(x, 1.702)))
    case 'silu':
      return tf.mul(x, tf.sigmoid(x))
    case 'relu':
      return tf.relu(x)
  }
}

const GELU_TANH_SCALE = Math.sqrt(2 / Math.PI)

/** x cos + turned(x) sin, where `turned` swaps a head's halves and negates the first. */
function rotary(x: tf.Tensor, positions: tf.Tensor, options: RotaryOptions): tf.Tensor {
  const { heads, headDim, inverseFrequencies } = options
  const [b, t] = x.shape as [number, number]
  const { cos, sin } = rotaryTables(positions, options)
  const split = tf.reshape(x, [b, t, heads, headDim])
  const turned = tf.reshape(linear(split, turnMatrix(headDim, inverseFrequencies.length)), [
    b,
    t,
    heads,
    headDim,
  ])
  return tf.reshape(tf.add(tf.mul(split, cos), tf.mul(turned, sin)), x.shape)
}

/** [B, T, 1, D] each: angles of the rotated channels; 1 and 0 where a channel is not rotated. */
function rotaryTables(
  positions: tf.Tensor,
  { headDim, inverseFrequencies, amplitude }: RotaryOptions,
): { cos: tf.Tensor; sin: tf.Tensor } {
  const half = inverseFrequencies.length
  const at = positions.dataSync()
  const tokens = at.length
  const [cos, sin] = [
    new Float32Array(tokens * headDim).fill(1),
    new Float32Array(tokens * headDim),
  ]
  for (let t = 0; t < tokens; t++) {
    for (let i = 0; i < 2 * half; i++) {
      const angle = at[t]! * inverseFrequencies[i % half]!
      cos[t * headDim + i] = amplitude * Math.cos(angle)
      sin[t * headDim + i] = amplitude * Math.sin(angle)
    }
  }
  const shape = [...positions.shape, 1, headDim]
  return { cos: tf.tensor(cos, shape), sin: tf.tensor(sin, shape) }
}

/** [D, D]: row i holds -1 at i + half, row i + half holds 1 at i. A product with it is exact. */
function turnMatrix(headDim: number, half: number): tf.Tensor {
  const matrix = new Float32Array(headDim * headDim)
  for (let i = 0; i < half; i++) {
    matrix[i * headDim + i + half] = -1
    matrix[(i + half) * headDim + i] = 1
  }
  return tf.tensor2d(matrix, [headDim, headDim])
}

/** Query heads that share a kv head are rows of one product, so k and v are never repeated. */
function attention(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor,
  options: AttentionShape & { causal: boolean },
  mask?: tf.Tensor,
): tf.Tensor {
  const { heads, kvHeads, headDim, causal } = options
  const [b, s] = q.shape as [number, number]
  const t = k.shape[1]!
  const group = heads / kvHeads
  const queries = tf.reshape(tf.transpose(tf.reshape(q, [b, s, heads, headDim]), [0, 2, 1, 3]), [
    b * kvHeads,
    group * s,
    headDim,
  ])
  const byHead = (x: tf.Tensor, order: number[]): tf.Tensor =>
    tf.transpose(tf.reshape(x, [b, t, kvHeads, headDim]), order)
  const keys = tf.reshape(byHead(k, [0, 2, 3, 1]), [b * kvHeads, headDim, t])
  const values = tf.reshape(byHead(v, [0, 2, 1, 3]), [b * kvHeads, t, headDim])
  const scaled = tf.mul(batchedProduct(queries, keys), 1 / Math.sqrt(headDim)) // [B*kv, G*S, T]
  const rows = tf.reshape(scaled, [b, heads, s, t])
  const seen = causal ? causalMask(t) : mask
  const weights = tf.softmax(seen === undefined ? rows : tf.add(rows, seen))
  const mixed = batchedProduct(tf.reshape(weights, [b * kvHeads, group * s, t]), values)
  const back = tf.transpose(tf.reshape(mixed, [b, heads, s, headDim]), [0, 2, 1, 3])
  return tf.reshape(back, [b, s, heads * headDim])
}

/** [T, T]: 0 at and below the diagonal, -1e30 above. */
function causalMask(tokens: number): tf.Tensor {
  const mask = new Float32Array(tokens * tokens)
  for (let row = 0; row < tokens; row++)
    mask.fill(-1e30, row * tokens + row + 1, (row + 1) * tokens)
  return tf.tensor2d(mask, [tokens, tokens])
}
