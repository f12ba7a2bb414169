/**
 * What a trajectory is made of at each checkpoint: `attention`, the paper's, is the sum of the 5
 * largest singular values of the cross-modal attention; `loss` is the mean cross-entropy of the
 * answers' tokens.
 */
import type { Reach } from '../proxy/checkpoint/parameters.ts'

export const METRICS = ['attention', 'loss'] as const
export type Metric = (typeof METRICS)[number]

/**
 * The image gain: the mean loss of the answers' tokens without the pictures less that with them, in nats. At the
 * last checkpoint, or at `each`.
 */
export type Gain = boolean | 'each'

/** What of the proxy a metric needs. */
export function reachOf(metric: Metric, gain: Gain = false): Reach {
  return metric === 'loss' || gain !== false ? 'logits' : 'projections'
}

/* What singular values become: scores over the schedule, and how steady they are. */

/** T rows of singular values -> T scores, each the sum of its row. */
export function trajectoryOf(singularValues: readonly (readonly number[])[]): number[] {
  return singularValues.map(row => row.reduce((sum, value) => sum + value, 0))
}

/** Sum of absolute differences of neighbouring scores; 0 for one score. Lower is steadier. */
export function instabilityOf(trajectory: readonly number[]): number {
  let sum = 0
  for (let i = 1; i < trajectory.length; i++) sum += Math.abs(trajectory[i]! - trajectory[i - 1]!)
  return sum
}
