/**
 * xmasd's side of bench:score: the real workers, in a process of its own so that its memory can be read.
 *
 *   node score-child.js '{"proxyDir": DIR, "workers": 1, "threads": 2, …}'
 *
 * A line `{"folder": DIR, "examples": [0, 1]?}` scores the examples of `writeExamples`. The answer is
 * `{"seconds", "cpuSeconds", "top5": [example][checkpoint][5]}`.
 */
import { createInterface } from 'node:readline'
import { type ScoringOptions, startScoring } from '../src/score/scoring.ts'
import { cpuSeconds } from './child.ts'
import { readSequences } from './score-model.ts'

const options = JSON.parse(process.argv[2]!) as Omit<ScoringOptions, 'mode'>
const scoring = await startScoring({ mode: 'reference', ...options })
for await (const line of createInterface({ input: process.stdin })) {
  const { folder, examples } = JSON.parse(line) as { folder: string; examples?: number[] }
  const all = readSequences(folder, scoring.schedule.config)
  const sequences = examples === undefined ? all : examples.map(i => all[i]!)
  const [clock, cpu] = [performance.now(), cpuSeconds()]
  const scored = await scoring.score(sequences)
  const seconds = (performance.now() - clock) / 1000
  const spent = cpuSeconds() - cpu
  const top5 = scored.map(one => {
    if ('singularValues' in one) return one.singularValues
    throw new Error(JSON.stringify(one))
  })
  process.stdout.write(`${JSON.stringify({ seconds, cpuSeconds: spent, top5 })}\n`)
}
await scoring.close()
