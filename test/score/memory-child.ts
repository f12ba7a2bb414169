/**
 * Scores in a process of its own and prints by how many bytes its memory grew at most:
 * `node memory-child.js '{"dir", "memoryMax"}'`. Linux only.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { seededRandom } from '../../src/math/random.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import { patchesPerImage } from '../../src/proxy/config.ts'
import { planWorkers } from '../../src/score/residency.ts'
import { loadScorer } from '../../src/score/scorer.ts'
import { randomSequence, writeTinyProxy } from '../fixtures-tiny-proxy.ts'
import { scoreInPasses } from './passes.ts'

export type MemoryTask = { dir: string; memoryMax: number | undefined; warmUpDir: string }
export type MemoryReport = { residents: number; grownBytes: number; values: number[][][] }

const TOKENS_MAX = 256
const { dir, memoryMax, warmUpDir }: MemoryTask = JSON.parse(process.argv[2]!)

const limits = { tokensMax: TOKENS_MAX, examplesMax: 64 }
writeTinyProxy(warmUpDir)
await score(warmUpDir, undefined, 1) // libraries are loaded, threads are there
const before = statusBytes('VmRSS')
writeFileSync('/proc/self/clear_refs', '5') // the peak starts again from here
const { residents, values } = await score(dir, memoryMax, 3)
const report: MemoryReport = { residents, grownBytes: statusBytes('VmHWM') - before, values }
process.stdout.write(JSON.stringify(report))

async function score(proxy: string, bytes: number | undefined, jobs: number) {
  const schedule = openSchedule(proxy)
  const { config } = schedule
  const workers = { workers: 1, threads: 1, limits, memoryMax: bytes, batchExamplesMax: 16 }
  const { residency } = planWorkers(schedule, 'cpu', workers)
  const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1, residency })
  const random = seededRandom(7)
  const values: number[][][] = []
  for (let job = 0; job < jobs; job++) {
    const sequences = Array.from({ length: 16 }, () =>
      randomSequence(random, {
        before: Math.floor(random() * 20),
        after: 2 + Math.floor(random() * 90),
        imageTokens: config.imageTokens,
        patchValues: patchesPerImage(config.vision) * 3 * config.vision.patchSize ** 2,
      }),
    )
    for (const scored of await scoreInPasses(scorer, sequences, limits)) {
      if (!('singularValues' in scored)) throw new Error(JSON.stringify(scored))
      values.push(scored.singularValues)
    }
  }
  await scorer.close()
  return { residents: residency.residents, values }
}

function statusBytes(key: 'VmRSS' | 'VmHWM'): number {
  const text = readFileSync('/proc/self/status', 'utf8')
  return 1024 * Number(new RegExp(`${key}:\\s+(\\d+) kB`).exec(text)![1])
}
