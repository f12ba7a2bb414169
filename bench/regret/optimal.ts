/**
 * The best irrevocable decisions on arrival, if the number of a cluster's examples and the distribution
 * of their instability are known: of `left` examples to come, in random order, keep `need` with the
 * least expected sum. This is the sequential assignment problem (Derman, Lieberman, Ross 1972), solved
 * by dynamic programming backwards. An example is kept if its instability is below the threshold:
 *
 *     V(m, r) = E min(x + V(m - 1, r - 1), V(m - 1, r)),   threshold(m, r) = V(m - 1, r) - V(m - 1, r - 1)
 *
 * with the log-normal x in closed form.
 */
export type Optimum = { needMax: number; thresholds: Float32Array }

/** For a log-normal with median 1, every cell (left, need) up to the given ones. */
export function optimumFor(deviation: number, leftMax: number, needMax: number): Optimum {
  const thresholds = new Float32Array((leftMax + 1) * (needMax + 1))
  const mean = Math.exp(deviation ** 2 / 2)
  const costs = new Float64Array(needMax + 1)
  for (let left = 1; left <= leftMax; left++) {
    // Downwards, so that costs[need - 1] is still that of one example fewer.
    for (let need = Math.min(left, needMax); need >= 1; need--) {
      const threshold = need === left ? Infinity : costs[need]! - costs[need - 1]!
      thresholds[left * (needMax + 1) + need] = threshold
      costs[need] = costs[need - 1]! + cappedMean(threshold, deviation, mean)
    }
  }
  return { needMax, thresholds }
}

/** Examples below it are kept: `left` to come, the current one included, of which `need` are wanted. */
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

/** The standard normal distribution function, to 8e-8 (Abramowitz and Stegun 26.2.17). */
function normalShare(z: number): number {
  const t = 1 / (1 + 0.2316419 * Math.abs(z))
  const series =
    ((((1.330274429 * t - 1.821255978) * t + 1.781477937) * t - 0.356563782) * t + 0.31938153) * t
  const tail = (Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI)) * series
  return z > 0 ? 1 - tail : tail
}
