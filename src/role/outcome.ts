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
  | { kind: 'assigned'; assignment: Assignment; truncated: boolean; tokens: number }
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
  const found: { cluster: Cluster; distance: number | null } =
    trajectory === null ? { cluster: 'text', distance: null } : nearest(measured)
  const { topic, partition, offset } = record
  return {
    kind: 'assigned',
    truncated: measured.truncated,
    tokens: measured.tokens,
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
    },
  }
}

export function outputOf(
  outcome: Outcome,
  topics: { assignments: string; deadLetters: string },
): OutRecord {
  if (outcome.kind === 'assigned') {
    const value = Buffer.from(JSON.stringify(outcome.assignment))
    return { topic: topics.assignments, key: outcome.assignment.key, value, partition: 0 }
  }
  const { record, error } = outcome
  const { topic, partition, offset } = record
  return {
    topic: topics.deadLetters,
    key: record.key,
    value: record.value ?? new Uint8Array(),
    headers: {
      code: error.code,
      hint: error.hint,
      message: error.message,
      source: JSON.stringify({ topic, partition, offset }),
    },
  }
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
