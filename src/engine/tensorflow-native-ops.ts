/**
 * The proxy's operations where tfjs-node computes, for scoring only: products take transposed factors as
 * they stand, causal attention leaves out the blocks that are masked, and coarse linear layers may be
 * bfloat16. What is not here is computed as in `tensorflow-ops.ts`.
 *
 * Shapes: B batch, T tokens, C channels, O outputs, H heads, G query heads of a kv head, D channels of a
 * head, N rows.
 */
import * as tf from '@tensorflow/tfjs-core'
import type { AttentionShape, Ops, RotaryOptions } from '../proxy/ops.ts'
import { isCoarse } from '../proxy/parameters.ts'
import type { Precision } from './engine.ts'
import { cast, gathered, productTransposed } from './tensorflow-native.ts'
import { tensorflowOps, type WeightSource } from './tensorflow-ops.ts'

/** `constants` keeps what depends on sizes alone, for one run. */
export function nativeOps(
  weights: WeightSource,
  precision: Precision,
  constants: Constants,
): Ops<tf.Tensor> {
  const plain = tensorflowOps(weights)
  const linear = (x: tf.Tensor, name: string, product: typeof halfProduct): tf.Tensor => {
    const rows = tf.reshape(x, [-1, x.shape.at(-1)!]) // [N, C]
    const y = product(rows, weights(`${name}.weight`)!) // [N, O]
    const bias = weights(`${name}.bias`)
    const sum = bias === undefined ? y : tf.add(y, bias)
    return tf.reshape(sum, [...x.shape.slice(0, -1), y.shape[1]!])
  }
  const coarse = precision === 'bfloat16' ? halfProduct : exactProduct
  return {
    ...plain,
    linear: (x, name) => linear(x, name, isCoarse(`${name}.weight`) ? coarse : exactProduct),
    linearAs: (x, name, shape) =>
      linear(x, name, (rows, weight) => exactProduct(rows, tf.reshape(weight, [...shape]))),
    matmulTransposed: (a, b) => tf.matMul(a, b, false, true),
    rotary: (x, positions, options) => rotary(x, positions, options, constants),
    attention: (q, k, v, options, mask) => attention(q, k, v, options, mask, constants),
    gatherRows: (x, index) => tf.gather(x, index, 1, 1),
    gatherFlatRows: (x, index) => gathered(tf.reshape(x, [-1, x.shape.at(-1)!]), index),
  }
}

/** Tensors that are made once a run. */
export class Constants {
  readonly #kept = new Map<string, tf.Tensor>()

  once(key: string, make: () => tf.Tensor): tf.Tensor {
    const found = this.#kept.get(key) ?? tf.keep(make())
    this.#kept.set(key, found)
    return found
  }

  dispose(): void {
    tf.dispose([...this.#kept.values()])
    this.#kept.clear()
  }
}

function exactProduct(rows: tf.Tensor, weight: tf.Tensor): tf.Tensor {
  return tf.matMul(rows as tf.Tensor2D, weight as tf.Tensor2D, false, true)
}

/** weight [O, C] of bfloat16; the rows are rounded to it, and so is the product. */
function halfProduct(rows: tf.Tensor, weight: tf.Tensor): tf.Tensor {
  const product = productTransposed(cast(rows, 'float32', 'bfloat16'), weight, 'bfloat16')
  return cast(product, 'bfloat16', 'float32')
}

/** x cos + swapped(x) sin, where a head's halves are swapped and the sines of the first are negated. */
function rotary(
  x: tf.Tensor,
  positions: tf.Tensor,
  options: RotaryOptions,
  constants: Constants,
): tf.Tensor {
  const { heads, headDim, inverseFrequencies, amplitude } = options
  const [b, t] = x.shape as [number, number]
  const half = inverseFrequencies.length
  const rest = headDim - 2 * half
  const split = tf.reshape(x, [b, t, heads, headDim])
  const [first, second, ...others] = tf.split(split, [half, half, ...(rest > 0 ? [rest] : [])], 3)
  const swapped = tf.concat([second!, first!, ...others], 3)
  const key = `${positions.id}/${headDim}/${amplitude}/${inverseFrequencies.join()}`
  const table = (turn: 'cos' | 'sin'): tf.Tensor =>
    constants.once(`${turn}/${key}`, () => rotaryTable(positions, options, turn))
  const turned = tf.add(tf.mul(split, table('cos')), tf.mul(swapped, table('sin')))
  return tf.reshape(turned, x.shape)
}

/** [B, T, 1, D]; where a channel is not rotated cosines are 1 and sines 0. */
function rotaryTable(
  positions: tf.Tensor,
  { headDim, inverseFrequencies, amplitude }: RotaryOptions,
  turn: 'cos' | 'sin',
): tf.Tensor {
  const half = inverseFrequencies.length
  const at = positions.dataSync()
  const table = new Float32Array(at.length * headDim).fill(turn === 'cos' ? 1 : 0)
  for (const [t, position] of at.entries()) {
    for (let i = 0; i < half; i++) {
      const value = amplitude * Math[turn](position * inverseFrequencies[i]!)
      table[t * headDim + i] = turn === 'sin' ? -value : value
      table[t * headDim + i + half] = value
    }
  }
  return tf.tensor(table, [...positions.shape, 1, headDim])
}

/** Positions whose queries are looked at together. */
const BLOCK = 128

/**
 * Block by block of queries, so that few products are in memory at once; where it is causal a block
 * reads the keys up to its own end, which leaves out nearly half of the products. Query heads that
 * share a kv head are rows of one product, so k and v are never repeated.
 */
function attention(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor,
  { heads, kvHeads, headDim, causal }: AttentionShape & { causal: boolean },
  mask: tf.Tensor | undefined,
  constants: Constants,
): tf.Tensor {
  const [b, s] = q.shape as [number, number]
  const byHead = (x: tf.Tensor, count: number): tf.Tensor =>
    tf.transpose(tf.reshape(x, [b, x.shape[1]!, count, headDim]), [0, 2, 1, 3])
  const queries = byHead(q, heads) // [B, H, S, D]
  const keys = byHead(tf.mul(k, 1 / Math.sqrt(headDim)), kvHeads) // [B, kv, T, D]
  const values = byHead(v, kvHeads)
  const blocks: tf.Tensor[] = []
  for (let from = 0; from < s; from += BLOCK) {
    const rows = Math.min(BLOCK, s - from)
    const end = causal ? from + rows : k.shape[1]!
    const seen = maskOf(mask, causal, { from, rows }, constants)
    const block = tf.tidy(() => {
      const some = tf.slice(queries, [0, 0, from, 0], [-1, -1, rows, -1])
      const [near, mixed] = [keys, values].map(x => tf.slice(x, [0, 0, 0, 0], [-1, -1, end, -1]))
      return blockAttention(some, near!, mixed!, seen)
    })
    blocks.push(block)
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
): tf.Tensor {
  const [b, heads, n, headDim] = queries.shape as [number, number, number, number]
  const [, kvHeads, t] = keys.shape as [number, number, number]
  const rows = (heads / kvHeads) * n
  const grouped = tf.reshape(queries, [b, kvHeads, rows, headDim])
  const products = tf.reshape(tf.matMul(grouped, keys, false, true), [b, heads, n, t])
  const weights = tf.softmax(mask === undefined ? products : tf.add(products, mask))
  const mixed = tf.matMul(tf.reshape(weights, [b, kvHeads, rows, t]), values)
  return tf.reshape(mixed, [b, heads, n, headDim])
}

/** What the queries of a block see: [N, T] or [B, 1, N, T]. */
function maskOf(
  mask: tf.Tensor | undefined,
  causal: boolean,
  { from, rows }: { from: number; rows: number },
  constants: Constants,
): tf.Tensor | undefined {
  if (causal) return constants.once(`causal/${from}/${rows}`, () => causalMask(from, rows))
  if (mask === undefined) return undefined
  return constants.once(`mask/${mask.id}/${from}`, () =>
    tf.slice(mask, [0, 0, from, 0], [-1, -1, rows, -1]),
  )
}

/** [N, from+N]: 0 up to each query's own position, -1e30 after it. */
function causalMask(from: number, rows: number): tf.Tensor {
  const end = from + rows
  const mask = new Float32Array(rows * end)
  for (let row = 0; row < rows; row++) mask.fill(-1e30, row * end + from + row + 1, (row + 1) * end)
  return tf.tensor2d(mask, [rows, end])
}
