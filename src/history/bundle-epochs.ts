/** Which bundle was active when, and the baseline that decisions began with. */
import { PublishedBundles } from '../bundle/publication.ts'
import type { Config } from '../config.ts'
import type { Log } from '../log/log.ts'
import { readAssignment } from '../record.ts'
import { continuesBaseline } from '../select/online/online-policy.ts'
import { Ledger } from '../select/online/regret.ts'
import type { Beginning } from '../select/rule/policy.ts'
import { budgetOf, type ClusterSize } from '../select/rule/quotas.ts'
import { ranked } from '../select/rule/rank.ts'

/** From `offset` of `assignments` on, `bundle` is active. The first epoch begins with the log. */
export type BundleEpoch = { bundle: string; offset: number }

/** The next offset that the select role reads, and the epochs before it. */
export type SelectPosition = { offset: number; epochs: BundleEpoch[] }

/** Longer records are assignments: they are skipped without being parsed. */
const CONTROL_BYTES_MAX = 256

/**
 * The epochs that began before the offset `before`, oldest first; the first one always. Swapping to the
 * active bundle begins none. Empty where nothing has been assigned. Reads `assignments` up to there.
 */
export async function readBundleEpochs(
  log: Log,
  config: Config,
  before = Number.POSITIVE_INFINITY,
): Promise<BundleEpoch[]> {
  const epochs: BundleEpoch[] = []
  for await (const record of log.read(config.log.topics.assignments)) {
    const { offset } = record
    const isFirst = epochs.length === 0
    if (!isFirst && offset >= before) break
    if (record.value === null || (!isFirst && record.value.length > CONTROL_BYTES_MAX)) continue
    const value = readAssignment(record)
    if ('control' in value) {
      const isOther = value.control === 'swap' && value.bundle !== epochs.at(-1)?.bundle
      if (isOther) epochs.push({ bundle: value.bundle, offset })
    } else if (isFirst) epochs.push({ bundle: value.bundle, offset })
  }
  return epochs
}

/** Read it before the topics that the select role writes: those are then of this position or later. */
export async function readSelectPosition(log: Log, config: Config): Promise<SelectPosition> {
  const committed = await log.committed(config.select.group, config.log.topics.assignments)
  const offset = committed[0] ?? 0
  return { offset, epochs: await readBundleEpochs(log, config, offset) }
}

export type Baseline = {
  /** Baseline examples that count in N and join no cluster. */
  misaligned: number
  /** Size and kept count of every cluster that has baseline examples. */
  clusters: (ClusterSize & { kept: number })[]
  /** Those of the clusters; in the place of instability, what orders them. */
  members: Beginning['members']
}

/**
 * The data of the bundle with which an online policy began; nothing under the revisable policy, where the
 * bundle holds no data, or after a swap: the new bundle may be fitted to the stream itself. Throws
 * BUNDLE_INVALID, BUNDLE_ALTERED.
 */
export async function readBaseline(
  log: Log,
  config: Config,
  { epochs }: Pick<SelectPosition, 'epochs'>,
): Promise<Baseline> {
  const { select } = config
  const none = { clusters: [], members: undefined, misaligned: 0 }
  if (select.policy === 'revisable' || !continuesBaseline(select)) return none
  const [first, ...others] = epochs
  if (first === undefined || others.length > 0) return none
  const bundles = new PublishedBundles(log, config.log.topics.bundles)
  const beginning = await bundles.beginning(first.bundle, { isFirst: true })
  const { clusters, textOnly } = beginning
  if (beginning.members === undefined) return none
  const { members, misaligned } = ranked(select, beginning.members)
  const ledger = new Ledger()
  ledger.reserve(clusters + 1)
  ledger.begin(members, { textOnly, misaligned }, budgetOf(select))
  const counts = [...ledger.clusters()]
  return {
    clusters: counts.map(({ cluster, size, quota }) => ({ cluster, size, kept: quota })),
    members,
    misaligned,
  }
}
