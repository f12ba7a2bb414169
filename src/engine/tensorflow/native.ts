/**
 * What the `tensorflow` engine does on tfjs-node beyond tfjs: TensorFlow's own operations, weights in half
 * precision, and the proxy's operations for scoring over them. tfjs holds a half-precision tensor as any
 * other, but has no name for its type: only `operation` may read it.
 *
 * Shapes: B batch, T tokens, C channels, O outputs, N rows.
 */
import * as tf from '@tensorflow/tfjs-core'
import { isCoarse } from '../../proxy/checkpoint/parameters.ts'
import { type Dtype, readBytes, readTensor } from '../../proxy/checkpoint/safetensors.ts'
import type { Checkpoint } from '../../proxy/checkpoint/schedule.ts'
import type { CheckpointTensor, StoredTensor } from '../../proxy/checkpoint/weights.ts'
import type { Ops } from '../../proxy/ops.ts'
import type { Precision } from '../engine.ts'
import { type Kernels, tensorflowOps, type WeightSource } from './ops.ts'
import type { Use } from './tape.ts'

/** Element types by TensorFlow's numbers (tensorflow/c/tf_datatype.h). */
const TYPES = { float32: 1, float64: 2, int32: 3, uint8: 4, bfloat16: 14, float16: 19 } as const
export type ElementType = keyof typeof TYPES

type Attribute = { name: string; type: number; value: unknown }
type Output = { id: number; shape: number[] }

/** What we use of tfjs-node's backend beyond tfjs-core's interface. */
export type NativeBackend = tf.KernelBackend & {
  binding: {
    TF_Version: string
    TF_ATTR_TYPE: number
    TF_ATTR_BOOL: number
    isUsingGpuDevice(): boolean
    createTensor(shape: readonly number[], type: number, values: ArrayBufferView): number
    executeOp(name: string, attributes: readonly Attribute[], ids: number[], n: 1): [Output]
  }
  tensorMap: { set(dataId: object, info: object): void }
  getInputTensorIds(tensors: readonly tf.Tensor[]): number[]
}

export function nativeBackend(): NativeBackend {
  return tf.backend() as NativeBackend
}

/** TensorFlow's operation `name`, with one output of `type`. */
export function operation(
  name: string,
  inputs: readonly tf.Tensor[],
  attributes: readonly Attribute[],
  type: ElementType,
): tf.Tensor {
  const { binding } = nativeBackend()
  const ids = nativeBackend().getInputTensorIds(inputs)
  const [{ id, shape }] = binding.executeOp(name, attributes, ids, 1)
  return tensorOf(id, shape, type)
}

/** Values as they lie in memory; float16 and bfloat16 as bytes. */
export function upload(bytes: Buffer, shape: readonly number[], type: ElementType): tf.Tensor {
  const { binding } = nativeBackend()
  const { buffer, byteOffset, byteLength } = bytes
  if (type === 'float32') {
    const values = new Float32Array(buffer, byteOffset, byteLength / 4)
    return tensorOf(binding.createTensor(shape, TYPES.float32, values), shape, type)
  }
  return tf.tidy(() => {
    const pairs = [byteLength / 2, 2]
    const values = new Uint8Array(buffer, byteOffset, byteLength)
    const raw = tensorOf(binding.createTensor(pairs, TYPES.uint8, values), pairs, 'uint8')
    const flat = operation('Bitcast', [raw], [ofType('T', 'uint8'), ofType('type', type)], type)
    return reshaped(flat, shape, type)
  })
}

export function cast(x: tf.Tensor, from: ElementType, to: ElementType): tf.Tensor {
  const types = [ofType('SrcT', from), ofType('DstT', to), flag('Truncate', false)]
  return operation('Cast', [x], types, to)
}

function reshaped(x: tf.Tensor, shape: readonly number[], type: ElementType): tf.Tensor {
  const size = tf.tensor1d([...shape], 'int32')
  const result = operation('Reshape', [x, size], [ofType('T', type)], type)
  size.dispose()
  return result
}

/** a [N, C] @ b [O, C]^T -> [N, O], both of `type`, and so the result. */
export function productTransposed(a: tf.Tensor, b: tf.Tensor, type: ElementType): tf.Tensor {
  const attributes = [ofType('T', type), flag('transpose_a', false), flag('transpose_b', true)]
  return operation('MatMul', [a, b], attributes, type)
}

/** table [N, C], index [...] int32 -> [..., C]. tfjs would look at every index in JavaScript first. */
export function gathered(table: tf.Tensor, index: tf.Tensor): tf.Tensor {
  const axis = tf.scalar(0, 'int32')
  const types = [
    ofType('Tparams', 'float32'),
    ofType('Tindices', 'int32'),
    ofType('Taxis', 'int32'),
  ]
  const rows = operation('GatherV2', [table, index, axis], types, 'float32')
  axis.dispose()
  return rows
}

function ofType(name: string, type: ElementType): Attribute {
  return { name, type: nativeBackend().binding.TF_ATTR_TYPE, value: TYPES[type] }
}

function flag(name: string, value: boolean): Attribute {
  return { name, type: nativeBackend().binding.TF_ATTR_BOOL, value }
}

function tensorOf(id: number, shape: readonly number[], type: ElementType): tf.Tensor {
  const dataId = {}
  const info = { shape: [...shape], dtype: TYPES[type], id, values: null, refCount: 1 }
  nativeBackend().tensorMap.set(dataId, info)
  return tf.engine().makeTensorFromTensorInfo({ dataId, shape: [...shape], dtype: 'float32' })
}

/* A checkpoint's parameters as tensors of the backend that computes. */

/**
 * Uploads all but what is read row by row: that comes from the file when it is wanted. The coarse ones
 * are held in `precision`. The caller disposes.
 */
export function uploadWeights(
  checkpoint: Checkpoint,
  uses: ReadonlyMap<string, Use>,
  precision: Precision,
): Map<string, tf.Tensor> {
  const names = [...uses.keys()].filter(name => uses.get(name) !== 'rows')
  // Where one fails for want of memory those before it are let go, too.
  const tensors = tf.tidy(() =>
    names.map(name => {
      const tensor = checkpoint.tensors.get(name)!
      const type = isCoarse(name) ? precision : 'float32'
      return tensor.lora === undefined ? uploadAs(tensor, type) : uploadAdapted(tensor, type)
    }),
  )
  return new Map(names.map((name, i) => [name, tensors[i]!]))
}

const STORED: Partial<Record<Dtype, ElementType>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
}

/**
 * W + s · B A of a LoRA checkpoint: computed in float64 and rounded once, as a merged checkpoint is; on
 * WebAssembly in float32.
 */
function uploadAdapted(tensor: CheckpointTensor, type: ElementType): tf.Tensor {
  const { a, b, scale } = tensor.lora!
  return tf.tidy(() => {
    const [w, down, up] = [tensor, a, b].map(one => uploadAs(one, 'float32')) as tf.Tensor2D[]
    if (tf.getBackend() !== 'tensorflow') {
      return tf.add(w!, tf.matMul(tf.mul(up!, scale) as tf.Tensor2D, down!))
    }
    const [wide, wideDown, wideUp] = [w!, tf.transpose(down!), up!].map(inFloat64)
    const delta = productTransposed(wideUp!, wideDown!, 'float64')
    const scaled = operation('Mul', [delta, scalar64(scale)], [ofType('T', 'float64')], 'float64')
    const sum = operation('AddV2', [wide!, scaled], [ofType('T', 'float64')], 'float64')
    const once = cast(sum, 'float64', 'float32')
    return type === 'float32' ? once : cast(once, 'float32', type)
  })
}

const inFloat64 = (x: tf.Tensor): tf.Tensor => cast(x, 'float32', 'float64')

/** From two float32 values: the addon takes no others. */
function scalar64(value: number): tf.Tensor {
  const high = Math.fround(value)
  const parts = [high, value - high].map(part => inFloat64(tf.scalar(part)))
  return operation('AddV2', parts, [ofType('T', 'float64')], 'float64')
}

function uploadAs(tensor: StoredTensor, type: ElementType): tf.Tensor {
  if (tf.getBackend() !== 'tensorflow') {
    return tf.tensor(readTensor(tensor.file, tensor), tensor.shape)
  }
  const stored = STORED[tensor.dtype]
  if (stored === undefined) throw new RangeError(`weights of ${tensor.dtype}`)
  return tf.tidy(() => {
    const values = upload(readBytes(tensor.file, tensor), tensor.shape, stored)
    return stored === type ? values : cast(values, stored, type)
  })
}

/** ids [B, T] -> [B, T, C]: rows of a table [N, C], read from the file as float32. Throws as `readTensor`. */
export function readRows(table: CheckpointTensor, ids: tf.Tensor): tf.Tensor {
  const channels = table.shape[1]!
  const bytes = table.bytes / table.shape[0]!
  const index = ids.dataSync()
  const rows = new Map<number, Float32Array>()
  const values = new Float32Array(index.length * channels)
  for (const [at, id] of index.entries()) {
    const offset = table.offset + id * bytes
    const row =
      rows.get(id) ?? readTensor(table.file, { ...table, shape: [channels], offset, bytes })
    rows.set(id, row)
    values.set(row, at * channels)
  }
  return tf.tensor(values, [...ids.shape, channels])
}

/* The proxy's operations for scoring. */

/**
 * Products take transposed factors as they stand, causal attention leaves out blocks that are masked, and
 * coarse linear layers may be bfloat16. The rest is computed as in `ops.ts`. `constants` lives for one run.
 */
export function nativeOps(
  weights: WeightSource,
  precision: Precision,
  constants: Constants,
): Ops<tf.Tensor> {
  const plain = tensorflowOps(weights, kernelsOver(constants))
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
    gatherRows: (x, index) => tf.gather(x, index, 1, 1),
    gatherFlatRows: (x, index) => gathered(tf.reshape(x, [-1, x.shape.at(-1)!]), index),
  }
}

const QUERY_BLOCK = 128

function kernelsOver(constants: Constants): Kernels {
  return {
    block: QUERY_BLOCK,
    scaledProduct: (a, b, scale) => tf.matMul(a, tf.mul(b, scale), false, true),
    product: (a, b) => tf.matMul(a, b),
    swapHalves: (x, half) => {
      const rest = x.shape.at(-1)! - 2 * half
      const sizes = [half, half, ...(rest > 0 ? [rest] : [])]
      const [first, second, ...others] = tf.split(x, sizes, x.rank - 1)
      return tf.concat([second!, first!, ...others], x.rank - 1)
    },
    once: (key, make) => constants.once(key, make),
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
  const half = cast(rows, 'float32', 'bfloat16')
  if (sumsInFloat32())
    return cast(productTransposed(half, weight, 'bfloat16'), 'bfloat16', 'float32')
  const product = exactProduct(
    cast(half, 'bfloat16', 'float32'),
    cast(weight, 'bfloat16', 'float32'),
  )
  return cast(cast(product, 'float32', 'bfloat16'), 'bfloat16', 'float32')
}

let found: boolean | undefined

/**
 * Whether TensorFlow adds up a product of bfloat16 in float32 on this device. On a CPU without AVX-512 BF16
 * or AMX it rounds every partial sum to bfloat16 (trajectories off by 1.5 %, not 0.7 %): 1 + n · 2^-9 stays 1.
 */
function sumsInFloat32(): boolean {
  found ??= tf.tidy(() => {
    const small = new Float32Array(PROBED).fill(2 ** -9)
    small[0] = 1
    const row = cast(tf.tensor(small, [1, PROBED]), 'float32', 'bfloat16')
    const ones = cast(tf.ones([1, PROBED]), 'float32', 'bfloat16')
    const [sum] = cast(productTransposed(row, ones, 'bfloat16'), 'bfloat16', 'float32').dataSync()
    return Math.abs(sum! - (1 + (PROBED - 1) * 2 ** -9)) < 2 ** -7
  })
  return found
}

const PROBED = 2048
