/**
 * The operations that the proxy is written in. Each engine implements them: `onnx` emits graph nodes,
 * `tensorflow` computes eagerly. `V` is the engine's value (a graph edge or a tensor), float32 unless
 * noted otherwise.
 *
 * Shapes: B batch, T tokens, C channels, H heads, D channels of a head, R rows, N image tokens.
 */
export type Activation = 'gelu' | 'gelu_pytorch_tanh' | 'quick_gelu' | 'silu' | 'relu'

/** An array on the host. */
export type HostTensor = { data: Float32Array | Int32Array; shape: readonly number[] }

/** An input of a program. A named size is free: it may differ from run to run. */
export type InputSpec = { type: 'float32' | 'int32'; shape: readonly (number | string)[] }

export const int32 = (...shape: (string | number)[]): InputSpec => ({ type: 'int32', shape })
export const float32 = (...shape: (string | number)[]): InputSpec => ({ type: 'float32', shape })

/** Of a mask: far below any product, yet finite: exp() of it is exactly 0. */
export const MASKED = -1e30

export type AttentionShape = { heads: number; kvHeads: number; headDim: number }

export interface Ops<V> {
  /** A parameter of the checkpoint by canonical name; `shape` reinterprets it (same element count). */
  weight(name: string, shape?: readonly number[]): V
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
  /** One channel of each row: x [B, T, C], index [B, T] int32 -> [B, T, 1] */
  pick(x: V, index: V): V
  /** Over the last axis, with `${name}.weight` and, for layerNorm, `${name}.bias` where it exists. */
  layerNorm(x: V, name: string, epsilon: number): V
  rmsNorm(x: V, name: string, epsilon: number): V
  /** x [B, T, H, D]: a layerNorm without bias for each head, of weight `${names[h]}.weight`. */
  layerNormHeads(x: V, names: readonly string[], epsilon: number): V
  activation(x: V, kind: Activation): V
  /**
   * Rotary embedding, half-split convention, of the first 2 F channels of each head.
   * x [B, T, H*D], cos and sin [B, T, F] -> [B, T, H*D]
   */
  rotary(x: V, cos: V, sin: V, shape: { heads: number; headDim: number; turned: number }): V
  /**
   * softmax(q k^T / sqrt(D) + mask) v by heads. q [B, S, H*D], k and v [B, T, kvHeads*D] (each kv
   * head serves H/kvHeads consecutive query heads), `mask` [B or 1, 1, S, T] -> [B, S, H*D]. `causal`
   * requires S = T.
   */
  attention(q: V, k: V, v: V, options: AttentionShape & { causal: boolean }, mask?: V): V
  /** x [B, T, C], index [B, R] int32 -> [B, R, C] */
  gatherRows(x: V, index: V): V
  /** x [M, N, C] read as rows [M*N, C], index [B, T] int32 -> [B, T, C] */
  gatherFlatRows(x: V, index: V): V
  /** The rows of a [A, N, C], then those of b [B, T, C] -> [1, A*N + B*T, C] */
  stackRows(a: V, b: V): V
  /** condition [B, T, 1] of 0 or 1: `a` where 1, else `b`. */
  select(condition: V, a: V, b: V): V
  /** [B, R, T] -> [B, T, R] */
  transpose(x: V): V
  /** Sums of `count` adjacent channels: [B, T, C] -> [B, T, C/count] */
  sumNeighbours(x: V, count: number): V
  /** `count` channels of each row, from channel `from` on: [B, T, C] -> [B, T, count] */
  channels(x: V, from: number, count: number): V
  /** Adjacent rows as one of `width` channels: [B, T, C] -> [B, T*C/width, width] */
  joinRows(x: V, width: number): V
  /** [B, T, H*D] -> [B, T, H, D] */
  splitHeads(x: V, heads: number): V
  /** [B, T, H, D] -> [B, T, H*D] */
  mergeHeads(x: V): V
  /** A parameter of C values before the rows of each sequence: [B, N, C] -> [B, 1+N, C] */
  prependRow(x: V, name: string): V
  /** [B, N, C] -> [B, N-1, C] */
  dropFirstRow(x: V): V
}
