/**
 * xmasd's side of bench:score: the real ingest and the real workers, in a process of its own so that its
 * memory can be read.
 *
 *   node child.js '{"proxyDir": DIR, "shape": NAME, "workers": 1, "threads": 2, …}'
 *
 * A line `{"folder": DIR}` scores the examples of `writeExamples`; ingest does not count. The answer is
 * `{"seconds", "cpuSeconds", "tokens", "residents", "saved", "savedWhole", "openSeconds", "top5":
 * [example][checkpoint][5]}`: `tokens` of all sequences together, checkpoints that stay in memory, the work
 * saved by the shape and by the model that it is a part of, and how long the schedule took to open.
 */
import { createInterface } from 'node:readline'
import { type ScoringOptions, startScoring } from '../../src/score/scoring.ts'
import { cpuSeconds } from '../child.ts'
import { readSequences } from './examples.ts'
import { shapeOf, wholeConfig } from './shapes.ts'
import { workSaved } from './work.ts'

type Settings = Omit<ScoringOptions, 'mode'> & { shape: string }

const { shape, ...options } = JSON.parse(process.argv[2]!) as Settings
const started = performance.now()
const scoring = await startScoring({ mode: 'reference', ...options })
const openSeconds = (performance.now() - started) / 1000
const { schedule } = scoring
const { config } = schedule
const size = { ...schedule, checkpoints: schedule.checkpoints.length }
for await (const line of createInterface({ input: process.stdin })) {
  const { folder } = JSON.parse(line) as { folder: string }
  const sequences = await readSequences(folder, schedule, options.gain === true)
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
    openSeconds,
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
await scoring.close()
