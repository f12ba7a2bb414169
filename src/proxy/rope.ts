/** Rotary embedding's frequencies, plain and scaled as Hugging Face's `modeling_rope_utils` does. */

export type RopeScaling =
  | { kind: 'default' }
  | { kind: 'linear'; factor: number }
  | {
      kind: 'llama3'
      factor: number
      lowFrequencyFactor: number
      highFrequencyFactor: number
      /** Longest sequence before scaling. */
      positionsBefore: number
    }
  /** Plain up to the model's own length, which is as far as sequences go here. */
  | { kind: 'dynamic' }
  | {
      kind: 'yarn'
      factor: number
      /** Turns over the old length from which a pair stays as it is, and below which it is divided. */
      turnsFast: number
      turnsSlow: number
      positionsBefore: number
      /** Are the pairs between which is blended whole ones. */
      truncates: boolean
      /** What cosines and sines are multiplied by. */
      amplitude: number
    }

/** Radians a position turns each pair of channels by: 1 / theta^(2i/dims), i < dims/2, scaled. */
export function ropeInverseFrequencies(
  theta: number,
  dims: number,
  scaling: RopeScaling = { kind: 'default' },
): Float64Array {
  const plain = Float64Array.from({ length: dims / 2 }, (_, i) => theta ** ((-2 * i) / dims))
  return scaling.kind === 'yarn'
    ? blended(plain, theta, scaling)
    : plain.map(frequency => scaled(frequency, scaling))
}

/** What every rotated channel is multiplied by. */
export function ropeAmplitude(scaling: RopeScaling): number {
  return scaling.kind === 'yarn' ? scaling.amplitude : 1
}

/** `yarn`: as `llama3`, but blended evenly over the pairs and not over their turns. */
function blended(
  plain: Float64Array,
  theta: number,
  scaling: Extract<RopeScaling, { kind: 'yarn' }>,
): Float64Array {
  const { factor, turnsFast, turnsSlow, positionsBefore, truncates } = scaling
  const dims = 2 * plain.length
  /** The pair that turns so often over the old length. */
  const pairOf = (turns: number): number =>
    (dims * Math.log(positionsBefore / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  const [fast, slow] = [pairOf(turnsFast), pairOf(turnsSlow)]
  const first = Math.max(0, truncates ? Math.floor(fast) : fast)
  const last = Math.min(dims - 1, truncates ? Math.ceil(slow) : slow)
  const width = last === first ? 0.001 : last - first
  return plain.map((frequency, i) => {
    const divided = Math.min(1, Math.max(0, (i - first) / width))
    return (divided * frequency) / factor + (1 - divided) * frequency
  })
}

/** `llama3`: fast turns stay, slow ones are divided by the factor, those between are blended. */
function scaled(frequency: number, scaling: Exclude<RopeScaling, { kind: 'yarn' }>): number {
  if (scaling.kind === 'default' || scaling.kind === 'dynamic') return frequency
  if (scaling.kind === 'linear') return frequency / scaling.factor
  const { factor, lowFrequencyFactor, highFrequencyFactor, positionsBefore } = scaling
  const turns = (positionsBefore * frequency) / (2 * Math.PI) // over the old length
  const share = (turns - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor)
  const kept = Math.min(1, Math.max(0, share))
  return kept * frequency + ((1 - kept) * frequency) / factor
}
