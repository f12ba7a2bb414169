/** The bytes of Kafka's protocol: big-endian numbers, texts, arrays; and the compact forms of newer requests. */
import { groupBy } from './model.ts'

/** Big-endian; long runs of bytes are kept as they are and joined once at the end. */
export class Writer {
  readonly #parts: Buffer[] = []
  #current = Buffer.allocUnsafe(256)
  #at = 0

  i8(value: number): this {
    this.#at = this.#room(1).writeInt8(value, this.#at)
    return this
  }

  i16(value: number): this {
    this.#at = this.#room(2).writeInt16BE(value, this.#at)
    return this
  }

  i32(value: number): this {
    this.#at = this.#room(4).writeInt32BE(value, this.#at)
    return this
  }

  i64(value: number): this {
    this.#at = this.#room(8).writeBigInt64BE(BigInt(value), this.#at)
    return this
  }

  text(text: string): this {
    const size = Buffer.byteLength(text)
    this.i16(size)
    this.#room(size).write(text, this.#at, 'utf8')
    this.#at += size
    return this
  }

  bytes(bytes: Buffer): this {
    this.i32(bytes.length)
    this.#parts.push(this.#current.subarray(0, this.#at), bytes)
    this.#current = Buffer.allocUnsafe(256)
    this.#at = 0
    return this
  }

  /** How long a compact array or text is. */
  size(count: number): this {
    let left = count + 1
    for (; left > 0x7f; left >>>= 7) this.i8(((left & 0x7f) | 0x80) - 0x100)
    return this.i8(left)
  }

  compactText(text: string): this {
    const bytes = Buffer.from(text)
    this.size(bytes.length)
    bytes.copy(this.#room(bytes.length), this.#at)
    this.#at += bytes.length
    return this
  }

  /** No tagged fields. */
  tags(): this {
    return this.i8(0)
  }

  /** An array of topics, each with an array of what `each` writes. */
  grouped<T extends { topic: string }>(items: readonly T[], each: (item: T) => void): void {
    const topics = groupBy(items, ({ topic }) => topic)
    this.i32(topics.size)
    for (const [topic, group] of topics) {
      this.text(topic).i32(group.length)
      for (const item of group) each(item)
    }
  }

  #room(more: number): Buffer {
    if (this.#at + more > this.#current.length) {
      this.#parts.push(this.#current.subarray(0, this.#at))
      this.#current = Buffer.allocUnsafe(Math.max(256, more))
      this.#at = 0
    }
    return this.#current
  }

  buffer(): Buffer {
    return Buffer.concat([...this.#parts, this.#current.subarray(0, this.#at)])
  }
}

export class Reader {
  readonly #buffer: Buffer
  #at = 0

  constructor(buffer: Buffer) {
    this.#buffer = buffer
  }

  i16(): number {
    this.#at += 2
    return this.#buffer.readInt16BE(this.#at - 2)
  }

  i32(): number {
    this.#at += 4
    return this.#buffer.readInt32BE(this.#at - 4)
  }

  i64(): number {
    this.#at += 8
    return Number(this.#buffer.readBigInt64BE(this.#at - 8))
  }

  text(): string {
    const size = this.i16()
    this.#at += size
    return this.#buffer.toString('utf8', this.#at - size, this.#at)
  }

  bytes(): Buffer {
    const size = Math.max(0, this.i32())
    this.#at += size
    return this.#buffer.subarray(this.#at - size, this.#at)
  }

  skip(bytes: number): void {
    this.#at += bytes
  }

  /** The size of a compact array or text; 0 where it is missing. */
  size(): number {
    return Math.max(0, this.#varint() - 1)
  }

  compactText(): string {
    const size = this.size()
    this.#at += size
    return this.#buffer.toString('utf8', this.#at - size, this.#at)
  }

  /** Skips tagged fields. */
  tags(): void {
    for (let left = this.#varint(); left > 0; left--) {
      this.#varint()
      this.skip(this.#varint())
    }
  }

  #varint(): number {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      const byte = this.#buffer[this.#at++]!
      value |= (byte & 0x7f) << shift
      if (byte < 0x80) return value
    }
  }

  /** Calls `each` once for every element of an array; a missing one has none. */
  times(each: () => void): void {
    for (let left = this.i32(); left > 0; left--) each()
  }

  /** An array of topics, each with an array of what `each` reads. */
  grouped(each: (topic: string) => void): void {
    this.times(() => {
      const topic = this.text()
      this.times(() => each(topic))
    })
  }

  /** The same in the compact form; `each` reads the tagged fields of its own, where it has some. */
  compactGrouped(each: (topic: string) => void): void {
    for (let topics = this.size(); topics > 0; topics--) {
      const topic = this.compactText()
      for (let left = this.size(); left > 0; left--) each(topic)
      this.tags()
    }
  }
}
