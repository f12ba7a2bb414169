import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { XmasdError } from '../../../src/errors.ts'
import { readProxyConfig } from '../../../src/proxy/checkpoint/config.ts'
import type { ProxyConfig } from '../../../src/proxy/config.ts'
import { configJson, TINY } from '../../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../../support.ts'

type Json = Record<string, unknown>

function read(t: TestContext, config: object, tokenizer?: object): ProxyConfig {
  const dir = temporaryFolder(t)
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config))
  if (tokenizer) writeFileSync(join(dir, 'tokenizer_config.json'), JSON.stringify(tokenizer))
  return readProxyConfig(dir)
}

const NO_STRATEGY = { vision_feature_select_strategy: null }

/** The tiny config with some keys replaced, also within text_config and vision_config. */
function changed(top: Json, text: Json = {}, vision: Json = {}): object {
  const config = configJson(TINY) as Json
  const { text_config, vision_config } = config as { text_config: Json; vision_config: Json }
  return {
    ...config,
    text_config: { ...text_config, ...text },
    vision_config: { ...vision_config, ...vision },
    ...top,
  }
}

function refusal(t: TestContext, config: object): XmasdError {
  try {
    read(t, config)
  } catch (error) {
    assert.ok(error instanceof XmasdError)
    return error
  }
  assert.fail('it was taken')
}

test('the 4.x and the 5.x shape of one model are read the same', t => {
  const [old, young] = [read(t, configJson(TINY, '4.x')), read(t, configJson(TINY, '5.x'))]
  assert.deepEqual(old, young)
  assert.equal(old.text.ropeTheta, 5000)
  assert.equal(old.imageTokenId, 39)
  assert.equal(old.vision.layersRun, 2)
  assert.equal(old.imageTokens, 4)
})

test('what a config leaves out is what Hugging Face fills in', t => {
  const config = read(t, { model_type: 'llava' })
  const { vision, text } = config
  assert.deepEqual(
    [vision.width, vision.layers, vision.heads, vision.imageSize, vision.patchSize],
    [1024, 24, 16, 336, 14],
  )
  assert.deepEqual([vision.activation, vision.epsilon, vision.layersRun], ['quick_gelu', 1e-5, 23])
  assert.deepEqual(
    [text.width, text.intermediate, text.layers, text.heads, text.kvHeads, text.headDim],
    [4096, 11008, 32, 32, 32, 128],
  )
  assert.deepEqual([text.ropeTheta, text.epsilon, text.vocab], [10_000, 1e-6, 32_000])
  assert.deepEqual([config.imageTokens, config.imageTokenId, config.lengthMax], [576, 32_000, 2048])
  assert.equal(config.connector.activation, 'gelu')
  assert.equal(config.aspect, 'square')
  const small = read(t, { model_type: 'llava', vision_config: { model_type: 'clip_vision_model' } })
  assert.deepEqual([small.vision.width, small.vision.patchSize], [768, 32])
})

test('feature layers count from either end; "full" keeps the class token', t => {
  const layersRun = (value: number): number =>
    read(t, changed({ vision_feature_layer: value })).vision.layersRun
  assert.deepEqual([-1, -2, -4, 0, 3].map(layersRun), [3, 2, 0, 0, 3])
  const full = read(t, changed({ vision_feature_select_strategy: 'full' }))
  assert.deepEqual([full.vision.dropFirstRow, full.imageTokens], [false, 5])
  assert.match(refusal(t, changed({ vision_feature_layer: -5 })).message, /vision_feature_layer -5/)
})

test('the longest sequence: the own key, else the shorter of tokenizer and model', t => {
  const lengthMax = (top: Json, length?: number): number =>
    read(t, changed(top), length === undefined ? undefined : { model_max_length: length }).lengthMax
  assert.equal(lengthMax({}), 128)
  assert.equal(lengthMax({}, 100), 100)
  assert.equal(lengthMax({}, 1000), 128)
  assert.equal(lengthMax({}, 1e30), 128)
  assert.equal(lengthMax({ tokenizer_model_max_length: 160 }, 100), 160)
})

test('what a family leaves out is what its own class fills in', t => {
  const own = (model_type: string): ProxyConfig['text'] =>
    read(t, { model_type: 'llava', text_config: { model_type } }).text
  const sizes = (model_type: string): (number | string | boolean)[] => {
    const { width, intermediate, layers, heads, kvHeads, headDim, rotaryDims } = own(model_type)
    return [width, intermediate, layers, heads, kvHeads, headDim, rotaryDims]
  }
  assert.deepEqual(sizes('qwen2'), [4096, 22_016, 32, 32, 32, 128, 128])
  assert.deepEqual(sizes('qwen3'), [4096, 22_016, 32, 32, 32, 128, 128])
  assert.deepEqual(sizes('stablelm'), [2560, 6912, 32, 32, 32, 80, 20])
  assert.deepEqual(sizes('phi'), [2048, 8192, 24, 32, 32, 64, 32])
  const ways = (model_type: string): unknown[] => {
    const { norm, headNorm, parallelResidual, mlp, activation, epsilon, vocab } = own(model_type)
    return [norm, headNorm, parallelResidual, mlp, activation, epsilon, vocab]
  }
  assert.deepEqual(ways('qwen2'), ['rms', 'none', false, 'gated', 'silu', 1e-6, 151_936])
  assert.deepEqual(ways('qwen3'), ['rms', 'rms', false, 'gated', 'silu', 1e-6, 151_936])
  assert.deepEqual(ways('stablelm'), ['layer', 'none', false, 'gated', 'silu', 1e-5, 50_304])
  const phi = ['layer', 'none', true, 'plain', 'gelu_pytorch_tanh', 1e-5, 51_200]
  assert.deepEqual(ways('phi'), phi)
  const { vision } = read(t, {
    model_type: 'llava',
    vision_config: { model_type: 'siglip_vision_model' },
    vision_feature_select_strategy: 'full',
  })
  assert.deepEqual([vision.family, vision.patchSize, vision.epsilon], ['siglip', 16, 1e-6])
  assert.equal(vision.activation, 'gelu_pytorch_tanh')
})

test("the LLaVA repository's own layout is named as such; Hugging Face's and TinyLLaVA's go on", t => {
  const signs: [config: Json, sign: RegExp][] = [
    [{ architectures: ['LlavaMptForCausalLM'] }, /LlavaMptForCausalLM/],
    [{ architectures: ['LlavaGemmaForCausalLM'] }, /LlavaGemma/],
    [{ mm_vision_tower: 'openai/clip-vit-large-patch14-336' }, /mm_vision_tower/],
    [{ mm_projector_type: 'mlp2x_gelu' }, /mm_projector_type/],
  ]
  for (const [config, sign] of signs) {
    const { code, message, hint } = refusal(t, { model_type: 'llava', ...config })
    assert.equal(code, 'PROXY_UNSUPPORTED')
    assert.match(message, sign)
    assert.match(message, /the LLaVA repository's own layout/)
    assert.match(hint, /Convert every checkpoint to Hugging Face llava/)
  }
  const left = { mm_vision_tower: 'openai/clip-vit-large-patch14-336' }
  const architectures = ['LlavaForConditionalGeneration']
  assert.equal(read(t, { model_type: 'llava', architectures, ...left }).kind, 'llava')
  assert.equal(read(t, { model_type: 'llava', mm_vision_tower: null }).kind, 'llava')
  const tiny = { model_type: 'tinyllava', vision_config: { model_type: 'clip_vision_model' } }
  assert.equal(read(t, { ...tiny, ...left }).kind, 'tinyllava')
})

test('TinyLLaVA has its own defaults, names and image id', t => {
  const bare = read(t, { model_type: 'tinyllava', text_config: { model_type: 'stablelm' } })
  assert.deepEqual([bare.kind, bare.imageTokenId, bare.lengthMax], ['tinyllava', -200, 2048])
  assert.deepEqual([bare.imageTokens, bare.vision.dropFirstRow], [576, true])
  assert.deepEqual(bare.connector, { activation: 'gelu' })
  const whole = { ...NO_STRATEGY, vision_feature_select_strategy: 'cls_patch' }
  assert.equal(read(t, changed({ model_type: 'tinyllava', ...whole })).imageTokens, 5)
  const padded = changed({ image_aspect_ratio: 'pad', tokenizer_model_max_length: 77 })
  assert.deepEqual([read(t, padded).aspect, read(t, padded).lengthMax], ['pad', 77])
})

test('Qwen2-VL is read the same with its text at the top, as transformers 4 saves it', t => {
  const heads = { num_attention_heads: 4, num_key_value_heads: 2 }
  const text = { hidden_size: 64, num_hidden_layers: 2, ...heads, vocab_size: 99 }
  const vision = { embed_dim: 32, hidden_size: 64, num_heads: 2, depth: 3 }
  const rope = { mrope_section: [2, 3, 3] }
  const old = read(t, {
    ...text,
    model_type: 'qwen2_vl',
    rope_theta: 5000,
    rope_scaling: { type: 'mrope', ...rope },
    use_sliding_window: false,
    sliding_window: 32,
    vision_config: { ...vision, mlp_ratio: 4, in_chans: 3, spatial_patch_size: 14 },
  })
  const young = read(t, {
    model_type: 'qwen2_vl',
    text_config: { ...text, rope_parameters: { rope_type: 'default', rope_theta: 5000, ...rope } },
    vision_config: { ...vision, model_type: 'qwen2_vl_vision' },
  })
  assert.deepEqual(old, young)
  assert.deepEqual([old.vision.width, old.vision.intermediate, old.text.width], [32, 128, 64])
  assert.deepEqual(old.text.ropeAxes, [0, 0, 1, 1, 1, 2, 2, 2])
  assert.deepEqual([old.vision.activation, old.text.ropeTheta], ['quick_gelu', 5000])
})

test('a first row that is dropped is one of the patches where there is no class token', t => {
  const siglip = (strategy: string): ProxyConfig =>
    read(
      t,
      changed(
        { vision_feature_select_strategy: strategy },
        {},
        { model_type: 'siglip_vision_model' },
      ),
    )
  assert.equal(siglip('full').imageTokens, 4)
  assert.equal(siglip('default').imageTokens, 3)
})

test('rope scaling is read in both shapes', t => {
  const scaling = (text: Json): unknown => read(t, changed({}, text)).text.ropeScaling
  assert.deepEqual(scaling({ rope_scaling: null }), { kind: 'default' })
  const linear = { kind: 'linear', factor: 2 }
  assert.deepEqual(scaling({ rope_scaling: { type: 'linear', factor: 2 } }), linear)
  assert.deepEqual(scaling({ rope_parameters: { rope_type: 'linear', factor: 2 } }), linear)
  const llama3 = { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4 }
  const read3 = { kind: 'llama3', factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4 }
  assert.deepEqual(scaling({ rope_parameters: llama3 }), { ...read3, positionsBefore: 128 })
  const from64 = { ...llama3, original_max_position_embeddings: 64 }
  assert.deepEqual(scaling({ rope_scaling: from64 }), { ...read3, positionsBefore: 64 })
  const asPhi3 = { rope_scaling: from64, original_max_position_embeddings: 32 }
  assert.deepEqual(scaling(asPhi3), { ...read3, positionsBefore: 32 })
  const dynamic = { rope_scaling: { type: 'dynamic', factor: 2 } }
  assert.deepEqual(scaling(dynamic), { kind: 'dynamic' })
})

test('yarn has the defaults of its paper, and an amplitude that follows from its factor', t => {
  const yarn = (more: Json): Json => {
    const rope_parameters = { rope_type: 'yarn', factor: 4, ...more }
    return read(t, changed({}, { rope_parameters })).text.ropeScaling
  }
  const plain = { kind: 'yarn', factor: 4, turnsFast: 32, turnsSlow: 1, positionsBefore: 128 }
  const amplitude = 0.1 * Math.log(4) + 1
  assert.deepEqual(yarn({}), { ...plain, truncates: true, amplitude })
  assert.equal(yarn({ attention_factor: 0.5 }).amplitude, 0.5)
  assert.equal(yarn({ factor: 0.5 }).amplitude, 1)
  const scales = yarn({ mscale: 0.7, mscale_all_dim: 1 }).amplitude
  assert.equal(scales, (0.07 * Math.log(4) + 1) / amplitude)
  const asked = { beta_fast: 16, beta_slow: 2, truncate: false }
  assert.deepEqual(yarn({ ...asked, original_max_position_embeddings: 64 }), {
    ...plain,
    turnsFast: 16,
    turnsSlow: 2,
    positionsBefore: 64,
    truncates: false,
    amplitude,
  })
})

test('qk_layernorm is one norm for every head of StableLM and one for all heads of Phi', t => {
  const headNorm = (model_type: string, qk_layernorm: boolean): string =>
    read(t, changed({}, { model_type, qk_layernorm, partial_rotary_factor: 1 })).text.headNorm
  assert.equal(headNorm('stablelm', true), 'layer-per-head')
  assert.equal(headNorm('phi', true), 'layer')
  assert.equal(headNorm('stablelm', false), 'none')
})

test('what is not supported is refused by name', t => {
  const cases: [object, RegExp][] = [
    [{ model_type: 'paligemma' }, /model_type "paligemma".*supported: llava, tinyllava/],
    [changed({}, { model_type: 'gemma2' }), /text_config\.model_type "gemma2".*qwen3, stablelm/],
    [
      changed({}, { model_type: 'mistral', sliding_window: 64 }),
      /sliding_window 64.*null, or the longest sequence's 128/,
    ],
    [changed({}, {}, { model_type: 'dinov2' }), /vision_config\.model_type "dinov2"/],
    [
      changed({}, {}, { model_type: 'siglip2_vision_model' }),
      /"siglip2_vision_model" is not supported \(supported: clip_vision_model, siglip_vision_model/,
    ],
    [
      changed({}, { rope_scaling: { type: 'longrope', factor: 2 } }),
      /rope_scaling\.type "longrope" is not supported \(supported: default, linear, dynamic, yarn, llama3\)/,
    ],
    [
      changed(
        { tokenizer_model_max_length: 129 },
        { rope_parameters: { rope_type: 'dynamic', factor: 2 } },
      ),
      /rope_type "dynamic".*up to max_position_embeddings 128; the longest sequence is 129/,
    ],
    [changed({ vision_feature_layer: [-2, -5] }), /vision_feature_layer \[-2,-5\].*one layer/],
    [changed({}, { partial_rotary_factor: 0.5 }), /partial_rotary_factor 0\.5.*supported: 1/],
    [changed({}, { use_sliding_window: true }), /use_sliding_window true/],
    [changed({}, { layer_types: ['full_attention', 'sliding_attention'] }), /layer_types/],
    [changed({}, { qk_layernorm: true }), /qk_layernorm true.*stablelm and phi/],
    [changed({ image_aspect_ratio: 'anyres' }), /image_aspect_ratio "anyres".*square, pad/],
    [
      changed({ model_type: 'tinyllava', vision_feature_select_strategy: 'default' }),
      /vision_feature_select_strategy "default".*patch, cls_patch/,
    ],
    [
      changed({ model_type: 'tinyllava', ...NO_STRATEGY, connector_type: 'resampler' }),
      /connector_type "resampler".*mlp2x_gelu/,
    ],
    [changed({ projector_hidden_act: 'mish' }), /projector_hidden_act "mish"/],
    [changed({ vision_feature_select_strategy: 'cls' }), /vision_feature_select_strategy "cls"/],
    [changed({ quantization_config: { bits: 4 } }), /quantization_config/],
  ]
  for (const [config, message] of cases) {
    const error = refusal(t, config)
    assert.equal(error.code, 'PROXY_UNSUPPORTED')
    assert.match(error.message, message)
  }
})

test('what makes no sense is PROXY_INVALID, with the value', t => {
  const cases: [object, RegExp][] = [
    [changed({}, { hidden_size: '64' }), /text_config\.hidden_size "64": a positive integer/],
    [changed({}, { num_key_value_heads: 3 }), /num_key_value_heads 3: it does not divide 4/],
    [changed({}, { head_dim: 5 }), /head_dim 5/],
    [changed({}, {}, { num_attention_heads: 5 }), /vision_config\.num_attention_heads 5/],
    [changed({ vision_feature_layer: '-2' }), /vision_feature_layer "-2"/],
    [changed({ text_config: 'llama' }), /text_config "llama"/],
    [changed({}, { num_hidden_layers: 0 }), /num_hidden_layers 0/],
    [changed({}, { layer_types: 'full_attention' }), /layer_types "full_attention": a list/],
    [
      changed({}, { rope_scaling: { rope_type: 'linear' } }),
      /rope_scaling\.factor null: a positive/,
    ],
    [
      changed({}, { model_type: 'phi', partial_rotary_factor: 0.3 }),
      /partial_rotary_factor 0\.3: 1 of a head's 4 channels/,
    ],
  ]
  for (const [config, message] of cases) {
    const error = refusal(t, config)
    assert.equal(error.code, 'PROXY_INVALID')
    assert.match(error.message, message)
  }
  assert.throws(() => readProxyConfig(temporaryFolder(t)), /config\.json cannot be read/)
})
