/**
 * How far a subset of final decisions is from the batch rule's over the same history.
 *
 * Stability recovered is (naive - ours) / (naive - batch) in mean instability, each with the batch rule's count
 * of every cluster, so that counts that are out of balance gain nothing: `naive` has random members, `batch` the
 * steadiest; ours is brought to those counts at random: where it has too many of a cluster, a random part of
 * them; where it has too few, random ones of what it dropped are added.
 */
import type { Ledger } from './ledger.ts'
import { TEXT_SLOT } from './level.ts'
import { clusterOf, type Regret, slotOf } from './policy.ts'
import { batchQuotas } from './quotas.ts'

/** `lowest` gives the sum of the lowest instabilities of a slot, so many of them. */
export function regretOf(
  ledger: Ledger,
  budget: number,
  lowest: (slot: number, count: number) => number,
): Regret {
  const { sizes, kept, sums, keptSums, slots } = ledger
  const sized = Array.from({ length: slots }, (_, slot) => {
    return { cluster: clusterOf(slot), size: sizes[slot]! }
  })
  const quotas = batchQuotas(sized, budget)
  const wanted = quotas.reduce((sum, { taken }) => sum + taken, 0)
  const rule = new Int32Array(slots)
  for (const { cluster, taken } of quotas) rule[slotOf(cluster)] = taken
  let [naive, ours, best, variation] = [0, 0, 0, 0]
  for (let slot = 0; slot < slots; slot++) {
    const [size, have, want] = [sizes[slot]!, kept[slot]!, rule[slot]!]
    variation += Math.abs(share(have, ledger.keptTotal) - share(want, wanted)) / 2
    if (slot === TEXT_SLOT || want === 0) continue
    naive += (want * sums[slot]!) / size
    best += lowest(slot, want)
    ours +=
      have >= want
        ? (want * keptSums[slot]!) / have
        : keptSums[slot]! + ((want - have) * (sums[slot]! - keptSums[slot]!)) / (size - have)
  }
  return {
    budgetError: share(ledger.keptTotal - budget, budget),
    totalVariation: variation,
    recovered: naive > best ? (naive - ours) / (naive - best) : 1,
  }
}

function share(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}
