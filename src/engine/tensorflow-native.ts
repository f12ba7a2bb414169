/**
 * TensorFlow's own operations, beside those that tfjs has: half-precision values, which tfjs has no
 * name for. A tensor of them is held and let go by tfjs as any other, but only `operation` may read it.
 */
import * as tf from '@tensorflow/tfjs-core'

/** Element types by TensorFlow's numbers (tensorflow/c/tf_datatype.h). */
const TYPES = { float32: 1, int32: 3, uint8: 4, bfloat16: 14, float16: 19 } as const
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

/** a [N, C] @ b [O, C]^T -> [N, O], both of `type`, and so the result; sums are in float32. */
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
