/**
 * Scores under a limit on its address space, so that long passes fail to allocate and shorter ones do not:
 * `node shortage-child.js PROXY`. Linux only, with prlimit.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { seededRandom } from '../../src/math/random.ts'
import { patchesPerImage } from '../../src/proxy/config.ts'
import { type OutOfMemory, startScoring } from '../../src/score/scoring.ts'
import { randomSequence } from '../fixtures-tiny-proxy.ts'

export type ShortageReport = { events: OutOfMemory[]; isEqual: boolean }

const TOKENS_MAX = 16_384
/** Above what the process has once it is warm: passes of 16,384 tokens of the test's proxy take several times that. */
const MARGIN_BYTES = 200 * 2 ** 20

const common = { proxyDir: process.argv[2]!, mode: 'reference', workers: 1, threads: 1 } as const
const events: OutOfMemory[] = []
const scoring = await startScoring({
  ...common,
  limits: { tokensMax: TOKENS_MAX, examplesMax: 64 },
  onOutOfMemory: event => events.push(event),
})
const { config } = scoring.schedule
const random = seededRandom(7)
const sequences = Array.from({ length: 64 }, () =>
  randomSequence(random, {
    before: 5,
    after: 200,
    imageTokens: config.imageTokens,
    patchValues: patchesPerImage(config.vision) * 3 * config.vision.patchSize ** 2,
  }),
)
await scoring.score(sequences.slice(0, 2)) // threads and code are there
limitAddressSpace(String(statusBytes('VmSize') + MARGIN_BYTES))
const limited = await scoring.score(sequences)
limitAddressSpace('unlimited')
await scoring.close()
const free = await startScoring(common)
const expected = await free.score(sequences)
await free.close()
const isScored = limited.every(one => 'singularValues' in one)
const isEqual = isScored && JSON.stringify(limited) === JSON.stringify(expected)
const report: ShortageReport = { events, isEqual }
process.stdout.write(JSON.stringify(report))

/** The soft limit, which may be raised again. */
function limitAddressSpace(limit: string): void {
  execFileSync('prlimit', [`--as=${limit}:`, '--pid', String(process.pid)])
}

function statusBytes(key: 'VmSize'): number {
  const text = readFileSync('/proc/self/status', 'utf8')
  return 1024 * Number(new RegExp(`${key}:\\s+(\\d+) kB`).exec(text)![1])
}
