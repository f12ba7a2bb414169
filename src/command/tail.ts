/** `tail TOPIC`: the last records of a topic, and with --follow new ones. */
import { setTimeout } from 'node:timers/promises'
import { Argument, Command } from 'commander'
import { loadConfig } from '../config.ts'
import type { Log, LogRecord } from '../log/log.ts'
import { TOPICS } from '../record.ts'
import { positiveInteger, print, printJson, withLog } from './helpers/options.ts'

type Options = { config?: string; lines: number; all?: boolean; follow?: boolean; json?: boolean }

/** Configuration keys by the default names of the topics. */
const KEYS = Object.fromEntries(
  Object.entries(TOPICS).map(([key, name]) => [name, key as keyof typeof TOPICS]),
)
const FOLLOW_EVERY_MS = 300

export function command(): Command {
  return new Command('tail')
    .description('Print the last records of a topic, and with --follow new ones as they arrive.')
    .addArgument(new Argument('<topic>', 'by its default name').choices(Object.keys(KEYS)))
    .option('--config <file>', 'configuration file')
    .option('-n, --lines <n>', 'how many records', positiveInteger, 10)
    .option('--all', 'from the beginning, one partition after another')
    .option('-f, --follow', 'print new records until Ctrl-C')
    .option('--json', 'one JSON document a record')
    .action((topic: string, options: Options) => {
      const config = loadConfig(options.config)
      return withLog(config, log => tail(log, config.log.topics[KEYS[topic]!], options))
    })
}

async function tail(log: Log, topic: string, options: Options): Promise<void> {
  const show = (record: LogRecord): void =>
    options.json === true ? printJson(documentOf(record)) : print(options, {}, [lineOf(record)])
  let ends = await log.ends(topic)
  if (options.all === true) {
    for await (const record of records(log, topic, [], ends)) show(record)
  } else {
    for (const record of await latest(log, topic, ends, options.lines)) show(record)
  }
  while (options.follow === true) {
    await setTimeout(FOLLOW_EVERY_MS)
    const now = await log.ends(topic)
    for await (const record of records(log, topic, ends, now)) show(record)
    ends = now
  }
}

/** Of every partition: from `from` (default: its beginning) up to and without `to`. */
async function* records(
  log: Log,
  topic: string,
  from: readonly number[],
  to: readonly number[],
): AsyncIterable<LogRecord> {
  for (const [partition, end] of to.entries()) {
    const start = from[partition] ?? 0
    if (start < end) yield* log.read(topic, { partition, from: start, to: end })
  }
}

/** The last `count` records of all partitions, in the order of their time. */
async function latest(
  log: Log,
  topic: string,
  ends: readonly number[],
  count: number,
): Promise<LogRecord[]> {
  const found: LogRecord[] = []
  for (const [partition, end] of ends.entries()) {
    found.push(...(await lastOf(log, topic, partition, end, count)))
  }
  return found.sort((a, b) => a.timestamp - b.timestamp).slice(-count)
}

/** Compaction and transactions leave holes in the offsets: looks further back until enough are found. */
async function lastOf(
  log: Log,
  topic: string,
  partition: number,
  end: number,
  count: number,
): Promise<LogRecord[]> {
  for (let back = count; ; back *= 4) {
    const from = Math.max(0, end - back)
    const found: LogRecord[] = []
    for await (const record of log.read(topic, { partition, from, to: end })) found.push(record)
    if (found.length >= count || from === 0) return found.slice(-count)
  }
}

/**
 * `value` is the JSON that the record holds, or its text where that is no JSON or is nested too deep
 * to be serialised.
 */
function documentOf({ value, timestamp, topic, partition, offset, key, headers }: LogRecord) {
  const time = new Date(timestamp).toISOString()
  const text = value === null ? null : Buffer.from(value).toString()
  return { v: 1, topic, partition, offset, timestamp: time, key, headers, value: contentOf(text) }
}

function contentOf(text: string | null): unknown {
  if (text === null) return null
  try {
    const content: unknown = JSON.parse(text)
    JSON.stringify(content)
    return content
  } catch {
    return text
  }
}

/** Longer lines, such as examples with inline images, are cut. */
const CHARACTERS_MAX = 400

function lineOf(record: LogRecord): string {
  const { partition, offset, key, timestamp } = record
  const line = `${new Date(timestamp).toISOString()} ${partition}@${offset} ${key ?? '-'} ${what(record)}`
  const shown = line.slice(0, CHARACTERS_MAX)
  return line.length > shown.length ? `${shown}… ${line.length} characters` : shown
}

/** Of a dead letter the reason, of others the content. */
function what({ value, headers: { code, message, source, tries } }: LogRecord): string {
  const again = tries === undefined ? '' : ` redriven ${tries} times`
  if (code !== undefined) return `${code}: ${message ?? ''} ${source ?? ''}${again}`
  return value === null ? 'removed' : Buffer.from(value).toString()
}
