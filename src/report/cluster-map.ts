/** What becomes of a bundle's clusters under another. */
import type { Bundle } from '../cluster/bundle.ts'
import type { ClusterMap } from '../cluster/published.ts'
import { signatureOf } from '../cluster/signature.ts'
import type { Config } from '../config.ts'
import type { Log } from '../log/log.ts'
import { assignmentsOf } from './history.ts'

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
