/** Every family of proxies, with random weights: both engines against the naive float64 reference. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import fc from 'fast-check'
import type { Engine } from '../../src/engine/engine.ts'
import { onnxEngine } from '../../src/engine/onnx/engine.ts'
import { tensorflowEngine } from '../../src/engine/tensorflow/engine.ts'
import { seededRandom } from '../../src/math/random.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import { patchesPerImage } from '../../src/proxy/config.ts'
import type { RopeScaling } from '../../src/proxy/rope.ts'
import { MODES, type Mode } from '../../src/score/attention.ts'
import { ownPart, packBatch, type Sequence } from '../../src/score/batch.ts'
import { compileScore, compileVision, lossScore } from '../../src/score/checkpoint-score.ts'
import {
  type Layout,
  randomSequence,
  TINY,
  type TinyShape,
  writeTinyProxy,
} from '../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../support.ts'
import { withBackend } from '../tensorflow.ts'
import { featuresOf } from './passes.ts'
import { referenceLoss, referenceScore } from './reference.ts'

/** Of the largest entry of A; float32 against float64. */
const TOLERANCE = 1e-5

const ROPES: readonly RopeScaling[] = [
  { kind: 'default' },
  { kind: 'linear', factor: 2.5 },
  // Wavelengths of theta 5000 are 6 to 20,000 positions: some stay, some are blended, some divided.
  { kind: 'llama3', factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, positionsBefore: 64 },
  { kind: 'dynamic' },
  {
    kind: 'yarn',
    factor: 4,
    turnsFast: 8,
    turnsSlow: 0.5,
    positionsBefore: 64,
    truncates: false,
    amplitude: 1.25,
  },
]

/** Mistral's is Llama's. */
type TextFamily = Exclude<TinyShape['family'], 'mistral'>

const FAMILIES: Record<TextFamily, fc.Arbitrary<Partial<TinyShape>>> = {
  llama: fc.record({ tied: fc.boolean() }),
  qwen2: fc.record({ attentionBias: fc.constant(true), tied: fc.boolean() }),
  qwen3: fc.record({ attentionBias: fc.boolean(), tied: fc.boolean() }),
  stablelm: fc.record({
    attentionBias: fc.boolean(),
    headDim: fc.constantFrom(8, 16),
    rotaryFraction: fc.constantFrom(null, 0.5, 0.75, 1), // null: a quarter
    parallelResidual: fc.boolean(),
    headNorm: fc.boolean(),
  }),
  phi: fc.record({
    headDim: fc.constant(20),
    rotaryFraction: fc.constantFrom(null, 0.4),
    headNorm: fc.boolean(),
  }),
}

const SHARED = fc.record({
  kind: fc.constantFrom('llava' as const, 'tinyllava' as const),
  visionFamily: fc.constantFrom('clip' as const, 'siglip' as const),
  strategy: fc.constantFrom('default' as const, 'full' as const),
  featureLayer: fc.constantFrom(-1, -2, 1),
  heads: fc.constantFrom([4, 4], [4, 2], [3, 1]),
  headDim: fc.constantFrom(8, 10),
  rope: fc.constantFrom(...ROPES),
  layers: fc.integer({ min: 2, max: 3 }),
  imageSize: fc.constantFrom(8, 10), // 10 leaves a margin that no patch covers
  seed: fc.integer({ min: 0, max: 1e6 }),
})

const LAYOUTS = { llava: ['legacy', 'v5', '4.52'], tinyllava: ['tinyllava'] } as const

const ENGINES: readonly [name: string, engine: Engine][] = [
  ['onnx', onnxEngine({ threads: 1 })],
  ['tensorflow on wasm', tensorflowEngine({ backend: 'wasm' })],
  ['tensorflow', tensorflowEngine({ backend: 'tensorflow' })],
]

for (const [family, own] of Object.entries(FAMILIES))
  for (const [name, engine] of ENGINES) {
    test(`random ${family} proxies score as the float64 reference does, on ${name}`, async t => {
      if (name === 'tensorflow' && !(await withBackend(t, 'tensorflow'))) return
      const worst = { attention: 0, loss: 0, question: 0 }
      await fc.assert(
        fc.asyncProperty(SHARED, own, fc.constantFrom(...MODES), async (drawn, more, mode) => {
          const { seed, imageSize, heads: [heads, kvHeads] = [4, 4], ...rest } = drawn
          const shape = { ...TINY, ...rest, heads, kvHeads, ...more, family } as TinyShape
          shape.vision = { ...TINY.vision, imageSize }
          shape.width = heads! * 4
          const apart = await differences(t, engine, shape, mode, seed)
          for (const what of ['attention', 'loss', 'question'] as const) {
            worst[what] = Math.max(worst[what], apart[what])
            assert.ok(apart[what] <= TOLERANCE, JSON.stringify(apart))
          }
        }),
        { numRuns: 25, seed: 11 },
      )
      const [attention, loss, question] = Object.values(worst).map(most => most.toExponential(2))
      t.diagnostic(`${family}: ${attention}, loss ${loss}, question's states ${question}`)
    })
  }

/**
 * Largest difference of any entry of A and of any state of a question, of the largest one, over a batch of
 * three; of any loss, relative.
 */
async function differences(
  t: TestContext,
  engine: Engine,
  shape: TinyShape,
  mode: Mode,
  seed: number,
): Promise<{ attention: number; loss: number; question: number }> {
  const dir = temporaryFolder(t)
  const layouts: readonly Layout[] = LAYOUTS[shape.kind]
  const style = seed % 2 === 0 ? '4.x' : '5.x'
  const layout = layouts[seed % layouts.length]!
  const reach = 'logits'
  const [weights] = writeTinyProxy(dir, { shape, steps: [1], seed, style, layout, reach })
  const { config, checkpoints } = openSchedule(dir, reach)
  const patchCount = patchesPerImage(config.vision)
  const batch = randomBatch(seed, config.imageTokens, patchCount * 3 * config.vision.patchSize ** 2)
  const packed = packBatch(batch, config)
  const tower = await compileVision(engine, config, checkpoints[0]!)
  const score = await compileScore(engine, config, mode, checkpoints[0]!, { withStates: true })
  const features = await featuresOf(tower, config, packed.images)
  const asked = batch.flatMap(({ questions }, b) =>
    Array.from(questions!, at => packed.tokens[b]![at]!),
  )
  const questions = { data: Int32Array.from(asked), shape: [1, asked.length] }
  const result = await score.run({ ...packed.inputs, features, ...{ questions } })
  const loss = await lossScore(engine, config, checkpoints[0]!)
  const losses = await loss.rows({ packed, sequences: batch }, features)
  for (const program of [tower, score, loss]) await program.release()
  const { data, shape: statesShape } = result.others[1]!
  let at = 0
  const meansApart: number[] = []
  const apart = batch.map((sequence, i) => {
    const { attention, question } = referenceScore(weights!, config, mode, sequence) // [R][I]
    const [from, width] = [at, statesShape[2]!]
    at += sequence.questions!.length
    const found = question.map((_, c) => {
      const own = Array.from(sequence.questions!, (_, q) => data[(from + q) * width + c]!)
      return own.reduce((sum, value) => sum + value, 0) / Math.max(1, own.length)
    })
    const most = Math.max(...question.map(Math.abs), Number.MIN_VALUE)
    meansApart.push(Math.max(...found.map((value, c) => Math.abs(value - question[c]!))) / most)
    const own = ownPart(result, i, sequence) // [I, R]
    const { length } = sequence.rows
    const differences = attention.flatMap((row, r) =>
      row.map((value, c) => Math.abs(own[c * length + r]! - value)),
    )
    return Math.max(...differences) / Math.max(...attention.flat())
  })
  const lossesApart = batch.map((sequence, i) => {
    const expected = referenceLoss(weights!, config, sequence)
    const row = losses[i]!
    assert.ok('values' in row)
    return Math.abs(row.values[0]! - expected) / expected
  })
  return {
    attention: Math.max(...apart),
    loss: Math.max(...lossesApart),
    question: Math.max(...meansApart),
  }
}

/** The last has three images, one of them the first's. */
function randomBatch(seed: number, imageTokens: number, patchValues: number): Sequence[] {
  const random = seededRandom(seed)
  const batch = [0, 3, 5].map((before, i) =>
    randomSequence(random, {
      before,
      after: 2 + Math.floor(random() * 14),
      imageTokens,
      patchValues,
      images: i === 2 ? 3 : 1,
    }),
  )
  batch[2]!.images[1] = batch[0]!.images[0]!
  return batch
}
