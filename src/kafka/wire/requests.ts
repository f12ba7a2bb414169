/**
 * The requests that kafkajs codes slowly or not at all. All exist since Kafka 2.5, except DescribeProducers (2.8) and
 * DescribeTransactions (3.0), which are only sent to brokers that know them. The README has the table of versions.
 * Source: kafka.apache.org/protocol.
 */

import type { Aborted } from './batch.ts'
import { Reader, Writer } from './bytes.ts'
import { checkCode, groupBy, type Place } from './model.ts'

/** A request with its own coding, in the form that kafkajs sends. */
export type Protocol<T> = {
  request: {
    apiKey: number
    apiName: string
    apiVersion: number
    encode(): Promise<{ buf: Buffer; buffer: Buffer }>
  }
  response: { decode(payload: Buffer): Promise<T>; parse(decoded: T): Promise<T> }
}

const FETCH = 1
const READ_COMMITTED = 1
const NOBODY = -1

export type FetchPlace = { topic: string; partition: number; offset: number; bytesMax: number }

export type FetchedPartition = {
  topic: string
  partition: number
  /** Kafka's error code, 0 where all is well. */
  code: number
  aborted: Aborted[]
  /** Whole batches, the last one perhaps cut off. */
  batches: Buffer
}

/** Waits up to `waitMsMax` for the first byte, where there is none. */
export function fetchRequest(
  places: readonly FetchPlace[],
  { waitMsMax, bytesMax }: { waitMsMax: number; bytesMax: number },
): Protocol<FetchedPartition[]> {
  const write = (out: Writer): void => {
    out.i32(NOBODY).i32(waitMsMax).i32(1).i32(bytesMax).i8(READ_COMMITTED).i32(0).i32(NOBODY)
    out.grouped(places, place => {
      out.i32(place.partition).i32(NOBODY).i64(place.offset).i64(NOBODY).i32(place.bytesMax)
    })
    out.i32(0).text('')
  }
  return protocol({ apiKey: FETCH, apiName: 'Fetch', apiVersion: 11 }, write, readFetch)
}

function readFetch(input: Reader): FetchedPartition[] {
  input.i32()
  checkCode(input.i16(), 'a fetch')
  input.i32()
  const found: FetchedPartition[] = []
  input.grouped(topic => {
    const [partition, code] = [input.i32(), input.i16()]
    input.skip(24)
    const aborted: Aborted[] = []
    input.times(() => aborted.push({ producerId: input.i64(), firstOffset: input.i64() }))
    input.skip(4)
    found.push({ topic, partition, code, aborted, batches: input.bytes() })
  })
  return found
}

export type FoundOffset = { partition: number; code: number; offset: number }

const OLDEST = -2
const END = -1

/** The oldest offsets that are kept, or the ends that a reader of committed records sees. */
export function offsetsRequest(
  places: readonly { topic: string; partition: number }[],
  which: 'oldest' | 'end',
): Protocol<FoundOffset[]> {
  const write = (out: Writer): void => {
    out.i32(NOBODY).i8(READ_COMMITTED)
    out.grouped(places, place => out.i32(place.partition).i64(which === 'oldest' ? OLDEST : END))
  }
  return protocol({ apiKey: 2, apiName: 'ListOffsets', apiVersion: 2 }, write, input => {
    const found: FoundOffset[] = []
    input.i32()
    input.grouped(() => {
      const [partition, code] = [input.i32(), input.i16()]
      input.skip(8)
      found.push({ partition, code, offset: input.i64() })
    })
    return found
  })
}

export type ProducePlace = { topic: string; partition: number; batch: Buffer }
export type ProducedPartition = { topic: string; partition: number; code: number; offset: number }

/** One batch a partition; answered when all replicas in sync have it. */
export function produceRequest(
  transactionalId: string | null,
  places: readonly ProducePlace[],
  timeoutMs: number,
): Protocol<ProducedPartition[]> {
  const write = (out: Writer): void => {
    if (transactionalId === null) out.i16(NULL)
    else out.text(transactionalId)
    out.i16(-1).i32(timeoutMs)
    out.grouped(places, place => out.i32(place.partition).bytes(place.batch))
  }
  return protocol({ apiKey: 0, apiName: 'Produce', apiVersion: 7 }, write, readProduce)
}

function readProduce(input: Reader): ProducedPartition[] {
  const found: ProducedPartition[] = []
  input.grouped(topic => {
    found.push({ topic, partition: input.i32(), code: input.i16(), offset: input.i64() })
    input.skip(16)
  })
  return found
}

/** `code`: of the whole; where it is not 0 there are no positions. */
export type FoundPositions = {
  code: number
  positions: { partition: number; code: number; offset: number }[]
}

/**
 * A group's positions in one topic; -1 for none. Asks for stable positions: while an open transaction may move one, the
 * answer is an error, not the previous position.
 */
export function positionsRequest(
  group: string,
  topic: string,
  partitions: readonly number[],
): Protocol<FoundPositions> {
  const write = (out: Writer): void => {
    out.tags().compactText(group).size(1).compactText(topic).size(partitions.length)
    for (const partition of partitions) out.i32(partition)
    out.tags().i8(1).tags()
  }
  return protocol({ apiKey: 9, apiName: 'OffsetFetch', apiVersion: 7 }, write, readPositions)
}

function readPositions(input: Reader): FoundPositions {
  const positions: FoundPositions['positions'] = []
  input.tags()
  input.i32()
  input.compactGrouped(() => {
    const [partition, offset] = [input.i32(), input.i64()]
    input.skip(4)
    input.compactText()
    positions.push({ partition, offset, code: input.i16() })
    input.tags()
  })
  return { code: input.i16(), positions }
}

/** The member of a group that commits: brokers refuse all but those of the current generation (KIP-447). */
export type GroupMember = { group: string; memberId: string; generation: number }

export type CommittedPosition = { topic: string; partition: number; code: number }

/** Moves positions in a transaction. */
export function commitPositionsRequest(
  producer: { transactionalId: string; producerId: string; producerEpoch: number },
  { group, memberId, generation }: GroupMember,
  positions: readonly { topic: string; partition: number; offset: number }[],
): Protocol<CommittedPosition[]> {
  const write = (out: Writer): void => {
    out.tags().compactText(producer.transactionalId).compactText(group)
    out.i64(Number(producer.producerId)).i16(producer.producerEpoch).i32(generation)
    const topics = groupBy(positions, ({ topic }) => topic)
    out.compactText(memberId).size(NULL).size(topics.size)
    for (const [topic, moved] of topics) {
      out.compactText(topic).size(moved.length)
      for (const { partition, offset } of moved) {
        out.i32(partition).i64(offset).i32(NOBODY).size(NULL).tags()
      }
      out.tags()
    }
    out.tags()
  }
  const api = { apiKey: 28, apiName: 'TxnOffsetCommit', apiVersion: 3 }
  return protocol(api, write, input => {
    const found: CommittedPosition[] = []
    input.tags()
    input.i32()
    input.compactGrouped(topic => {
      found.push({ topic, partition: input.i32(), code: input.i16() })
      input.tags()
    })
    return found
  })
}

/** The size of a text that is null. */
const NULL = -1

export const DESCRIBE_PRODUCERS = 61
export const DESCRIBE_TRANSACTIONS = 65

/** `state`: as Kafka names it, "CompleteCommit" for one. `places`: where it has written, until it has ended. */
export type FoundTransaction = {
  code: number
  state: string
  producerId: string
  producerEpoch: number
  places: Place[]
}

/** What became of the last transaction of an id. */
export function transactionRequest(transactionalId: string): Protocol<FoundTransaction> {
  const write = (out: Writer): void => {
    out.tags().size(1).compactText(transactionalId).tags()
  }
  const api = { apiKey: DESCRIBE_TRANSACTIONS, apiName: 'DescribeTransactions', apiVersion: 0 }
  return protocol(api, write, input => {
    input.tags()
    input.i32()
    input.size()
    const code = input.i16()
    input.compactText()
    const state = input.compactText()
    input.skip(4 + 8)
    const [producerId, producerEpoch] = [String(input.i64()), input.i16()]
    const places: Place[] = []
    input.compactGrouped(topic => places.push({ topic, partition: input.i32() }))
    return { code, state, producerId, producerEpoch, places }
  })
}

/** `producers`: those that have something open in the partition. */
export type FoundProducers = {
  topic: string
  partition: number
  code: number
  producers: { producerId: number; openFrom: number }[]
}

export function producersRequest(
  places: readonly { topic: string; partition: number }[],
): Protocol<FoundProducers[]> {
  const write = (out: Writer): void => {
    out.tags().size(places.length)
    for (const { topic, partition } of places) {
      out.compactText(topic).size(1).i32(partition).tags()
    }
    out.tags()
  }
  const api = { apiKey: DESCRIBE_PRODUCERS, apiName: 'DescribeProducers', apiVersion: 0 }
  return protocol(api, write, readProducers)
}

function readProducers(input: Reader): FoundProducers[] {
  const found: FoundProducers[] = []
  input.tags()
  input.i32()
  input.compactGrouped(topic => {
    const [partition, code] = [input.i32(), input.i16()]
    input.compactText()
    const producers: FoundProducers['producers'] = []
    for (let left = input.size(); left > 0; left--) {
      const producerId = input.i64()
      input.skip(4 + 4 + 8 + 4)
      producers.push({ producerId, openFrom: input.i64() })
      input.tags()
    }
    input.tags()
    const open = producers.filter(({ openFrom }) => openFrom >= 0)
    found.push({ topic, partition, code, producers: open })
  })
  return found
}

function protocol<T>(
  api: { apiKey: number; apiName: string; apiVersion: number },
  write: (out: Writer) => void,
  read: (input: Reader) => T,
): Protocol<T> {
  return {
    request: {
      ...api,
      encode: async () => {
        const out = new Writer()
        write(out)
        // kafkajs takes this for an encoder of its own.
        const buffer = out.buffer()
        return { buf: buffer, buffer }
      },
    },
    response: {
      decode: async payload => read(new Reader(payload)),
      parse: async decoded => decoded,
    },
  }
}
