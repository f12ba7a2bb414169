/**
 * AdamW (Loshchilov & Hutter, arXiv 1711.05101) on typed arrays, with the usual schedule and the
 * usual clipping.
 */

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
