/** Why an example is kept or not: the figures, and the sentence that follows from them. */
import { z } from 'zod'
import type { Members } from '../bundle/bundle.ts'
import { Assignment, type Cluster, Decision } from '../record.ts'
import type { PolicyName } from '../select/rule/policy.ts'
import { SMALL_CLUSTER_SIZE_MAX } from '../select/rule/quotas.ts'
import { type Gained, orderOf, RANK_WORDS, type Ranking } from '../select/rule/rank.ts'

const Count = z.int().min(0)

export const Explanation = z.strictObject({
  v: z.literal(1),
  key: z.string(),
  keptNow: z.boolean(),
  /** Why, in one sentence that agrees with the figures below. */
  because: z.string(),
  assignment: Assignment,
  /** Whether the select role has read it. */
  folded: z.boolean(),
  /** Place in its cluster, 1 = the first to be kept; null for text, duplicates, the random holdout, not folded. */
  rank: z.int().min(1).nullable(),
  /** Counted examples of its cluster: baseline included, random holdout not. */
  clusterSize: Count,
  /** The cluster's quota by the batch rule over all counted examples. */
  quota: Count,
  /** With a random holdout: whether the policy or the draw decides this example; else null. */
  arm: Decision.shape.arm.unwrap().nullable(),
  decisions: z.array(Decision),
})
export type Explanation = z.infer<typeof Explanation>

/**
 * From the last decision and, under the revisable policy, from the figures of now, which it follows.
 * `isBaseline`: it is of the bundle's data, which an online policy continues.
 */
export function because(
  found: Omit<Explanation, 'because'>,
  { policy, rank: by = 'instability' }: { policy: PolicyName } & Ranking,
  isBaseline = false,
): string {
  const { folded, decisions, keptNow, arm, assignment, rank, clusterSize, quota } = found
  const last = decisions.at(-1)
  if (last === undefined) {
    return folded ? 'it waits for the next settlement' : 'the select role has not read it yet'
  }
  if (last.reason === 'duplicate') return `its content is that of ${last.duplicateOf}`
  if (last.reason === 'near_duplicate') return `it is a near-duplicate of ${last.duplicateOf}`
  if (last.reason === 'protected') return protectedBecause(last)
  if (last.reason === 'misaligned') return misalignedBecause(last)
  if (arm === 'random') return 'it is in the random holdout, which is decided at random'
  if (isBaseline) {
    const verb = keptNow ? 'keeps' : 'drops'
    return `the batch rule over the examples that the bundle was fitted to ${verb} it; the decision is final`
  }
  if (policy !== 'revisable') return `${ON_ARRIVAL[last.reason]}; the decision is final`
  const cluster = `cluster ${assignment.cluster} keeps ${quota} of ${clusterSize}`
  if (clusterSize <= SMALL_CLUSTER_SIZE_MAX) {
    return `a cluster of at most ${SMALL_CLUSTER_SIZE_MAX} examples gives none, and ${cluster}`
  }
  if (rank === null) return `${cluster}, in the order of their ids`
  const isDue = keptNow !== rank <= quota
  return `it is number ${rank} by ${RANK_WORDS[by]}, and ${cluster}${isDue ? ' from the next settlement on' : ''}`
}

type Answered = 'duplicate' | 'near_duplicate' | 'protected' | 'misaligned'

/** What an online policy saw when the example came. */
const ON_ARRIVAL: Record<Exclude<Decision['reason'], Answered>, string> = {
  within_quota: 'on arrival it was among the first of its cluster, within its quota',
  below_level: 'on arrival its cluster had too few examples to choose from',
  over_quota: "on arrival other examples were to fill its cluster's quota",
  cluster_too_small: 'on arrival its cluster was too small to give any',
  quota_grew: "its cluster's quota grew",
  quota_shrank: "its cluster's quota shrank",
  bundle_swapped: 'another bundle became active',
  drawn: 'it was kept at random, at the rate of its cluster on arrival',
  not_drawn: 'it was dropped at random, at the rate of its cluster on arrival',
}

function misalignedBecause({ gain }: Decision): string {
  const found = gain === undefined ? '' : ` of ${gain.toPrecision(4)}`
  return `its image gain${found} is below select.gainMin: the pictures do not belong to the answers`
}

function protectedBecause({ duplicateOf }: Decision): string {
  const of =
    duplicateOf === undefined ? 'protected evaluation data' : `${duplicateOf}, which is protected`
  return `it is a copy of ${of}`
}

/** 1 where `other` stands before `than` in the order of `select.rank`, else 0. `isBefore`: in log order. */
export function isSteadier(
  ranking: Ranking,
  other: Gained,
  than: Gained,
  isBefore: boolean,
): number {
  if (other.instability === null || than.instability === null) return 0
  const [a, b] = [orderOf(ranking, other), orderOf(ranking, than)]
  if (a === b) return isBefore ? 1 : 0
  return a < b ? 1 : 0
}

/**
 * Baseline examples of a cluster that come before one of this order: of equal ones all where it is of the
 * stream, which the baseline precedes, and none where it is of the baseline.
 */
export function earlierOf(
  members: Members | undefined,
  cluster: Cluster,
  order: number,
  isBaseline: boolean,
): number {
  const own = Math.fround(order)
  let count = 0
  members?.cluster.forEach((other, i) => {
    const one = members.instability[i]!
    if (other === cluster && (one < own || (one === own && !isBaseline))) count++
  })
  return count
}
