/** Seeded randomness: the same seed gives the same numbers everywhere. Never for secrets. */

/** Numbers in [0, 1) (mulberry32: 32 bits of state, passes gjrand's tests). */
export function seededRandom(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let x = Math.imul(state ^ (state >>> 15), state | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A seed of its own for each `name` (FNV-1a over seed and name). */
export function seedOf(seed: number, name: string): number {
  let hash = 0x811c9dc5 ^ seed
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193)
  return hash | 0
}

/** A number in [0, 1) for a content and a purpose (murmur3's finaliser over both halves). */
export function hashedDraw({ high, low }: { high: number; low: number }, purpose: number): number {
  let x = high ^ Math.imul(purpose, 0x9e3779b1)
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b) ^ low
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  x = Math.imul(x ^ (x >>> 16), 0x27d4eb2f)
  return ((x ^ (x >>> 15)) >>> 0) / 2 ** 32
}

/** Deviates of the standard normal distribution (Box-Muller). */
export function normalDeviates(random: () => number, length: number): Float32Array {
  const values = new Float32Array(length)
  for (let i = 0; i < length; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - random()))
    const angle = 2 * Math.PI * random()
    values[i] = radius * Math.cos(angle)
    if (i + 1 < length) values[i + 1] = radius * Math.sin(angle)
  }
  return values
}

/** 0 … length - 1 in random order (Fisher-Yates). */
export function permutation(random: () => number, length: number): number[] {
  const order = Array.from({ length }, (_, i) => i)
  for (let i = length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1))
    const kept = order[i]!
    order[i] = order[j]!
    order[j] = kept
  }
  return order
}
