/**
 * A coordinator confirms a transaction before every reader sees its records. The visibility barrier lets whoever has written
 * wait until its records are visible, before it reads or ends.
 */
import { setTimeout } from 'node:timers/promises'
import type { Brokers } from '../../kafka/link/brokers.ts'
import type { Written } from '../../kafka/write/transaction.ts'

/** Another producer's open transaction may hide records for longer. */
const MS_MAX = 5_000

export class VisibilityBarrier {
  readonly #brokers: Brokers
  /** By topic and partition: the end of what we wrote. */
  readonly #ends = new Map<string, Map<number, number>>()

  constructor(brokers: Brokers) {
    this.#brokers = brokers
  }

  add(written: readonly Written[]): void {
    for (const { topic, partition, end } of written) {
      let ends = this.#ends.get(topic)
      if (ends === undefined) {
        ends = new Map()
        this.#ends.set(topic, ends)
      }
      ends.set(partition, Math.max(end, ends.get(partition) ?? 0))
    }
  }

  /** Resolves when readers see what was written to the topic. */
  async seen(topic: string): Promise<void> {
    const deadline = performance.now() + MS_MAX
    for (let waitMs = 1; performance.now() < deadline; waitMs = Math.min(2 * waitMs, 50)) {
      const ends = this.#ends.get(topic)
      if (ends === undefined) return
      const seen = await this.#brokers.offsets(topic, [...ends.keys()], 'end')
      for (const [partition, end] of ends) {
        if ((seen.get(partition) ?? 0) >= end) ends.delete(partition)
      }
      if (ends.size === 0) this.#ends.delete(topic)
      else await setTimeout(waitMs)
    }
  }

  async allSeen(): Promise<void> {
    await Promise.all([...this.#ends.keys()].map(topic => this.seen(topic)))
  }
}
