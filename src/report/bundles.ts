/** Which bundle was in force when, and what becomes of its clusters under another. */
import type { Bundle } from '../cluster/bundle.ts'
import type { ClusterMap } from '../cluster/published.ts'
import { signatureOf } from '../cluster/signature.ts'
import type { Config } from '../config.ts'
import type { Log } from '../log/log.ts'
import type { Assignment, Control } from '../record.ts'
import { assignmentsOf } from './history.ts'

/** From `offset` of `assignments` on `bundle` is in force. The first one began with the log. */
export type Reign = { bundle: string; offset: number }

/** Longer records are assignments. */
const CONTROL_BYTES_MAX = 256

/** Oldest first; empty where nothing has been assigned. Looks at every record of `assignments`. */
export async function readReigns(log: Log, config: Config): Promise<Reign[]> {
  const reigns: Reign[] = []
  for await (const { value, offset } of log.read(config.log.topics.assignments)) {
    if (value === null) continue
    const isFirst = reigns.length === 0
    if (!isFirst && value.length > CONTROL_BYTES_MAX) continue
    const record = JSON.parse(Buffer.from(value).toString()) as Assignment | Control
    if ('control' in record) {
      if (record.control === 'swap') reigns.push({ bundle: record.bundle, offset })
    } else if (isFirst) reigns.push({ bundle: record.bundle, offset })
  }
  return reigns
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
  for await (const assignment of assignmentsOf(log, config)) {
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
