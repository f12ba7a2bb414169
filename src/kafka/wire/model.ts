/** What all rooms of the client share: places, records, and errors by Kafka's names. */
import type { XmasdError } from '../../errors.ts'

export type Place = { topic: string; partition: number }

/** The next offset to read of one partition. */
export type Position = Place & { offset: number }

export function placeKey({ topic, partition }: Place): string {
  return `${topic}/${partition}`
}

export function placeOf({ topic, partition }: Place): Place {
  return { topic, partition }
}

/** Headers as they are stored: a name may repeat, a value need not be text and may be null. */
export type RawHeaders = readonly (readonly [name: string, value: Uint8Array | null])[]

/** A record to append. `key: null` spreads over partitions and is refused on a compacted topic. */
export type OutRecord = {
  topic: string
  key: string | null
  /** `null` is a tombstone: it removes the key from a compacted topic. */
  value: Uint8Array | null
  headers?: Record<string, string>
  /** Written after `headers`. */
  rawHeaders?: RawHeaders | undefined
  /** Default: by the key's hash. */
  partition?: number
}

/** A record as read. Offsets grow within a partition but need not be dense. */
export type LogRecord = Place & {
  offset: number
  key: string | null
  value: Uint8Array | null
  /** As text. A name that comes twice has its last value. */
  headers: Record<string, string>
  /** All headers, where `headers` does not hold them exactly. */
  rawHeaders?: RawHeaders
  /** Milliseconds since the epoch, as stamped on append. */
  timestamp: number
  /** Set where what was stored here cannot be decoded: `value` holds its bytes as they are. */
  error?: XmasdError
}

/** In the order of their first items. */
export function groupBy<T>(items: Iterable<T>, keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const item of items) {
    const key = keyOf(item)
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [item])
    else group.push(item)
  }
  return groups
}

/** A failure by the name that Kafka gives it. */
export class KafkaFailure extends Error {
  override readonly name = 'KafkaFailure'
  readonly type: string

  constructor(type: string, message: string) {
    super(message)
    this.type = type
  }
}

/** Kafka's error codes, for the requests that are coded here and those that kafkajs does not know. */
const NAMES: Record<number, string> = {
  1: 'OFFSET_OUT_OF_RANGE',
  2: 'CORRUPT_MESSAGE',
  3: 'UNKNOWN_TOPIC_OR_PARTITION',
  5: 'LEADER_NOT_AVAILABLE',
  6: 'NOT_LEADER_FOR_PARTITION',
  7: 'REQUEST_TIMED_OUT',
  9: 'REPLICA_NOT_AVAILABLE',
  10: 'MESSAGE_TOO_LARGE',
  14: 'GROUP_LOAD_IN_PROGRESS',
  15: 'GROUP_COORDINATOR_NOT_AVAILABLE',
  16: 'NOT_COORDINATOR_FOR_GROUP',
  18: 'RECORD_LIST_TOO_LARGE',
  22: 'ILLEGAL_GENERATION',
  25: 'UNKNOWN_MEMBER_ID',
  27: 'REBALANCE_IN_PROGRESS',
  19: 'NOT_ENOUGH_REPLICAS',
  20: 'NOT_ENOUGH_REPLICAS_AFTER_APPEND',
  29: 'TOPIC_AUTHORIZATION_FAILED',
  30: 'GROUP_AUTHORIZATION_FAILED',
  31: 'CLUSTER_AUTHORIZATION_FAILED',
  44: 'POLICY_VIOLATION',
  35: 'UNSUPPORTED_VERSION',
  45: 'OUT_OF_ORDER_SEQUENCE_NUMBER',
  46: 'DUPLICATE_SEQUENCE_NUMBER',
  47: 'INVALID_PRODUCER_EPOCH',
  48: 'INVALID_TXN_STATE',
  49: 'INVALID_PRODUCER_ID_MAPPING',
  51: 'CONCURRENT_TRANSACTIONS',
  53: 'TRANSACTIONAL_ID_AUTHORIZATION_FAILED',
  56: 'KAFKA_STORAGE_ERROR',
  59: 'UNKNOWN_PRODUCER_ID',
  74: 'FENCED_LEADER_EPOCH',
  75: 'UNKNOWN_LEADER_EPOCH',
  76: 'UNSUPPORTED_COMPRESSION_TYPE',
  78: 'OFFSET_NOT_AVAILABLE',
  81: 'GROUP_MAX_SIZE_REACHED',
  87: 'INVALID_RECORD',
  88: 'UNSTABLE_OFFSET_COMMIT',
  90: 'PRODUCER_FENCED',
  105: 'TRANSACTIONAL_ID_NOT_FOUND',
  120: 'TRANSACTION_ABORTABLE',
}

/** Kafka's name for a number. */
export function errorName(code: number): string {
  return NAMES[code] ?? `ERROR_${code}`
}

/** Throws what a code of a fetch or a produce means; nothing where it is 0. */
export function checkCode(code: number, what: string): void {
  if (code === 0) return
  const name = errorName(code)
  throw new KafkaFailure(name, `${what}: ${name}`)
}
