/** The data of the bundle that decisions for good went on from. */
import type { Config } from '../config.ts'
import type { Log } from '../log/log.ts'
import { ClustersInForce } from '../role/clusters-in-force.ts'
import { goesOnFrom } from '../select/irrevocable.ts'
import { Ledger } from '../select/ledger.ts'
import type { Beginning } from '../select/policy.ts'
import { budgetOf, type ClusterSize } from '../select/quotas.ts'
import type { Stand } from './reigns.ts'

export type Baseline = {
  /** Clusters that have some of it: how many, and how many of them are kept. */
  clusters: (ClusterSize & { kept: number })[]
  members: Beginning['members']
}

/**
 * What the select role began with; nothing where it revises, where the bundle holds no data, or where another
 * bundle has been swapped in: that one may be fitted to the stream itself.
 *
 * @throws XmasdError BUNDLE_INVALID, BUNDLE_ALTERED
 */
export async function readBaseline(
  log: Log,
  config: Config,
  { reigns }: Pick<Stand, 'reigns'>,
): Promise<Baseline> {
  const { select } = config
  const none = { clusters: [], members: undefined }
  if (select.policy === 'revisable' || !goesOnFrom(select)) return none
  const [first, ...others] = reigns
  if (first === undefined || others.length > 0) return none
  const clusters = new ClustersInForce(log, config.log.topics.bundles)
  const {
    clusters: count,
    textOnly,
    members,
  } = await clusters.beginning(first.bundle, {
    isFirst: true,
  })
  if (members === undefined) return none
  const ledger = new Ledger()
  ledger.reserve(count + 1)
  ledger.begin(members, textOnly, budgetOf(select))
  const rows = [...ledger.clusters()]
  return {
    clusters: rows.map(({ cluster, size, quota }) => ({ cluster, size, kept: quota })),
    members,
  }
}
