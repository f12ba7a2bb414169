/**
 * The best that can be done on arrival, for good, by who knows how many of a cluster will come and how their
 * instability is distributed: of `left` examples that are still to come, in random order, keep `need` with the least
 * expected sum. Dynamic programming backwards, the sequential assignment problem (Derman, Lieberman, Ross 1972): one
 * is kept if it is steadier than what it would cost to go on without it,
 *
 *     V(m, r) = E min(x + V(m - 1, r - 1), V(m - 1, r)),   threshold(m, r) = V(m - 1, r) - V(m - 1, r - 1)
 *
 * with the log-normal x in closed form.
 */
export type Optimum = { needMax: number; thresholds: Float32Array }

/** Log-normal with median 1; all cells (left, need) up to the two given. */
export function optimumFor(deviation: number, leftMax: number, needMax: number): Optimum {
  const thresholds = new Float32Array((leftMax + 1) * (needMax + 1))
  const mean = Math.exp(deviation ** 2 / 2)
  const costs = new Float64Array(needMax + 1)
  for (let left = 1; left <= leftMax; left++) {
    // From above, so that costs[need - 1] is still that of one example fewer.
    for (let need = Math.min(left, needMax); need >= 1; need--) {
      const threshold = need === left ? Infinity : costs[need]! - costs[need - 1]!
      thresholds[left * (needMax + 1) + need] = threshold
      costs[need] = costs[need - 1]! + cappedMean(threshold, deviation, mean)
    }
  }
  return { needMax, thresholds }
}

/** What is kept lies below it: with `left` to come, the one in hand among them, of which `need` are wanted. */
export function thresholdOf(
  { needMax, thresholds }: Optimum,
  { left, need }: { left: number; need: number },
): number {
  if (need <= 0) return Number.NEGATIVE_INFINITY
  if (need >= left) return Infinity
  return thresholds[left * (needMax + 1) + need]!
}

/** E min(x, cap) */
function cappedMean(cap: number, deviation: number, mean: number): number {
  if (cap === Infinity) return mean
  const z = Math.log(cap) / deviation
  return mean * normalShare(z - deviation) + cap * (1 - normalShare(z))
}

/** Of the standard normal distribution, the share below z, to 8e-8 (Abramowitz and Stegun 26.2.17). */
function normalShare(z: number): number {
  const t = 1 / (1 + 0.2316419 * Math.abs(z))
  const series =
    ((((1.330274429 * t - 1.821255978) * t + 1.781477937) * t - 0.356563782) * t + 0.31938153) * t
  const tail = (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * series
  return z > 0 ? 1 - tail : tail
}
