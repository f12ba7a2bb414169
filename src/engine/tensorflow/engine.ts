/**
 * The `tensorflow` engine: the oracle of the `onnx` one, the way to CUDA, and to products in bfloat16.
 * Fast where its addon is built (`backend.ts`).
 */
import * as tf from '@tensorflow/tfjs-core'
import { XmasdError } from '../../errors.ts'
import type { Checkpoint } from '../../proxy/checkpoint/schedule.ts'
import type { Ops } from '../../proxy/ops.ts'
import {
  type Build,
  type Engine,
  type EngineChoice,
  engineFailure,
  type HostTensor,
  type InputSpec,
  type Output,
  type Precision,
  type Program,
} from '../engine.ts'
import { BUILD_HINT, startTensorflow, type TensorflowBackend } from './backend.ts'
import { Constants, nativeOps, readRows, uploadWeights } from './native.ts'
import { tensorflowOps } from './ops.ts'
import { parametersRead, record, replay, type Tape, type Values } from './tape.ts'

/** `backend` forces one; without it the best that is there computes. bfloat16 needs the addon. */
export type TensorflowOptions = Pick<EngineChoice, 'precision'> & {
  backend?: TensorflowBackend | undefined
}

export function tensorflowEngine(options: TensorflowOptions = {}): Engine {
  const { backend, precision = 'float32' } = options
  return {
    name: 'tensorflow',
    device: 'cpu',
    compile: async <Names extends string>(
      checkpoint: Checkpoint,
      inputs: Record<Names, InputSpec>,
      build: Build<Names>,
    ) => {
      const started = await startTensorflow(backend)
      if (precision === 'bfloat16' && started === 'wasm') throw needsAddon()
      const tape = record(Object.keys(inputs) as Names[], build)
      return compile(checkpoint, inputs, tape, { backend, precision })
    },
  }
}

function compile<Names extends string>(
  checkpoint: Checkpoint,
  inputs: Record<Names, InputSpec>,
  tape: Tape<Names>,
  { backend, precision }: { backend: TensorflowBackend | undefined; precision: Precision },
): Program<Names> {
  const uses = parametersRead(tape, name => checkpoint.tensors.has(name))
  const weights = failing(checkpoint, () => uploadWeights(checkpoint, uses, precision))
  const constants = new Constants()
  const ops = scoringOps(checkpoint, weights, precision, constants)
  return {
    run: async values => {
      await startTensorflow(backend) // another program may have made another one current
      try {
        const [output, ...others] = failing(checkpoint, () =>
          replay<Names, tf.Tensor>(tape, ops, upload(inputs, values), TENSORS).map(valuesOf),
        )
        return { ...output!, others }
      } finally {
        constants.dispose()
      }
    },
    release: async () => tf.dispose([...weights.values()]),
  }
}

/** Lets the tensor go. */
function valuesOf(tensor: tf.Tensor): Output {
  try {
    return { data: tensor.dataSync<'float32'>(), shape: tensor.shape }
  } finally {
    tensor.dispose()
  }
}

const TENSORS: Values<tf.Tensor> = {
  scope: operation => tf.tidy(operation),
  dispose: tensor => tensor.dispose(),
}

/** The operations of a tape: each gives a tensor of its own. */
function scoringOps(
  checkpoint: Checkpoint,
  weights: ReadonlyMap<string, tf.Tensor>,
  precision: Precision,
  constants: Constants,
): Ops<tf.Tensor> {
  const source = (name: string): tf.Tensor | undefined => weights.get(name)
  const ops =
    tf.getBackend() === 'tensorflow'
      ? nativeOps(source, precision, constants)
      : tensorflowOps(source)
  return {
    ...ops,
    weight: (name, shape) => tf.reshape(source(name)!, [...(shape ?? source(name)!.shape)]),
    embed: (ids, name) => readRows(checkpoint.tensors.get(name)!, ids),
  }
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
    if (error instanceof XmasdError) throw error
    throw engineFailure('tensorflow', checkpoint, error)
  }
}

function needsAddon(): XmasdError {
  return new XmasdError(
    'ENGINE_UNAVAILABLE',
    'bfloat16 needs the addon of the tensorflow engine, which is not built',
    `${BUILD_HINT}; or set proxy.precision to float32`,
  )
}
