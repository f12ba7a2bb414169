/**
 * Fine-tunes a small proxy from nothing: first all of it together (`jointSteps`), then connector and
 * language model with the vision tower frozen, as LLaVA is tuned. Checkpoints are taken in the
 * second phase only, so that the vision weights are byte-equal over the schedule.
 */
import { setImmediate } from 'node:timers/promises'
import * as tf from '@tensorflow/tfjs-core'
import { startTensorflow } from '../engine/tensorflow/backend.ts'
import { XmasdError } from '../errors.ts'
import { permutation, seededRandom, seedOf } from '../math/random.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import type { HistoryEntry } from './checkpoint.ts'
import { answerLogits, answerLoss, packSamples, type TrainingBatch, tokenLosses } from './loss.ts'
import type { Sample } from './samples.ts'
import { initialParameters, type ParameterValues } from './shape.ts'

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

/** How the answers of one example are predicted, each token after the true ones before it. */
export type Answered = {
  tokens: number
  /** Tokens whose likeliest value is the true one; all of them: greedy decoding gives the answers. */
  right: number
  /** Mean over the tokens of -log p(token). */
  loss: number
}

/** One result a sample, in order; computed in batches of `batchSize`. */
export async function evaluate(
  samples: readonly Sample[],
  config: ProxyConfig,
  parameters: ReadonlyMap<string, ParameterValues>,
  batchSize: number,
): Promise<Answered[]> {
  await startTensorflow()
  const answered: Answered[] = []
  for (let at = 0; at < samples.length; at += batchSize) {
    const some = samples.slice(at, at + batchSize)
    const { losses, likeliest, targets } = predict(parameters, config, packSamples(some, config))
    let from = 0
    for (const { predictors } of some) {
      const one: Answered = { tokens: predictors.length, right: 0, loss: 0 }
      for (const end = from + one.tokens; from < end; from++) {
        if (likeliest[from] === targets[from]) one.right++
        one.loss += losses[from]! / one.tokens
      }
      answered.push(one)
    }
    await setImmediate()
  }
  return answered
}

/** [P] each: -log p(target), the likeliest token, the target. */
function predict(
  parameters: ReadonlyMap<string, ParameterValues>,
  config: ProxyConfig,
  batch: TrainingBatch,
): Record<'losses' | 'likeliest' | 'targets', ArrayLike<number>> {
  const outputs: Float32Array[] = []
  // A tidy that returns arrays would walk their elements.
  tf.tidy(() => {
    const weights = new Map([...parameters].map(([name, values]) => [name, upload(values)]))
    const logits = answerLogits(name => weights.get(name), config, batch)
    const likeliest = tf.cast(tf.argMax(logits, -1), 'float32')
    for (const one of [tokenLosses(logits, batch.targets), likeliest]) {
      outputs.push(Float32Array.from(one.dataSync()))
    }
  })
  const [losses, likeliest] = outputs as [Float32Array, Float32Array]
  return { losses, likeliest, targets: batch.targets }
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

/* AdamW (Loshchilov & Hutter, arXiv 1711.05101) on typed arrays, the learning rate and clipping. */

export type AdamWOptions = {
  beta1: number
  beta2: number
  epsilon: number
  /** Decoupled; matrices only: biases and norms are left alone. */
  weightDecay: number
}

export const ADAMW: AdamWOptions = { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weightDecay: 0.01 }

/** One parameter's moments. */
export type Moments = { first: Float32Array; second: Float32Array; steps: number }

export function newMoments(length: number): Moments {
  return { first: new Float32Array(length), second: new Float32Array(length), steps: 0 }
}

/** One step, in place. `decays`: is this parameter decayed. */
export function adamwStep(
  values: Float32Array,
  gradient: ArrayLike<number>,
  moments: Moments,
  { learningRate, decays, ...options }: AdamWOptions & { learningRate: number; decays: boolean },
): void {
  const { beta1, beta2, epsilon, weightDecay } = options
  const { first, second } = moments
  const step = ++moments.steps
  const firstBias = 1 - beta1 ** step
  const secondBias = Math.sqrt(1 - beta2 ** step)
  const shrink = decays ? 1 - learningRate * weightDecay : 1
  for (let i = 0; i < values.length; i++) {
    const g = gradient[i]!
    const m = beta1 * first[i]! + (1 - beta1) * g
    const v = beta2 * second[i]! + (1 - beta2) * g * g
    first[i] = m
    second[i] = v
    const update = m / firstBias / (Math.sqrt(v) / secondBias + epsilon)
    values[i] = values[i]! * shrink - learningRate * update
  }
}

/** Weights with two axes and more decay. */
export function isDecayed(shape: readonly number[]): boolean {
  return shape.length >= 2
}

/** The rate at `step` (0-based): linear over `warmupSteps`, then half a cosine down to 0 at `steps`. */
export function learningRateAt(
  step: number,
  { peak, steps, warmupSteps }: { peak: number; steps: number; warmupSteps: number },
): number {
  if (step < warmupSteps) return (peak * (step + 1)) / warmupSteps
  const share = (step - warmupSteps) / Math.max(1, steps - warmupSteps)
  return (peak * (1 + Math.cos(Math.PI * share))) / 2
}

/** The norm over all gradients together; they are scaled in place where it is above `max`. */
export function clipGradients(gradients: readonly Float32Array[], max: number): number {
  let sum = 0
  for (const gradient of gradients) for (const g of gradient) sum += g * g
  const norm = Math.sqrt(sum)
  if (norm <= max) return norm
  for (const gradient of gradients) {
    for (let i = 0; i < gradient.length; i++) gradient[i] = (gradient[i]! * max) / norm
  }
  return norm
}
