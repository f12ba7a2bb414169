/**
 * What a trajectory is made of at each checkpoint: `attention`, the paper's, is the sum of the 5
 * largest singular values of the cross-modal attention; `loss` is the mean cross-entropy of the
 * answers' tokens.
 */
export const METRICS = ['attention', 'loss'] as const
export type Metric = (typeof METRICS)[number]
