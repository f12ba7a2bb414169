/**
 * The proxy's operations as nodes of an ONNX graph. Weights stay where they are: initializers point
 * into the checkpoint's .safetensors. Shapes as in `ops.ts`; O output channels.
 */
import { basename } from 'node:path'
import type { Checkpoint } from '../../proxy/checkpoint/schedule.ts'
import type { CheckpointTensor } from '../../proxy/checkpoint/weights.ts'
import type { Activation, Ops } from '../../proxy/ops.ts'
import { type Build, type InputSpec, outputsOf } from '../engine.ts'
import { type AttentionForm, type CausalShape, type Emitter, emitAttention } from './attention.ts'
import {
  type AttributeValue,
  type Edge,
  ELEMENT_TYPES,
  type Fed,
  type Graph,
  type GraphInput,
  HOST,
  type Initializer,
  type Node,
} from './model.ts'

const MICROSOFT = 'com.microsoft'
const AXIS_END = 2 ** 31

export type GraphOptions = {
  attention: AttentionForm
  /** Whether weights that an adapter adds to come as sums, or from their base, with the adapter beside them. */
  merged: boolean
}

type Rotated = Parameters<Ops<Edge>['rotary']>[3]

/** Emits what `build` writes. */
export function buildGraph<Names extends string>(
  checkpoint: Checkpoint,
  inputs: Record<Names, InputSpec>,
  build: Build<Names>,
  options: GraphOptions,
): Graph {
  const ops = new GraphOps(checkpoint, options)
  const names = Object.keys(inputs) as Names[]
  const edges: Partial<Record<Names, Edge>> = {}
  for (const name of names) edges[name] = name
  const [output, ...others] = outputsOf(build(ops, edges as Record<Names, Edge>))
  const graphInputs: GraphInput[] = names.map(name => ({ name, ...inputs[name] }))
  return {
    nodes: ops.nodes,
    initializers: [...ops.initializers.values()],
    inputs: graphInputs,
    fed: [...ops.fed.values()],
    output,
    others,
  }
}

class GraphOps implements Ops<Edge>, Emitter {
  readonly nodes: Node[] = []
  readonly initializers = new Map<string, Initializer>()
  readonly fed = new Map<string, Fed>()
  readonly #checkpoint: Checkpoint
  readonly #options: GraphOptions
  /** Nodes that depend on nothing but their inputs' names, so that each is emitted once. */
  readonly #shared = new Map<string, Edge>()

  constructor(checkpoint: Checkpoint, options: GraphOptions) {
    this.#checkpoint = checkpoint
    this.#options = options
  }

  #has(name: string): boolean {
    return this.#checkpoint.tensors.has(name)
  }

  weight(name: string, shape?: readonly number[]): Edge {
    const tensor = this.#tensor(name)
    const isFed = tensor.isReplaced === true || (tensor.lora !== undefined && this.#options.merged)
    if (!isFed) {
      return this.#float32(this.#stored(name, tensor, shape ?? tensor.shape), tensor)
    }
    const whole = this.#feed(name, tensor.shape, tensor)
    return shape === undefined ? whole : this.once('Reshape', [whole, this.integers(shape)])
  }

  linear(x: Edge, name: string): Edge {
    const [width, inner] = this.#tensor(`${name}.weight`).shape as [number, number]
    return this.linearAs(x, name, [width, inner])
  }

  /** Gemm is two-dimensional but takes [O, C] weights as they stand; MatMul would copy them. */
  linearAs(x: Edge, name: string, shape: readonly [number, number]): Edge {
    const rows = this.once('Reshape', [x, this.integers([-1, shape[1]])]) // [B*T, C]
    const bias = this.#has(`${name}.bias`) ? [this.weight(`${name}.bias`)] : []
    const operands = [rows, this.weight(`${name}.weight`, shape), ...bias]
    const flat = this.#adapted(rows, name, this.emit('Gemm', operands, { transB: 1 })) // [B*T, O]
    const leading = this.once('Shape', [x], { start: 0, end: -1 })
    const full = this.once('Concat', [leading, this.integers([shape[0]])], { axis: 0 })
    return this.emit('Reshape', [flat, full]) // [B, T, O]
  }

  /** Looked up on the host: a vocabulary takes much of a GPU's memory, its few rows in use none. */
  embed(ids: Edge, name: string): Edge {
    const tensor = this.#tensor(name)
    if (tensor.isReplaced === true) {
      const table = this.#feed(name, tensor.shape, tensor)
      return this.#onHost('Gather', [table, ids], { axis: 0 })
    }
    const table = this.#stored(name, tensor, tensor.shape)
    const rows = this.#onHost('Gather', [table, ids], { axis: 0 })
    if (tensor.dtype === 'F32') return rows
    return this.#onHost('Cast', [rows], { to: ELEMENT_TYPES.float32 })
  }

  add(a: Edge, b: Edge): Edge {
    return this.emit('Add', [a, b])
  }

  mul(a: Edge, b: Edge): Edge {
    return this.emit('Mul', [a, b])
  }

  scale(x: Edge, factor: number): Edge {
    return this.mul(x, this.float(factor))
  }

  matmulTransposed(a: Edge, b: Edge): Edge {
    return this.emit('MatMul', [a, this.transpose(b)]) // fused by the runtime
  }

  softmax(x: Edge): Edge {
    return this.emit('Softmax', [x], { axis: -1 })
  }

  logSumExp(x: Edge): Edge {
    return this.emit('ReduceLogSumExp', [x, this.integers([-1])], { keepdims: 1 })
  }

  pick(x: Edge, index: Edge): Edge {
    const wide = this.once('Cast', [index], { to: ELEMENT_TYPES.int64 })
    const last = this.once('Unsqueeze', [wide, this.integers([-1])]) // [B, T, 1]
    return this.emit('GatherElements', [x, last], { axis: -1 })
  }

  layerNorm(x: Edge, name: string, epsilon: number): Edge {
    const bias = this.#has(`${name}.bias`) ? [this.weight(`${name}.bias`)] : []
    const inputs = [x, this.weight(`${name}.weight`), ...bias]
    return this.emit('LayerNormalization', inputs, { axis: -1, epsilon: { float: epsilon } })
  }

  rmsNorm(x: Edge, name: string, epsilon: number): Edge {
    const inputs = [x, this.weight(`${name}.weight`)]
    return this.emit('SimplifiedLayerNormalization', inputs, {
      axis: -1,
      epsilon: { float: epsilon },
      stash_type: 1,
    })
  }

  layerNormHeads(x: Edge, names: readonly string[], epsilon: number): Edge {
    const width = this.#tensor(`${names[0]}.weight`).shape[0]!
    const ones = this.#floats(`ones.${width}`, [width], new Float32Array(width).fill(1))
    const unit = this.emit('LayerNormalization', [x, ones], {
      axis: -1,
      epsilon: { float: epsilon },
    })
    const rows = names.map(name => this.weight(`${name}.weight`, [1, width]))
    return this.mul(unit, this.emit('Concat', rows, { axis: 0 })) // [B, T, H, D] * [H, D]
  }

  activation(x: Edge, kind: Activation): Edge {
    switch (kind) {
      case 'gelu':
        return this.emit('Gelu', [x], { approximate: 'none' })
      case 'gelu_pytorch_tanh':
        return this.emit('Gelu', [x], { approximate: 'tanh' })
      case 'quick_gelu':
        return this.emit('QuickGelu', [x], { alpha: { float: 1.702 } }, MICROSOFT)
      case 'silu':
        return this.emit('QuickGelu', [x], { alpha: { float: 1 } }, MICROSOFT)
      case 'relu':
        return this.emit('Relu', [x])
    }
  }

  rotary(x: Edge, cos: Edge, sin: Edge, shape: Rotated): Edge {
    const { heads, headDim, turned } = shape
    return this.emit('RotaryEmbedding', [x, cos, sin], {
      num_heads: heads,
      rotary_embedding_dim: turned < headDim ? turned : 0,
      interleaved: 0,
    })
  }

  attention(q: Edge, k: Edge, v: Edge, shape: CausalShape, mask?: Edge): Edge {
    return emitAttention(this, this.#options.attention, { q, k, v, mask }, shape)
  }

  gatherRows(x: Edge, index: Edge): Edge {
    const narrow = this.once('Unsqueeze', [index, this.integers([-1])]) // [B, R, 1]
    const tuples = this.once('Cast', [narrow], { to: ELEMENT_TYPES.int64 })
    return this.emit('GatherND', [x, tuples], { batch_dims: 1 })
  }

  gatherFlatRows(x: Edge, index: Edge): Edge {
    return this.emit('Gather', [this.#flatten(x), index], { axis: 0 })
  }

  stackRows(a: Edge, b: Edge): Edge {
    const rows = this.emit('Concat', [this.#flatten(a), this.#flatten(b)], { axis: 0 })
    return this.emit('Unsqueeze', [rows, this.integers([0])])
  }

  select(condition: Edge, a: Edge, b: Edge): Edge {
    const flag = this.once('Cast', [condition], { to: ELEMENT_TYPES.bool })
    return this.emit('Where', [flag, a, b])
  }

  transpose(x: Edge): Edge {
    return this.emit('Transpose', [x], { perm: [0, 2, 1] })
  }

  sumNeighbours(x: Edge, count: number): Edge {
    const split = this.emit('Reshape', [x, this.integers([0, 0, -1, count])])
    return this.emit('ReduceSum', [split, this.integers([-1])], { keepdims: 0 })
  }

  channels(x: Edge, from: number, count: number): Edge {
    const [start, end, axis] = [[from], [from + count], [-1]].map(value => this.integers(value))
    return this.emit('Slice', [x, start!, end!, axis!])
  }

  joinRows(x: Edge, width: number): Edge {
    return this.emit('Reshape', [x, this.integers([0, -1, width])])
  }

  splitHeads(x: Edge, heads: number): Edge {
    return this.emit('Reshape', [x, this.integers([0, 0, heads, -1])])
  }

  mergeHeads(x: Edge): Edge {
    return this.emit('Reshape', [x, this.integers([0, 0, -1])])
  }

  prependRow(x: Edge, name: string): Edge {
    const width = this.#tensor(name).shape.at(-1)!
    const batch = this.emit('Shape', [x], { start: 0, end: 1 })
    const shape = this.emit('Concat', [batch, this.integers([1, width])], { axis: 0 })
    const row = this.emit('Expand', [this.weight(name, [1, 1, width]), shape]) // [B, 1, C]
    return this.emit('Concat', [row, x], { axis: 1 })
  }

  dropFirstRow(x: Edge): Edge {
    const [start, end, axis] = [[1], [AXIS_END], [1]].map(value => this.integers(value))
    return this.emit('Slice', [x, start!, end!, axis!])
  }

  /** [B, T, C] -> [B*T, C]. Flatten would run on the CPU, whatever the device. */
  #flatten(x: Edge): Edge {
    const width = this.once('Shape', [x], { start: -1 })
    const shape = this.once('Concat', [this.integers([-1]), width], { axis: 0 })
    return this.once('Reshape', [x, shape])
  }

  emit(
    type: string,
    inputs: readonly Edge[],
    attributes: Record<string, AttributeValue> = {},
    domain: Node['domain'] = '',
  ): Edge {
    const output = `${type}.${this.nodes.length}`
    this.nodes.push({ domain, type, inputs, output, attributes })
    return output
  }

  #onHost(type: string, inputs: readonly Edge[], attributes: Node['attributes']): Edge {
    const output = `${HOST}${this.nodes.length}`
    this.nodes.push({ domain: '', type, inputs, output, attributes })
    return output
  }

  once(
    type: string,
    inputs: readonly Edge[],
    attributes: Record<string, AttributeValue> = {},
  ): Edge {
    const key = JSON.stringify([type, inputs, attributes])
    const edge = this.#shared.get(key) ?? this.emit(type, inputs, attributes)
    this.#shared.set(key, edge)
    return edge
  }

  #tensor(name: string): CheckpointTensor {
    const tensor = this.#checkpoint.tensors.get(name)
    if (tensor === undefined) throw new RangeError(`${name} is no parameter of this checkpoint`)
    return tensor
  }

  #stored(name: string, tensor: CheckpointTensor, shape: readonly number[]): Edge {
    const edge = String(shape) === String(tensor.shape) ? name : `${name}.${shape.join('x')}`
    const { dtype, offset, bytes } = tensor
    const file = basename(tensor.file)
    this.initializers.set(edge, { name: edge, kind: 'external', shape, dtype, file, offset, bytes })
    return edge
  }

  /** x W^T [B*T, O], and s · x A^T B^T where an adapter stands beside W; what is fed is a sum already. */
  #adapted(x: Edge, name: string, product: Edge): Edge {
    const weight = `${name}.weight`
    const { lora, isReplaced = false } = this.#tensor(weight)
    if (lora === undefined || isReplaced || this.#options.merged) return product
    const [a, b] = (['a', 'b'] as const).map(side =>
      this.#feed(`${weight}.lora_${side}`, lora[side].shape, lora[side]),
    )
    const scale = this.#feed(`${weight}.scale`, [1], lora.scale)
    const down = this.emit('Mul', [this.emit('Gemm', [x, a!], { transB: 1 }), scale])
    return this.emit('Gemm', [down, b!, product], { transB: 1 })
  }

  #feed(name: string, shape: readonly number[], from: Fed['from']): Edge {
    this.fed.set(name, { name, type: 'float32', shape, from })
    return name
  }

  #float32(x: Edge, tensor: CheckpointTensor): Edge {
    return tensor.dtype === 'F32' ? x : this.once('Cast', [x], { to: ELEMENT_TYPES.float32 })
  }

  integers(data: readonly number[]): Edge {
    const name = `integers.${data.join('.')}`
    this.initializers.set(name, { name, kind: 'int64', shape: [data.length], data })
    return name
  }

  float(value: number): Edge {
    return this.#floats(`float.${value}`, [], Float32Array.of(value))
  }

  #floats(name: string, shape: readonly number[], data: Float32Array): Edge {
    this.initializers.set(name, { name, kind: 'float32', shape, data })
    return name
  }
}
