/** A checkpoint's parameters as tensors of the backend that computes. */
import * as tf from '@tensorflow/tfjs-core'
import { isCoarse } from '../proxy/parameters.ts'
import { type Dtype, readBytes, readTensor } from '../proxy/safetensors.ts'
import type { Checkpoint, CheckpointTensor } from '../proxy/schedule.ts'
import type { Precision } from './engine.ts'
import type { Use } from './tape.ts'
import { cast, type ElementType, upload } from './tensorflow-native.ts'

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
      return tf.getBackend() === 'tensorflow'
        ? uploadAs(tensor, isCoarse(name) ? precision : 'float32')
        : tf.tensor(readTensor(tensor.file, tensor), tensor.shape)
    }),
  )
  return new Map(names.map((name, i) => [name, tensors[i]!]))
}

const STORED: Partial<Record<Dtype, ElementType>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
}

function uploadAs(tensor: CheckpointTensor, type: ElementType): tf.Tensor {
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
