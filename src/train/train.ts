/**
 * Fine-tunes a small proxy from nothing: first all of it together (`jointSteps`), then connector and
 * language model with the vision tower frozen, as LLaVA is tuned. Checkpoints are taken in the
 * second phase only, so that the vision weights are byte-equal over the schedule.
 */
import { setImmediate } from 'node:timers/promises'
import * as tf from '@tensorflow/tfjs-core'
import { startTensorflow } from '../engine/tensorflow-backend.ts'
import { XmasdError } from '../errors.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { permutation, seededRandom, seedOf } from '../random.ts'
import type { HistoryEntry } from './checkpoint.ts'
import { initialParameters, type ParameterValues } from './init.ts'
import { answerLoss, packSamples, type TrainingBatch } from './loss.ts'
import {
  ADAMW,
  adamwStep,
  clipGradients,
  isDecayed,
  learningRateAt,
  type Moments,
  newMoments,
} from './optimizer.ts'
import type { Sample } from './samples.ts'

export type TrainingOptions = {
  seed: number
  steps: number
  batchSize: number
  /** Steps at the begin in which the vision tower learns too. */
  jointSteps: number
  learningRate: number
  warmupSteps: number
  gradientNormMax: number
}

export const TRAINING: Omit<TrainingOptions, 'seed'> = {
  steps: 300,
  batchSize: 16,
  jointSteps: 100,
  learningRate: 2e-3,
  warmupSteps: 20,
  gradientNormMax: 1,
}

export type Step = HistoryEntry & { parameters: ReadonlyMap<string, ParameterValues> }

/**
 * Calls `onStep` after every step with the loss before it and the parameters after it (in place:
 * copy what should stay). The same seed, samples and machine give the same bytes. Throws
 * ENGINE_UNAVAILABLE, and ENGINE_FAILED where the loss is not finite.
 */
export async function trainProxy(
  samples: readonly Sample[],
  config: ProxyConfig,
  options: TrainingOptions,
  onStep: (step: Step) => void,
): Promise<void> {
  await startTensorflow()
  const parameters = initialParameters(config, options.seed)
  const moments = new Map<string, Moments>()
  const order = batchOrder(samples, options)
  for (let step = 0; step < options.steps; step++) {
    const trained = trainedNames(parameters, step < options.jointSteps)
    const batch = packSamples(
      order[step]!.map(i => samples[i]!),
      config,
    )
    const { loss, gradients } = lossAndGradients(parameters, trained, config, batch)
    if (!Number.isFinite(loss)) throw diverged(step, loss)
    const norm = clipGradients(gradients, options.gradientNormMax)
    const rate = learningRateAt(step, { ...options, peak: options.learningRate })
    for (const [i, name] of trained.entries()) {
      const { data, shape } = parameters.get(name)!
      if (!moments.has(name)) moments.set(name, newMoments(data.length))
      const how = { ...ADAMW, learningRate: rate, decays: isDecayed(shape) }
      adamwStep(data, gradients[i]!, moments.get(name)!, how)
    }
    const epoch = ((step + 1) * options.batchSize) / samples.length
    onStep({ step: step + 1, epoch, loss, learning_rate: rate, grad_norm: norm, parameters })
    await setImmediate()
  }
}

/** The mean loss over `samples`, in batches of `batchSize`. */
export async function evaluate(
  samples: readonly Sample[],
  config: ProxyConfig,
  parameters: ReadonlyMap<string, ParameterValues>,
  batchSize: number,
): Promise<number> {
  await startTensorflow()
  let [sum, count] = [0, 0]
  for (let at = 0; at < samples.length; at += batchSize) {
    const batch = packSamples(samples.slice(at, at + batchSize), config)
    const loss = tf.tidy(() => {
      const weights = new Map([...parameters].map(([name, values]) => [name, upload(values)]))
      return answerLoss(name => weights.get(name), config, batch).dataSync()[0]!
    })
    sum += loss * batch.targets.length
    count += batch.targets.length
  }
  return sum / count
}

/** The loss, and its gradients by the names of `trained`. */
export function lossAndGradients(
  parameters: ReadonlyMap<string, ParameterValues>,
  trained: readonly string[],
  config: ProxyConfig,
  batch: TrainingBatch,
): { loss: number; gradients: Float32Array[] } {
  let loss = Number.NaN
  let gradients: Float32Array[] = []
  // A tidy that returns arrays would walk their elements.
  tf.tidy(() => {
    const weights = new Map([...parameters].map(([name, values]) => [name, upload(values)]))
    const { value, grads } = tf.valueAndGrads((...tensors: tf.Tensor[]) => {
      for (const [i, name] of trained.entries()) weights.set(name, tensors[i]!)
      return answerLoss(name => weights.get(name), config, batch)
    })(trained.map(name => weights.get(name)!))
    loss = value.dataSync()[0]!
    gradients = grads.map(gradient => Float32Array.from(gradient.dataSync()))
  })
  return { loss, gradients }
}

/** Nothing reads the vision tower's last norm: Hugging Face's model has it all the same. */
function trainedNames(
  parameters: ReadonlyMap<string, ParameterValues>,
  visionLearns: boolean,
): string[] {
  return [...parameters.keys()].filter(
    name =>
      !name.startsWith('vision.post_layernorm') && (visionLearns || !name.startsWith('vision.')),
  )
}

/** Batches that are sorted by length together. */
const WINDOW_BATCHES = 8

/**
 * Indices of each step's samples: epoch after epoch, each in its own random order. Within a window
 * of batches neighbours in length go together, so that little is padded; batches stay in random order.
 */
function batchOrder(
  samples: readonly Sample[],
  { seed, steps, batchSize }: TrainingOptions,
): number[][] {
  const random = seededRandom(seedOf(seed, 'order'))
  const batches: number[][] = []
  let left: number[] = []
  while (batches.length < steps) {
    const size = batchSize * WINDOW_BATCHES
    while (left.length < size) left = left.concat(permutation(random, samples.length))
    const window = left.slice(0, size)
    left = left.slice(size)
    window.sort((a, b) => samples[a]!.ids.length - samples[b]!.ids.length || a - b)
    for (const i of permutation(random, WINDOW_BATCHES)) {
      batches.push(window.slice(i * batchSize, (i + 1) * batchSize))
    }
  }
  return batches
}

function upload({ data, shape }: ParameterValues): tf.Tensor {
  return tf.tensor(data, [...shape], 'float32')
}

function diverged(step: number, loss: number): XmasdError {
  return new XmasdError(
    'ENGINE_FAILED',
    `the loss is ${loss} at step ${step + 1}`,
    'Take a smaller --learning-rate.',
  )
}
