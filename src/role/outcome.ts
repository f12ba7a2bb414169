/**
 * Each record of `examples` ends in exactly one outcome; outputs and positions follow from
 * outcomes here, in one place, purely.
 */
import type { SignatureSource } from '../cluster/signature.ts'
import type { XmasdError } from '../errors.ts'
import type { LogRecord, OutRecord, Position } from '../log/log.ts'
import type { Assignment, Cluster } from '../record.ts'
import type { Measured } from '../score/measure.ts'

export type Outcome =
  | {
      kind: 'assigned'
      assignment: Assignment
      truncated: boolean
      tokens: number
      trace: Record<string, string>
    }
  | { kind: 'dead_letter'; record: LogRecord; error: XmasdError }

/** Nearest centroid of an example's signature: cluster number and squared Euclidean distance. */
export type Nearest = (example: SignatureSource) => { cluster: number; distance: number }

export function outcomeOf(
  record: LogRecord,
  measured: Measured,
  nearest: Nearest,
  bundle: string,
): Outcome {
  if (measured.kind === 'failed') return { kind: 'dead_letter', record, error: measured.error }
  const { id, key, content, singularValues, trajectory, instability } = measured
  const { words, layout, embedding } = measured
  const found: { cluster: Cluster; distance: number | null } =
    trajectory === null ? { cluster: 'text', distance: null } : nearest(measured)
  const { topic, partition, offset } = record
  return {
    kind: 'assigned',
    truncated: measured.truncated,
    tokens: measured.tokens,
    trace: traceOf(record),
    assignment: {
      v: 1,
      key,
      id,
      cluster: found.cluster,
      singularValues,
      trajectory,
      instability,
      distance: found.distance,
      content,
      bundle,
      source: { topic, partition, offset },
      words,
      layout,
      embedding,
    },
  }
}

/** `recordBytesMax`: a dead letter that would be larger is cut, and says so in its header `cut`. */
export function outputOf(
  outcome: Outcome,
  topics: { assignments: string; deadLetters: string },
  recordBytesMax: number,
): OutRecord {
  if (outcome.kind === 'assigned') {
    const { key, source } = outcome.assignment
    const value = Buffer.from(JSON.stringify(outcome.assignment))
    return { topic: topics.assignments, key, value, partition: 0, headers: outcome.trace, source }
  }
  const { record, error } = outcome
  const { topic, partition, offset } = record
  const headers: Record<string, string> = {
    ...traceOf(record),
    code: error.code,
    hint: error.hint,
    message: error.message,
    source: JSON.stringify({ topic, partition, offset }),
  }
  const whole = record.value ?? new Uint8Array()
  const value = whole.subarray(0, roomFor(record.key, headers, recordBytesMax))
  if (value.length < whole.length) headers.cut = `${value.length} of ${whole.length} bytes`
  const source = { topic, partition }
  return { topic: topics.deadLetters, key: record.key, value, headers, source }
}

/** What sizes and other fields of a record may take beside its texts and its value. */
const FRAME_BYTES = 512

function roomFor(
  key: string | null,
  headers: Readonly<Record<string, string>>,
  recordBytesMax: number,
): number {
  const texts = [key ?? '', ...Object.entries(headers).flat()]
  const taken = texts.reduce((sum, text) => sum + Buffer.byteLength(text), FRAME_BYTES)
  return Math.max(0, recordBytesMax - taken)
}

/** W3C Trace Context and Baggage: passed from a record to what is written because of it. */
const TRACE_HEADERS = ['traceparent', 'tracestate', 'baggage']

export function traceOf({ headers }: Pick<LogRecord, 'headers'>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).filter(([name]) => TRACE_HEADERS.includes(name)),
  )
}

/** When the oldest of `records` was appended; undefined where there are none. */
export function oldestOf(records: readonly LogRecord[]): number | undefined {
  if (records.length === 0) return undefined
  return records.reduce((oldest, { timestamp }) => Math.min(oldest, timestamp), Number.MAX_VALUE)
}

/** The next offsets to read once all of `records` are done with. */
export function positionsAfter(records: readonly LogRecord[]): Position[] {
  const next = new Map<string, Position>()
  for (const { topic, partition, offset } of records) {
    const at = `${topic}/${partition}`
    const seen = next.get(at)?.offset ?? 0
    next.set(at, { topic, partition, offset: Math.max(seen, offset + 1) })
  }
  return [...next.values()]
}
