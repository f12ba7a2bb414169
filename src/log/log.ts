/**
 * The log port: topics of partitions of records, consumer groups with positions, and one atomic
 * commit of outputs + positions + state. Two implementations: `local.ts` (LMDB) and, later,
 * `kafka.ts`. Roles can't tell them apart; `test/log/contract.ts` is what both must pass.
 */

/** A record to append. `key: null` spreads over partitions and is refused on a compacted topic. */
export type OutRecord = {
  topic: string
  key: string | null
  /** `null` is a tombstone: it removes the key from a compacted topic. */
  value: Uint8Array | null
  headers?: Record<string, string>
  /** Chosen by the key's hash where absent. */
  partition?: number
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
   * All of it or nothing. Throws LOG_FENCED (retryable) when another member has moved or taken a
   * partition since: drop what is in flight, `rewind()`, poll again.
   */
  commit(commit: Commit): Promise<void>
  /** Committed positions of the owned partitions; 0 where nothing was committed. */
  positions(): Promise<Position[]>
  /** Read again from the committed positions. */
  rewind(): Promise<void>
  readonly state: StateReader
  close(): Promise<void>
}

export interface Log {
  readonly kind: 'local' | 'kafka'
  /** Creates what is missing; TOPIC_MISMATCH where partitions or compaction differ. */
  ensureTopics(specs: readonly TopicSpec[]): Promise<void>
  /** Appends outside any consumer; all of it or nothing. Resolves when durable. */
  append(records: readonly OutRecord[]): Promise<void>
  consume(options: { group: string; topics: readonly string[] }): Promise<Consumer>
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
  close(): Promise<void>
}
