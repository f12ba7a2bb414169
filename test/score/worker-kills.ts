/** A test's scoring worker: a sequence whose first id is -1 makes the thread exit. */
import type { ScoreJob } from '../../src/score/guard.ts'
import { loadScorer, type Scored, type ScorerOptions } from '../../src/score/scorer.ts'
import { serve } from '../../src/score/serve.ts'

await serve<ScorerOptions, ScoreJob, Scored[]>(async options => {
  const scorer = await loadScorer(options)
  return async ({ sequences, tokensMax }) => {
    if (sequences.some(sequence => sequence.ids[0] === -1)) process.exit(9)
    return { result: await scorer.scoreBatch(sequences, tokensMax) }
  }
})
