/**
 * A consumer of the local log. Every consumer of a group reads all partitions; the commit that comes
 * second is fenced, because the positions that it started from have moved.
 */
import { XmasdError } from '../errors.ts'
import type { LogEvents, TransactionOutcome } from '../observe/log-events.ts'
import { type Environment, OFFSET_MAX } from './environment.ts'
import { decodeFrame, type Frame } from './frame.ts'
import { type PreparedAppend, prepareAppend, type RoundRobin, writeAppend } from './local-append.ts'
import { collectState, stateReader, writeState } from './local-state.ts'
import { endKey, positionKey, readCount, type Topic, type Topics } from './local-topics.ts'
import {
  type Commit,
  type Consumer,
  fenced,
  type LogRecord,
  outputsBySource,
  type Place,
  type Position,
  placeKey,
  type StateReader,
} from './log.ts'
import { nextWrite, settled, write } from './transaction.ts'

/** How soon a write of another process is seen. */
const POLL_MS = 25
const POLL_BYTES_MAX = 32 << 20
/** A poll returns what it has after this long, so that it never holds up other code. */
const TAKE_MS_MAX = 10

/** `committed`: the stored position that this consumer last saw; `next`: the next offset to poll. */
type Owned = { topic: Topic; partition: number; committed: number; next: number }
type Head = { owned: Owned; offset: number; frame: Frame; bytes: number; rest: Entries }
type Entries = Iterator<{ key: [number, number, number]; value: Buffer }>

export class LocalConsumer implements Consumer {
  /** Every member has all partitions, always. */
  readonly epoch = 0
  readonly state: StateReader
  readonly #environment: Environment
  readonly #topics: Topics
  readonly #turns: RoundRobin
  readonly #isReadonly: boolean
  readonly #events: LogEvents
  readonly #group: string
  readonly #owned: Owned[]
  #isClosed = false

  constructor(
    log: {
      environment: Environment
      topics: Topics
      turns: RoundRobin
      isReadonly: boolean
      events: LogEvents
    },
    options: { group: string; topics: readonly string[] },
  ) {
    this.#environment = log.environment
    this.#topics = log.topics
    this.#turns = log.turns
    this.#isReadonly = log.isReadonly
    this.#events = log.events
    this.#group = options.group
    this.#owned = [...new Set(options.topics)].flatMap(name => {
      const topic = log.topics.get(name)
      const partitions = Array.from({ length: topic.partitions }, (_, partition) => partition)
      return partitions.map(partition => ({ topic, partition, committed: 0, next: 0 }))
    })
    this.state = stateReader(log.environment, options.group)
  }

  /** Of all its topics: nothing is dealt here, every consumer of the group reads all. */
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
      await settled(this.#environment)
      if (this.#isClosed) return []
      const records = this.#take(recordsMax, bytesMax)
      const leftMs = deadline - performance.now()
      if (records.length > 0 || leftMs <= 0) return records
      await nextWrite(this.#environment, Math.min(leftMs, POLL_MS))
    }
  }

  /** Merges the partitions in the order of appending: the result does not depend on the limits. */
  #take(recordsMax: number, bytesMax: number): LogRecord[] {
    const started = performance.now()
    const records: LogRecord[] = []
    const heads = this.#owned.map(owned => this.#head(owned)).filter(head => head !== undefined)
    let bytes = 0
    while (heads.length > 0 && records.length < recordsMax && bytes < bytesMax) {
      const index = earliest(heads)
      const head = heads[index]!
      records.push(recordOf(head))
      bytes += head.bytes
      head.owned.next = head.offset + 1
      if (!advance(head)) heads.splice(index, 1)
      if ((records.length & 63) === 0 && performance.now() - started > TAKE_MS_MAX) break
    }
    for (const head of heads) head.rest.return?.()
    return records
  }

  #head(owned: Owned): Head | undefined {
    const { topic, partition, next } = owned
    const rest = this.#environment.records
      .getRange({ start: [topic.id, partition, next], end: [topic.id, partition, OFFSET_MAX] })
      [Symbol.iterator]()
    const first = rest.next()
    if (first.done === true) return undefined
    const { key, value } = first.value
    return { owned, offset: key[2], frame: decodeFrame(value), bytes: value.length, rest }
  }

  async commit(commit: Commit): Promise<void> {
    this.#checkOpen()
    if (this.#isReadonly) throw new Error('the log is open for reading only')
    outputsBySource(commit)
    const moves = commit.positions.map(position => this.#move(position))
    const changes = collectState(this.#group, commit.state)
    const append = await prepareAppend(this.#topics, this.#turns, commit.outputs)
    await this.#transaction(() => {
      this.#checkFence()
      for (const { owned, offset } of moves) this.#checkEnd(owned, offset)
      const finish = () => {
        for (const { owned, offset } of moves) {
          this.#environment.meta.put(this.#positionKey(owned), offset)
        }
        // Last, with nothing to wait for after it: state is read without waiting for `settled`.
        writeState(this.#environment, changes)
      }
      return appendThen(this.#environment, append, finish)
    })
    for (const { owned, offset } of moves) owned.committed = offset
  }

  async #transaction(work: () => void | Promise<void>): Promise<void> {
    const started = performance.now()
    const told = (outcome: TransactionOutcome): void =>
      this.#events.onTransaction(outcome, (performance.now() - started) / 1000)
    try {
      await write(this.#environment, work)
      told('committed')
    } catch (error) {
      const isFenced = error instanceof XmasdError && error.code === 'LOG_FENCED'
      told(isFenced ? 'fenced' : 'aborted')
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
      const stored = readCount(this.#environment, this.#positionKey(owned))
      if (stored === owned.committed) continue
      throw fenced(
        this.#owned.map(placeOf),
        `another member of group ${this.#group} moved ${placeKey(placeOf(owned))} ` +
          `from ${owned.committed} to ${stored}`,
      )
    }
  }

  #checkEnd(owned: Owned, offset: number): void {
    const end = readCount(this.#environment, endKey(owned.topic.id, owned.partition))
    if (offset <= end) return
    throw new RangeError(`${owned.topic.name}/${owned.partition}: position ${offset} past ${end}`)
  }

  async positions(): Promise<Position[]> {
    await settled(this.#environment)
    return this.#owned.map(owned => ({
      topic: owned.topic.name,
      partition: owned.partition,
      offset: readCount(this.#environment, this.#positionKey(owned)),
    }))
  }

  async rewind(places?: readonly Place[]): Promise<void> {
    this.#checkOpen()
    await settled(this.#environment)
    const wanted = places === undefined ? undefined : new Set(places.map(placeKey))
    for (const owned of this.#owned) {
      if (wanted?.has(placeKey(placeOf(owned))) === false) continue
      owned.committed = readCount(this.#environment, this.#positionKey(owned))
      owned.next = owned.committed
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    for (const wake of [...this.#environment.waiting]) wake()
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

function appendThen(
  environment: Environment,
  append: PreparedAppend,
  finish: () => void,
): void | Promise<void> {
  const appending = writeAppend(environment, append)
  return appending === undefined ? finish() : appending.then(finish)
}

function earliest(heads: readonly Head[]): number {
  let best = 0
  for (let i = 1; i < heads.length; i++) {
    if (heads[i]!.frame.sequence < heads[best]!.frame.sequence) best = i
  }
  return best
}

function advance(head: Head): boolean {
  const { done, value } = head.rest.next()
  if (done === true) return false
  head.offset = value.key[2]
  head.frame = decodeFrame(value.value)
  head.bytes = value.value.length
  return true
}

function recordOf(head: Head): LogRecord {
  const { key, value, headers, timestamp } = head.frame
  const { topic, partition } = head.owned
  return { topic: topic.name, partition, offset: head.offset, key, value, headers, timestamp }
}
