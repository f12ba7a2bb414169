/**
 * What a trajectory is made of at each checkpoint: `attention`, the paper's, is the sum of the 5
 * largest singular values of the cross-modal attention; `loss` is the mean cross-entropy of the
 * answers' tokens.
 */
import type { Reach } from '../proxy/parameters.ts'

export const METRICS = ['attention', 'loss'] as const
export type Metric = (typeof METRICS)[number]

/** What of the proxy a metric needs. */
export function reachOf(metric: Metric): Reach {
  return metric === 'loss' ? 'logits' : 'projections'
}
