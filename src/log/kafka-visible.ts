/**
 * The end of a transaction is answered before every reader sees it. Who has written something and reads
 * then, or ends, waits until it is to be seen.
 */
import { setTimeout } from 'node:timers/promises'
import type { Cluster } from './kafka-cluster.ts'
import type { Written } from './kafka-transactions.ts'

/** Another one's open transaction may hide it for longer: then it is seen when that has ended. */
const MS_MAX = 5_000

export class Unseen {
  readonly #cluster: Cluster
  /** By topic and partition: the end of what we wrote. */
  readonly #ends = new Map<string, Map<number, number>>()

  constructor(cluster: Cluster) {
    this.#cluster = cluster
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

  /** Resolves once readers see what we wrote to the topic. */
  async seen(topic: string): Promise<void> {
    const deadline = performance.now() + MS_MAX
    for (let waitMs = 1; performance.now() < deadline; waitMs = Math.min(2 * waitMs, 50)) {
      const ends = this.#ends.get(topic)
      if (ends === undefined) return
      const seen = await this.#cluster.offsets(topic, [...ends.keys()], 'end')
      for (const [partition, end] of ends) {
        if ((seen.get(partition) ?? 0) > end) ends.delete(partition)
      }
      if (ends.size === 0) this.#ends.delete(topic)
      else await setTimeout(waitMs)
    }
  }

  async allSeen(): Promise<void> {
    await Promise.all([...this.#ends.keys()].map(topic => this.seen(topic)))
  }
}
