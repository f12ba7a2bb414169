/** A scoring worker: loads the schedule's checkpoints, then scores the passes it is sent. */
import { loadScorer, type Scored, type ScoreJob, type ScorerOptions } from '../scorer.ts'
import { runWorkerLoop } from './loop.ts'

await runWorkerLoop<ScorerOptions, ScoreJob, Scored[]>(async options => {
  const scorer = await loadScorer(options)
  return async ({ passes }) => {
    const result = await scorer.score(passes)
    return { result, use: scorer.takeDeviceUse() }
  }
})
