/**
 * The `tensorflow` engine: the oracle of the `onnx` one, and the way to CUDA where tfjs-node-gpu is
 * installed. Weights are copied to the backend as float32.
 */
import * as tf from '@tensorflow/tfjs-core'
import { messageOf, XmasdError } from '../errors.ts'
import { readTensor } from '../proxy/safetensors.ts'
import type { Checkpoint } from '../proxy/schedule.ts'
import type { Build, Engine, HostTensor, InputSpec, Program } from './engine.ts'
import { startTensorflow, type TensorflowBackend } from './tensorflow-backend.ts'
import { tensorflowOps } from './tensorflow-ops.ts'

/** `backend` forces one; without it the best that is installed computes. */
export function tensorflowEngine({ backend }: { backend?: TensorflowBackend } = {}): Engine {
  return {
    name: 'tensorflow',
    device: 'cpu',
    compile: async <Names extends string>(
      checkpoint: Checkpoint,
      inputs: Record<Names, InputSpec>,
      build: Build<Names>,
    ) => {
      await startTensorflow(backend)
      return compile(checkpoint, inputs, build, backend)
    },
  }
}

function compile<Names extends string>(
  checkpoint: Checkpoint,
  inputs: Record<Names, InputSpec>,
  build: Build<Names>,
  backend: TensorflowBackend | undefined,
): Program<Names> {
  const weights = loadWeights(checkpoint)
  const ops = tensorflowOps(name => weights.get(name))
  return {
    run: async values => {
      await startTensorflow(backend) // another program may have made another one current
      const output = failing(checkpoint, () => tf.tidy(() => build(ops, upload(inputs, values))))
      try {
        return { data: (await output.data()) as Float32Array, shape: output.shape }
      } finally {
        output.dispose()
      }
    },
    release: async () => tf.dispose([...weights.values()]),
  }
}

/** Every parameter of a checkpoint as a float32 tensor, by canonical name. The caller disposes. */
export function loadWeights(checkpoint: Checkpoint): Map<string, tf.Tensor> {
  return failing(checkpoint, () => {
    const entries = [...checkpoint.tensors]
    return new Map(
      entries.map(([name, tensor]) => [
        name,
        tf.tensor(readTensor(tensor.file, tensor), tensor.shape),
      ]),
    )
  })
}

function upload<Names extends string>(
  specs: Record<Names, InputSpec>,
  values: Record<Names, HostTensor>,
): Record<Names, tf.Tensor> {
  const names = Object.keys(specs) as Names[]
  const entries = names.map(name => {
    const { data, shape } = values[name]
    return [name, tf.tensor(data, [...shape], specs[name].type)]
  })
  return Object.fromEntries(entries) as Record<Names, tf.Tensor>
}

function failing<T>(checkpoint: Checkpoint, work: () => T): T {
  try {
    return work()
  } catch (error) {
    if (error instanceof XmasdError || error instanceof RangeError) throw error
    throw new XmasdError(
      'ENGINE_FAILED',
      `tensorflow failed on ${checkpoint.dir}: ${messageOf(error)}`,
      'Check the memory that is free and that the checkpoint has not changed on disk.',
      { cause: error },
    )
  }
}
