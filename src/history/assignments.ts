/** What the log says of single examples, read for people: `explain`, `export`, `report`, `bundle`. */
import type { Bundle } from '../bundle/bundle.ts'
import { type ClusterMap, PublishedBundles } from '../bundle/publication.ts'
import { signatureOf } from '../bundle/signature.ts'
import type { Config } from '../config.ts'
import type { Log } from '../log/log.ts'
import { type Decision, type RecordedAssignment, readAssignment } from '../record.ts'
import type { SelectPosition } from './bundle-epochs.ts'

const CONTROL_TEXT = '{"v":1,"control"'

export async function* assignmentsOf(
  log: Log,
  config: Config,
): AsyncGenerator<{ assignment: RecordedAssignment; offset: number }> {
  for await (const record of log.read(config.log.topics.assignments)) {
    const value = readAssignment(record)
    if (!('control' in value)) yield { assignment: value, offset: record.offset }
  }
}

/** `isFolded` is false for an assignment that the select role has not read yet. */
export type Assigned = { assignment: RecordedAssignment; isFolded: boolean }

/** Every assignment in log order, with its cluster under the active bundle. */
export async function* activeAssignments(
  log: Log,
  config: Config,
  position: SelectPosition,
): AsyncGenerator<Assigned> {
  const bundles = new PublishedBundles(log, config.log.topics.bundles)
  const active = position.epochs.at(-1)?.bundle
  for await (const { assignment, offset } of assignmentsOf(log, config)) {
    const isFolded = offset < position.offset
    yield { assignment: await bundles.reassign(assignment, active ?? assignment.bundle), isFolded }
  }
}

/** The assignments as JSON texts, which are lines of a file of trajectories. */
export async function* assignmentTexts(log: Log, config: Config): AsyncGenerator<string> {
  for await (const { value } of log.read(config.log.topics.assignments)) {
    const text = Buffer.from(value!).toString()
    if (!text.startsWith(CONTROL_TEXT)) yield text
  }
}

/** Every decision in log order, with its offset. */
export async function* decisionsOf(
  log: Log,
  config: Config,
): AsyncGenerator<{ decision: Decision; offset: number }> {
  for await (const { value, offset } of log.read(config.log.topics.decisions)) {
    yield { decision: JSON.parse(Buffer.from(value!).toString()) as Decision, offset }
  }
}

/** Whether the example of this decision counts in no cluster: a copy, one of the random holdout, a misaligned one. */
export function isOutside({ duplicateOf, reason, arm }: Decision): boolean {
  const isAlone = reason === 'protected' || reason === 'misaligned' || arm === 'random'
  return duplicateOf !== undefined || isAlone
}

/** The keys kept now, oldest first: the topic `subset` folded by key. */
export async function readSubset(log: Log, config: Config): Promise<Set<string>> {
  const keys = new Set<string>()
  for await (const record of log.read(config.log.topics.subset)) {
    if (record.key === null) continue
    keys.delete(record.key)
    if (record.value !== null) keys.add(record.key)
  }
  return keys
}

/** Where the examples of each of `from`'s clusters are under `to`; duplicates count each time. */
export async function mapClusters(
  log: Log,
  config: Config,
  from: Bundle,
  to: Bundle,
): Promise<ClusterMap> {
  const signatures = { from: signatureOf(from.manifest), to: signatureOf(to.manifest) }
  const overlaps = new Map<number, Map<number, number>>()
  for await (const { assignment } of assignmentsOf(log, config)) {
    if (assignment.trajectory === null) continue
    const old = from.index.nearest(signatures.from(assignment)).cluster
    const next = to.index.nearest(signatures.to(assignment)).cluster
    const row = overlaps.get(old) ?? new Map<number, number>()
    overlaps.set(old, row.set(next, (row.get(next) ?? 0) + 1))
  }
  const clusters = [...overlaps]
    .sort(([a], [b]) => a - b)
    .map(([old, row]) => ({ old, ...largest(row) }))
  return { v: 1, from: from.id, to: to.id, clusters }
}

/** The lowest number among the largest. */
function largest(row: Map<number, number>): { new: number; examples: number; share: number } {
  const [first, ...others] = [...row].sort(([a], [b]) => a - b)
  const [cluster, examples] = others.reduce((best, one) => (one[1] > best[1] ? one : best), first!)
  const total = [...row.values()].reduce((sum, count) => sum + count, 0)
  return { new: cluster, examples, share: examples / total }
}
