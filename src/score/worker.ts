/** A scoring worker: loads the schedule's checkpoints, then scores the batches it is sent. */
import type { Sequence } from './batch.ts'
import { loadScorer, type Scored, type ScorerOptions } from './scorer.ts'
import { serve } from './serve.ts'

await serve<ScorerOptions, readonly Sequence[], Scored[]>(async options => {
  const scorer = await loadScorer(options)
  return async sequences => {
    const result = await scorer.scoreBatch(sequences)
    return { result, use: scorer.takeDeviceUse() }
  }
})
