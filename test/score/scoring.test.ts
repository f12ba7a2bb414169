import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { XmasdError } from '../../src/errors.ts'
import { type ProxyConfig, patchesPerImage } from '../../src/proxy/config.ts'
import { seededRandom } from '../../src/random.ts'
import type { Sequence } from '../../src/score/batch.ts'
import { loadScorer } from '../../src/score/scorer.ts'
import { chooseThreads, startScoring } from '../../src/score/scoring.ts'
import { randomSequence, writeTinyProxy } from '../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../support.ts'

function sequences(config: ProxyConfig, count: number): Sequence[] {
  const random = seededRandom(3)
  const patchValues = patchesPerImage(config.vision) * 3 * config.vision.patchSize ** 2
  const { imageTokens } = config
  return Array.from({ length: count }, (_, i) =>
    randomSequence(random, { before: i % 5, after: 2 + ((i * 7) % 11), imageTokens, patchValues }),
  )
}

test('workers give what one thread gives, in input order', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir)
  const limits = { tokensMax: 60, examplesMax: 4 }
  const scoring = await startScoring({ proxyDir: dir, mode: 'reference', workers: 2, limits })
  t.after(() => scoring.close())
  const { schedule } = scoring
  assert.deepEqual(
    schedule.checkpoints.map(checkpoint => checkpoint.step),
    [2, 10],
  )
  const input = sequences(schedule.config, 30)
  const scored = await scoring.score(input)
  const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1 })
  for (const [i, one] of (await scorer.scoreBatch(input)).entries()) {
    const [a, b] = [scored[i]!, one]
    assert.ok('singularValues' in a && 'singularValues' in b)
    for (const [step, row] of a.singularValues.entries()) {
      for (const [k, value] of row.entries()) {
        const expected = b.singularValues[step]![k]!
        assert.ok(Math.abs(value - expected) <= 1e-5 * b.singularValues[step]![0]!)
      }
    }
  }
  await scorer.close()
})

test('an example that kills its worker is lost alone; its batch is scored by the next worker', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir)
  let replaced = 0
  const scoring = await startScoring({
    proxyDir: dir,
    mode: 'reference',
    workers: 1,
    script: new URL('./worker-kills.js', import.meta.url),
    onWorkerReplaced: () => replaced++,
  })
  t.after(() => scoring.close())
  const input = sequences(scoring.schedule.config, 6)
  input[2]!.ids[0] = -1
  const scored = await scoring.score(input)
  assert.deepEqual(
    scored.map(one => ('error' in one ? one.error.code : 'scored')),
    ['scored', 'scored', 'WORKER_DIED', 'scored', 'scored', 'scored'],
  )
  assert.equal(replaced, 2)
})

test('a checkpoint without its weights is an error at the start', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir)
  rmSync(join(dir, 'checkpoint-10', 'model.safetensors'))
  await assert.rejects(
    startScoring({ proxyDir: dir, mode: 'paper' }),
    (error: unknown) => error instanceof XmasdError && error.code === 'CHECKPOINT_INVALID',
  )
})

test('small models get a worker a core, big ones one worker on all cores', () => {
  const small = { checkpointBytes: 2 ** 20, cores: 8 }
  const big = { checkpointBytes: 2 ** 30, cores: 8 }
  assert.deepEqual(chooseThreads(small), { workers: 8, threads: 1 })
  assert.deepEqual(chooseThreads(big), { workers: 1, threads: 8 })
  assert.deepEqual(chooseThreads({ ...big, workers: 3 }), { workers: 3, threads: 2 })
  assert.deepEqual(chooseThreads({ ...small, threads: 4 }), { workers: 2, threads: 4 })
  assert.deepEqual(chooseThreads({ ...small, workers: 1, threads: 1 }), { workers: 1, threads: 1 })
})
