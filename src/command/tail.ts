/** `tail TOPIC`: the last records of a topic, and with --follow those that come. */
import { setTimeout } from 'node:timers/promises'
import { Argument, Command } from 'commander'
import { loadConfig } from '../config.ts'
import type { Log, LogRecord } from '../log/log.ts'
import { printable } from '../observe/printable.ts'
import { openLogToRead } from '../open-log.ts'
import { TOPICS } from '../record.ts'
import { positiveInteger } from './options.ts'

type Options = { config?: string; lines: number; all?: boolean; follow?: boolean; json?: boolean }

/** Topics by their own names, whatever the configuration calls them. */
const KEYS = Object.fromEntries(
  Object.entries(TOPICS).map(([key, name]) => [name, key as keyof typeof TOPICS]),
)
const FOLLOW_EVERY_MS = 300

export function tailCommand(): Command {
  return new Command('tail')
    .description('The last records of a topic, and with --follow those that come.')
    .addArgument(new Argument('<topic>', 'by its own name').choices(Object.keys(KEYS)))
    .option('--config <file>', 'configuration file')
    .option('-n, --lines <n>', 'how many', positiveInteger, 10)
    .option('--all', 'from the beginning, partition by partition')
    .option('-f, --follow', 'go on with what comes, until Ctrl-C')
    .option('--json', 'one JSON document a record')
    .action(async (topic: string, options: Options) => {
      const config = loadConfig(options.config)
      const log = await openLogToRead(config)
      try {
        await tail(log, config.log.topics[KEYS[topic]!], options)
      } finally {
        await log.close()
      }
    })
}

async function tail(log: Log, topic: string, options: Options): Promise<void> {
  const text = options.json === true ? jsonOf : lineOf
  const print = (record: LogRecord): void => void process.stdout.write(`${text(record)}\n`)
  let ends = await log.ends(topic)
  if (options.all === true) {
    for await (const record of records(log, topic, [], ends)) print(record)
  } else {
    for (const record of await latest(log, topic, ends, options.lines)) print(record)
  }
  while (options.follow === true) {
    await setTimeout(FOLLOW_EVERY_MS)
    const now = await log.ends(topic)
    for await (const record of records(log, topic, ends, now)) print(record)
    ends = now
  }
}

/** Of every partition, from `from` (default: its beginning) to before `to`. */
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

/** Offsets have holes, where a topic is compacted or transactions end: looks back further until enough are found. */
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
 * `value` is the JSON that the record holds; its text where it holds none, or one nested too deep to be written
 * again; else null.
 */
function jsonOf({ topic, partition, offset, key, headers, timestamp, value }: LogRecord): string {
  const time = new Date(timestamp).toISOString()
  const withContent = (content: unknown): string =>
    JSON.stringify({
      v: 1,
      topic,
      partition,
      offset,
      timestamp: time,
      key,
      headers,
      value: content,
    })
  const text = value === null ? null : Buffer.from(value).toString()
  try {
    return withContent(text === null ? null : JSON.parse(text))
  } catch {
    return withContent(text)
  }
}

/** Images lie in examples as long lines: what is more than this is left out. */
const CHARACTERS_MAX = 400

function lineOf(record: LogRecord): string {
  const { partition, offset, key, timestamp } = record
  const line = `${new Date(timestamp).toISOString()} ${partition}@${offset} ${key ?? '-'} ${what(record)}`
  const shown = line.slice(0, CHARACTERS_MAX)
  return printable(line.length > shown.length ? `${shown}… ${line.length} characters` : shown)
}

/** Of a dead letter why it is one, of others what they hold. */
function what({ value, headers: { code, message, source } }: LogRecord): string {
  if (code !== undefined) return `${code}: ${message ?? ''} ${source ?? ''}`
  return value === null ? 'removed' : Buffer.from(value).toString()
}
