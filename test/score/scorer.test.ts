import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { seededRandom } from '../../src/math/random.ts'
import { decodeDirection, unitOf } from '../../src/math/vectors.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import { type ProxyConfig, patchesPerImage } from '../../src/proxy/config.ts'
import { MODES } from '../../src/score/attention.ts'
import type { Sequence } from '../../src/score/batch.ts'
import { projected } from '../../src/score/checkpoint-score.ts'
import { reachOf } from '../../src/score/metric.ts'
import { loadScorer, type Scored } from '../../src/score/scorer.ts'
import {
  randomSequence,
  TINY,
  type TinyShape,
  VOCAB,
  writeTinyProxy,
} from '../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../support.ts'
import { scoreInPasses } from './passes.ts'
import { referenceScore } from './reference.ts'

/** Float32 against float64; the values are of order 0.01 to 10. */
const TOLERANCE = 1e-5

function sequences(config: ProxyConfig, seed: number, count: number): Sequence[] {
  const random = seededRandom(seed)
  const patchValues = patchesPerImage(config.vision) * 3 * config.vision.patchSize ** 2
  return Array.from({ length: count }, () =>
    randomSequence(random, {
      before: Math.floor(random() * 6),
      after: 2 + Math.floor(random() * 12),
      imageTokens: config.imageTokens,
      patchValues,
    }),
  )
}

function values(scored: Scored): number[][] {
  assert.ok('singularValues' in scored, JSON.stringify(scored))
  return scored.singularValues
}

/** Largest difference relative to the largest singular value of the row. */
function difference(a: readonly number[][], b: readonly number[][]): number {
  assert.equal(a.length, b.length)
  return Math.max(
    ...a.map(
      (row, t) => Math.max(...row.map((value, i) => Math.abs(value - b[t]![i]!))) / b[t]![0]!,
    ),
  )
}

/** Is an embedding the direction of the pooled states, but for the bytes' rounding. */
function assertEmbedding(
  scored: Scored,
  name: 'embedding' | 'question',
  pooled: readonly number[],
): void {
  assert.ok('embedding' in scored, JSON.stringify(scored))
  const found = decodeDirection(scored[name])
  const exact = unitOf(projected(Float64Array.from(pooled)))
  const largest = Math.max(...exact.map(Math.abs))
  assert.equal(found.length, exact.length)
  for (const [i, value] of exact.entries()) {
    assert.ok(Math.abs(found[i]! - value) <= (1.2 * largest) / 127, `${found[i]} is not ${value}`)
  }
}

test('random proxies score as the naive float64 reference does, in both modes', async t => {
  let worst = 0
  const heads = fc.constantFrom([4, 4], [4, 2], [4, 1], [5, 1], [6, 3])
  const shapes = fc.record({
    heads,
    headDim: fc.constantFrom(null, 4, 6),
    layers: fc.integer({ min: 1, max: 3 }),
    featureLayer: fc.constantFrom(-1, -2, -3, 1, 2),
    strategy: fc.constantFrom('default' as const, 'full' as const),
    tied: fc.boolean(),
    attentionBias: fc.boolean(),
    seed: fc.integer({ min: 0, max: 1e6 }),
  })
  await fc.assert(
    fc.asyncProperty(shapes, fc.constantFrom(...MODES), async (drawn, mode) => {
      const { seed, heads: [heads, kvHeads] = [4, 4], ...rest } = drawn
      const shape: TinyShape = {
        ...TINY,
        ...rest,
        heads: heads!,
        kvHeads: kvHeads!,
        width: heads! * 4,
      }
      const dir = temporaryFolder(t)
      const weights = writeTinyProxy(dir, { shape, seed, steps: [1, 2] })
      const schedule = openSchedule(dir)
      const scorer = await loadScorer({ schedule, mode, threads: 1 })
      const batch = sequences(schedule.config, seed, 3)
      for (const [i, scored] of (await scorer.score([batch])).entries()) {
        const expected = weights.map(w => referenceScore(w, schedule.config, mode, batch[i]!))
        const top5 = expected.map(one => one.top5)
        worst = Math.max(worst, difference(values(scored), top5))
        assertEmbedding(scored, 'embedding', expected.at(-1)!.pooled)
        assertEmbedding(scored, 'question', expected.at(-1)!.question)
      }
      await scorer.close()
      assert.ok(worst <= TOLERANCE, `largest difference ${worst}`)
    }),
    { numRuns: 30, seed: 7 },
  )
  t.diagnostic(`largest difference from the float64 reference: ${worst.toExponential(2)}`)
})

/** Heads of 64 channels, 80 image tokens, hundreds of positions: sums long enough to be cut in blocks. */
const LONG: TinyShape = {
  ...TINY,
  vision: { width: 64, heads: 2, layers: 2, imageSize: 36, patchSize: 4 },
  strategy: 'full',
  width: 320,
  heads: 5,
  kvHeads: 1,
  positions: 1024,
}

/** `lengths` are the tokens before and after the image; equal `images` are one image. */
function longSequences(
  config: ProxyConfig,
  lengths: readonly [before: number, after: number, image: number][],
): Sequence[] {
  const random = seededRandom(4)
  const patchValues = patchesPerImage(config.vision) * 3 * config.vision.patchSize ** 2
  const made = lengths.map(([before, after, image]) =>
    randomSequence(random, {
      ...{ before, after, patchValues },
      ...{ imageTokens: config.imageTokens, hash: String(image) },
    }),
  )
  const [first] = made
  return made.map((sequence, i) => {
    const [before, , image] = lengths[i]!
    sequence.ids.set(first!.ids.subarray(0, before)) // one system prompt
    const { patches } = made[lengths.findIndex(other => other[2] === image)]!.images[0]!
    return { ...sequence, images: [{ hash: sequence.images[0]!.hash, patches }] }
  })
}

/** Two images in one sequence, the second of them another's. */
function twoImages(config: ProxyConfig, { ids, images }: Sequence): Sequence {
  const sequence = randomSequence(seededRandom(6), {
    ...{ before: 35, after: 40, images: 2, imageTokens: config.imageTokens },
    patchValues: images[0]!.patches.length,
  })
  sequence.ids.set(ids.subarray(0, 35))
  sequence.images[1] = images[0]!
  return sequence
}

const METRICS_AND_MODES = [
  ...MODES.map(mode => ({ metric: 'attention' as const, mode })),
  { metric: 'loss' as const, mode: 'reference' as const },
]
for (const { metric, mode } of METRICS_AND_MODES) {
  test(`a batch gives to the last bit what every example gives alone, ${metric}, ${mode}`, async t => {
    const dir = temporaryFolder(t)
    writeTinyProxy(dir, { shape: LONG, steps: [1], reach: reachOf(metric) })
    const schedule = openSchedule(dir, reachOf(metric))
    assert.equal(schedule.config.imageTokens, 82)
    const batch = longSequences(schedule.config, [
      [35, 2, 0],
      [35, 110, 1],
      [35, 131, 0],
      [35, 47, 1],
      [0, 64, 1],
      [35, 300, 0],
      [0, 33, 2],
      [9, 500, 1],
      [35, 111, 1],
    ])
    const scorer = await loadScorer({ schedule, metric, mode, threads: 1 })
    t.after(() => scorer.close())
    batch.push(twoImages(schedule.config, batch[0]!))
    const together = await scorer.score([batch])
    for (const [i, sequence] of batch.entries()) {
      assert.deepEqual((await scorer.score([[sequence]]))[0], together[i])
    }
    const pairs = batch.slice(1).map((sequence, i) => [batch[i]!, sequence])
    for (const [i, pair] of pairs.entries()) {
      assert.deepEqual(await scorer.score([pair]), together.slice(i, i + 2))
    }
  })
}

test('runs of whatever size, and images known from before, give the same to the last bit', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir, { visionTrains: true })
  const schedule = openSchedule(dir)
  const random = sequences(schedule.config, 12, 9)
  const batch = random.map((sequence, i) => ({ ...sequence, images: random[i % 4]!.images }))
  const whole = await loadScorer({ schedule, mode: 'reference', threads: 1 })
  const expected = await whole.score([batch])
  assert.deepEqual(await whole.score([batch.slice(3)]), expected.slice(3))
  await whole.close()
  for (const limits of [
    { tokensMax: 1, examplesMax: 1 },
    { tokensMax: 40, examplesMax: 3 },
  ]) {
    const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1 })
    assert.deepEqual(await scoreInPasses(scorer, batch, limits), expected)
    await scorer.close()
  }
})

test('a shared image gives to the last bit what separate images give', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir)
  const schedule = openSchedule(dir)
  const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1 })
  const batch = sequences(schedule.config, 6, 4)
  const { patches } = batch[0]!.images[0]!
  const shared = batch.map(s => ({ ...s, images: [{ hash: 'one', patches }] }))
  const separate = batch.map((s, i) => ({ ...s, images: [{ hash: String(i), patches }] }))
  assert.deepEqual(await scorer.score([shared]), await scorer.score([separate]))
  await scorer.close()
})

test('running the vision tower once for all checkpoints gives what running it for each gives', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir, { steps: [1, 2, 3] })
  const schedule = openSchedule(dir)
  assert.equal(schedule.visionShared, true)
  const once = await loadScorer({ schedule, mode: 'reference', threads: 1 })
  const each = await loadScorer({
    schedule: { ...schedule, visionShared: false },
    mode: 'reference',
    threads: 1,
  })
  const batch = sequences(schedule.config, 8, 3)
  assert.deepEqual(await once.score([batch]), await each.score([batch]))
  await once.close()
  await each.close()
})

test('a vision tower that moves is run for each checkpoint', async t => {
  const dir = temporaryFolder(t)
  const weights = writeTinyProxy(dir, { visionTrains: true })
  const schedule = openSchedule(dir)
  assert.equal(schedule.visionShared, false)
  const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1 })
  const batch = sequences(schedule.config, 9, 2)
  for (const [i, scored] of (await scorer.score([batch])).entries()) {
    const expected = weights.map(
      w => referenceScore(w, schedule.config, 'reference', batch[i]!).top5,
    )
    assert.ok(difference(values(scored), expected) <= TOLERANCE)
  }
  await scorer.close()
})

test('an example without text rows or with an id outside the vocabulary fails alone', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir)
  const schedule = openSchedule(dir)
  const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1 })
  const [sound, noRows, strayId] = sequences(schedule.config, 10, 3) as [
    Sequence,
    Sequence,
    Sequence,
  ]
  const ids = Int32Array.from(strayId.ids)
  ids[ids.length - 1] = VOCAB
  const scored = await scorer.score([
    [{ ...noRows, rows: new Int32Array(0) }, sound, { ...strayId, ids }],
  ])
  assert.ok('error' in scored[0]! && scored[0].error.code === 'NO_TEXT_ROWS')
  assert.equal(values(scored[1]!).length, 2)
  assert.ok('error' in scored[2]! && scored[2].error.code === 'PROXY_INVALID')
  assert.deepEqual((await scorer.score([[sound]]))[0], scored[1])
  await scorer.close()
})

test('a checkpoint with a NaN gives SCORE_NOT_FINITE, which names it, never a number', async t => {
  const dir = temporaryFolder(t)
  const { saveWeights } = await import('../fixtures-tiny-proxy.ts')
  const weights = writeTinyProxy(dir)[1]!
  weights.get('text.layers.0.self_attn.q_proj.weight')!.data[3] = Number.NaN
  saveWeights(`${dir}/checkpoint-10`, weights, 'legacy')
  const schedule = openSchedule(dir)
  const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1 })
  const [scored] = await scorer.score([sequences(schedule.config, 11, 1)])
  assert.ok('error' in scored! && scored.error.code === 'SCORE_NOT_FINITE')
  assert.ok(scored.error.message.endsWith(`with ${dir}/checkpoint-10`), scored.error.message)
  await scorer.close()
})
