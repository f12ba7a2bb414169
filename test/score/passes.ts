/** Scoring in passes, as the pool's jobs are, without a pool. */
import type { HostTensor } from '../../src/engine/engine.ts'
import type { ProxyConfig } from '../../src/proxy/config.ts'
import { type BatchLimits, type Image, planBatches, type Sequence } from '../../src/score/batch.ts'
import type { VisionProgram } from '../../src/score/checkpoint-score.ts'
import { createFeatureCache, imageFeatures } from '../../src/score/features.ts'
import type { Scored, Scorer } from '../../src/score/scorer.ts'

export async function scoreInPasses(
  scorer: Pick<Scorer, 'score'>,
  sequences: readonly Sequence[],
  limits: BatchLimits,
): Promise<Scored[]> {
  const plan = planBatches(sequences, limits)
  const scored = await scorer.score(plan.map(indices => indices.map(i => sequences[i]!)))
  const order = plan.flat()
  return sequences.map((_, i) => scored[order.indexOf(i)]!)
}

/** The features of a batch's images, as the score's program takes them. */
export function featuresOf(
  tower: Pick<VisionProgram, 'run'>,
  config: ProxyConfig,
  images: readonly Image[],
): Promise<HostTensor> {
  return createFeatureCache(0).stacked(0, images, () => imageFeatures(tower, config, images))
}
