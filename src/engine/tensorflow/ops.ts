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
import { type Activation, type AttentionShape, MASKED, type Ops } from '../../proxy/ops.ts'

/** A parameter by canonical name: a variable while training, a constant otherwise. */
export type WeightSource = (name: string) => tf.Tensor | undefined

/** What attention and rotary positions are computed with; a backend has its own fast ways. */
export type Kernels = {
  /** Query rows of one block of attention. */
  block: number
  /** a [N, R, D], b [N, T, D] -> a b^T scale [N, R, T] */
  scaledProduct(a: tf.Tensor, b: tf.Tensor, scale: number): tf.Tensor
  /** a [N, R, T], b [N, T, D] -> [N, R, D] */
  product(a: tf.Tensor, b: tf.Tensor): tf.Tensor
  /** x [..., D]: its first two runs of `half` channels change places; what follows is not read. */
  swapHalves(x: tf.Tensor, half: number): tf.Tensor
  /** Makes what depends on sizes alone, or finds it again. */
  once(key: string, make: () => tf.Tensor): tf.Tensor
}

/** Differentiable, and fast on wasm. */
const DIFFERENTIABLE: Kernels = {
  block: Number.POSITIVE_INFINITY,
  scaledProduct: (a, b, scale) => tf.mul(batchedProduct(a, tf.transpose(b, [0, 2, 1])), scale),
  product: batchedProduct,
  swapHalves: swapHalvesByProduct,
  once: (_, make) => make(),
}

/** The proxy's operations over `weights`. Temporary tensors are the caller's to tidy. */
export function tensorflowOps(
  weights: WeightSource,
  kernels: Kernels = DIFFERENTIABLE,
): Ops<tf.Tensor> {
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
      const rows = tf.reshape(index, [b * t, 1])
      return tf.reshape(gatherRowsOf(flat, offsetByBatch(rows, c)), [b, t, 1])
    },
    layerNorm: (x, name, epsilon) =>
      layerNorm(x, weight(`${name}.weight`), weights(`${name}.bias`), epsilon),
    rmsNorm: (x, name, epsilon) => tf.mul(unitRms(x, epsilon), weight(`${name}.weight`)),
    layerNormHeads: (x, names, epsilon) => {
      const scales = tf.stack(names.map(name => weight(`${name}.weight`))) // [H, D]
      return layerNorm(x, scales, undefined, epsilon)
    },
    activation,
    rotary: (x, cos, sin, shape) => rotary(x, { cos, sin }, shape, kernels),
    attention: (q, k, v, shape, mask) => attention(q, k, v, shape, mask, kernels),
    gatherRows: (x, index) => gatherRowsOf(flatRows(x), offsetByBatch(index, x.shape[1]!)),
    gatherFlatRows: (x, index) => gatherRowsOf(flatRows(x), index),
    stackRows: (a, b) => tf.expandDims(tf.concat([flatRows(a), flatRows(b)], 0), 0),
    select: (condition, a, b) => tf.add(tf.mul(condition, a), tf.mul(tf.sub(1, condition), b)),
    transpose: x => tf.transpose(x, [0, 2, 1]),
    sumNeighbours: (x, count) => {
      const [b, t, c] = x.shape as [number, number, number]
      return tf.sum(tf.reshape(x, [b, t, c / count, count]), -1)
    },
    channels: (x, from, count) => tf.slice(x, [0, 0, from], [-1, -1, count]),
    joinRows: (x, width) => tf.reshape(x, [x.shape[0]!, -1, width]),
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
  const [left, right] = [a.dataSync<'float32'>(), b.dataSync<'float32'>()]
  const part = (all: Float32Array, i: number, size: number): Float32Array =>
    all.subarray(i * size, (i + 1) * size)
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

/**
 * x cos + swapped(x) sin, where a head's rotated halves change places and the sines of the first are
 * negative.
 */
function rotary(
  x: tf.Tensor,
  { cos, sin }: { cos: tf.Tensor; sin: tf.Tensor },
  { heads, headDim, turned }: Parameters<Ops<tf.Tensor>['rotary']>[3],
  { swapHalves, once }: Kernels,
): tf.Tensor {
  const [b, t] = x.shape as [number, number]
  const split = tf.reshape(x, [b, t, heads, headDim])
  /** [B, T, 1, D]; for channels that are not turned cosines are 1 and sines 0. */
  const table = (halves: tf.Tensor[], rest: number): tf.Tensor => {
    const still = headDim > turned ? [tf.fill([b, t, headDim - turned], rest)] : []
    return tf.expandDims(tf.concat([...halves, ...still], 2), 2)
  }
  const cosines = once(`cos/${cos.id}/${headDim}`, () => table([cos, cos], 1))
  const sines = once(`sin/${sin.id}/${headDim}`, () => table([tf.neg(sin), sin], 0))
  const swapped = swapHalves(split, turned / 2)
  return tf.reshape(tf.add(tf.mul(split, cosines), tf.mul(swapped, sines)), x.shape)
}

/** As a product with a permutation, which is exact: a slice on wasm copies the whole tensor. */
function swapHalvesByProduct(x: tf.Tensor, half: number): tf.Tensor {
  const width = x.shape.at(-1)!
  const matrix = new Float32Array(width * width)
  for (let i = 0; i < half; i++) {
    matrix[i * width + i + half] = 1
    matrix[(i + half) * width + i] = 1
  }
  return tf.reshape(linear(x, tf.tensor2d(matrix, [width, width])), x.shape)
}

/**
 * Attention in blocks of query rows, so that few products are in memory at once. A causal block reads
 * the keys up to its own end, which leaves out nearly half of the products. Query heads that share a
 * kv head are rows of one product, so k and v are never repeated.
 */
function attention(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor,
  shape: AttentionShape & { causal: boolean },
  mask: tf.Tensor | undefined,
  kernels: Kernels,
): tf.Tensor {
  const { heads, kvHeads, headDim, causal } = shape
  const [b, s] = q.shape as [number, number]
  const byHead = (x: tf.Tensor, count: number): tf.Tensor =>
    tf.transpose(tf.reshape(x, [b, x.shape[1]!, count, headDim]), [0, 2, 1, 3])
  const [queries, keys, values] = [byHead(q, heads), byHead(k, kvHeads), byHead(v, kvHeads)]
  const blocks: tf.Tensor[] = [] // [B, H, N, D]
  for (let from = 0; from < s; from += kernels.block) {
    const rows = Math.min(kernels.block, s - from)
    const end = causal ? from + rows : k.shape[1]!
    const seen = causal
      ? kernels.once(`causal/${from}/${rows}`, () => causalMask(from, rows))
      : mask && kernels.once(`mask/${mask.id}/${from}`, () => rowsOf(mask, from, rows))
    const block = (): tf.Tensor =>
      blockAttention(
        rowsOf(queries, from, rows),
        rowsOf(keys, 0, end),
        rowsOf(values, 0, end),
        seen,
        kernels,
      )
    blocks.push(rows === s ? block() : tf.tidy(block))
  }
  const whole = blocks.length === 1 ? blocks[0]! : tf.concat(blocks, 2)
  return tf.reshape(tf.transpose(whole, [0, 2, 1, 3]), [b, s, heads * headDim])
}

/** queries [B, H, N, D], keys and values [B, kv, T, D], mask as [B, H, N, T] -> [B, H, N, D] */
function blockAttention(
  queries: tf.Tensor,
  keys: tf.Tensor,
  values: tf.Tensor,
  mask: tf.Tensor | undefined,
  { scaledProduct, product }: Kernels,
): tf.Tensor {
  const [b, heads, n, headDim] = queries.shape as [number, number, number, number]
  const [, kvHeads, t] = keys.shape as [number, number, number]
  const [groups, rows] = [b * kvHeads, (heads / kvHeads) * n]
  const grouped = tf.reshape(queries, [groups, rows, headDim])
  const scaled = scaledProduct(
    grouped,
    tf.reshape(keys, [groups, t, headDim]),
    1 / Math.sqrt(headDim),
  )
  const products = tf.reshape(scaled, [b, heads, n, t])
  const weights = tf.softmax(mask === undefined ? products : tf.add(products, mask))
  const mixed = product(
    tf.reshape(weights, [groups, rows, t]),
    tf.reshape(values, [groups, t, headDim]),
  )
  return tf.reshape(mixed, [b, heads, n, headDim])
}

/** Rows [from, from + count) of the last axis but one; all of them are `x` itself. */
function rowsOf(x: tf.Tensor, from: number, count: number): tf.Tensor {
  if (count === x.shape.at(-2)) return x
  const axis = x.rank - 2
  const begin = x.shape.map((_, i) => (i === axis ? from : 0))
  return tf.slice(
    x,
    begin,
    x.shape.map((_, i) => (i === axis ? count : -1)),
  )
}

/** [N, from+N]: 0 up to each query's own position, `MASKED` after it. */
function causalMask(from: number, rows: number): tf.Tensor {
  const end = from + rows
  const mask = new Float32Array(rows * end)
  for (let row = 0; row < rows; row++)
    mask.fill(MASKED, row * end + from + row + 1, (row + 1) * end)
  return tf.tensor2d(mask, [rows, end])
}
