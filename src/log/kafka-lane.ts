/**
 * One input partition as a consumer knows it: what was fetched and not yet given out, how far it was given
 * out, what is committed, and the claim under which commits are made. Its numbers:
 *
 *   committed ≤ delivered ≤ fetchFrom      (next offsets; busy: delivered > committed)
 */
import type { Fetched } from './kafka-batch.ts'
import type { Ledger } from './kafka-settle.ts'
import type { Claim } from './kafka-transactions.ts'
import type { LogRecord } from './log.ts'

export class Lane {
  readonly topic: string
  readonly partition: number
  /** The group has given it to us. */
  isAssigned = false
  /** Ours, or not yet let go: what was given out of it is still worked on. */
  isHeld = false
  /** Claimed since it was assigned: may be fetched from. */
  isReady = false
  /** Somebody moved its position while records of it were out: commits are refused until `restart`. */
  isVoid = false
  /** Undefined where it is to be claimed again: a transaction broke off, or a connection. */
  claim: Claim | undefined
  ledger: Ledger | undefined
  committed = 0
  delivered = 0
  fetchFrom = 0
  /** Counts restarts: what was asked for before one is thrown away. */
  version = 0
  isBeingFetched = false
  /** The number of the last fetch that brought it records, of all lanes' fetches. */
  filled = 0
  bytes = 0
  /** Ends when the last commit that was asked for has ended: commits of a lane are in order. */
  committing: Promise<unknown> = Promise.resolve()
  #isKnown = false
  #queue: LogRecord[] = []
  #head = 0

  constructor(topic: string, partition: number) {
    this.topic = topic
    this.partition = partition
  }

  get isBusy(): boolean {
    return this.delivered > this.committed
  }

  get waiting(): number {
    return this.#queue.length - this.#head
  }

  get isDelivering(): boolean {
    return this.isAssigned && this.isReady && !this.isVoid
  }

  /**
   * The position as it is now that `claim` keeps all others out. True where it is news: somebody else moved
   * it, or we never had this partition.
   */
  adopt(claim: Claim, position: number | undefined): boolean {
    this.claim = claim
    const committed = position ?? 0
    const isNews = !this.#isKnown || committed !== this.committed
    this.#isKnown = true
    if (!isNews) return false
    const isOut = this.isBusy
    this.committed = committed
    if (isOut) this.isVoid = true
    else this.restart()
    return true
  }

  /** Gives out again from the committed position. */
  restart(): void {
    this.isVoid = false
    this.delivered = this.committed
    this.#drop()
  }

  /** What waits, or is being fetched, is somebody else's now. */
  letGo(): void {
    this.isHeld = false
    this.#drop()
  }

  #drop(): void {
    this.fetchFrom = this.delivered
    this.version++
    this.#queue = []
    this.#head = 0
    this.bytes = 0
  }

  /** What a fetch from `fetchFrom` gave. */
  put({ records, next, bytes }: Fetched): void {
    this.fetchFrom = next
    this.bytes += bytes
    if (this.#head > 0) {
      this.#queue.splice(0, this.#head)
      this.#head = 0
    }
    for (const record of records) this.#queue.push(record)
  }

  /** Moves up to `recordsMax` records, about `bytesMax` bytes of values, to `into`; gives their bytes. */
  take(recordsMax: number, bytesMax: number, into: LogRecord[]): number {
    let taken = 0
    const end = Math.min(this.#queue.length, this.#head + recordsMax)
    while (this.#head < end && taken < bytesMax) {
      const record = this.#queue[this.#head++]!
      taken += record.value?.length ?? 0
      into.push(record)
      this.delivered = record.offset + 1
    }
    this.bytes -= taken
    return taken
  }
}
