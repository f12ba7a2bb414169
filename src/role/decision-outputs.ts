/** Decisions as records of the log, and assignments read back from it. */
import { messageOf, XmasdError } from '../errors.ts'
import type { LogRecord, OutRecord } from '../log/log.ts'
import { Control, type Decision, type SubsetEntry } from '../record.ts'
import { type FoldedAssignment, parseForFold } from '../select/parse.ts'

/** @throws XmasdError RECORD_INVALID: `assignments` is ours alone, what can't be read there stops the fold */
export function parseAssignment(
  record: LogRecord,
  wanted: { withTrajectory: boolean },
): FoldedAssignment | Control {
  try {
    return checkShape(parseForFold(record.value!, wanted))
  } catch (error) {
    throw new XmasdError(
      'RECORD_INVALID',
      `${record.topic}/${record.partition}@${record.offset} is no assignment: ${messageOf(error)}`,
      'only the score role may write to this topic; find out who else did',
      { cause: error },
    )
  }
}

/** What the fold reads of it must be of its type; whether it agrees with itself is the fold's to say. */
function checkShape(value: FoldedAssignment | Control): FoldedAssignment | Control {
  if (typeof value !== 'object' || value === null) throw new Error('it is no object')
  if ('control' in value) return Control.parse(value)
  for (const name of ['key', 'id', 'content', 'bundle'] as const) {
    if (typeof value[name] !== 'string') throw new Error(`${name} is no string`)
  }
  return value
}

/** The event itself, and what it does to the compacted subset; `headers` go with both. */
export function decisionOutputs(
  decision: Decision,
  topics: { decisions: string; subset: string },
  headers: Record<string, string> = {},
): OutRecord[] {
  const { key, action } = decision
  const event: OutRecord = {
    topic: topics.decisions,
    key,
    value: Buffer.from(JSON.stringify(decision)),
    partition: 0,
    headers,
  }
  if (action === 'drop') return [event]
  return [event, { topic: topics.subset, key, value: subsetValue(decision), partition: 0, headers }]
}

function subsetValue({ action, key, id, cluster, instability, bundle }: Decision): Buffer | null {
  if (action === 'evict') return null
  const entry: SubsetEntry = { v: 1, key, id, cluster, instability, bundle }
  return Buffer.from(JSON.stringify(entry))
}

/** A decision of the bundle that decides beside the one in force. */
export function shadowOutput(decision: Decision, { shadow }: { shadow: string }): OutRecord {
  const value = Buffer.from(JSON.stringify(decision))
  return { topic: shadow, key: decision.key, value, partition: 0 }
}
