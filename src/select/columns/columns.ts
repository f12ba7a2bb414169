/**
 * Growing columns of numbers, one value an example, in chunks of a fixed length: growing copies nothing,
 * wastes less than one chunk and never blocks the event loop. Two classes, because a shared one would make
 * the hot accesses polymorphic.
 */
import { grown } from '../../math/vectors.ts'

const CHUNK_BITS = 14
const CHUNK_LENGTH = 1 << CHUNK_BITS
const CHUNK_MASK = CHUNK_LENGTH - 1

export class Float64Column {
  readonly #chunks: Float64Array[] = []
  length = 0

  push(value: number): void {
    const index = this.length++
    if ((index & CHUNK_MASK) === 0) this.#chunks.push(new Float64Array(CHUNK_LENGTH))
    this.#chunks[index >>> CHUNK_BITS]![index & CHUNK_MASK] = value
  }

  at(index: number): number {
    return this.#chunks[index >>> CHUNK_BITS]![index & CHUNK_MASK]!
  }
}

export class Uint32Column {
  readonly #chunks: Uint32Array[] = []
  length = 0

  push(value: number): void {
    const index = this.length++
    if ((index & CHUNK_MASK) === 0) this.#chunks.push(new Uint32Array(CHUNK_LENGTH))
    this.#chunks[index >>> CHUNK_BITS]![index & CHUNK_MASK] = value
  }

  at(index: number): number {
    return this.#chunks[index >>> CHUNK_BITS]![index & CHUNK_MASK]!
  }

  get bytes(): number {
    return this.#chunks.length * CHUNK_LENGTH * 4
  }
}

/** Byte strings end to end, found again by where they start. Grows by a half. */
export class Texts {
  #bytes = new Uint8Array(1024)
  #end = 0

  /** Where the text starts, for `compare`. */
  push(text: string): number {
    const start = this.#end
    const encoded = Buffer.from(text)
    this.#reserve(start + 4 + encoded.length)
    new DataView(this.#bytes.buffer).setUint32(start, encoded.length, true)
    this.#bytes.set(encoded, start + 4)
    this.#end = start + 4 + encoded.length
    return start
  }

  /** Below 0 where the text at `a` comes first, in the order of code points. */
  compare(a: number, b: number): number {
    const bytes = this.#bytes
    const view = new DataView(bytes.buffer)
    const lengthA = view.getUint32(a, true)
    const lengthB = view.getUint32(b, true)
    const length = Math.min(lengthA, lengthB)
    for (let i = 4; i < 4 + length; i++) {
      const difference = bytes[a + i]! - bytes[b + i]!
      if (difference !== 0) return difference
    }
    return lengthA - lengthB
  }

  #reserve(end: number): void {
    if (end <= this.#bytes.length) return
    this.#bytes = grown(this.#bytes, Math.max(end, Math.ceil(this.#bytes.length * 1.5)))
  }
}
