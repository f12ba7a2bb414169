import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { XmasdError } from '../../src/errors.ts'
import { type ProxyConfig, readProxyConfig } from '../../src/proxy/config.ts'
import { configJson, TINY } from '../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../support.ts'

type Json = Record<string, unknown>

function read(t: TestContext, config: object, tokenizer?: object): ProxyConfig {
  const dir = temporaryFolder(t)
  writeFileSync(join(dir, 'config.json'), JSON.stringify(config))
  if (tokenizer) writeFileSync(join(dir, 'tokenizer_config.json'), JSON.stringify(tokenizer))
  return readProxyConfig(dir)
}

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
  assert.deepEqual([full.vision.dropClassToken, full.imageTokens], [false, 5])
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

test('what is not supported is refused by name', t => {
  const cases: [object, RegExp][] = [
    [{ model_type: 'llava_next' }, /model_type "llava_next".*supported: llava/],
    [changed({}, { model_type: 'mistral' }), /text_config\.model_type "mistral"/],
    [changed({}, {}, { model_type: 'dinov2' }), /vision_config\.model_type "dinov2"/],
    [changed({}, { rope_scaling: { type: 'linear', factor: 2 } }), /rope_scaling\.type "linear"/],
    [
      changed({}, { rope_parameters: { rope_type: 'llama3', rope_theta: 5e5 } }),
      /rope_parameters\.rope_type "llama3"/,
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
    [changed({}, { hidden_size: '64' }), /text_config\.hidden_size "64": an integer/],
    [changed({}, { num_key_value_heads: 3 }), /num_key_value_heads 3: it does not divide 4/],
    [changed({}, { head_dim: 5 }), /head_dim 5/],
    [changed({}, {}, { num_attention_heads: 5 }), /vision_config\.num_attention_heads 5/],
    [changed({ vision_feature_layer: [-2, -5] }), /vision_feature_layer \[-2,-5\]/],
    [changed({ text_config: 'llama' }), /text_config "llama"/],
    [changed({}, { num_hidden_layers: 0 }), /num_hidden_layers 0/],
  ]
  for (const [config, message] of cases) {
    const error = refusal(t, config)
    assert.equal(error.code, 'PROXY_INVALID')
    assert.match(error.message, message)
  }
  assert.throws(() => readProxyConfig(temporaryFolder(t)), /config\.json cannot be read/)
})
