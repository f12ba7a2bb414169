/**
 * Runs a policy over a stream and compares its subset exactly with the batch rule's over the whole
 * stream. `docs/regret.md` defines the figures; `select/online/regret.ts` estimates them live.
 */
import { hashedDraw } from '../../src/math/random.ts'
import type { Policy } from '../../src/select/rule/policy.ts'
import { batchQuotas, budgetRule, type Ranked, selectBatch } from '../../src/select/rule/quotas.ts'
import type { Stream } from './streams.ts'

export type Figures = {
  /** Of the mean instability that the batch rule saves over random members. */
  recovered: number
  /** The same at equal counts, reached at random: an imbalance of counts gains nothing. */
  recoveredMended: number
  budgetErrorEnd: number
  /** The largest at any time once n is 100. */
  budgetErrorMax: number
  totalVariation: number
  jaccard: number
  decisionsPerSecond: number
}

const SEED = 1
const BUDGET_MIN = 100

/**
 * The first `baseline` examples are the bundle's: the batch rule selects among them, and they begin the
 * history.
 */
export function run(
  policy: Policy,
  stream: Stream,
  { percent, baseline }: { percent: number; baseline: number },
): Figures {
  const { clusters, cluster, instability } = stream
  const budgetOf = budgetRule(percent)
  const kept = new Uint8Array(cluster.length)
  const members = {
    cluster: cluster.slice(0, baseline),
    instability: Float32Array.from(instability.subarray(0, baseline)),
  }
  policy.begin({ clusters, textOnly: 0, members: baseline === 0 ? undefined : members })
  for (const index of selectBaseline(members, percent)) kept[index] = 1
  let budgetErrorMax = 0
  const started = performance.now()
  for (let i = baseline; i < cluster.length; i++) {
    policy.add(cluster[i]!, instability[i]!, '', contentOf(i))
    for (const { sequence, action } of policy.settle()) {
      kept[baseline + sequence] = action === 'keep' || action === 'restore' ? 1 : 0
    }
    const budget = budgetOf(i + 1)
    if (budget < BUDGET_MIN) continue
    budgetErrorMax = Math.max(budgetErrorMax, Math.abs(policy.kept - budget) / budget)
  }
  const seconds = (performance.now() - started) / 1000
  const decisionsPerSecond = (cluster.length - baseline) / seconds
  return { ...compare(stream, kept, percent), budgetErrorMax, decisionsPerSecond }
}

function selectBaseline(
  { cluster, instability }: { cluster: Int32Array; instability: Float32Array },
  percent: number,
): number[] {
  const examples = Array.from(cluster, (c, i): Ranked => {
    return { cluster: c, instability: instability[i]!, id: '' }
  })
  return selectBatch(examples, percent).selected
}

/** 64 bits, different for every example. */
function contentOf(index: number): { high: number; low: number } {
  const half = (purpose: number): number =>
    Math.floor(hashedDraw({ high: index, low: SEED }, purpose) * 2 ** 32)
  return { high: half(11), low: half(12) }
}

export function compare(
  { clusters, cluster, instability }: Stream,
  kept: Uint8Array,
  percent: number,
): Omit<Figures, 'budgetErrorMax' | 'decisionsPerSecond'> {
  const members = Array.from({ length: clusters }, (): number[] => [])
  cluster.forEach((c, i) => {
    members[c]!.push(i)
  })
  const budget = budgetRule(percent)(cluster.length)
  const sizes = members.map((list, c) => ({ cluster: c, size: list.length }))
  const quotas = new Int32Array(clusters)
  for (const quota of batchQuotas(sizes, budget)) quotas[quota.cluster as number] = quota.taken
  const count = kept.reduce((a, b) => a + b, 0)
  const wanted = quotas.reduce((a, b) => a + b, 0)
  let [naive, mended, asIs, best, variation, both] = [0, 0, 0, 0, 0, 0]
  members.forEach((list, c) => {
    const quota = quotas[c]!
    const sum = (items: readonly number[]): number => items.reduce((a, i) => a + instability[i]!, 0)
    const have = list.filter(i => kept[i] === 1)
    variation += Math.abs(have.length / count - quota / wanted) / 2
    asIs += sum(have) / count
    if (quota === 0) return
    const steadiest = list.sort((a, b) => instability[a]! - instability[b]!).slice(0, quota)
    const rest = list.filter(i => kept[i] === 0)
    both += steadiest.filter(i => kept[i] === 1).length
    naive += (quota * sum(list)) / list.length
    best += sum(steadiest)
    mended +=
      have.length >= quota
        ? (quota * sum(have)) / have.length
        : sum(have) + ((quota - have.length) * sum(rest)) / rest.length
  })
  return {
    recovered: (naive / wanted - asIs) / ((naive - best) / wanted),
    recoveredMended: (naive - mended) / (naive - best),
    budgetErrorEnd: Math.abs(count - budget) / budget,
    totalVariation: variation,
    jaccard: both / (count + wanted - both),
  }
}
