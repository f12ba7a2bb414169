import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { EngineName } from '../../src/engine/engine.ts'
import { XmasdError } from '../../src/errors.ts'
import { seededRandom } from '../../src/math/random.ts'
import { type ProxyConfig, patchesPerImage } from '../../src/proxy/config.ts'
import type { Sequence } from '../../src/score/batch.ts'
import { chooseThreads } from '../../src/score/residency.ts'
import { type DeviceUse, loadScorer, type Scored } from '../../src/score/scorer.ts'
import { startScoring } from '../../src/score/scoring.ts'
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

/** Of any singular value, relative to the first of its row. */
function largestDifference(a: Scored, b: Scored): number {
  assert.ok('singularValues' in a && 'singularValues' in b, JSON.stringify([a, b]))
  const differences = a.singularValues.flatMap((row, t) => {
    const expected = b.singularValues[t]!
    return row.map((value, k) => Math.abs(value - expected[k]!) / expected[0]!)
  })
  return Math.max(...differences)
}

test('workers give what one thread gives, in input order', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir)
  const limits = { tokensMax: 60, examplesMax: 4 }
  const uses: DeviceUse[] = []
  const scoring = await startScoring({
    proxyDir: dir,
    mode: 'reference',
    workers: 2,
    limits,
    onDeviceUse: use => uses.push(use),
  })
  t.after(() => scoring.close())
  const { schedule } = scoring
  assert.deepEqual(
    schedule.checkpoints.map(checkpoint => checkpoint.step),
    [2, 10],
  )
  const input = sequences(schedule.config, 30)
  const started = performance.now()
  const scored = await scoring.score(input)
  const elapsed = (performance.now() - started) / 1000
  const seconds = uses.reduce((sum, use) => sum + use.seconds, 0)
  assert.ok(uses.length === 2 && uses.every(({ device }) => device === 'cpu'))
  assert.ok(seconds > 0 && seconds <= 2 * elapsed, `${seconds} s of forward passes in ${elapsed} s`)
  assert.deepEqual(scoring.load(), { waiting: 0, busy: 0 })
  const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1 })
  for (const [i, one] of (await scorer.score([input])).entries()) {
    assert.ok(largestDifference(scored[i]!, one) <= 1e-5)
  }
  await scorer.close()
})

test('two workers of the tensorflow engine give what the onnx engine gives', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir)
  const open = async (engine: EngineName) => {
    const scoring = await startScoring({ proxyDir: dir, mode: 'paper', engine, workers: 2 })
    t.after(() => scoring.close())
    return scoring
  }
  const [onnx, tensorflow] = [await open('onnx'), await open('tensorflow')]
  const input = sequences(onnx.schedule.config, 6)
  const halves = await Promise.all([
    tensorflow.score(input.slice(0, 3)),
    tensorflow.score(input.slice(3)),
  ])
  for (const [i, expected] of (await onnx.score(input)).entries()) {
    const difference = largestDifference(halves.flat()[i]!, expected)
    assert.ok(difference <= 1e-4, `example ${i}: ${difference}`)
  }
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
  const small = { device: 'cpu' as const, checkpointBytes: 2 ** 20, cores: 8 }
  const big = { ...small, checkpointBytes: 2 ** 30 }
  assert.deepEqual(chooseThreads(small), { workers: 8, threads: 1 })
  assert.deepEqual(chooseThreads(big), { workers: 1, threads: 8 })
  assert.deepEqual(chooseThreads({ ...big, workers: 3 }), { workers: 3, threads: 2 })
  assert.deepEqual(chooseThreads({ ...small, threads: 4 }), { workers: 2, threads: 4 })
  assert.deepEqual(chooseThreads({ ...small, workers: 1, threads: 1 }), { workers: 1, threads: 1 })
})

test('a GPU has one worker, whatever the model; two are refused', () => {
  const gpu = { device: 'webgpu' as const, checkpointBytes: 2 ** 20, cores: 8 }
  assert.deepEqual(chooseThreads(gpu), { workers: 1, threads: 8 })
  assert.throws(
    () => chooseThreads({ ...gpu, workers: 2 }),
    (error: unknown) => error instanceof XmasdError && error.code === 'CONFIG_INVALID',
  )
})
