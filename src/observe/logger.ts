/** The logger of the daemon, and the events that a log reports. */

import { writeSync } from 'node:fs'
import { type Logger, pino } from 'pino'
import { prettyFactory } from 'pino-pretty'
import { printable, printableJson, redacted } from './text.ts'

export const TRANSACTION_OUTCOMES = ['committed', 'fenced', 'aborted'] as const
export type TransactionOutcome = (typeof TRANSACTION_OUTCOMES)[number]

/** Why a request is tried again: a closed list. */
export const RETRY_CAUSES = [
  'connection',
  'timeout',
  'leader',
  'coordinator',
  'transaction',
  'other',
] as const
export type RetryCause = (typeof RETRY_CAUSES)[number]

export type LogEvents = {
  /**
   * One atomic write of outputs and positions ended: `committed`; `fenced`, another member of the
   * group had moved on; or `aborted`, it failed otherwise and nothing of it stays.
   */
  onTransaction(outcome: TransactionOutcome, seconds: number): void
  /** The group's partitions were assigned; this process has `partitions` of them. */
  onRebalance(group: string, partitions: number): void
  /** A request failed and is tried again. */
  onRetry(cause: RetryCause): void
}

export const NO_EVENTS: LogEvents = {
  onTransaction: () => {},
  onRebalance: () => {},
  onRetry: () => {},
}

export type { Logger }

export type LoggerOptions = {
  level: string
  /** `auto`: text on a terminal, else JSON. Default: json. */
  format?: 'auto' | 'json' | 'text'
  /** Takes the lines in place of stderr, for a live view that prints logs above itself. */
  forward?: (line: string) => void
  /** Called for each line that could not be written, as on a full disk. */
  onDropped?: () => void
}

/** One line an event on stderr: stdout is data. A line that cannot be written is dropped, and counted. */
export function createLogger(options: LoggerOptions): Logger {
  const { level, format = 'json', forward = stderrWriter(options.onDropped) } = options
  const isText = format === 'text' || (format === 'auto' && process.stderr.isTTY === true)
  const pretty = isText ? prettyWriter() : undefined
  const write = (written: string): void => {
    const line = redacted(written)
    forward(pretty?.(line) ?? `${printableJson(line.trimEnd())}\n`)
  }
  const formatters = { level: (label: string) => ({ level: label }) }
  return pino(
    { level, base: undefined, timestamp: pino.stdTimeFunctions.isoTime, formatters },
    { write },
  )
}

/** Waits this long for a reader of a non-blocking stderr. */
const WAIT_MS_MAX = 100

function stderrWriter(onDropped: () => void = () => {}): (line: string) => void {
  return line => {
    const bytes = Buffer.from(line)
    let waitedMs = 0
    for (let at = 0; at < bytes.length; ) {
      try {
        at += writeSync(2, bytes, at)
      } catch (error) {
        const isBusy = error instanceof Error && 'code' in error && error.code === 'EAGAIN'
        if (!isBusy || waitedMs++ >= WAIT_MS_MAX) return onDropped()
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1)
      }
    }
  }
}

/** For people: time, level, message, then the fields; in colours on a terminal that has them. */
function prettyWriter(): (line: string) => string {
  const colorize = process.stderr.isTTY === true && process.env.NO_COLOR === undefined
  const pretty = prettyFactory({ colorize, singleLine: true, translateTime: 'SYS:HH:MM:ss' })
  return line => {
    const { v, ...fields } = JSON.parse(line)
    const { level, time, msg } = fields
    // The fields of a versioned document are for programs: its message has the same for people.
    return pretty(shownDeep(v === undefined ? fields : { level, time, msg }))
  }
}

/** The same value with acting characters escaped in all of its texts: only our colours act. */
function shownDeep(value: unknown): unknown {
  if (typeof value === 'string') return printable(value)
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map(shownDeep)
  return Object.fromEntries(
    Object.entries(value).map(([name, one]) => [printable(name), shownDeep(one)]),
  )
}
