/**
 * Classifies errors: retry, open a new producer session, join the group again, or fail with a code, a message and the fix.
 * `docs/operating.md` has the same as a table.
 */

import { AssertionError } from 'node:assert/strict'
import { type ErrorCode, messageOf, XmasdError } from '../../errors.ts'
import { errorName } from '../wire/model.ts'

/** Why a request is retried. */
export type RetryCause =
  | 'connection'
  | 'timeout'
  | 'leader'
  | 'coordinator'
  | 'transaction'
  | 'other'

/** What to do about an error. */
export type Verdict =
  | { kind: 'retry'; cause: RetryCause }
  /** The producer session is over: open a new one. */
  | { kind: 'fenced' }
  /** The group has left this member behind: join again. */
  | { kind: 'rejoin'; isForgotten: boolean }
  | { kind: 'fatal'; error: XmasdError }

type Loose = {
  name?: string
  type?: string
  code?: unknown
  message?: string
  cause?: unknown
  /** Several errors in one, as from the creation of topics. */
  errors?: unknown[]
}

function within(error: Loose): Loose | undefined {
  return (error.cause ?? error.errors?.[0]) as Loose | undefined
}

/** Kafka's name for an error, however deep kafkajs has wrapped it. */
export function codeOf(error: unknown): string | undefined {
  for (let at = error as Loose | undefined; at !== undefined; at = within(at)) {
    const unknown = /^Unknown error code (\d+)/.exec(at.message ?? '')
    if (unknown !== null) return errorName(Number(unknown[1]))
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

/** `address`: the brokers, for messages. Programming errors are thrown as they are. */
export function verdictOn(error: unknown, address: string): Verdict {
  if (isDefect(error)) throw error
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

const DEFECTS = [TypeError, RangeError, ReferenceError, AssertionError]

/** A programming error; it has nothing to do with brokers. */
function isDefect(error: unknown): boolean {
  return DEFECTS.some(kind => error instanceof kind)
}

const REJOIN = new Set(['UNKNOWN_MEMBER_ID', 'ILLEGAL_GENERATION', 'FENCED_INSTANCE_ID'])

function retryCauseOf(code: string | undefined, names: readonly string[]): RetryCause | undefined {
  const is = (set: ReadonlySet<string>): boolean =>
    (code !== undefined && set.has(code)) || names.some(name => set.has(name))
  if (is(LEADER)) return 'leader'
  if (is(COORDINATOR)) return 'coordinator'
  if (is(TRANSACTION)) return 'transaction'
  if (is(TIMEOUT)) return 'timeout'
  if (code === 'CORRUPT_MESSAGE') return 'other'
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

/** Errors that a retry does not cure: a certificate, a login, a permission, a limit. */
function refusalOf(error: unknown, address: string): XmasdError | undefined {
  const text = deepMessage(error)
  return (
    tlsRefusal(error, text, address) ??
    loginRefusal(error, text, address) ??
    rightRefusal(error, text) ??
    settingRefusal(error, text)
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

/** Requests that brokers refuse because of a setting, of ours or of theirs. */
const SETTINGS: Record<string, readonly [ErrorCode, string]> = {
  INVALID_SESSION_TIMEOUT: [
    'CONFIG_INVALID',
    "set log.sessionMsMax between the brokers' group.min.session.timeout.ms and group.max.session.timeout.ms",
  ],
  INVALID_TRANSACTION_TIMEOUT: [
    'CONFIG_INVALID',
    "set log.transactionMsMax to at most the brokers' transaction.max.timeout.ms",
  ],
  INCONSISTENT_GROUP_PROTOCOL: [
    'CONFIG_INVALID',
    'score.group and select.group must be groups that no other kind of consumer is in: name others',
  ],
  GROUP_MAX_SIZE_REACHED: [
    'LOG_FORBIDDEN',
    "run fewer processes in score.group or select.group, or raise the brokers' group.max.size",
  ],
  POLICY_VIOLATION: [
    'LOG_FORBIDDEN',
    "create log.topics as the brokers' policy asks, then start again: log.replicationFactor, log.minInsyncReplicas and log.retentionMs say how we would",
  ],
}

function settingRefusal(error: unknown, text: string): XmasdError | undefined {
  const code = codeOf(error) ?? ''
  const [kind, hint] = SETTINGS[code] ?? []
  if (kind === undefined) return undefined
  return new XmasdError(kind, `the brokers refuse it (${code}): ${text}`, hint!, { cause: error })
}

function unknown(error: unknown, address: string): XmasdError {
  return new XmasdError(
    'LOG_UNAVAILABLE',
    `${address}: ${deepMessage(error)}`,
    'look into the log of the brokers; `xmasd doctor` shows what can be reached',
    { cause: error },
  )
}

/** The error after the last retry, with what the brokers said. */
export function gaveUp(error: unknown, address: string, ms: number): XmasdError {
  const seconds = `${Math.round(ms / 1000)} s`
  const text = deepMessage(error)
  const cause = retryCauseOf(codeOf(error), namesOf(error))
  if (cause !== undefined && cause !== 'connection' && cause !== 'timeout') {
    return new XmasdError(
      'LOG_UNAVAILABLE',
      `${address}: no success after ${seconds}: ${text}`,
      'look into the log of the brokers; `xmasd doctor` shows what can be reached',
      { cause: error },
    )
  }
  const isClosed = /Closed connection|closed by the server|before secure TLS/i.test(text)
  return new XmasdError(
    'LOG_UNAVAILABLE',
    `no answer from ${address} for ${seconds}: ${text}`,
    isClosed
      ? 'the brokers end the connection at once: does that port want TLS (log.tls.enabled), a login (log.sasl), or neither?'
      : 'check log.brokers, the network and that the brokers run; `xmasd doctor` shows what can be reached',
    { cause: error },
  )
}
