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
  /** Plain: sequences stay within the model's own length. */
  | { kind: 'dynamic' }
  | {
      kind: 'yarn'
      factor: number
      /**
       * Turns over the length before scaling. Pairs that turn more often than `turnsFast` keep their
       * frequency, those below `turnsSlow` are divided by `factor`, those between are blended.
       */
      turnsFast: number
      turnsSlow: number
      positionsBefore: number
      /** Whether the two limits are rounded to whole pairs. */
      truncates: boolean
      /** Factor of cosines and sines. */
      amplitude: number
    }

/** How tokens are turned. */
export type Rope = {
  ropeTheta: number
  /** Channels of a head that are turned. */
  rotaryDims: number
  ropeScaling: RopeScaling
  /** Which of a token's positions turns each frequency, where it has several. */
  ropeAxes?: readonly number[]
}

/**
 * Cosines and sines [T, F] for tokens at `positions` [A, T], F = rotaryDims / 2. Worked out in float64:
 * angles of late positions lose digits in float32.
 */
export function rotaryTables(
  { ropeTheta, rotaryDims, ropeScaling, ropeAxes }: Rope,
  positions: ArrayLike<number>,
  tokens: number,
): { cos: Float32Array; sin: Float32Array } {
  const frequencies = ropeInverseFrequencies(ropeTheta, rotaryDims, ropeScaling)
  const axes = ropeAxes ?? Array<number>(frequencies.length).fill(0)
  const amplitude = ropeScaling.kind === 'yarn' ? ropeScaling.amplitude : 1
  return turnedBy(frequencies, axes, positions, tokens, amplitude)
}

/** The same by `frequencies` [F], each of which turns by the position on its axis. */
export function turnedBy(
  frequencies: ArrayLike<number>,
  axes: readonly number[],
  positions: ArrayLike<number>,
  tokens: number,
  amplitude = 1,
): { cos: Float32Array; sin: Float32Array } {
  const count = frequencies.length
  const known = new Map<number, { cos: Float32Array; sin: Float32Array }>()
  const at = (position: number): { cos: Float32Array; sin: Float32Array } => {
    const found = known.get(position) ?? {
      cos: Float32Array.from(frequencies, f => amplitude * Math.cos(position * f)),
      sin: Float32Array.from(frequencies, f => amplitude * Math.sin(position * f)),
    }
    known.set(position, found)
    return found
  }
  const [cos, sin] = [new Float32Array(tokens * count), new Float32Array(tokens * count)]
  for (let t = 0; t < tokens; t++) {
    for (let i = 0; i < count; i++) {
      const row = at(positions[axes[i]! * tokens + t]!)
      cos[t * count + i] = row.cos[i]!
      sin[t * count + i] = row.sin[i]!
    }
  }
  return { cos, sin }
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

/** `yarn`: as `llama3`, but blended linearly over the pairs instead of over their turns. */
function blended(
  plain: Float64Array,
  theta: number,
  scaling: Extract<RopeScaling, { kind: 'yarn' }>,
): Float64Array {
  const { factor, turnsFast, turnsSlow, positionsBefore, truncates } = scaling
  const dims = 2 * plain.length
  /** The pair that makes this many turns over the length before scaling. */
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

/** `llama3`: fast pairs keep their frequency, slow ones are divided by `factor`, others blended. */
function scaled(frequency: number, scaling: Exclude<RopeScaling, { kind: 'yarn' }>): number {
  if (scaling.kind === 'default' || scaling.kind === 'dynamic') return frequency
  if (scaling.kind === 'linear') return frequency / scaling.factor
  const { factor, lowFrequencyFactor, highFrequencyFactor, positionsBefore } = scaling
  const turns = (positionsBefore * frequency) / (2 * Math.PI) // over the length before scaling
  const share = (turns - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor)
  const kept = Math.min(1, Math.max(0, share))
  return kept * frequency + ((1 - kept) * frequency) / factor
}
