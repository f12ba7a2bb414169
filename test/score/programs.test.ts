import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import {
  cpSync,
  linkSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { XmasdError } from '../../src/errors.ts'
import { seededRandom } from '../../src/math/random.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import { patchesPerImage } from '../../src/proxy/config.ts'
import type { Sequence } from '../../src/score/batch.ts'
import { loadScorer, type Scored } from '../../src/score/scorer.ts'
import { MALLOC } from '../../src/score/workers/host.ts'
import { randomSequence, TINY, writeTinyProxy } from '../fixtures-tiny-proxy.ts'
import { shared, temporaryFolder } from '../support.ts'
import type { MemoryReport, MemoryTask } from './memory-child.ts'
import { scoreInPasses } from './passes.ts'

const STEPS = [1, 2, 3, 4]

function sequencesOf(dir: string, count: number): Sequence[] {
  const { config } = openSchedule(dir)
  const random = seededRandom(4)
  return Array.from({ length: count }, (_, i) =>
    randomSequence(random, {
      before: i % 4,
      after: 3 + ((i * 5) % 9),
      imageTokens: config.imageTokens,
      patchValues: patchesPerImage(config.vision) * 3 * config.vision.patchSize ** 2,
      hash: String(i % 3),
    }),
  )
}

async function score(dir: string, residents: number, jobs: Sequence[][]): Promise<Scored[][]> {
  const schedule = openSchedule(dir)
  const residency = { residents, featureBytesMax: 0 }
  const limits = { tokensMax: 40, examplesMax: 3 }
  const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1, residency })
  const results: Scored[][] = []
  for (const job of jobs) results.push(await scoreInPasses(scorer, job, limits))
  await scorer.close()
  return results
}

for (const visionTrains of [false, true]) {
  const tower = visionTrains ? 'a tower a checkpoint' : 'one tower'
  test(`streamed checkpoints give to the last bit what resident ones give, ${tower}`, async t => {
    const dir = temporaryFolder(t)
    writeTinyProxy(dir, { steps: STEPS, visionTrains })
    const sequences = sequencesOf(dir, 12)
    const jobs = [sequences, sequences.slice(3, 7)]
    const resident = await score(dir, STEPS.length, jobs)
    assert.ok(resident.flat().every(scored => 'singularValues' in scored))
    for (const residents of [0, 1, 3]) {
      assert.deepEqual(await score(dir, residents, jobs), resident, `${residents} resident`)
    }
  })
}

const CHANGES: Record<string, (file: string) => void> = {
  removed: file => rmSync(file),
  'cut off': file => truncateSync(file, 4096),
  'replaced by another of its size': file => {
    const other = `${file}.other`
    writeTinyProxy(`${file}.run`, { steps: [1], seed: 9 })
    renameSync(join(`${file}.run`, 'checkpoint-1', 'model.safetensors'), other)
    renameSync(other, file)
  },
}

for (const [change, apply] of Object.entries(CHANGES)) {
  test(`a streamed checkpoint that is ${change} while in use is CHECKPOINT_INVALID, never another score`, async t => {
    const dir = temporaryFolder(t)
    writeTinyProxy(dir, { steps: STEPS })
    const schedule = openSchedule(dir)
    const residency = { residents: 1, featureBytesMax: 0 }
    const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1, residency })
    const sequences = sequencesOf(dir, 2)
    await scorer.score([sequences])
    const file = join(dir, 'checkpoint-3', 'model.safetensors')
    apply(file)
    await assert.rejects(scorer.score([sequences]), (error: unknown) => {
      assert.ok(error instanceof XmasdError && error.code === 'CHECKPOINT_INVALID')
      assert.match(error.message, /checkpoint-3/)
      return true
    })
    await scorer.close()
  })
}

test('LoRA checkpoints are read again though they stay: one that has changed is CHECKPOINT_INVALID', async t => {
  const set = shared(t, 'goldens/families', 'lora-plain')
  if (set === undefined) return
  const dir = temporaryFolder(t)
  for (const part of ['base', 'run']) cpSync(join(set, part), join(dir, part), { recursive: true })
  const schedule = openSchedule(join(dir, 'run'))
  const { checkpoints } = schedule
  const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1 })
  const [sequence] = sequencesOf(join(dir, 'run'), 1)
  const [first] = await scorer.score([[sequence!]])
  assert.deepEqual(await scorer.score([[sequence!]]), [first])
  const file = join(checkpoints[1]!.dir, 'adapter_model.safetensors')
  const bytes = readFileSync(file)
  bytes[bytes.length - 2]! ^= 1
  writeFileSync(file, bytes) // in its place: the descriptor would read it
  await assert.rejects(scorer.score([[sequence!]]), { code: 'CHECKPOINT_INVALID' })
  await scorer.close()
})

test('memory stays within the budget, and the scores are those of a schedule that is all in memory', t => {
  if (process.platform !== 'linux') return t.skip('reads /proc')
  const dir = writeBigProxy(t)
  const free = measure(t, { dir, memoryMax: undefined })
  const memoryMax = 250 * 2 ** 20
  const bounded = measure(t, { dir, memoryMax })
  const report = ({ residents, grownBytes }: MemoryReport): string =>
    `${residents} of ${BIG_STEPS} in memory: ${Math.round(grownBytes / 2 ** 20)} MiB`
  t.diagnostic(`${report(free)}; within 250 MiB ${report(bounded)}`)
  assert.equal(free.residents, BIG_STEPS)
  assert.ok(bounded.residents >= 1 && bounded.residents < BIG_STEPS)
  assert.ok(
    free.grownBytes > memoryMax,
    'the whole schedule fits the budget: this test shows nothing',
  )
  assert.ok(bounded.grownBytes <= memoryMax)
  assert.deepEqual(bounded.values, free.values)
})

const BIG_STEPS = 6

/** Checkpoints of 60 MB; their files are links to one, which each session reads for itself. */
function writeBigProxy(t: TestContext): string {
  const dir = temporaryFolder(t)
  const shape = { ...TINY, width: 1024, heads: 8, kvHeads: 8, layers: 4 }
  writeTinyProxy(dir, { shape, steps: [1] })
  for (let step = 2; step <= BIG_STEPS; step++) {
    mkdirSync(join(dir, `checkpoint-${step}`))
    for (const name of ['config.json', 'model.safetensors']) {
      linkSync(join(dir, 'checkpoint-1', name), join(dir, `checkpoint-${step}`, name))
    }
  }
  return dir
}

function measure(t: TestContext, task: Omit<MemoryTask, 'warmUpDir'>): MemoryReport {
  const child = fileURLToPath(new URL('./memory-child.js', import.meta.url))
  const argument = JSON.stringify({ ...task, warmUpDir: temporaryFolder(t) })
  const output = execFileSync(process.execPath, [child, argument], {
    encoding: 'utf8',
    env: { ...process.env, ...MALLOC },
    maxBuffer: 2 ** 26,
  })
  return JSON.parse(output) as MemoryReport
}
