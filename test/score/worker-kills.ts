/** A test's scoring worker: a sequence whose first id is -1 makes the thread exit. */
import {
  loadScorer,
  type Scored,
  type ScoreJob,
  type ScorerOptions,
} from '../../src/score/scorer.ts'
import { runWorkerLoop } from '../../src/score/workers/loop.ts'

await runWorkerLoop<ScorerOptions, ScoreJob, Scored[]>(async options => {
  const scorer = await loadScorer(options)
  return async ({ passes }) => {
    if (passes.flat().some(sequence => sequence.ids[0] === -1)) process.exit(9)
    return { result: await scorer.score(passes) }
  }
})
