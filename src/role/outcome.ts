/**
 * Records in, records out, without side effects: the one outcome of each record of `examples`, the
 * records that follow from outcomes and decisions, and the positions to commit.
 */
import type { Bundle } from '../bundle/bundle.ts'
import { type SignatureSource, signatureOf } from '../bundle/signature.ts'
import type { XmasdError } from '../errors.ts'
import type { LogRecord, OutRecord, Position } from '../log/log.ts'
import type { Metrics } from '../observe/metrics.ts'
import { redacted } from '../observe/text.ts'
import {
  type Assignment,
  type Cluster,
  type Decision,
  REDRIVE_HEADERS,
  REDRIVE_MARK,
  type SubsetEntry,
} from '../record.ts'
import type { ScoredRecord } from '../score/pipeline.ts'

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
  scored: ScoredRecord,
  nearest: Nearest,
  bundle: string,
): Outcome {
  if (record.error !== undefined) return { kind: 'dead_letter', record, error: record.error }
  if (scored.kind === 'failed') return { kind: 'dead_letter', record, error: scored.error }
  const { id, key, content, singularValues, trajectory, instability } = scored
  const { words, layout, embedding, question, size, gain, gains } = scored
  const found: { cluster: Cluster; distance: number | null } =
    trajectory === null ? { cluster: 'text', distance: null } : nearest(scored)
  const { topic, partition, offset } = record
  return {
    kind: 'assigned',
    truncated: scored.truncated,
    tokens: scored.tokens,
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
      question,
      size,
      gain,
      gains,
    },
  }
}

/**
 * A dead letter has the headers of its record; see `carriedHeaders`. `recordBytesMax`: one that would be
 * larger is cut, and says so in its header `cut`.
 */
export function outputOf(
  outcome: Outcome,
  topics: { assignments: string; deadLetters: string },
  recordBytesMax: number,
): OutRecord {
  if (outcome.kind === 'assigned') {
    const { key } = outcome.assignment
    const value = Buffer.from(JSON.stringify(outcome.assignment))
    return { topic: topics.assignments, key, value, partition: 0, headers: outcome.trace }
  }
  const { record, error } = outcome
  const { topic, partition, offset } = record
  const all = carriedHeaders(record)
  const allBytes = headerBytes(all)
  const isCarried = allBytes <= recordBytesMax / 2
  const carried = isCarried
    ? all
    : { headers: headersOf(record, [...TRACE_HEADERS, ...REDRIVE_HEADERS]) }
  const headers: Record<string, string> = {
    ...carried.headers,
    code: error.code,
    hint: redacted(error.hint),
    message: redacted(error.message),
    source: JSON.stringify({ topic, partition, offset }),
  }
  const { rawHeaders } = carried
  const whole = record.value ?? new Uint8Array()
  const used =
    FRAME_BYTES + Buffer.byteLength(record.key ?? '') + headerBytes({ headers, rawHeaders })
  const value = whole.subarray(0, Math.max(0, recordBytesMax - used))
  if (value.length < whole.length) headers.cut = `${value.length} of ${whole.length} bytes`
  else if (!isCarried) headers.cut = `headers of ${allBytes} bytes left out`
  return { topic: topics.deadLetters, key: record.key, value, headers, rawHeaders }
}

/** Bytes of a record besides its headers, its key and its value. */
const FRAME_BYTES = 512
/** Bytes of a header besides its name and its value. */
const HEADER_FRAME_BYTES = 16

function headerBytes({ headers = {}, rawHeaders = [] }: Headers): number {
  const sizes = [...Object.entries(headers), ...rawHeaders].map(([name, value]) => {
    return HEADER_FRAME_BYTES + Buffer.byteLength(name) + Buffer.byteLength(value ?? '')
  })
  return sizes.reduce((sum, size) => sum + size, 0)
}

type Headers = Pick<OutRecord, 'headers' | 'rawHeaders'>

/** Headers that a dead letter has of its own. */
const LETTER_HEADERS: readonly string[] = ['code', 'hint', 'message', 'source', 'cut', REDRIVE_MARK]
/** Stands before the name of a header of the record that is named like one of the dead letter's own. */
const ORIGINAL = 'original.'

/** The headers of a record as its dead letter carries them. */
function carriedHeaders(record: LogRecord): Headers {
  return renamed(record, name => {
    return LETTER_HEADERS.includes(name) || name.startsWith(ORIGINAL) ? ORIGINAL + name : name
  })
}

/** The headers that the record of a dead letter had, but for those of redrives. */
export function restoredHeaders(letter: LogRecord): Headers {
  const own: readonly string[] = [...LETTER_HEADERS, ...REDRIVE_HEADERS]
  return renamed(letter, name => {
    if (own.includes(name)) return undefined
    return name.startsWith(ORIGINAL) ? name.slice(ORIGINAL.length) : name
  })
}

/** Leaves out those without a new name. */
function renamed(
  { headers, rawHeaders }: LogRecord,
  rename: (name: string) => string | undefined,
): Headers {
  const of = <T>(entries: readonly (readonly [string, T])[]) =>
    entries.flatMap(([name, value]) => {
      const to = rename(name)
      return to === undefined ? [] : [[to, value] as const]
    })
  return rawHeaders === undefined
    ? { headers: Object.fromEntries(of(Object.entries(headers))) }
    : { rawHeaders: of(rawHeaders) }
}

/** The decision's event, and its change of the compacted subset; both get `headers`. */
export function decisionOutputs(
  decision: Decision,
  topics: { decisions: string; subset: string },
  headers: Record<string, string> = {},
): OutRecord[] {
  const { key, action } = decision
  const event = decisionRecord(decision, topics.decisions, headers)
  if (action === 'drop') return [event]
  return [event, { topic: topics.subset, key, value: subsetValue(decision), partition: 0, headers }]
}

function subsetValue({ action, key, id, cluster, instability, bundle }: Decision): Buffer | null {
  if (action === 'evict') return null
  const entry: SubsetEntry = { v: 1, key, id, cluster, instability, bundle }
  return Buffer.from(JSON.stringify(entry))
}

export function decisionRecord(
  decision: Decision,
  topic: string,
  headers: Record<string, string> = {},
): OutRecord {
  const value = Buffer.from(JSON.stringify(decision))
  return { topic, key: decision.key, value, partition: 0, headers }
}

/** W3C Trace Context and Baggage, passed from a record to the records that follow from it. */
const TRACE_HEADERS = ['traceparent', 'tracestate', 'baggage']

export function traceOf(record: Pick<LogRecord, 'headers'>): Record<string, string> {
  return headersOf(record, TRACE_HEADERS)
}

function headersOf(
  { headers }: Pick<LogRecord, 'headers'>,
  names: readonly string[],
): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => names.includes(name)))
}

/** When the oldest of `records` was appended; undefined where there are none. */
export function oldestOf(records: readonly LogRecord[]): number | undefined {
  if (records.length === 0) return undefined
  return records.reduce((oldest, { timestamp }) => Math.min(oldest, timestamp), Number.MAX_VALUE)
}

/** The next offsets to read after `records`. */
export function positionsAfter(records: readonly LogRecord[]): Position[] {
  const next = new Map<string, Position>()
  for (const { topic, partition, offset } of records) {
    const at = `${topic}/${partition}`
    const seen = next.get(at)?.offset ?? 0
    next.set(at, { topic, partition, offset: Math.max(seen, offset + 1) })
  }
  return [...next.values()]
}

/** One answer of the index in this many is compared with the exact scan. */
const CHECK_EVERY = 16

export function checkedNearest(bundle: Bundle, metrics: Pick<Metrics, 'indexChecks'>): Nearest {
  const read = signatureOf(bundle.manifest)
  let asked = 0
  return example => {
    const signature = read(example)
    const found = bundle.index.nearest(signature)
    if (asked++ % CHECK_EVERY === 0) {
      const agreed = bundle.index.nearestExact(signature).cluster === found.cluster
      metrics.indexChecks.inc({ agreed: String(agreed) })
    }
    return found
  }
}
