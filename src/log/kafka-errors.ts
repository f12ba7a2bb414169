/**
 * What went wrong on Kafka, and what follows: tried again, claimed again, joined again, or the end with a
 * code, a message that says which thing it was, and the fix. `docs/operating.md` has the same as a table.
 */
import { messageOf, XmasdError } from '../errors.ts'
import type { RetryCause } from '../observe/log-events.ts'

/** A failure that we found ourselves, by the name that Kafka gives it. */
export class KafkaFailure extends Error {
  override readonly name = 'KafkaFailure'
  readonly type: string

  constructor(type: string, message: string) {
    super(message)
    this.type = type
  }
}

/** What to do about an error. */
export type Verdict =
  | { kind: 'retry'; cause: RetryCause }
  /** The producer is no longer good for anything: claim the partition again. */
  | { kind: 'fenced' }
  /** The group has moved on without us: join again. */
  | { kind: 'rejoin'; isForgotten: boolean }
  | { kind: 'fatal'; error: XmasdError }

type Loose = {
  name?: string
  type?: string
  code?: unknown
  message?: string
  cause?: unknown
  /** Of several that came together, as when topics are created. */
  errors?: unknown[]
}

function within(error: Loose): Loose | undefined {
  return (error.cause ?? error.errors?.[0]) as Loose | undefined
}

/** By Kafka's numbers, for the two requests that we read ourselves and the codes the library lacks. */
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
  19: 'NOT_ENOUGH_REPLICAS',
  20: 'NOT_ENOUGH_REPLICAS_AFTER_APPEND',
  29: 'TOPIC_AUTHORIZATION_FAILED',
  30: 'GROUP_AUTHORIZATION_FAILED',
  31: 'CLUSTER_AUTHORIZATION_FAILED',
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
  87: 'INVALID_RECORD',
  88: 'UNSTABLE_OFFSET_COMMIT',
  90: 'PRODUCER_FENCED',
  105: 'TRANSACTIONAL_ID_NOT_FOUND',
  120: 'TRANSACTION_ABORTABLE',
}

/** Throws what a code of a fetch or a produce means; nothing where it is 0. */
export function checkCode(code: number, what: string): void {
  if (code === 0) return
  const name = NAMES[code] ?? `ERROR_${code}`
  throw new KafkaFailure(name, `${what}: ${name}`)
}

/** Kafka's name for an error, from wherever the library has wrapped it. */
export function codeOf(error: unknown): string | undefined {
  for (let at = error as Loose | undefined; at !== undefined; at = within(at)) {
    const unknown = /^Unknown error code (\d+)/.exec(at.message ?? '')
    if (unknown !== null) return NAMES[Number(unknown[1])] ?? `ERROR_${unknown[1]}`
    if (typeof at.type === 'string') return at.type
  }
  return undefined
}

const LEADER = new Set([
  'UNKNOWN_TOPIC_OR_PARTITION',
  'LEADER_NOT_AVAILABLE',
  'NOT_LEADER_FOR_PARTITION',
  'REPLICA_NOT_AVAILABLE',
  'NOT_ENOUGH_REPLICAS',
  'NOT_ENOUGH_REPLICAS_AFTER_APPEND',
  'KAFKA_STORAGE_ERROR',
  'FENCED_LEADER_EPOCH',
  'UNKNOWN_LEADER_EPOCH',
  'OFFSET_NOT_AVAILABLE',
  'CORRUPT_MESSAGE',
  'NOT_CONTROLLER',
])
const COORDINATOR = new Set([
  'GROUP_LOAD_IN_PROGRESS',
  'GROUP_COORDINATOR_NOT_AVAILABLE',
  'NOT_COORDINATOR_FOR_GROUP',
])
const TRANSACTION = new Set(['CONCURRENT_TRANSACTIONS', 'UNSTABLE_OFFSET_COMMIT'])
const FENCED = new Set([
  'INVALID_PRODUCER_EPOCH',
  'PRODUCER_FENCED',
  'INVALID_PRODUCER_ID_MAPPING',
  'INVALID_TXN_STATE',
  'TRANSACTIONAL_ID_NOT_FOUND',
  'TRANSACTION_ABORTABLE',
  'TRANSACTION_COORDINATOR_FENCED',
  'UNKNOWN_PRODUCER_ID',
  'OUT_OF_ORDER_SEQUENCE_NUMBER',
  'DUPLICATE_SEQUENCE_NUMBER',
])
const TIMEOUT = new Set(['REQUEST_TIMED_OUT', 'KafkaJSRequestTimeoutError', 'KafkaJSLockTimeout'])
const CONNECTION = new Set([
  'BROKER_NOT_AVAILABLE',
  'NETWORK_EXCEPTION',
  'KafkaJSConnectionError',
  'KafkaJSConnectionClosedError',
  'KafkaJSBrokerNotFound',
  'KafkaJSMetadataNotLoaded',
  'KafkaJSTopicMetadataNotLoaded',
  'KafkaJSNoBrokerAvailableError',
  'KafkaJSGroupCoordinatorNotFound',
])

/** `address`: the brokers, for messages. */
export function verdictOn(error: unknown, address: string): Verdict {
  if (error instanceof XmasdError) return { kind: 'fatal', error }
  const refused = refusalOf(error, address)
  if (refused !== undefined) return { kind: 'fatal', error: refused }
  const code = codeOf(error)
  if (code !== undefined) {
    if (FENCED.has(code)) return { kind: 'fenced' }
    if (code === 'REBALANCE_IN_PROGRESS') return { kind: 'rejoin', isForgotten: false }
    if (REJOIN.has(code)) return { kind: 'rejoin', isForgotten: true }
  }
  const cause = retryCauseOf(code, namesOf(error))
  return cause === undefined
    ? { kind: 'fatal', error: unknown(error, address) }
    : { kind: 'retry', cause }
}

const REJOIN = new Set(['UNKNOWN_MEMBER_ID', 'ILLEGAL_GENERATION', 'FENCED_INSTANCE_ID'])

function retryCauseOf(code: string | undefined, names: readonly string[]): RetryCause | undefined {
  const is = (set: ReadonlySet<string>): boolean =>
    (code !== undefined && set.has(code)) || names.some(name => set.has(name))
  if (is(LEADER)) return 'leader'
  if (is(COORDINATOR)) return 'coordinator'
  if (is(TRANSACTION)) return 'transaction'
  if (is(TIMEOUT)) return 'timeout'
  if (is(CONNECTION)) return 'connection'
  return undefined
}

/** The names of an error and of what it wraps. */
function namesOf(error: unknown): string[] {
  const names: string[] = []
  for (let at = error as Loose | undefined; at !== undefined; at = within(at)) {
    if (typeof at.name === 'string') names.push(at.name)
  }
  return names
}

/** An error that waiting does not mend: a certificate, a login, a right, a limit. */
function refusalOf(error: unknown, address: string): XmasdError | undefined {
  const text = deepMessage(error)
  return (
    tlsRefusal(error, text, address) ??
    loginRefusal(error, text, address) ??
    rightRefusal(error, text)
  )
}

function deepMessage(error: unknown): string {
  let text = messageOf(error)
  for (let at = within(error as Loose); at !== undefined; at = within(at)) {
    if (at.message !== undefined && at.message.length > text.length) text = at.message
  }
  return text
}

const CERTIFICATE = /SELF_SIGNED|UNABLE_TO|CERT_|DEPTH_ZERO/

function tlsRefusal(error: unknown, text: string, address: string): XmasdError | undefined {
  const code = tlsCodeOf(error)
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID') {
    return new XmasdError(
      'LOG_TLS_FAILED',
      `${address} shows a certificate for another name: ${text}`,
      'name the brokers as their certificate does, or set log.tls.servername to a name in it',
      { cause: error },
    )
  }
  if (code !== undefined && CERTIFICATE.test(code)) {
    return new XmasdError(
      'LOG_TLS_FAILED',
      `the certificate of ${address} is not signed by an authority that is trusted here: ${text} (${code})`,
      "set log.tls.ca to the PEM file of the brokers' authority",
      { cause: error },
    )
  }
  if (code !== undefined && (code.startsWith('ERR_SSL') || code === 'EPROTO')) {
    return new XmasdError(
      'LOG_TLS_FAILED',
      `${address} does not speak TLS as we do: ${text}`,
      'check that this port is a TLS listener, and that it wants no client certificate that is not configured (log.tls.cert, log.tls.key)',
      { cause: error },
    )
  }
  return undefined
}

function tlsCodeOf(error: unknown): string | undefined {
  for (let at = error as Loose | undefined; at !== undefined; at = within(at)) {
    if (
      typeof at.code === 'string' &&
      /SSL|TLS|CERT|SELF_SIGNED|UNABLE_TO|EPROTO|DEPTH/.test(at.code)
    ) {
      return at.code
    }
  }
  return undefined
}

function loginRefusal(error: unknown, text: string, address: string): XmasdError | undefined {
  const isLogin = namesOf(error).includes('KafkaJSSASLAuthenticationError')
  const code = codeOf(error)
  if (code === 'UNSUPPORTED_SASL_MECHANISM' || /mechanism .* is not supported/i.test(text)) {
    return new XmasdError(
      'LOG_LOGIN_FAILED',
      `${address} does not offer the login mechanism that is configured: ${text}`,
      'set log.sasl.mechanism to one that the brokers list in sasl.enabled.mechanisms',
      { cause: error },
    )
  }
  if (!isLogin && code !== 'SASL_AUTHENTICATION_FAILED') return undefined
  return new XmasdError(
    'LOG_LOGIN_FAILED',
    `${address} refuses the user name or the password: ${text}`,
    'check log.sasl.username, and the password in XMASD_LOG_SASL_PASSWORD or log.sasl.passwordFile',
    { cause: error },
  )
}

const RIGHTS: Record<string, string> = {
  TOPIC_AUTHORIZATION_FAILED:
    'topics: Read, Write, Describe and DescribeConfigs on all of log.topics; Create where they are missing',
  GROUP_AUTHORIZATION_FAILED: 'group: Read on score.group and select.group',
  CLUSTER_AUTHORIZATION_FAILED: 'cluster: Create where topics are missing, IdempotentWrite',
  TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
    'transactional id: Write and Describe on the prefixes score.group, select.group and log.clientId',
}

function rightRefusal(error: unknown, text: string): XmasdError | undefined {
  const code = codeOf(error)
  if (code === undefined) return undefined
  const right = RIGHTS[code]
  if (right !== undefined) {
    return new XmasdError(
      'LOG_FORBIDDEN',
      `the brokers do not allow it (${code}): ${text}`,
      `give this user the ACL for ${right}`,
      { cause: error },
    )
  }
  if (code === 'MESSAGE_TOO_LARGE' || code === 'RECORD_LIST_TOO_LARGE') {
    return new XmasdError(
      'RECORD_TOO_LARGE',
      `the broker takes no batch that large: ${text}`,
      "raise the topic's max.message.bytes, or lower log.batchBytesMax",
      { cause: error },
    )
  }
  return undefined
}

function unknown(error: unknown, address: string): XmasdError {
  return new XmasdError(
    'LOG_UNAVAILABLE',
    `${address}: ${deepMessage(error)}`,
    'look into the log of the brokers; `xmasd doctor` shows what can be reached',
    { cause: error },
  )
}

/** After too long: what the brokers said last. */
export function gaveUp(error: unknown, address: string, ms: number): XmasdError {
  const isClosed = /Closed connection|closed by the server|before secure TLS/i.test(
    deepMessage(error),
  )
  return new XmasdError(
    'LOG_UNAVAILABLE',
    `no answer from ${address} for ${Math.round(ms / 1000)} s: ${deepMessage(error)}`,
    isClosed
      ? 'the brokers end the connection at once: does that port want TLS (log.tls.enabled), a login (log.sasl), or neither?'
      : 'check log.brokers, the network and that the brokers run; `xmasd doctor` shows what can be reached',
    { cause: error },
  )
}
