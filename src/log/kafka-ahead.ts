/**
 * How far the fetcher reads ahead. What waits is memory, so it follows what the reader takes in a poll: small
 * records wait by the megabyte, large ones by as much as a batch of them needs, and never more than a bound.
 * Bytes are those of values, and what each record takes beside its value.
 */
import type { LogRecord } from './log.ts'

/** A fetch is asked for when half of these are left, so that it may take as long as two polls. */
const POLLS_AHEAD = 4
/** Also where polls take few records, or have not begun. */
const AHEAD_BYTES_MIN = 1 << 20
/** What a record takes in memory beside its value. */
const RECORD_BYTES = 200

export type Waiting = { bytes: number; waiting: number }

export class Ahead {
  readonly #bytesMax: number
  #bytes = AHEAD_BYTES_MIN

  /** `bytesMax`: above it nothing more is fetched, however much a poll takes. */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  /** What the last poll took. */
  took(records: readonly LogRecord[]): void {
    let bytes = records.length * RECORD_BYTES
    for (const { value } of records) bytes += value?.length ?? 0
    this.#bytes = Math.min(this.#bytesMax, Math.max(AHEAD_BYTES_MIN, POLLS_AHEAD * bytes))
  }

  /** The bytes that are to be fetched now; 0 while enough is waiting. */
  room(lanes: Iterable<Waiting>): number {
    let waiting = 0
    for (const lane of lanes) waiting += lane.bytes + lane.waiting * RECORD_BYTES
    return waiting < this.#bytes / 2 ? this.#bytes - waiting : 0
  }
}
