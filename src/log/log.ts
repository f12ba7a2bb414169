/**
 * The log port: topics of partitions of records, consumer groups with positions, and one atomic
 * commit of outputs, positions and state. Two implementations: `local/` (LMDB) and `kafka/`. Roles
 * can't tell them apart; both pass `test/log/contract.ts`. Records, places and topics are those of
 * the Kafka client.
 */
import { XmasdError } from '../errors.ts'
import type { TopicSpec } from '../kafka/link/topics.ts'
import type { LogRecord, OutRecord, Place, Position, RawHeaders } from '../kafka/wire/model.ts'

export { placeKey } from '../kafka/wire/model.ts'
export type { LogRecord, OutRecord, Place, Position, RawHeaders, TopicSpec }

/**
 * A group's durable key-value state beside the log. Reads see what was committed; writes happen
 * only inside `commit`. Keys order as tuples of numbers and strings.
 */
export type StateKey = string | number | readonly (string | number)[]
export interface StateReader {
  get(key: StateKey): Uint8Array | undefined
  /** Entries with `from` <= key < `to`, in key order. */
  range(from: StateKey, to: StateKey): Iterable<{ key: StateKey; value: Uint8Array }>
}
export interface StateWriter {
  put(key: StateKey, value: Uint8Array): void
  remove(key: StateKey): void
}

export type Commit = {
  /** Next offsets to read, of partitions that this consumer owns. */
  positions: Position[]
  /** In their order. RangeError where there are some and no position moves. */
  outputs: OutRecord[]
  /**
   * Writes state in the same commit. After a crash state may lag behind the positions (an engine
   * whose log is remote commits state second), never lead: a reader folds the gap again.
   */
  state?: (writer: StateWriter) => void
}

export interface Consumer {
  /**
   * The next records of the owned partitions, in offset order within a partition, at most
   * `recordsMax` and about `bytesMax` of values; empty when none came within `waitMsMax`. Each call
   * continues where the last one ended, committed or not.
   */
  poll(options: { recordsMax: number; bytesMax?: number; waitMsMax: number }): Promise<LogRecord[]>
  /**
   * All of it or nothing. Throws LOG_FENCED (retryable) when another member has moved or taken
   * some of the partitions since; `refusedPlaces` tells which. Drop what is in flight of those,
   * `rewind` them, and commit the rest again.
   */
  commit(commit: Commit): Promise<void>
  /** Committed positions of the owned partitions; 0 where nothing was committed. */
  positions(): Promise<Position[]>
  /** Read again from the committed positions; of all partitions, or of these. */
  rewind(places?: readonly Place[]): Promise<void>
  /**
   * Changes when a partition is assigned or revoked, or another member has moved one, before such
   * records are polled: a fold then reads state and positions again.
   */
  readonly epoch: number
  readonly state: StateReader
  close(): Promise<void>
}

export type Lag = Position & {
  /**
   * Records from the committed `offset` on: 0 where there are none, else an upper bound (an engine
   * may count offsets that hold no record).
   */
  behind: number
  /** When the first of those records was appended. */
  oldest: number | undefined
}

export interface Log {
  readonly kind: 'local' | 'kafka'
  /** The largest record that the log takes, key and headers included. */
  readonly recordBytesMax: number
  /** Creates missing topics. Throws TOPIC_MISMATCH where a topic is not as specified. */
  ensureTopics(specs: readonly TopicSpec[]): Promise<void>
  /** Appends outside any consumer, atomically. Resolves when durable. */
  append(records: readonly OutRecord[]): Promise<void>
  /** `isStateless`: this member keeps no state and needs no folder for it. */
  consume(options: {
    group: string
    topics: readonly string[]
    isStateless?: boolean
  }): Promise<Consumer>
  /** Records of one partition with `from` <= offset < `to`, in order. Default `to`: the end now. */
  read(
    topic: string,
    options?: { partition?: number; from?: number; to?: number },
  ): AsyncIterable<LogRecord>
  /** One record, or undefined where nothing is at that offset. */
  get(topic: string, partition: number, offset: number): Promise<LogRecord | undefined>
  /** The offset after the last record, one a partition. */
  ends(topic: string): Promise<number[]>
  /** A group's committed positions, one a partition; 0 where nothing was committed. */
  committed(group: string, topic: string): Promise<number[]>
  /** What a group has not read of a topic yet, one a partition. */
  lag(group: string, topic: string): Promise<Lag[]>
  close(): Promise<void>
}

/** Those who wait for something to happen in this process. */
export class Waiters {
  readonly #wakes = new Set<() => void>()

  /** Resolves with the next `wake`, at the latest after `ms`. */
  wait(ms: number): Promise<void> {
    return new Promise(resolve => {
      const wake = (): void => {
        clearTimeout(timer)
        this.#wakes.delete(wake)
        resolve()
      }
      const timer = setTimeout(wake, ms)
      this.#wakes.add(wake)
    })
  }

  wake(): void {
    for (const wake of this.#wakes) wake()
  }
}

/** LOG_FENCED: nothing of `places` was committed. */
export function fenced(places: readonly Place[], message: string): XmasdError {
  const hint = 'nothing of that was committed: rewind and poll again'
  return new XmasdError('LOG_FENCED', message, hint, {
    retryable: true,
    cause: new Refused(places),
  })
}

class Refused {
  readonly places: readonly Place[]

  constructor(places: readonly Place[]) {
    this.places = places
  }
}

/** The places that a LOG_FENCED refused; undefined for any other error. */
export function refusedPlaces(error: unknown): readonly Place[] | undefined {
  const isFenced = error instanceof XmasdError && error.code === 'LOG_FENCED'
  return isFenced && error.cause instanceof Refused ? error.cause.places : undefined
}

/** Outputs have to follow from something: else nobody could tell whether a commit that broke off came through. */
export function withoutMove(): RangeError {
  return new RangeError('a commit with outputs has to move a position')
}
