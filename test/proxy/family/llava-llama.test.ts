import assert from 'node:assert/strict'
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import test, { type TestContext } from 'node:test'
import type { EngineName } from '../../../src/engine/engine.ts'
import type { Json } from '../../../src/ingest/form/json.ts'
import { seededRandom } from '../../../src/math/random.ts'
import { readProxyConfig } from '../../../src/proxy/checkpoint/config.ts'
import { parametersOf } from '../../../src/proxy/checkpoint/parameters.ts'
import { readBytes, writeSafetensors } from '../../../src/proxy/checkpoint/safetensors.ts'
import { type Checkpoint, openSchedule } from '../../../src/proxy/checkpoint/schedule.ts'
import { readJson } from '../../../src/proxy/config.ts'
import { loadScorer } from '../../../src/score/scorer.ts'
import {
  configJson,
  randomSequence,
  randomTensor,
  TINY,
  VOCAB,
  type Weights,
} from '../../fixtures-tiny-proxy.ts'
import { goldenSequences, readGoldenSet, worstOf } from '../../golden-sets.ts'
import { hasCode } from '../../ingest/fixtures.ts'
import { referenceScore } from '../../score/reference.ts'
import { shared, temporaryFolder } from '../../support.ts'
import { withBackend } from '../../tensorflow.ts'

const RELATIVE_MAX = 1e-5

/** Of `llava-clip-llama`, as LlavaLlamaForCausalLM saves it; its tower inside each checkpoint, or in `tower/`. */
function inOwnLayout(t: TestContext, set: string, isInside: boolean): string {
  const folder = temporaryFolder(t)
  const run = join(folder, 'run')
  const { checkpoints } = openSchedule(join(set, 'run'), 'logits')
  for (const checkpoint of checkpoints) writeCheckpoint(run, checkpoint, isInside)
  const tower = join(folder, 'tower')
  mkdirSync(tower)
  const { dir } = checkpoints[0]!
  const { vision_config } = readJson(join(dir, 'config.json'))
  writeFileSync(join(tower, 'config.json'), JSON.stringify({ model_type: 'clip', vision_config }))
  cpSync(join(dir, 'preprocessor_config.json'), join(tower, 'preprocessor_config.json'))
  if (!isInside) writeWeights(tower, checkpoints[0]!, name => name.startsWith('vision.'))
  return folder
}

function writeCheckpoint(run: string, checkpoint: Checkpoint, isInside: boolean): void {
  const folder = join(run, basename(checkpoint.dir))
  mkdirSync(folder, { recursive: true })
  const { text_config } = readJson(join(checkpoint.dir, 'config.json'))
  const config = {
    ...(text_config as Json),
    architectures: ['LlavaLlamaForCausalLM'],
    model_type: 'llava_llama',
    mm_vision_tower: '../../tower',
    mm_projector_type: 'mlp2x_gelu',
    mm_vision_select_layer: -2,
    mm_vision_select_feature: 'patch',
    mm_use_im_start_end: false,
    image_aspect_ratio: 'square',
    tokenizer_model_max_length: 2048,
  }
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json']) {
    const file = join(checkpoint.dir, name)
    if (existsSync(file)) cpSync(file, join(folder, name))
  }
  writeWeights(folder, checkpoint, name => isInside || !name.startsWith('vision.'))
}

function writeWeights(
  folder: string,
  { tensors }: Checkpoint,
  isWanted: (name: string) => boolean,
): void {
  const found = [...tensors].filter(([name]) => isWanted(name))
  const named = found.map(([name, tensor]) => {
    assert.equal(tensor.dtype, 'F32')
    const bytes = Uint8Array.from(readBytes(tensor.file, tensor))
    return [onDisk(name), { shape: tensor.shape, data: new Float32Array(bytes.buffer) }] as const
  })
  writeSafetensors(join(folder, 'model.safetensors'), Object.fromEntries(named))
}

function onDisk(name: string): string {
  return name
    .replace(/^text\./, 'model.')
    .replace(/^head\./, 'lm_head.')
    .replace(/^connector\.(\d)/, (_, layer) => `model.mm_projector.${2 * Number(layer) - 2}`)
    .replace(/^vision\./, 'model.vision_tower.vision_tower.vision_model.')
}

for (const [place, engine] of [
  ['inside', 'onnx'],
  ['beside', 'onnx'],
  ['beside', 'tensorflow'],
] as const) {
  test(`checkpoints of the LLaVA repository with their tower ${place} score as Hugging Face's do, ${engine}`, async t => {
    const dir = shared(t, 'goldens', 'llava-clip-llama')
    if (dir === undefined || (engine !== 'onnx' && !(await withBackend(t, engine)))) return
    const golden = readGoldenSet(dir)
    const folder = inOwnLayout(t, dir, place === 'inside')
    cpSync(join(dir, 'images'), join(folder, 'images'), { recursive: true })
    const scored = await score(join(folder, 'run'), golden, engine)
    const worst = worstOf(scored, golden.expected.modes.reference.float64.top5)
    t.diagnostic(`${worst.toExponential(2)} from float64`)
    assert.ok(worst <= RELATIVE_MAX, String(worst))
  })
}

const ADAPTED = 'model.vision_tower.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj'

test('adapters of a vision tower beside their base score as those of a tower inside it', async t => {
  const dir = shared(t, 'goldens', 'llava-clip-llama')
  if (dir === undefined) return
  const golden = readGoldenSet(dir)
  const [inside, beside] = await Promise.all(
    [true, false].map(async isInside => {
      const folder = inOwnLayout(t, dir, isInside)
      cpSync(join(dir, 'images'), join(folder, 'images'), { recursive: true })
      const { tensors, dir: base } = openSchedule(join(folder, 'run')).checkpoints[0]!
      const [outputs, inputs] = tensors.get(
        'vision.encoder.layers.0.self_attn.q_proj.weight',
      )!.shape
      for (const step of [1, 2]) {
        const checkpoint = join(folder, `adapters/checkpoint-${step}`)
        mkdirSync(checkpoint, { recursive: true })
        const config = { peft_type: 'LORA', base_model_name_or_path: base, r: 1, lora_alpha: step }
        writeFileSync(join(checkpoint, 'adapter_config.json'), JSON.stringify(config))
        const filled = (length: number, value: number) => new Float32Array(length).fill(value)
        writeSafetensors(join(checkpoint, 'adapter_model.safetensors'), {
          [`base_model.model.${ADAPTED}.lora_A.weight`]: {
            shape: [1, inputs!],
            data: filled(inputs!, 0.1),
          },
          [`base_model.model.${ADAPTED}.lora_B.weight`]: {
            shape: [outputs!, 1],
            data: filled(outputs!, 0.1),
          },
        })
      }
      return score(join(folder, 'adapters'), golden, 'onnx')
    }),
  )
  const wanted = inside!.map(one =>
    one !== null && 'singularValues' in one ? one.singularValues : null,
  )
  assert.ok(wanted.some(values => values !== null))
  assert.ok(worstOf(beside!, wanted) <= RELATIVE_MAX)
})

async function score(run: string, golden: ReturnType<typeof readGoldenSet>, engine: EngineName) {
  const { sequences } = await goldenSequences(golden, 'run')
  const schedule = openSchedule(run)
  const scorer = await loadScorer({ schedule, engine, mode: 'reference', threads: 1 })
  try {
    const wanted = sequences.filter(sequence => sequence !== null)
    const scored = await scorer.score([wanted])
    return sequences.map(sequence => (sequence === null ? null : scored.shift()!))
  } finally {
    await scorer.close()
  }
}

const TINY_TEXT = {
  hidden_size: 16,
  intermediate_size: 20,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: VOCAB,
  max_position_embeddings: 128,
}

/** One checkpoint with random weights, its tower inside and described in `tower/`; the canonical weights. */
function writeTiny(t: TestContext, config: Json): { run: string; weights: Weights } {
  const folder = temporaryFolder(t)
  const run = join(folder, 'run')
  const checkpoint = join(run, 'checkpoint-1')
  mkdirSync(checkpoint, { recursive: true })
  mkdirSync(join(folder, 'tower'))
  const { vision_config } = configJson(TINY) as { vision_config: Json }
  writeFileSync(join(folder, 'tower/config.json'), JSON.stringify(vision_config))
  const whole = { ...TINY_TEXT, mm_vision_tower: '../../tower', ...config }
  writeFileSync(join(checkpoint, 'config.json'), JSON.stringify(whole))
  const weights: Weights = new Map(
    parametersOf(readProxyConfig(checkpoint)).map(one => [one.name, randomTensor(one, 7)]),
  )
  const isLinear = !weights.has('connector.2.weight')
  const named = [...weights].map(([name, tensor]) => {
    const own = isLinear ? name.replace(/^connector\.1/, 'model.mm_projector') : name
    return [onDisk(own), tensor] as const
  })
  writeSafetensors(join(checkpoint, 'model.safetensors'), Object.fromEntries(named))
  return { run, weights }
}

for (const [config, own] of [
  [{ model_type: 'llava_llama' }, { family: 'llama', layers: 1 }],
  [
    { model_type: 'llava_mistral', sliding_window: null },
    { family: 'mistral', layers: 1 },
  ],
  [
    { architectures: ['LlavaQwenForCausalLM'], mm_projector_type: 'mlp3x_gelu' },
    { family: 'qwen2', layers: 3 },
  ],
] as const) {
  test(`the LLaVA repository's ${own.family} with ${own.layers} layers of projector scores as the float64 reference does`, async t => {
    const { run, weights } = writeTiny(t, { ...config })
    const schedule = openSchedule(run)
    const { text, connector, imageTokens, vision } = schedule.config
    assert.deepEqual({ family: text.family, layers: connector.layers }, own)
    const shape = { before: 3, after: 9, imageTokens, patchValues: 4 * 3 * vision.patchSize ** 2 }
    const sequence = randomSequence(seededRandom(5), shape)
    const scorer = await loadScorer({ schedule, engine: 'onnx', mode: 'reference', threads: 1 })
    t.after(() => scorer.close())
    const [scored] = await scorer.score([[sequence]])
    const expected = referenceScore(weights, schedule.config, 'reference', sequence).top5
    const worst = worstOf([scored!], [[expected]])
    t.diagnostic(`${worst.toExponential(2)} from float64`)
    assert.ok(worst <= RELATIVE_MAX, String(worst))
  })
}

test('a tower that is nowhere is named with the places, and its command', t => {
  const dir = shared(t, 'goldens', 'llava-clip-llama')
  if (dir === undefined) return
  const folder = inOwnLayout(t, dir, false)
  rmSync(join(folder, 'tower'), { recursive: true })
  assert.throws(
    () => openSchedule(join(folder, 'run')),
    (error: Error) => {
      assert.match(
        error.message,
        /vision tower of .*checkpoint-10, \.\.\/\.\.\/tower, is not in .*tower or /,
      )
      return hasCode('PROXY_INVALID')(error)
    },
  )
  const file = join(folder, 'run/checkpoint-10/config.json')
  const config = JSON.parse(readFileSync(file, 'utf8'))
  writeFileSync(file, JSON.stringify({ ...config, mm_projector_type: 'identity' }))
  assert.throws(() => openSchedule(join(folder, 'run')), hasCode('PROXY_UNSUPPORTED'))
})
