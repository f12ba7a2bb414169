/**
 * xmasd's side of bench:score: the real ingest and the real workers, in a process of its own so that its
 * memory can be read.
 *
 *   node child.js '{"proxyDir": DIR, "shape": NAME, "workers": 1, "threads": 2, …}'
 *
 * A line `{"folder": DIR}` scores the examples of `writeExamples`; ingest does not count. The answer is
 * `{"seconds", "cpuSeconds", "tokens", "residents", "saved", "savedWhole", "top5": [example][checkpoint][5]}`:
 * `tokens` of all sequences together, checkpoints that stay in memory, the work saved by the shape and by the
 * model that it is a part of. With `"opening": true` it is `{"openSeconds"}`.
 */
import { createInterface } from 'node:readline'
import type { Sequence } from '../../src/score/batch.ts'
import { FEATURE_BYTES_MAX } from '../../src/score/residency.ts'
import { loadScorer } from '../../src/score/scorer.ts'
import { type ScoringOptions, startScoring } from '../../src/score/scoring.ts'
import { cpuSeconds } from '../child.ts'
import { readSequences } from './examples.ts'
import { shapeOf, wholeConfig } from './shapes.ts'
import { workSaved } from './work.ts'

type Settings = Omit<ScoringOptions, 'mode'> & { shape: string }

const { shape, ...options } = JSON.parse(process.argv[2]!) as Settings
const mode = 'reference'
const scoring = await startScoring({ mode, ...options })
const { schedule } = scoring
const { config } = schedule
const size = { ...schedule, checkpoints: schedule.checkpoints.length }
for await (const line of createInterface({ input: process.stdin })) {
  const { folder, opening } = JSON.parse(line) as { folder: string; opening?: true }
  const sequences = await readSequences(folder, schedule, options.gain === true)
  if (opening) {
    process.stdout.write(`${JSON.stringify({ openSeconds: await openSeconds(sequences[0]!) })}\n`)
    continue
  }
  const [clock, cpu] = [performance.now(), cpuSeconds()]
  const scored = await scoring.score(sequences)
  const seconds = (performance.now() - clock) / 1000
  const spent = cpuSeconds() - cpu
  const top5 = scored.map(one => {
    if ('singularValues' in one) return one.singularValues
    throw new Error(JSON.stringify(one))
  })
  const answer = {
    ...{ seconds, cpuSeconds: spent, top5 },
    tokens: sequences.reduce((total, { ids }) => total + ids.length, 0),
    residents: scoring.plan.residency.residents,
    saved: workSaved(config, sequences, size),
    savedWhole: workSaved(wholeConfig(shapeOf(shape), config), sequences, size),
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
await scoring.close()

/**
 * Of a checkpoint that is read again for every job, in this process: what a job of one example takes more. LoRA
 * checkpoints are, though they stay in memory.
 */
async function openSeconds(one: Sequence): Promise<number> {
  const { threads = 1, engine, precision } = options
  const secondsOf = async (checkpoints: typeof schedule.checkpoints, residents: number) => {
    const scorer = await loadScorer({
      ...{ schedule: { ...schedule, checkpoints }, mode, threads, engine, precision },
      residency: { residents, featureBytesMax: FEATURE_BYTES_MAX },
    })
    let seconds = 0
    for (let run = 0; run < 3; run++) {
      const clock = performance.now()
      await scorer.score([[one]])
      seconds = (performance.now() - clock) / 1000 / checkpoints.length // of the last
    }
    await scorer.close()
    return seconds
  }
  const { checkpoints } = schedule
  const residents = checkpoints[0]!.base === undefined ? 0 : checkpoints.length
  return (await secondsOf(checkpoints, residents)) - (await secondsOf(checkpoints.slice(0, 1), 1))
}
