import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { demoExamples } from '../../src/demo/stream.ts'
import { XmasdError } from '../../src/errors.ts'
import { IMAGE_LIMITS } from '../../src/ingest/image/pixels.ts'
import { readTokenizer } from '../../src/ingest/tokenizer.ts'
import { seededRandom } from '../../src/math/random.ts'
import { familyOf, readProxyConfig } from '../../src/proxy/checkpoint/config.ts'
import { openSchedule } from '../../src/proxy/checkpoint/schedule.ts'
import type { ProxyConfig } from '../../src/proxy/config.ts'
import { writeModelFiles } from '../../src/train/checkpoint.ts'
import { packSamples } from '../../src/train/loss.ts'
import { evenCheckpoints, type RunOptions, runTraining } from '../../src/train/run.ts'
import { prepareSamples, type SampleOptions, type Samples } from '../../src/train/samples.ts'
import {
  configOf,
  IMAGE_ID,
  initialParameters,
  type ProxyShape,
  SMALL_PROXY,
  TRAINING_TEMPLATE,
} from '../../src/train/shape.ts'
import { type Answered, evaluate, lossAndGradients, TRAINING } from '../../src/train/train.ts'
import { temporaryFolder } from '../support.ts'
import { withBackend } from '../tensorflow.ts'

const TINY: ProxyShape = {
  ...SMALL_PROXY,
  imageSize: 16,
  visionWidth: 16,
  width: 16,
  lengthMax: 200,
}

const RUN: Omit<RunOptions, 'out'> = {
  ...TRAINING,
  seed: 5,
  steps: 12,
  jointSteps: 4,
  batchSize: 4,
  warmupSteps: 2,
  learningRate: 5e-3,
  checkpoints: [6, 12],
  shape: TINY,
  imageRoot: '.',
}

async function* demo(count: number): AsyncGenerator<Uint8Array> {
  for (const example of await demoExamples(1, count)) yield Buffer.from(JSON.stringify(example))
}

const BACKENDS = ['wasm', 'tensorflow'] as const

for (const backend of BACKENDS)
  test(`on ${backend} the same seed gives the same bytes; the vision tower stands still`, async t => {
    if (!(await withBackend(t, backend))) return
    const folder = temporaryFolder(t)
    const [first, second] = [join(folder, 'a'), join(folder, 'b')]
    const report = await runTraining(demo(20), { ...RUN, out: first })
    await runTraining(demo(20), { ...RUN, out: second })
    const files = readdirSync(first, { recursive: true, withFileTypes: true })
      .filter(entry => entry.isFile())
      .map(entry => join(entry.parentPath, entry.name).slice(first.length))
    assert.equal(files.length, 2 * 7 + 1)
    for (const file of files) {
      assert.ok(readFileSync(first + file).equals(readFileSync(second + file)), file)
    }
    const schedule = openSchedule(first)
    assert.deepEqual(
      schedule.checkpoints.map(({ step }) => step),
      [6, 12],
    )
    assert.equal(schedule.visionShared, true)
    assert.equal(report.samples, 20)
    assert.ok(report.finalLoss < 0.8 * report.firstLoss, JSON.stringify(report))
  })

test('what is written is read back as the same proxy', t => {
  const folder = temporaryFolder(t)
  const config = configOf(SMALL_PROXY)
  writeModelFiles(folder, config)
  assert.deepEqual(readProxyConfig(folder), config)
})

test('a token is a byte, the special tokens excepted', t => {
  const folder = temporaryFolder(t)
  writeModelFiles(folder, configOf(SMALL_PROXY))
  const { encode } = readTokenizer(folder)
  for (const text of [
    '',
    'it’s 1234  x \n\n y',
    'é\u{1f600}\u0000\u00a0\u00ad\u007f',
    '日本 İÅẞ',
  ]) {
    assert.deepEqual(encode(text), [1, ...Array.from(Buffer.from(text), byte => byte + 4)])
  }
  assert.deepEqual(encode('a</s>'), [1, 4 + 97, 2])
})

test('the loss is taken on the answers and their end tokens, and nowhere else', async t => {
  const { samples } = await samplesOf(temporaryFolder(t), configOf(TINY), [
    {
      id: 1,
      conversations: [
        { from: 'human', value: 'é <s> ASSISTANT: 1' },
        { from: 'gpt', value: 'ja é' },
        { from: 'human', value: 'und' },
        { from: 'gpt', value: '$& zwei' },
      ],
    },
    ...(await demoExamples(3, 1)),
  ])
  assert.equal(predicted(samples[0]!.ids, samples[0]!.predictors), 'ja é</s>$& zwei</s>')
  const [example] = (await demoExamples(3, 1)) as [{ conversations: { value: string }[] }]
  const answers = example.conversations.filter((_, i) => i % 2 === 1)
  const expected = answers.map(({ value }) => `${value}</s>`).join('')
  assert.equal(predicted(samples[1]!.ids, samples[1]!.predictors), expected)
})

test('examples that cannot be used are counted; none left is an error', async t => {
  const folder = temporaryFolder(t)
  const config = configOf(TINY)
  const good = await demoExamples(3, 2)
  const long = { from: 'human', value: 'x'.repeat(500) }
  const tooLong = { id: 'long', conversations: [long, { from: 'gpt', value: 'y' }] }
  const { samples, failed } = await samplesOf(folder, config, [...good, { id: 7 }, tooLong])
  assert.equal(samples.length, 2)
  assert.deepEqual(
    [...failed],
    [
      ['CONVERSATIONS_INVALID', 1],
      ['NO_TEXT_ROWS', 1],
    ],
  )
  await assert.rejects(samplesOf(folder, config, [{ id: 7 }]), code('DATA_INVALID'))
})

for (const backend of BACKENDS)
  test(`on ${backend} gradients are the slopes of the loss`, async t => {
    if (!(await withBackend(t, backend))) return
    const config = configOf(TINY)
    const { samples } = await samplesOf(temporaryFolder(t), config, await demoExamples(9, 3))
    const parameters = initialParameters(config, 2)
    const names = [...parameters.keys()].filter(name => !name.includes('post_layernorm'))
    const batch = packSamples(samples, config)
    const { gradients } = lossAndGradients(parameters, names, config, batch)
    const norm = Math.hypot(...gradients.map(gradient => Math.hypot(...gradient)))
    const random = seededRandom(1)
    for (let direction = 0; direction < 5; direction++) {
      // Half along the gradient, half anywhere: a slope well above float32's noise.
      const step = gradients.map(gradient =>
        gradient.map(g => g / norm + (random() - 0.5) / Math.sqrt(gradient.length * names.length)),
      )
      const slope = gradients.reduce(
        (sum, gradient, i) => sum + gradient.reduce((s, g, j) => s + g * step[i]![j]!, 0),
        0,
      )
      const at = async (size: number): Promise<number> => {
        const moved = new Map(parameters)
        for (const [i, name] of names.entries()) {
          const { shape, data } = parameters.get(name)!
          moved.set(name, { shape, data: data.map((x, j) => x + size * step[i]![j]!) })
        }
        return meanLoss(await evaluate(samples, config, moved, samples.length))
      }
      const size = 5e-3
      const measured = ((await at(size)) - (await at(-size))) / (2 * size)
      assert.ok(Math.abs(measured - slope) <= 0.01 * Math.abs(slope), `${measured}, not ${slope}`)
    }
  })

test('checkpoints spread evenly over what follows the joint phase, and nowhere else', async t => {
  assert.deepEqual(evenCheckpoints(4, { steps: 100, jointSteps: 20 }), [40, 60, 80, 100])
  assert.deepEqual(evenCheckpoints(6, { steps: 3, jointSteps: 1 }), [2, 3])
  for (const checkpoints of [[], [4, 12], [6, 13], [12, 6], [6.5], [Number.NaN]]) {
    const run = { ...RUN, checkpoints, out: join(temporaryFolder(t), 'x') }
    await assert.rejects(runTraining(demo(1), run), code('CONFIG_INVALID'), `[${checkpoints}]`)
  }
})

test('shapes that do not fit are refused', () => {
  const bad: Partial<ProxyShape>[] = [
    { width: 20 },
    { kvHeads: 3 },
    { patchSize: 99 },
    { layers: 0 },
  ]
  for (const part of bad) {
    assert.throws(
      () => configOf({ ...TINY, ...part }),
      code('CONFIG_INVALID'),
      JSON.stringify(part),
    )
  }
})

async function samplesOf(
  folder: string,
  config: ProxyConfig,
  examples: readonly object[],
): Promise<Samples> {
  writeModelFiles(folder, config)
  const { imageTokens, imageTokenId, lengthMax } = config
  const options: SampleOptions = {
    ...{ imageTokens, imageTokenId, lengthMax },
    ...{ imageRoot: folder, limits: IMAGE_LIMITS, hosts: [], addressesAllowed: [] },
    checkpointDir: folder,
    template: TRAINING_TEMPLATE,
    pictures: familyOf(config).pictures(config, folder, undefined),
  }
  async function* values(): AsyncGenerator<Uint8Array> {
    for (const example of examples) yield Buffer.from(JSON.stringify(example))
  }
  return prepareSamples(values(), options)
}

/** The text that the predictors are to predict; fails where an image stands among it. */
function predicted(ids: Int32Array, predictors: Int32Array): string {
  const parts = [...predictors].map(p => {
    const id = ids[p + 1]!
    assert.notEqual(id, IMAGE_ID)
    return id === 2 ? Buffer.from('</s>') : Buffer.of(id - 4)
  })
  return Buffer.concat(parts).toString()
}

function code(expected: string): (error: unknown) => boolean {
  return error => error instanceof XmasdError && error.code === expected
}

/** Over all tokens. */
function meanLoss(answered: readonly Answered[]): number {
  const tokens = answered.reduce((sum, one) => sum + one.tokens, 0)
  return answered.reduce((sum, one) => sum + one.loss * one.tokens, 0) / tokens
}
