/** The example that a retry falls back on, on real proxies: it must pass wherever the device is sound. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { XmasdError } from '../../src/errors.ts'
import { seededRandom } from '../../src/math/random.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import { patchesPerImage } from '../../src/proxy/config.ts'
import type { Sequence } from '../../src/score/batch.ts'
import { METRICS, reachOf } from '../../src/score/metric.ts'
import { loadScorer, type Scored, type ScoreJob } from '../../src/score/scorer.ts'
import { type BatchRetry, createBatchRetry, startScoring } from '../../src/score/scoring.ts'
import { randomSequence, saveWeights, TINY, writeTinyProxy } from '../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../support.ts'

const NONE = new Int32Array(0)
const CULPRIT: Sequence = {
  ids: new Int32Array(4),
  columns: NONE,
  rows: NONE,
  answers: NONE,
  images: [],
}

/** A batch retry over a real scorer that the culprit makes fail, and what passed. */
async function retryOf(
  t: TestContext,
  options: { metric?: (typeof METRICS)[number]; shape?: typeof TINY },
): Promise<{ retry: BatchRetry; passed: Scored[] }> {
  const { metric = 'attention', shape = TINY } = options
  const dir = temporaryFolder(t)
  writeTinyProxy(dir, { shape, reach: reachOf(metric) })
  const schedule = openSchedule(dir, reachOf(metric))
  const scorer = await loadScorer({ schedule, metric, mode: 'paper', threads: 1 })
  t.after(() => scorer.close())
  const passed: Scored[] = []
  const run = async ({ passes }: ScoreJob): Promise<Scored[]> => {
    if (passes.flat().includes(CULPRIT)) throw new XmasdError('ENGINE_FAILED', 'no kernel', 'look')
    const scored = await scorer.score(passes)
    passed.push(...scored)
    return scored
  }
  const limits = { tokensMax: 64, examplesMax: 64 }
  const retry = createBatchRetry({ pool: { run }, config: schedule.config, limits })
  return { retry, passed }
}

const SHAPES = {
  'CLIP and Llama': TINY,
  'SigLIP and Qwen2': { ...TINY, visionFamily: 'siglip', family: 'qwen2', attentionBias: true },
} as const

for (const metric of METRICS) {
  for (const [name, shape] of Object.entries(SHAPES)) {
    test(`${metric}, ${name}: the first of all examples may be to blame, for the built-in one passes`, async t => {
      const { retry, passed } = await retryOf(t, { metric, shape })
      const [scored] = await retry([CULPRIT])
      assert.ok('error' in scored! && scored.error.code === 'ENGINE_FAILED')
      assert.equal(passed.length, 1)
      assert.ok(!('error' in passed[0]!), JSON.stringify(passed))
    })
  }
}

test('a checkpoint with a NaN gives no example a score, and blames none', async t => {
  const dir = temporaryFolder(t)
  const weights = writeTinyProxy(dir)[1]!
  weights.get('text.layers.0.self_attn.q_proj.weight')!.data[3] = Number.NaN
  saveWeights(`${dir}/checkpoint-10`, weights, 'legacy')
  const scoring = await startScoring({ proxyDir: dir, mode: 'reference', workers: 1 })
  t.after(() => scoring.close())
  const { imageTokens, vision } = scoring.schedule.config
  const patchValues = patchesPerImage(vision) * 3 * vision.patchSize ** 2
  const sound = randomSequence(seededRandom(1), { before: 1, after: 5, imageTokens, patchValues })
  await assert.rejects(
    scoring.score([sound]),
    (thrown: unknown) => thrown instanceof XmasdError && thrown.code === 'DEVICE_FAILED',
  )
})
