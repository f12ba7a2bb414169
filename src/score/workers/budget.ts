type Question<Owner> = { owner: Owner; bytes: number; grant: () => void }

/**
 * Bytes that workers may hold at a time, all together. Who asks is answered in turn, once the bytes fit.
 * Two are never refused, so that nobody waits for ever: the first to hold anything, whatever it asks for,
 * and whoever has held something for longest, who could otherwise wait for itself.
 */
export class ByteBudget<Owner> {
  readonly bytesMax: number
  /** In the order in which they began to hold something. */
  readonly #held = new Map<Owner, number>()
  #waiting: Question<Owner>[] = []

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax
  }

  get heldBytes(): number {
    return [...this.#held.values()].reduce((sum, bytes) => sum + bytes, 0)
  }

  holds(owner: Owner): boolean {
    return this.#held.has(owner)
  }

  /** Calls `grant` once `owner` holds `bytes`: at once where they fit. */
  ask(owner: Owner, bytes: number, grant: () => void): void {
    this.#waiting.push({ owner, bytes, grant })
    this.#grantNext()
  }

  release(owner: Owner, bytes: number): void {
    const left = (this.#held.get(owner) ?? 0) - bytes
    if (left > 0) this.#held.set(owner, left)
    else this.#held.delete(owner)
    this.#grantNext()
  }

  /** The owner is gone: what it held is free, what it asked for is forgotten. */
  forget(owner: Owner): void {
    this.#held.delete(owner)
    this.#waiting = this.#waiting.filter(one => one.owner !== owner)
    this.#grantNext()
  }

  #grantNext(): void {
    for (;;) {
      const at = this.#waiting.findIndex((one, i) => this.#mayHold(one.owner, one.bytes, i === 0))
      if (at < 0) return
      const [{ owner, bytes, grant }] = this.#waiting.splice(at, 1) as [Question<Owner>]
      this.#held.set(owner, (this.#held.get(owner) ?? 0) + bytes)
      grant()
    }
  }

  #mayHold(owner: Owner, bytes: number, isFirst: boolean): boolean {
    const [oldest] = this.#held.keys()
    if (oldest === undefined || oldest === owner) return true
    return isFirst && this.heldBytes + bytes <= this.bytesMax
  }
}
