/**
 * A consumer of the local log. Every consumer of a group reads all partitions; of two commits from the
 * same positions the second is fenced, because the positions have moved.
 */
import type { LogEvents, TransactionOutcome } from '../../observe/logger.ts'
import {
  type Commit,
  type Consumer,
  fenced,
  type LogRecord,
  type Place,
  type Position,
  placeKey,
  refusedPlaces,
  type StateReader,
  withoutMove,
} from '../log.ts'
import { decodeFrame, type Frame, prepareAppend, writeAppend } from './append.ts'
import { type Environment, OFFSET_MAX } from './environment.ts'
import { collectState, stateReader, writeState } from './state.ts'
import { endKey, positionKey, readCount, type Topic, type Topics } from './topics.ts'
import { settled, write } from './transaction.ts'

/** How soon a write of another process is seen. */
const POLL_MS = 25
const POLL_BYTES_MAX = 32 << 20
/** A poll returns what it has after this long, so that other code can run. */
const TAKE_MS_MAX = 10

/** `committed`: the stored position that this consumer last saw; `next`: the next offset to poll. */
type Owned = { topic: Topic; partition: number; committed: number; next: number }
/** The first record of a partition that is not taken yet, and the records behind it. */
type Head = { owned: Owned; frame: Frame; rest: Entries }
type Entries = Iterator<{ key: [number, number, number]; value: Buffer }>

/** What a consumer shares with the log that opened it. */
export type LogParts = {
  environment: Environment
  topics: Topics
  isReadonly: boolean
  events: LogEvents
}

export class LocalConsumer implements Consumer {
  /** Every member has all partitions, always. */
  readonly epoch = 0
  readonly state: StateReader
  readonly #log: LogParts
  readonly #group: string
  readonly #owned: Owned[]
  #isClosed = false

  constructor(log: LogParts, options: { group: string; topics: readonly string[] }) {
    this.#log = log
    this.#group = options.group
    this.#owned = [...new Set(options.topics)].flatMap(name => {
      const topic = log.topics.get(name)
      const partitions = Array.from({ length: topic.partitions }, (_, partition) => partition)
      return partitions.map(partition => ({ topic, partition, committed: 0, next: 0 }))
    })
    this.state = stateReader(log.environment, options.group)
  }

  get partitions(): number {
    return this.#owned.length
  }

  async poll(options: {
    recordsMax: number
    bytesMax?: number
    waitMsMax: number
  }): Promise<LogRecord[]> {
    this.#checkOpen()
    const { recordsMax, bytesMax = POLL_BYTES_MAX, waitMsMax } = options
    if (!(recordsMax >= 1)) throw new RangeError(`recordsMax ${recordsMax}`)
    const deadline = performance.now() + waitMsMax
    for (;;) {
      await settled(this.#log.environment)
      if (this.#isClosed) return []
      const records = this.#take(recordsMax, bytesMax)
      const leftMs = deadline - performance.now()
      if (records.length > 0 || leftMs <= 0) return records
      await this.#log.environment.polls.wait(Math.min(leftMs, POLL_MS))
    }
  }

  /** Merges the partitions in the order of appends: the result does not depend on the limits. */
  #take(recordsMax: number, bytesMax: number): LogRecord[] {
    const started = performance.now()
    const records: LogRecord[] = []
    const heads = this.#owned.map(owned => this.#head(owned)).filter(head => head !== undefined)
    let bytes = 0
    while (heads.length > 0 && records.length < recordsMax && bytes < bytesMax) {
      const index = earliest(heads)
      const head = heads[index]!
      const { frame, owned, rest } = head
      records.push(frame.record)
      bytes += frame.bytes
      owned.next = frame.record.offset + 1
      const following = nextFrame(owned, rest)
      if (following === undefined) heads.splice(index, 1)
      else head.frame = following
      if ((records.length & 63) === 0 && performance.now() - started > TAKE_MS_MAX) break
    }
    for (const head of heads) head.rest.return?.()
    return records
  }

  #head(owned: Owned): Head | undefined {
    const { topic, partition, next } = owned
    const rest = this.#log.environment.records
      .getRange({ start: [topic.id, partition, next], end: [topic.id, partition, OFFSET_MAX] })
      [Symbol.iterator]()
    const frame = nextFrame(owned, rest)
    return frame && { owned, frame, rest }
  }

  async commit(commit: Commit): Promise<void> {
    this.#checkOpen()
    const { environment, topics, isReadonly } = this.#log
    if (isReadonly) throw new Error('the log is open for reading only')
    const moves = commit.positions.map(position => this.#move(position))
    const isStill = moves.every(({ owned, offset }) => offset === owned.committed)
    if (isStill && commit.outputs.length > 0) throw withoutMove()
    const changes = collectState(this.#group, commit.state)
    const append = await prepareAppend(topics, commit.outputs)
    await this.#transaction(() => {
      this.#checkFence()
      for (const { owned, offset } of moves) this.#checkEnd(owned, offset)
      return writeAppend(environment, append, () => {
        for (const { owned, offset } of moves) {
          environment.meta.put(this.#positionKey(owned), offset)
        }
        // Last, with no wait after it: state is read without waiting for `settled`.
        writeState(environment, changes)
      })
    })
    for (const { owned, offset } of moves) owned.committed = offset
  }

  async #transaction(work: () => undefined | Promise<void>): Promise<void> {
    const started = performance.now()
    const report = (outcome: TransactionOutcome): void =>
      this.#log.events.onTransaction(outcome, (performance.now() - started) / 1000)
    try {
      await write(this.#log.environment, work)
      report('committed')
    } catch (error) {
      report(refusedPlaces(error) !== undefined ? 'fenced' : 'aborted')
      throw error
    }
  }

  #move(position: Position): { owned: Owned; offset: number } {
    const { topic, partition, offset } = position
    const owned = this.#owned.find(o => o.topic.name === topic && o.partition === partition)
    if (owned === undefined) throw new RangeError(`${topic}/${partition} is not consumed here`)
    if (!Number.isSafeInteger(offset) || offset < owned.committed) {
      throw new RangeError(`${topic}/${partition}: position ${offset} after ${owned.committed}`)
    }
    return { owned, offset }
  }

  #checkFence(): void {
    for (const owned of this.#owned) {
      const stored = this.#stored(owned)
      if (stored === owned.committed) continue
      throw fenced(
        this.#owned.map(placeOf),
        `another member of group ${this.#group} moved ${placeKey(placeOf(owned))} ` +
          `from ${owned.committed} to ${stored}`,
      )
    }
  }

  #checkEnd(owned: Owned, offset: number): void {
    const end = readCount(this.#log.environment, endKey(owned.topic.id, owned.partition))
    if (offset <= end) return
    throw new RangeError(`${owned.topic.name}/${owned.partition}: position ${offset} past ${end}`)
  }

  async positions(): Promise<Position[]> {
    await settled(this.#log.environment)
    return this.#owned.map(owned => ({ ...placeOf(owned), offset: this.#stored(owned) }))
  }

  async rewind(places?: readonly Place[]): Promise<void> {
    this.#checkOpen()
    await settled(this.#log.environment)
    const wanted = places === undefined ? undefined : new Set(places.map(placeKey))
    for (const owned of this.#owned) {
      if (wanted?.has(placeKey(placeOf(owned))) === false) continue
      owned.committed = this.#stored(owned)
      owned.next = owned.committed
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    this.#log.environment.polls.wake()
  }

  #stored(owned: Owned): number {
    return readCount(this.#log.environment, this.#positionKey(owned))
  }

  #positionKey(owned: Owned): (string | number)[] {
    return positionKey(this.#group, owned.topic.id, owned.partition)
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new Error('the consumer is closed')
  }
}

function placeOf({ topic, partition }: Owned): Place {
  return { topic: topic.name, partition }
}

function earliest(heads: readonly Head[]): number {
  let best = 0
  for (let i = 1; i < heads.length; i++) {
    if (heads[i]!.frame.sequence < heads[best]!.frame.sequence) best = i
  }
  return best
}

function nextFrame({ topic, partition }: Owned, rest: Entries): Frame | undefined {
  const { done, value } = rest.next()
  return done === true ? undefined : decodeFrame(topic, partition, value.key[2], value.value)
}
