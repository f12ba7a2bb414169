/**
 * The input partitions of a consumer.
 *
 *   released ──assign──► opening ──onClaimed──► ready ──takeAway──► leaving ──► released
 *      ▲                    │                  │   ▲                 │          (committed, or too late)
 *      └──── takeAway, release ◄───────────────┘   └──── assign ─────┘
 *
 * A partition is stale while records of it are in hand and another member has moved its position: commits of them are
 * refused until `restart`. Its numbers, unless it is stale (next offsets; busy: delivered > committed):
 *
 *   committed ≤ delivered ≤ fetchFrom
 */

import assert from 'node:assert/strict'
import type { Fetched } from '../wire/batch.ts'
import { type LogRecord, type Place, placeKey, placeOf } from '../wire/model.ts'

export type PartitionState =
  /** Another member's, or nobody's. Records of it may still be in hand. */
  | 'released'
  /** Ours; its position is being read. */
  | 'opening'
  /** Ours; it is fetched and polled. */
  | 'ready'
  /** Wanted elsewhere; held for the records in hand. */
  | 'leaving'

export class AssignedPartition {
  readonly topic: string
  readonly partition: number
  committed = 0
  delivered = 0
  fetchFrom = 0
  /** Counts restarts. A fetch that was sent before a restart is dropped. */
  version = 0
  isBeingFetched = false
  /** The number of the last fetch that brought it records, of all partitions' fetches. */
  filled = 0
  bytes = 0
  /** Resolves when it is not opening. */
  opened: Promise<void> = Promise.resolve()
  #state: PartitionState = 'released'
  #isStale = false
  #isKnown = false
  #openings = 0
  #onOpened: () => void = () => {}
  #handover: NodeJS.Timeout | undefined
  #queue: LogRecord[] = []
  #head = 0

  constructor(topic: string, partition: number) {
    this.topic = topic
    this.partition = partition
  }

  get state(): PartitionState {
    return this.#state
  }

  get isStale(): boolean {
    return this.#isStale
  }

  get isHeld(): boolean {
    return this.#state !== 'released'
  }

  get isAssigned(): boolean {
    return this.#state === 'opening' || this.#state === 'ready'
  }

  get isDelivering(): boolean {
    return this.#state === 'ready' && !this.#isStale
  }

  get isBusy(): boolean {
    return this.delivered > this.committed
  }

  get waiting(): number {
    return this.#queue.length - this.#head
  }

  /** Whether this member may move the position there. */
  canCommit(offset: number): boolean {
    const isOurs = this.#state === 'ready' || this.#state === 'leaving'
    return isOurs && !this.#isStale && offset >= this.committed && offset <= this.delivered
  }

  /** The group has assigned it. A partition that was held all the time goes on; otherwise returns the number of an opening. */
  assign(isContinuous: boolean): number | undefined {
    clearTimeout(this.#handover)
    if (isContinuous && (this.#state === 'ready' || this.#state === 'leaving')) {
      this.#become('ready')
      return undefined
    }
    this.#become('opening')
    this.opened = new Promise(resolve => {
      this.#onOpened = resolve
    })
    return ++this.#openings
  }

  /** Takes the position that was read for an opening. True when it is news: another member moved it, or it is new here. */
  onClaimed(opening: number, position: number | undefined): boolean {
    if (this.#state !== 'opening' || opening !== this.#openings) return false
    this.#become('ready')
    return this.onPosition(position ?? 0)
  }

  /** Takes a position that was read again. */
  onPosition(committed: number): boolean {
    const isNews = !this.#isKnown || committed !== this.committed
    this.#isKnown = true
    if (!isNews) return false
    const isBusy = this.isBusy
    this.committed = committed
    if (this.#state === 'leaving') this.release()
    else if (isBusy || this.#isStale) this.#isStale = true
    else this.restart()
    return true
  }

  onCommitted(offset: number): void {
    this.committed = offset
    this.#check()
  }

  /** It is wanted elsewhere: nothing more is given out of it; what is in hand may be committed, but not for ever. */
  takeAway(handoverMsMax: number, onTooLate: () => void): void {
    if (this.#state === 'leaving' || this.#state === 'released') return
    if (!this.isDelivering || !this.isBusy) {
      this.release()
      return
    }
    this.#become('leaving')
    this.#drop()
    this.#handover = setTimeout(onTooLate, handoverMsMax).unref()
  }

  /** What waits, or is being fetched, is somebody else's now. */
  release(): void {
    clearTimeout(this.#handover)
    this.#become('released')
    this.#drop()
  }

  /** Gives out again from the committed position. */
  restart(): void {
    this.#isStale = false
    this.delivered = this.committed
    this.#drop()
    this.#check()
  }

  #become(state: PartitionState): void {
    this.#state = state
    if (state !== 'opening') this.#onOpened()
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
    this.#check()
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

  #check(): void {
    const { committed, delivered, fetchFrom } = this
    const isOrdered = committed <= delivered && delivered <= fetchFrom
    assert.ok(
      this.#isStale || isOrdered,
      `${placeKey(this)}: ${committed} ${delivered} ${fetchFrom}`,
    )
  }
}

/** Found by place, held or released, polled in turn. */
export class AssignedPartitions {
  readonly #partitions = new Map<string, AssignedPartition>()
  #turn = 0

  at(place: Place): AssignedPartition | undefined {
    return this.#partitions.get(placeKey(place))
  }

  [Symbol.iterator](): Iterator<AssignedPartition> {
    return this.#partitions.values()
  }

  /** Made where it is not known: a topic may be given more partitions. */
  ensure({ topic, partition }: Place): AssignedPartition {
    const known = this.at({ topic, partition })
    if (known !== undefined) return known
    const made = new AssignedPartition(topic, partition)
    this.#partitions.set(placeKey(made), made)
    return made
  }

  held(): Place[] {
    return [...this].filter(({ isHeld }) => isHeld).map(placeOf)
  }

  /** From one partition as much as there is, then from the next; every one has its turn. */
  take(recordsMax: number, bytesMax: number): LogRecord[] {
    const records: LogRecord[] = []
    const filled = [...this].filter(one => one.isDelivering && one.waiting > 0)
    let bytes = 0
    for (let i = 0; i < filled.length && records.length < recordsMax && bytes < bytesMax; i++) {
      const partition = filled[(this.#turn + i) % filled.length]!
      bytes += partition.take(recordsMax - records.length, bytesMax - bytes, records)
    }
    this.#turn++
    return records
  }
}
