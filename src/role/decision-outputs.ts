/** Decisions as records of the log, and assignments read back from it. */
import { messageOf, XmasdError } from '../errors.ts'
import type { LogRecord, OutRecord } from '../log/log.ts'
import type { Control, Decision, SubsetEntry } from '../record.ts'
import { type FoldedAssignment, parseForFold } from '../select/parse.ts'

/** @throws XmasdError RECORD_INVALID: `assignments` is ours alone, what can't be read there stops the fold */
export function parseAssignment(
  record: LogRecord,
  wanted: { withTrajectory: boolean },
): FoldedAssignment | Control {
  try {
    return parseForFold(record.value!, wanted)
  } catch (error) {
    throw new XmasdError(
      'RECORD_INVALID',
      `${record.topic}/${record.partition}@${record.offset} is no assignment: ${messageOf(error)}`,
      'only the score role may write to this topic; find out who else did',
      { cause: error },
    )
  }
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
