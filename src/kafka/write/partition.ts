/**
 * Which partition a record belongs to. A key has the same as with Kafka's default partitioner: the
 * local log chooses with this, too, so that a stream can move from one to the other. Source: the
 * murmur2 of Apache Kafka's clients (`Utils.murmur2`).
 */
const SEED = 0x9747b28c
const M = 0x5bd1e995

/** Chooses partitions: by the key, and in turn for records without one. */
export class Partitioner {
  readonly #turns = new Map<string, number>()

  /** `key`: as text, or its UTF-8 bytes. */
  choose(
    { name, partitions }: { name: string; partitions: number },
    key: string | Uint8Array | null,
  ): number {
    if (key !== null) return partitionOf(key, partitions)
    const turn = this.#turns.get(name) ?? 0
    this.#turns.set(name, (turn + 1) % partitions)
    return turn
  }
}

/** The partition of a key among `partitions`. */
export function partitionOf(key: string | Uint8Array, partitions: number): number {
  if (partitions === 1) return 0
  const bytes = typeof key === 'string' ? Buffer.from(key) : key
  return (murmur2(bytes) & 0x7fffffff) % partitions
}

function murmur2(bytes: Uint8Array): number {
  const end = bytes.length
  let h = SEED ^ end
  let at = 0
  for (; at + 4 <= end; at += 4) {
    const word =
      bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)
    let k = Math.imul(word, M)
    k = Math.imul(k ^ (k >>> 24), M)
    h = Math.imul(h, M) ^ k
  }
  const left = end - at
  if (left >= 3) h ^= bytes[at + 2]! << 16
  if (left >= 2) h ^= bytes[at + 1]! << 8
  if (left >= 1) h = Math.imul(h ^ bytes[at]!, M)
  h = Math.imul(h ^ (h >>> 13), M)
  return h ^ (h >>> 15)
}
