/** Opens the log that the configuration names, and lists its topics. */
import { readFileSync } from 'node:fs'
import { messageOf, XmasdError } from '../errors.ts'
import type { LogEvents, Logger } from '../observe/logger.ts'
import type { KafkaLogConfig, LogConfig } from './config.ts'
import type { KafkaLogOptions } from './kafka/log.ts'
import { openLocalLog } from './local/log.ts'
import type { Log, TopicSpec } from './log.ts'

export type OpenLogOptions = { readonly?: boolean; events?: LogEvents; logger?: Logger }

/** The Kafka client is loaded only where it is asked for. */
export async function openLog(config: LogConfig, options: OpenLogOptions = {}): Promise<Log> {
  if (config.kind === 'kafka') {
    const { openKafkaLog } = await import('./kafka/log.ts')
    return openKafkaLog(kafkaOptions(config, options))
  }
  return openLocalLog({ path: config.path, ...options })
}

function kafkaOptions(log: KafkaLogConfig, options: OpenLogOptions): KafkaLogOptions {
  const { brokers, clientId, requestMsMax } = log
  const connection = { brokers, clientId, tls: tlsOf(log), sasl: saslOf(log), requestMsMax }
  return { ...log, connection, defaults: log, statePath: log.path, ...options }
}

function tlsOf({ tls }: KafkaLogConfig): KafkaLogOptions['connection']['tls'] {
  if (!tls.enabled) return undefined
  const { ca, cert, key, servername } = tls
  return {
    ca: ca && read('log.tls.ca', ca),
    cert: cert && read('log.tls.cert', cert),
    key: key && read('log.tls.key', key),
    // Undefined, it would stand in place of the broker's name.
    ...(servername === undefined ? {} : { servername }),
  }
}

function saslOf({ sasl }: KafkaLogConfig): KafkaLogOptions['connection']['sasl'] {
  const { mechanism, username, password, passwordFile } = sasl
  if (mechanism === 'none') return undefined
  const secret = password ?? read('log.sasl.passwordFile', passwordFile!).trimEnd()
  return { mechanism, username: username!, password: secret }
}

function read(key: string, path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    throw new XmasdError(
      'CONFIG_INVALID',
      `${key} names ${path}, which cannot be read: ${messageOf(error)}`,
      `set ${key} to a file that this user may read`,
      { cause: error },
    )
  }
}

/** The log without write access. Throws LOG_UNAVAILABLE where there is none. */
export async function openLogToRead(config: LogConfig): Promise<Log> {
  const log = await openLog(config, { readonly: true })
  try {
    await log.ensureTopics(topicSpecs(config))
    return log
  } catch (error) {
    await log.close()
    throw error
  }
}

/** `assignments` and `subset` are kept for good: the state of the select role follows from them. */
export function topicSpecs(config: LogConfig): TopicSpec[] {
  const { topics, examplesPartitions } = config
  const keep: Partial<KafkaLogConfig['retentionMs']> =
    config.kind === 'kafka' ? config.retentionMs : {}
  return [
    { name: topics.examples, partitions: examplesPartitions, retentionMs: keep.examples },
    { name: topics.assignments, partitions: 1, retentionMs: -1 },
    { name: topics.decisions, partitions: 1, retentionMs: keep.decisions },
    { name: topics.subset, partitions: 1, compacted: true },
    { name: topics.deadLetters, partitions: 1, retentionMs: keep.deadLetters },
    { name: topics.bundles, partitions: 1, compacted: true },
    { name: topics.shadow, partitions: 1 },
  ]
}

/** Where the log is, for messages. */
export function logPlace(config: LogConfig): string {
  return config.kind === 'kafka' ? `Kafka at ${config.brokers.join(', ')}` : config.path
}
