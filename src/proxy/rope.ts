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

/** Radians a position turns each pair of channels by: 1 / theta^(2i/dims), i < dims/2, scaled. */
export function ropeInverseFrequencies(
  theta: number,
  dims: number,
  scaling: RopeScaling = { kind: 'default' },
): Float64Array {
  return Float64Array.from({ length: dims / 2 }, (_, i) =>
    scaled(theta ** ((-2 * i) / dims), scaling),
  )
}

/** `llama3`: fast turns stay, slow ones are divided by the factor, those between are blended. */
function scaled(frequency: number, scaling: RopeScaling): number {
  if (scaling.kind === 'default') return frequency
  if (scaling.kind === 'linear') return frequency / scaling.factor
  const { factor, lowFrequencyFactor, highFrequencyFactor, positionsBefore } = scaling
  const turns = (positionsBefore * frequency) / (2 * Math.PI) // over the old length
  const share = (turns - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor)
  const kept = Math.min(1, Math.max(0, share))
  return kept * frequency + ((1 - kept) * frequency) / factor
}
