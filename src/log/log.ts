/**
 * The log port: topics of partitions of records, consumer groups with positions, and one atomic
 * commit of outputs + positions + state. Two implementations: `local.ts` (LMDB) and `kafka.ts`.
 * Roles can't tell them apart; `test/log/contract.ts` is what both must pass.
 */
import { XmasdError } from '../errors.ts'

export type Place = { topic: string; partition: number }

/** A record to append. `key: null` spreads over partitions and is refused on a compacted topic. */
export type OutRecord = {
  topic: string
  key: string | null
  /** `null` is a tombstone: it removes the key from a compacted topic. */
  value: Uint8Array | null
  headers?: Record<string, string>
  /** Chosen by the key's hash where absent. */
  partition?: number
  /**
   * The consumed partition that it follows from. A commit that moves several partitions is atomic
   * for each of them apart, so there every output has to name its own.
   */
  source?: Place
}

/** A record as read. Offsets grow within a partition but need not be dense. */
export type LogRecord = {
  topic: string
  partition: number
  offset: number
  key: string | null
  value: Uint8Array | null
  headers: Record<string, string>
  /** Milliseconds since the epoch, as stamped on append. */
  timestamp: number
}

export type TopicSpec = {
  name: string
  partitions: number
  /** Keep at least the latest record of every key; older ones may go. */
  compacted?: boolean
  /** Milliseconds that records are kept, -1 for good; absent: as the engine has it. */
  retentionMs?: number
}

/** The next offset to read of one partition. */
export type Position = { topic: string; partition: number; offset: number }

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
  /** Those that follow from one partition keep their order; those of several may come in any among each other. */
  outputs: OutRecord[]
  /**
   * Writes state in the same commit. After a crash state may lag behind the positions (an engine
   * whose log lives elsewhere commits state second), never lead: a reader folds the gap again.
   */
  state?: (writer: StateWriter) => void
}

export interface Consumer {
  /**
   * The next records of the owned partitions, in offset order within a partition, at most
   * `recordsMax` and about `bytesMax` of values; empty when none came within `waitMsMax`.
   * Consecutive calls go on where the last one ended, whether or not that was committed.
   */
  poll(options: { recordsMax: number; bytesMax?: number; waitMsMax: number }): Promise<LogRecord[]>
  /**
   * All of it or nothing, each moved partition with its outputs for itself. Throws LOG_FENCED
   * (retryable) when another member has moved or taken some of them since; `refusedPlaces` tells
   * which, the others are committed. Drop what is in flight of those, `rewind` them, poll again.
   */
  commit(commit: Commit): Promise<void>
  /** Committed positions of the owned partitions; 0 where nothing was committed. */
  positions(): Promise<Position[]>
  /** Read again from the committed positions; of all partitions, or of these. */
  rewind(places?: readonly Place[]): Promise<void>
  /**
   * Another number after a partition has come or gone, or another member has moved one: whoever
   * folds has to look at state and positions again. It changes before such records are polled.
   */
  readonly epoch: number
  readonly state: StateReader
  close(): Promise<void>
}

export type Lag = Position & {
  /**
   * Records from the committed `offset` on: 0 where there are none, else at least as many as there
   * are (an engine may count what takes an offset and is no record).
   */
  behind: number
  /** When the first of them was appended. */
  oldest: number | undefined
}

export interface Log {
  readonly kind: 'local' | 'kafka'
  /** The largest record that it takes, key and headers included. */
  readonly recordBytesMax: number
  /** Creates what is missing; TOPIC_MISMATCH where a topic is not as specified. */
  ensureTopics(specs: readonly TopicSpec[]): Promise<void>
  /** Appends outside any consumer; all of it or nothing. Resolves when durable. */
  append(records: readonly OutRecord[]): Promise<void>
  /** `isStateless`: this member keeps no state, and needs no place for it. */
  consume(options: {
    group: string
    topics: readonly string[]
    isStateless?: boolean
  }): Promise<Consumer>
  /** Records of one partition with `from` <= offset < `to` (default: the end now), in order. */
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
  /** What a group has yet to read of a topic, one a partition. */
  lag(group: string, topic: string): Promise<Lag[]>
  close(): Promise<void>
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

/** What a LOG_FENCED refused; undefined for any other error. */
export function refusedPlaces(error: unknown): readonly Place[] | undefined {
  const isFenced = error instanceof XmasdError && error.code === 'LOG_FENCED'
  return isFenced && error.cause instanceof Refused ? error.cause.places : undefined
}

export function placeKey({ topic, partition }: Place): string {
  return `${topic}/${partition}`
}

/**
 * The outputs of a commit by the partition that they follow from. Throws RangeError where an output
 * of several moved partitions names none of them.
 */
export function outputsBySource(commit: Commit): Map<string, OutRecord[]> {
  const { positions, outputs } = commit
  const bySource = new Map<string, OutRecord[]>(positions.map(place => [placeKey(place), []]))
  const [only] = positions.length === 1 ? bySource.values() : []
  for (const output of outputs) {
    const { source } = output
    const group = source === undefined ? only : bySource.get(placeKey(source))
    if (group === undefined) {
      throw new RangeError(`an output to ${output.topic} follows from no partition that is moved`)
    }
    group.push(output)
  }
  return bySource
}
