/**
 * Which partition a key belongs to: the same as Kafka's default partitioner, so that both engines
 * send a key to the same place. Source: the murmur2 of Apache Kafka's clients (`Utils.murmur2`).
 */
const SEED = 0x9747b28c
const M = 0x5bd1e995

/** The partition of a key's UTF-8 bytes: `bytes[start, end)`. */
export function partitionOfBytes(
  bytes: Uint8Array,
  start: number,
  end: number,
  partitions: number,
): number {
  return partitions === 1 ? 0 : (murmur2(bytes, start, end) & 0x7fffffff) % partitions
}

/** The partition of a key among `partitions`. */
export function partitionOf(key: string, partitions: number): number {
  const bytes = Buffer.from(key)
  return partitionOfBytes(bytes, 0, bytes.length, partitions)
}

function murmur2(bytes: Uint8Array, start: number, end: number): number {
  let h = SEED ^ (end - start)
  let at = start
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
