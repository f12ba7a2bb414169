/**
 * Attention as nodes of an ONNX graph, in three ways that give the same. Shapes: B batch, S query
 * rows, T tokens, H heads, K key heads, G = H / K query heads of each, D channels of a head.
 */
import { type AttentionShape, MASKED } from '../../proxy/ops.ts'
import type { AttributeValue, Edge } from './model.ts'

/**
 * `operator`: the standard's one operator, the CPU's fastest. `fused`: onnxruntime's
 * MultiHeadAttention, which GPUs have kernels for, right on some drivers only. `plain`: MatMul and
 * Softmax, right on every device.
 */
export type AttentionForm = 'operator' | 'fused' | 'plain'

/** What a graph under construction lets be added. */
export type Emitter = {
  emit(type: string, inputs: readonly Edge[], attributes?: Attributes, domain?: Domain): Edge
  /** For nodes that depend on nothing but their inputs: each is emitted once. */
  once(type: string, inputs: readonly Edge[], attributes?: Attributes): Edge
  integers(data: readonly number[]): Edge
  /** A scalar. */
  float(value: number): Edge
}

type Attributes = Record<string, AttributeValue>
type Domain = '' | 'com.microsoft'

/** q [B, S, H*D], k and v [B, T, K*D], `mask` [B, 1, S, T] is added to the products. */
export type AttentionInputs = { q: Edge; k: Edge; v: Edge; mask: Edge | undefined }

export type CausalShape = AttentionShape & { causal: boolean }

/** softmax(q k^T / sqrt(D) + mask) v by heads -> [B, S, H*D] */
export function emitAttention(
  graph: Emitter,
  form: AttentionForm,
  inputs: AttentionInputs,
  shape: CausalShape,
): Edge {
  switch (form) {
    case 'operator':
      return operator(graph, inputs, shape)
    case 'fused':
      return fused(graph, inputs, shape)
    case 'plain':
      return plain(graph, inputs, shape)
  }
}

function operator(graph: Emitter, { q, k, v, mask }: AttentionInputs, shape: CausalShape): Edge {
  const { heads, kvHeads, headDim, causal } = shape
  const attributes = {
    q_num_heads: heads,
    kv_num_heads: kvHeads,
    is_causal: causal ? 1 : 0,
    scale: { float: 1 / Math.sqrt(headDim) },
  }
  // Shape inference takes a width that it does not know for 0.
  const sized = (x: Edge, count: number): Edge =>
    graph.once('Reshape', [x, graph.integers([0, 0, count * headDim])])
  const inputs = [sized(q, heads), sized(k, kvHeads), sized(v, kvHeads)]
  return graph.emit('Attention', mask === undefined ? inputs : [...inputs, mask], attributes)
}

function fused(graph: Emitter, { q, k, v, mask }: AttentionInputs, shape: CausalShape): Edge {
  const { heads, kvHeads, headDim, causal } = shape
  const widen = (x: Edge): Edge => (heads === kvHeads ? x : repeatHeads(graph, x, shape))
  const attributes = {
    num_heads: heads,
    unidirectional: causal ? 1 : 0,
    scale: { float: 1 / Math.sqrt(headDim) },
  }
  const bias = mask === undefined ? [] : ['', '', mask]
  const inputs = [q, widen(k), widen(v), ...bias]
  return graph.emit('MultiHeadAttention', inputs, attributes, 'com.microsoft')
}

/** Each head G times in a row: [B, T, K*D] -> [B, T, H*D] */
function repeatHeads(graph: Emitter, x: Edge, { heads, kvHeads, headDim }: CausalShape): Edge {
  const apart = graph.once('Reshape', [x, graph.integers([0, 0, kvHeads, 1, headDim])])
  const count = graph.integers([1, 1, 1, heads / kvHeads, 1])
  const wide = graph.once('Expand', [apart, count])
  return graph.once('Reshape', [wide, graph.integers([0, 0, heads * headDim])])
}

/** The query heads of a key head share it: k and v are never widened. */
function plain(graph: Emitter, { q, k, v, mask }: AttentionInputs, shape: CausalShape): Edge {
  const { heads, kvHeads, headDim, causal } = shape
  const apart = (x: Edge, count: number, perm: number[]): Edge => {
    const split = graph.once('Reshape', [x, graph.integers([0, 0, kvHeads, count, headDim])])
    return graph.once('Transpose', [split], { perm })
  }
  const scaled = graph.emit('Mul', [q, graph.float(1 / Math.sqrt(headDim))])
  const queries = apart(scaled, heads / kvHeads, [0, 2, 3, 1, 4]) // [B, K, G, S, D]
  const keys = apart(k, 1, [0, 2, 3, 4, 1]) // [B, K, 1, D, T]
  const values = apart(v, 1, [0, 2, 3, 1, 4]) // [B, K, 1, T, D]
  let products = graph.emit('MatMul', [queries, keys]) // [B, K, G, S, T]
  if (mask !== undefined) {
    const everyHead = graph.once('Unsqueeze', [mask, graph.integers([1])]) // [B, 1, 1, S, T]
    products = graph.emit('Add', [products, everyHead])
  }
  if (causal) products = graph.emit('Add', [products, causalMask(graph, k)])
  const weights = graph.emit('Softmax', [products], { axis: -1 })
  const mixed = graph.emit('MatMul', [weights, values]) // [B, K, G, S, D]
  const together = graph.emit('Transpose', [mixed], { perm: [0, 3, 1, 2, 4] })
  return graph.emit('Reshape', [together, graph.integers([0, 0, heads * headDim])])
}

/** x [B, T, C] -> [T, T]: 0 where the column is not later than the row, else `MASKED` */
function causalMask(graph: Emitter, x: Edge): Edge {
  const count = graph.once('Shape', [x], { start: 1, end: 2 })
  const square = graph.once('Concat', [count, count], { axis: 0 })
  const full = graph.once('Expand', [graph.float(MASKED), square])
  return graph.once('Trilu', [full, graph.integers([1])], { upper: 1 })
}
