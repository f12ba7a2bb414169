/** The `llava-clip-llama` goldens, from pixel values and ids: PyTorch's numbers and float64's. */
import assert from 'node:assert/strict'
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { z } from 'zod'
import { onnxEngine } from '../../src/engine/onnx/engine.ts'
import { readHeader, readTensor } from '../../src/proxy/checkpoint/safetensors.ts'
import { openSchedule, type Schedule } from '../../src/proxy/checkpoint/schedule.ts'
import { MLP_CONNECTOR } from '../../src/proxy/vision.ts'
import { MODES, type Mode } from '../../src/score/attention.ts'
import { ownPart, packBatch, type Sequence } from '../../src/score/batch.ts'
import { compileScore, compileVision } from '../../src/score/checkpoint-score.ts'
import { instabilityOf, trajectoryOf } from '../../src/score/metric.ts'
import { loadScorer, type Scored } from '../../src/score/scorer.ts'
import { configJson, type Layout, saveWeights, TINY, type Weights } from '../fixtures-tiny-proxy.ts'
import { shared, temporaryFolder } from '../support.ts'
import { featuresOf } from './passes.ts'

/** PyTorch's own float32 is 2.5e-6 from float64 on this set. */
const TOLERANCE = 1e-5

const Range = z.tuple([z.number(), z.number()])
const Values = z.array(z.array(z.array(z.number())).nullable())
const Expectation = z.object({
  top5: Values,
  trajectory: z.array(z.array(z.number()).nullable()),
  instability: z.array(z.number().nullable()),
})
const ExpectedMode = Expectation.extend({ float64: Expectation })
const Expected = z.object({
  steps: z.array(z.number()),
  image_tokens: z.number(),
  examples: z.array(
    z.object({
      index: z.number(),
      has_image: z.boolean(),
      unique_id: z.string(),
      input_ids: z.array(z.number()),
      image_positions: Range.nullish(),
      text_rows: Range.nullish(),
    }),
  ),
  modes: z.object({ reference: ExpectedMode, paper: ExpectedMode }),
})

type Example = { index: number; sequence: Sequence }
type Golden = {
  dir: string
  expected: z.infer<typeof Expected>
  schedule: Schedule
  examples: Example[]
}

function openGolden(t: TestContext): Golden | undefined {
  const dir = shared(t, 'goldens', 'llava-clip-llama')
  if (dir === undefined) return undefined
  const expected = Expected.parse(JSON.parse(readFileSync(join(dir, 'expected.json'), 'utf8')))
  const schedule = openSchedule(join(dir, 'run'))
  return { dir, expected, schedule, examples: readExamples(dir, expected, schedule) }
}

function readExamples(
  dir: string,
  expected: z.infer<typeof Expected>,
  schedule: Schedule,
): Example[] {
  const file = join(dir, 'expected.safetensors')
  const { tensors } = readHeader(file)
  const data = z
    .array(z.object({ image: z.string().optional() }))
    .parse(JSON.parse(readFileSync(join(dir, 'data.json'), 'utf8')))
  return expected.examples.flatMap(example => {
    if (!example.image_positions || !example.text_rows) return []
    const image = data[example.index]!.image!
    const pixels = tensors.get(`pixel_values.${data.findIndex(other => other.image === image)}`)!
    const { patchSize } = schedule.config.vision
    const patches = cutPatches(readTensor(file, pixels), pixels.shape[1]!, patchSize)
    const sequence: Sequence = {
      ids: Int32Array.from(example.input_ids),
      columns: range(example.image_positions),
      rows: range(example.text_rows),
      answers: new Int32Array(0),
      images: [{ hash: image, patches }],
    }
    return [{ index: example.index, sequence }]
  })
}

function range([from, to]: readonly [number, number]): Int32Array {
  return Int32Array.from({ length: to - from }, (_, i) => from + i)
}

/** [3, S, S] -> [N, 3*P*P] */
function cutPatches(pixels: Float32Array, side: number, patch: number): Float32Array {
  const grid = side / patch
  const out = new Float32Array(pixels.length)
  let at = 0
  for (let n = 0; n < grid * grid; n++) {
    const corner = Math.floor(n / grid) * patch * side + (n % grid) * patch
    for (let c = 0; c < 3; c++) {
      for (let y = 0; y < patch; y++) {
        for (let x = 0; x < patch; x++) {
          out[at++] = pixels[c * side * side + corner + y * side + x]!
        }
      }
    }
  }
  return out
}

/** Largest relative difference of any single value. */
function worstOf(scored: readonly Scored[], golden: Golden, top5: z.infer<typeof Values>): number {
  let worst = 0
  for (const [i, one] of scored.entries()) {
    assert.ok('singularValues' in one, JSON.stringify(one))
    const rows = top5[golden.examples[i]!.index]!
    assert.equal(one.singularValues.length, rows.length)
    for (const [step, row] of rows.entries()) {
      for (const [k, value] of row.entries()) {
        worst = Math.max(worst, Math.abs(one.singularValues[step]![k]! - value) / value)
      }
    }
  }
  return worst
}

async function score(schedule: Schedule, mode: Mode, examples: Example[]): Promise<Scored[]> {
  const scorer = await loadScorer({ schedule, mode, threads: 1 })
  const scored = await scorer.score([examples.map(example => example.sequence)])
  await scorer.close()
  return scored
}

test('every golden checkpoint and example gives the float64 singular values, in both modes', async t => {
  const golden = openGolden(t)
  if (golden === undefined) return
  const { expected, schedule, examples } = golden
  assert.deepEqual(
    schedule.checkpoints.map(checkpoint => checkpoint.step),
    expected.steps,
  )
  assert.equal(schedule.config.imageTokens, expected.image_tokens)
  assert.equal(examples.length, 7)
  for (const mode of MODES) {
    const scored = await score(schedule, mode, examples)
    const worst = worstOf(scored, golden, expected.modes[mode].float64.top5)
    const torch = worstOf(scored, golden, expected.modes[mode].top5)
    t.diagnostic(
      `${mode}: ${worst.toExponential(2)} from float64, ${torch.toExponential(2)} from PyTorch`,
    )
    assert.ok(worst <= TOLERANCE, `${mode} ${worst}`)
    assert.ok(torch <= TOLERANCE, `${mode} ${torch}`)
    for (const [i, one] of scored.entries()) {
      assert.ok('singularValues' in one)
      const trajectory = trajectoryOf(one.singularValues)
      const { index } = examples[i]!
      const wanted = expected.modes[mode].float64
      for (const [step, value] of trajectory.entries()) {
        const exact = wanted.trajectory[index]![step]!
        assert.ok(Math.abs(value - exact) <= TOLERANCE * exact)
      }
      const largest = Math.max(...trajectory)
      const difference = Math.abs(instabilityOf(trajectory) - wanted.instability[index]!)
      assert.ok(difference <= TOLERANCE * largest)
    }
  }
})

test('golden connector outputs and summed matrices agree tensor by tensor', async t => {
  const golden = openGolden(t)
  if (golden === undefined) return
  const { dir, schedule, examples } = golden
  const file = join(dir, 'expected.safetensors')
  const { tensors } = readHeader(file)
  const { config } = schedule
  const checkpoint = schedule.checkpoints[0]!
  const engine = onnxEngine({ threads: 1 })
  const vision = await compileVision(engine, config, checkpoint)
  const projector = await engine.compile(
    checkpoint,
    { x: { type: 'float32', shape: [1, 'M', config.vision.width] } },
    (ops, { x }) => MLP_CONNECTOR.run(ops, config, x).images,
  )
  let worstFeature = 0
  for (const { index, sequence } of examples) {
    const x = await featuresOf(vision, config, sequence.images)
    const { data } = await projector.run({ x })
    const exact = readTensor(file, tensors.get(`features.${index}`)!)
    for (const [i, value] of data.entries()) {
      worstFeature = Math.max(worstFeature, Math.abs(value - exact[i]!))
    }
  }
  t.diagnostic(`features: largest difference ${worstFeature.toExponential(2)}`)
  assert.ok(worstFeature <= 1e-5, `features ${worstFeature}`)
  await projector.release()
  for (const mode of MODES) {
    const program = await compileScore(engine, config, mode, checkpoint)
    let worst = 0
    for (const { index, sequence } of examples) {
      const packed = packBatch([sequence], config)
      const features = await featuresOf(vision, config, packed.images)
      const attention = await program.run({ ...packed.inputs, features })
      const own = ownPart(attention, 0, sequence) // [I, R]
      const exact = readTensor(file, tensors.get(`cross_sum.${mode}.${index}`)!) // [R, I]
      const [columns, rows] = [sequence.columns.length, sequence.rows.length]
      for (let r = 0; r < rows; r++) {
        for (let c = 0; c < columns; c++) {
          worst = Math.max(worst, Math.abs(own[c * rows + r]! - exact[r * columns + c]!))
        }
      }
    }
    t.diagnostic(`cross_sum.${mode}: largest difference ${worst.toExponential(2)}`)
    assert.ok(worst <= 1e-5, `${mode} ${worst}`)
    await program.release()
  }
  await vision.release()
})

test('a golden batch gives what its examples give alone', async t => {
  const golden = openGolden(t)
  if (golden === undefined) return
  for (const mode of MODES) {
    const together = await score(golden.schedule, mode, golden.examples)
    const alone: Scored[] = []
    for (const example of golden.examples) {
      alone.push(...(await score(golden.schedule, mode, [example])))
    }
    const asTop5 = golden.expected.examples.map(({ index }) => {
      const found = alone[golden.examples.findIndex(example => example.index === index)]
      return found !== undefined && 'singularValues' in found ? found.singularValues : null
    })
    const worst = worstOf(together, golden, asTop5)
    t.diagnostic(`${mode}: batch and alone differ by ${worst.toExponential(2)}`)
    assert.ok(worst <= TOLERANCE)
  }
})

test('every key layout of the golden weights, and a 5.x config, give the same values', async t => {
  const golden = openGolden(t)
  if (golden === undefined) return
  const [checkpoint] = golden.schedule.checkpoints
  const weights: Weights = new Map()
  for (const [name, tensor] of checkpoint!.tensors) {
    weights.set(name, { shape: tensor.shape, data: readTensor(tensor.file, tensor) })
  }
  const single = { ...golden.schedule, checkpoints: [checkpoint!] }
  const plain = await score(single, 'reference', golden.examples)
  for (const layout of ['legacy', 'v5', '4.52', 'tinyllava'] satisfies Layout[]) {
    const folder = join(temporaryFolder(t), 'checkpoint-10')
    mkdirSync(folder)
    copyFileSync(
      join(checkpoint!.dir, 'tokenizer_config.json'),
      join(folder, 'tokenizer_config.json'),
    )
    writeFileSync(join(folder, 'config.json'), JSON.stringify(config5(checkpoint!.dir)))
    saveWeights(folder, weights, layout)
    const schedule = openSchedule(folder)
    assert.deepEqual(schedule.config, golden.schedule.config)
    assert.deepEqual(await score(schedule, 'reference', golden.examples), plain)
  }
})

/** The golden's config as transformers 5.x would write it. */
function config5(dir: string): object {
  const Sections = z.looseObject({
    text_config: z.looseObject({}),
    vision_config: z.looseObject({}),
  })
  const config = Sections.parse(JSON.parse(readFileSync(join(dir, 'config.json'), 'utf8')))
  const young = configJson(TINY, '5.x') as { vision_config: object }
  return {
    ...config,
    text_config: {
      ...config.text_config,
      head_dim: 16,
      hidden_act: 'silu',
      attention_bias: false,
      rope_parameters: { rope_theta: 10_000, rope_type: 'default' },
    },
    vision_config: { ...young.vision_config, ...config.vision_config },
  }
}
