/** A scoring worker: loads the schedule's checkpoints, then scores the batches it is sent. */
import type { ScoreJob } from './guard.ts'
import { loadScorer, type Scored, type ScorerOptions } from './scorer.ts'
import { serve } from './serve.ts'

await serve<ScorerOptions, ScoreJob, Scored[]>(async options => {
  const scorer = await loadScorer(options)
  return async ({ sequences, tokensMax }) => {
    const result = await scorer.scoreBatch(sequences, tokensMax)
    return { result, use: scorer.takeDeviceUse() }
  }
})
