/** How evenly a subset lies over clusters, in numbers; docs/metrics.md defines each. */

/** Shannon entropy of counts, in nats; 0 where there are none. */
export function entropyOf(counts: readonly number[]): number {
  const total = counts.reduce((sum, count) => sum + count, 0)
  let entropy = 0
  for (const count of counts) {
    if (count > 0) entropy -= (count / total) * Math.log(count / total)
  }
  return entropy
}

/** The entropy of `counts` over that of `ideal`; 1 where the ideal is all in one place. */
export function balanceOf(counts: readonly number[], ideal: readonly number[]): number {
  const best = entropyOf(ideal)
  return best === 0 ? 1 : entropyOf(counts) / best
}

/** The entropy of `counts` over that of equal counts; 1 where there is at most one. */
export function evennessOf(counts: readonly number[]): number {
  return counts.length <= 1 ? 1 : entropyOf(counts) / Math.log(counts.length)
}
