import assert from 'node:assert/strict'
import {
  mkdirSync,
  readdirSync,
  renameSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { onnxEngine } from '../../../src/engine/onnx/engine.ts'
import { XmasdError } from '../../../src/errors.ts'
import { seededRandom } from '../../../src/math/random.ts'
import { openSchedule } from '../../../src/proxy/checkpoint/schedule.ts'
import { patchesPerImage } from '../../../src/proxy/config.ts'
import { compileVision } from '../../../src/score/checkpoint-score.ts'
import { loadScorer } from '../../../src/score/scorer.ts'
import {
  diskName,
  randomSequence,
  saveWeights,
  type Weights,
  writeTinyProxy,
} from '../../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../../support.ts'

type Half = 'F16' | 'BF16'

/** The nearest lower value that the dtype holds, and its bits. */
function toHalf(value: number, dtype: Half): { value: number; bits: number } {
  if (dtype === 'BF16') {
    const bits = new Uint32Array(Float32Array.of(value).buffer)[0]! >>> 16
    return { bits, value: new Float32Array(Uint32Array.of(bits << 16).buffer)[0]! }
  }
  const size = Math.abs(value)
  if (size < 2 ** -14) return { value: 0, bits: 0 }
  const exponent = Math.floor(Math.log2(size))
  const fraction = Math.floor((size / 2 ** exponent - 1) * 1024)
  const bits = (value < 0 ? 0x8000 : 0) | ((exponent + 15) << 10) | fraction
  return { bits, value: Math.sign(value) * (1 + fraction / 1024) * 2 ** exponent }
}

/** A .safetensors of half-precision weights; returns the values they stand for. */
function saveHalf(folder: string, weights: Weights, dtype: Half): Weights {
  const header: Record<string, object> = {}
  const rounded: Weights = new Map()
  const bits: number[] = []
  for (const [name, { shape, data }] of weights) {
    const halves = [...data].map(value => toHalf(value, dtype))
    header[diskName(name, 'v5')] = {
      dtype,
      shape,
      data_offsets: [2 * bits.length, 2 * (bits.length + halves.length)],
    }
    bits.push(...halves.map(half => half.bits))
    rounded.set(name, { shape, data: Float32Array.from(halves, half => half.value) })
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const payload = Buffer.from(Uint16Array.from(bits).buffer)
  writeFileSync(join(folder, 'model.safetensors'), Buffer.concat([length, json, payload]))
  return rounded
}

for (const dtype of ['F16', 'BF16'] as const) {
  test(`${dtype} weights score as the same values in float32 do, at whatever byte they stand`, async t => {
    const dir = temporaryFolder(t)
    const [weights] = writeTinyProxy(dir, { steps: [1] })
    const folder = join(dir, 'checkpoint-1')
    const rounded = saveHalf(folder, weights!, dtype)
    const half = openSchedule(dir)
    const { config } = half
    const sequence = randomSequence(seededRandom(1), {
      before: 3,
      after: 9,
      imageTokens: config.imageTokens,
      patchValues: patchesPerImage(config.vision) * 3 * config.vision.patchSize ** 2,
    })
    const scorer = await loadScorer({ schedule: half, mode: 'reference', threads: 1 })
    const [a] = await scorer.score([[sequence]])
    await scorer.close()
    saveWeights(folder, rounded, 'legacy')
    const full = await loadScorer({ schedule: openSchedule(dir), mode: 'reference', threads: 1 })
    const [b] = await full.score([[sequence]])
    await full.close()
    assert.ok('singularValues' in a! && 'singularValues' in b!)
    for (const [k, value] of a.singularValues[0]!.entries()) {
      assert.ok(Math.abs(value - b.singularValues[0]![k]!) <= 1e-6)
    }
  })
}

test('weights that are cut off after the schedule was opened are ENGINE_FAILED, not zeros', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir, { steps: [1] })
  const { config, checkpoints } = openSchedule(dir)
  truncateSync(join(dir, 'checkpoint-1', 'model.safetensors'), 4096)
  const engine = onnxEngine({ threads: 1 })
  await assert.rejects(
    compileVision(engine, config, checkpoints[0]!),
    (error: unknown) => error instanceof XmasdError && error.code === 'ENGINE_FAILED',
  )
})

test('a checkpoint that is all links, as in a Hugging Face cache, is read where the files lie', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir, { steps: [1] })
  const folder = join(dir, 'checkpoint-1')
  const blobs = join(dir, 'blobs')
  mkdirSync(blobs)
  for (const [i, name] of readdirSync(folder).entries()) {
    renameSync(join(folder, name), join(blobs, `blob${i}`))
    symlinkSync(join('..', 'blobs', `blob${i}`), join(folder, name))
  }
  const { config, checkpoints } = openSchedule(dir)
  const engine = onnxEngine({ threads: 1 })
  await (await compileVision(engine, config, checkpoints[0]!)).release()
})

test('runs of many shapes do not grow the process', async t => {
  const dir = temporaryFolder(t)
  writeTinyProxy(dir)
  const schedule = openSchedule(dir)
  const { config } = schedule
  const scorer = await loadScorer({ schedule, mode: 'reference', threads: 1 })
  const random = seededRandom(2)
  const run = async (runs: number): Promise<number> => {
    for (let i = 0; i < runs; i++) {
      const sequences = Array.from({ length: 1 + (i % 5) }, () =>
        randomSequence(random, {
          before: Math.floor(random() * 40),
          after: 2 + Math.floor(random() * 60),
          imageTokens: config.imageTokens,
          patchValues: patchesPerImage(config.vision) * 3 * config.vision.patchSize ** 2,
        }),
      )
      await scorer.score([sequences])
    }
    return process.memoryUsage().rss / 2 ** 20
  }
  const before = await run(300)
  const after = await run(600)
  t.diagnostic(`${before.toFixed(0)} MB, 600 runs later ${after.toFixed(0)} MB`)
  assert.ok(after - before < 40)
  await scorer.close()
})
