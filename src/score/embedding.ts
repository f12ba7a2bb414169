/**
 * The embedding of an example: the pooled hidden state of the forward pass, in D signed bytes. Only its
 * direction means something: it is read back at unit length.
 */

const LARGEST = 127

/** Base64 of D signed bytes, the largest component as ±127. Zeros stay zeros. */
export function encodeEmbedding(values: ArrayLike<number>): string {
  let largest = 0
  for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]!))
  const factor = largest > 0 ? LARGEST / largest : 0
  const bytes = Int8Array.from(values, value => Math.round(value * factor))
  return Buffer.from(bytes.buffer).toString('base64')
}

/** The unit vector [D] that stands in base64; zeros where all bytes are 0. */
export function decodeEmbedding(text: string): Float64Array {
  const bytes = Buffer.from(text, 'base64')
  const values = Float64Array.from(bytes, byte => (byte << 24) >> 24)
  const norm = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
  return norm > 0 ? values.map(value => value / norm) : values
}
