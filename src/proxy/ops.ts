/**
 * The small set of operations that the proxy is written in, once. An engine implements it: `onnx`
 * emits graph nodes, `tensorflow` computes at once. `V` is the engine's value (a graph edge or a
 * tensor); all values are float32 unless said otherwise.
 *
 * Shapes: B batch, T tokens, C channels, H heads, D channels of a head, R rows, N image tokens.
 */
export type Activation = 'gelu' | 'gelu_pytorch_tanh' | 'quick_gelu' | 'silu' | 'relu'

export type RotaryOptions = {
  heads: number
  headDim: number
  inverseFrequencies: Float64Array
  amplitude: number
}

export type AttentionShape = { heads: number; kvHeads: number; headDim: number }

export interface Ops<V> {
  /** A parameter of the checkpoint by canonical name; `shape` reinterprets it (same element count). */
  weight(name: string, shape?: readonly number[]): V
  has(name: string): boolean
  /** x [..., C] @ `${name}.weight` [O, C]^T + `${name}.bias` where the checkpoint has one -> [..., O] */
  linear(x: V, name: string): V
  /** As `linear`, with the weight read as `shape` [O, C]. */
  linearAs(x: V, name: string, shape: readonly [number, number]): V
  /** ids [B, T] int32 -> rows of `name` [B, T, C] */
  embed(ids: V, name: string): V
  /** Broadcasting. */
  add(a: V, b: V): V
  mul(a: V, b: V): V
  scale(x: V, factor: number): V
  /** a [B, R, C] @ b [B, T, C]^T -> [B, R, T] */
  matmulTransposed(a: V, b: V): V
  /** Over the last axis. */
  softmax(x: V): V
  /** log(sum(exp(x))) over the last axis, without overflow: [B, T, C] -> [B, T, 1] */
  logSumExp(x: V): V
  /** Of each row the value at its index: x [B, T, C], index [B, T] int32 -> [B, T, 1] */
  pick(x: V, index: V): V
  /** Over the last axis, with `${name}.weight` and, for layerNorm, `${name}.bias` where it exists. */
  layerNorm(x: V, name: string, epsilon: number): V
  rmsNorm(x: V, name: string, epsilon: number): V
  /** x [B, T, H, D]: a layerNorm of its own, without a bias, for every head: `${names[h]}.weight`. */
  layerNormHeads(x: V, names: readonly string[], epsilon: number): V
  activation(x: V, kind: Activation): V
  /**
   * Rotary embedding of the first channels of each head, two for each of `inverseFrequencies`,
   * half-split convention; they are multiplied by `amplitude`.
   * x [B, T, H*D], positions [B, T] int32 -> [B, T, H*D]
   */
  rotary(x: V, positions: V, options: RotaryOptions): V
  /**
   * softmax(q k^T / sqrt(D) + mask) v by heads. q [B, S, H*D], k and v [B, T, kvHeads*D] (each kv
   * head serves H/kvHeads query heads in a row), `mask` [B, 1, S, T] -> [B, S, H*D]. `causal` wants
   * S = T.
   */
  attention(q: V, k: V, v: V, options: AttentionShape & { causal: boolean }, mask?: V): V
  /** x [B, T, C], index [B, R] int32 -> [B, R, C] */
  gatherRows(x: V, index: V): V
  /** x [M, N, C] read as rows [M*N, C], index [B, T] int32 -> [B, T, C] */
  gatherFlatRows(x: V, index: V): V
  /** a [A, N, C] and b [B, T, C], read as rows, one under the other -> [1, A*N + B*T, C] */
  stackRows(a: V, b: V): V
  /** condition [B, T, 1] of 0 or 1: `a` where 1, else `b`. */
  select(condition: V, a: V, b: V): V
  /** [B, R, T] -> [B, T, R] */
  transpose(x: V): V
  /** Sums of `count` neighbouring channels: [B, T, C] -> [B, T, C/count] */
  sumNeighbours(x: V, count: number): V
  /** [B, T, H*D] -> [B, T, H, D] */
  splitHeads(x: V, heads: number): V
  /** [B, T, H, D] -> [B, T, H*D] */
  mergeHeads(x: V): V
  /** A parameter [C] in front of every sequence: [B, N, C] -> [B, 1+N, C] */
  prependRow(x: V, name: string): V
  /** [B, N, C] -> [B, N-1, C] */
  dropFirstRow(x: V): V
}
