/** Which log the configuration asks for, and its topics. */
import { readFileSync } from 'node:fs'
import type { Config } from './config.ts'
import type { KafkaLogConfig } from './config-log.ts'
import { messageOf, XmasdError } from './errors.ts'
import type { KafkaLogOptions } from './log/kafka.ts'
import { openLocalLog } from './log/local.ts'
import type { Log, TopicSpec } from './log/log.ts'
import type { LogEvents } from './observe/log-events.ts'
import type { Logger } from './observe/logger.ts'

export type OpenLogOptions = { readonly?: boolean; events?: LogEvents; logger?: Logger }

/** The Kafka client is loaded only where it is asked for. */
export async function openLog(config: Config, options: OpenLogOptions = {}): Promise<Log> {
  if (config.log.kind === 'kafka') {
    const { openKafkaLog } = await import('./log/kafka.ts')
    return openKafkaLog(kafkaOptions(config.log, options))
  }
  const { readonly, events } = options
  return openLocalLog({
    path: config.log.path,
    ...(readonly === undefined ? {} : { readonly }),
    ...(events === undefined ? {} : { events }),
  })
}

function kafkaOptions(log: KafkaLogConfig, options: OpenLogOptions): KafkaLogOptions {
  const { brokers, clientId, requestMsMax } = log
  return {
    connection: { brokers, clientId, tls: tlsOf(log), sasl: saslOf(log), requestMsMax },
    defaults: {
      replicationFactor: log.replicationFactor,
      minInsyncReplicas: log.minInsyncReplicas,
      batchBytesMax: log.batchBytesMax,
    },
    statePath: log.path,
    sessionMsMax: log.sessionMsMax,
    transactionMsMax: log.transactionMsMax,
    connectMsMax: log.connectMsMax,
    unreachableMsMax: log.unreachableMsMax,
    fetchBytesMax: log.fetchBytesMax,
    ...options,
  }
}

function tlsOf({ tls }: KafkaLogConfig): KafkaLogOptions['connection']['tls'] {
  if (!tls.enabled) return undefined
  const { ca, cert, key, servername } = tls
  return {
    ...(ca === undefined ? {} : { ca: read('log.tls.ca', ca) }),
    ...(cert === undefined ? {} : { cert: read('log.tls.cert', cert) }),
    ...(key === undefined ? {} : { key: read('log.tls.key', key) }),
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

/** The log as it is, for commands that only look. Throws LOG_UNAVAILABLE where none is there. */
export async function openLogToRead(config: Config): Promise<Log> {
  const log = await openLog(config, { readonly: true })
  try {
    await log.ensureTopics(topicSpecs(config))
    return log
  } catch (error) {
    await log.close()
    throw error
  }
}

/** `assignments` and `subset` are what everything else follows from: kept for good. */
export function topicSpecs(config: Config): TopicSpec[] {
  const { topics, examplesPartitions } = config.log
  const keep: Partial<KafkaLogConfig['retentionMs']> =
    config.log.kind === 'kafka' ? config.log.retentionMs : {}
  const kept = (name: 'examples' | 'decisions' | 'deadLetters') =>
    keep[name] === undefined ? {} : { retentionMs: keep[name] }
  return [
    { name: topics.examples, partitions: examplesPartitions, ...kept('examples') },
    { name: topics.assignments, partitions: 1, retentionMs: -1 },
    { name: topics.decisions, partitions: 1, ...kept('decisions') },
    { name: topics.subset, partitions: 1, compacted: true },
    { name: topics.deadLetters, partitions: 1, ...kept('deadLetters') },
    { name: topics.bundles, partitions: 1, compacted: true },
    { name: topics.shadow, partitions: 1 },
  ]
}

export function groupsOf(config: Config): { score: string; select: string } {
  return { score: config.score.group, select: config.select.group }
}

/** Where the log is, for messages. */
export function logPlace({ log }: Config): string {
  return log.kind === 'kafka' ? `Kafka at ${log.brokers.join(', ')}` : log.path
}
