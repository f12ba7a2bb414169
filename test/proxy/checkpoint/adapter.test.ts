/** What adapters are refused, and where their base is looked for. Shapes of LoRA: test/score/lora.test.ts. */
import assert from 'node:assert/strict'
import { cpSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { readHeader, writeSafetensors } from '../../../src/proxy/checkpoint/safetensors.ts'
import { openSchedule } from '../../../src/proxy/checkpoint/schedule.ts'
import { writeTinyProxy } from '../../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../../support.ts'

const MODULE = 'base_model.model.model.language_model.layers.0.self_attn.q_proj'

type Json = Record<string, unknown>

/** A base and two adapters of one projection. */
function tinyAdapters(t: TestContext, config: Json = {}) {
  const dir = temporaryFolder(t)
  writeTinyProxy(join(dir, 'whole'))
  renameSync(join(dir, 'whole/checkpoint-2'), join(dir, 'base'))
  const { tensors } = readHeader(join(dir, 'base/model.safetensors'))
  const [outputs, inputs] = [...tensors].find(([name]) =>
    name.endsWith('layers.0.self_attn.q_proj.weight'),
  )![1].shape as [number, number]
  const run = join(dir, 'run')
  for (const step of [1, 2])
    saveAdapter(join(run, `checkpoint-${step}`), step, outputs, inputs, config)
  return { dir, run, base: join(dir, 'base'), first: join(run, 'checkpoint-1') }
}

function saveAdapter(folder: string, step: number, outputs: number, inputs: number, config: Json) {
  mkdirSync(folder, { recursive: true })
  const said = { peft_type: 'LORA', base_model_name_or_path: '../../base', r: 2, lora_alpha: 4 }
  writeFileSync(join(folder, 'adapter_config.json'), JSON.stringify({ ...said, ...config }))
  writeSafetensors(join(folder, 'adapter_model.safetensors'), {
    [`${MODULE}.lora_A.weight`]: {
      shape: [2, inputs],
      data: new Float32Array(2 * inputs).fill(step),
    },
    [`${MODULE}.lora_B.weight`]: {
      shape: [outputs, 2],
      data: new Float32Array(2 * outputs).fill(1),
    },
  })
}

test('adapters that are not plain LoRA are refused by their names, with the way out', t => {
  const cases: [Json, RegExp, RegExp][] = [
    [{ use_dora: true }, /DoRA/, /merge_and_unload/],
    [{ peft_type: 'LOHA' }, /LOHA/, /merge_and_unload/],
    [{ peft_type: 'PREFIX_TUNING' }, /PREFIX_TUNING/, /cannot be merged/],
    [{ init_lora_weights: 'pissa_niter_16' }, /pissa_niter_16/, /merge_and_unload/],
    [{ trainable_token_indices: [3] }, /trainable_token_indices/, /merge_and_unload/],
    [{ alora_invocation_tokens: [1, 2] }, /activated LoRA/, /merge_and_unload/],
  ]
  for (const [config, message, hint] of cases) {
    const { run } = tinyAdapters(t, config)
    assert.throws(() => openSchedule(run), { code: 'PROXY_UNSUPPORTED', message, hint })
  }
})

test('the base is found beside the checkpoint, by its absolute path, in the cache and by --base', t => {
  const { dir, run, base } = tinyAdapters(t)
  const { fingerprint } = openSchedule(run)
  const cached = tinyAdapters(t, { base_model_name_or_path: 'org/model' })
  assert.throws(() => openSchedule(cached.run), {
    message: /org\/model is not in/,
    hint: /--base DIR/,
  })
  assert.equal(openSchedule(cached.run, 'projections', base).fingerprint, fingerprint)
  const model = join(dir, 'hub/models--org--model')
  mkdirSync(join(model, 'refs'), { recursive: true })
  writeFileSync(join(model, 'refs/main'), 'abc\n')
  cpSync(base, join(model, 'snapshots/abc'), { recursive: true })
  const before = process.env.HF_HUB_CACHE
  process.env.HF_HUB_CACHE = join(dir, 'hub')
  t.after(() => {
    if (before === undefined) delete process.env.HF_HUB_CACHE
    else process.env.HF_HUB_CACHE = before
  })
  assert.equal(openSchedule(cached.run).fingerprint, fingerprint)
  const absolute = tinyAdapters(t, { base_model_name_or_path: base })
  assert.equal(openSchedule(absolute.run).fingerprint, fingerprint)
})

test('the fingerprint moves with a factor and with its scale', t => {
  const { fingerprint } = openSchedule(tinyAdapters(t).run)
  assert.notEqual(openSchedule(tinyAdapters(t, { lora_alpha: 5 }).run).fingerprint, fingerprint)
  const other = tinyAdapters(t)
  const file = join(other.first, 'adapter_model.safetensors')
  const bytes = readFileSync(file)
  bytes[bytes.length - 1]! ^= 1
  writeFileSync(file, bytes)
  assert.notEqual(openSchedule(other.run).fingerprint, fingerprint)
})

test('an adapter that does not fit its base, and bases of two trainings, are named', t => {
  const wrong = tinyAdapters(t, { r: 4 })
  assert.throws(() => openSchedule(wrong.run), { message: /rank 4 over the base's/ })
  const mixed = tinyAdapters(t)
  cpSync(mixed.base, join(mixed.dir, 'other'), { recursive: true })
  const config = join(mixed.first, 'adapter_config.json')
  writeFileSync(config, readFileSync(config, 'utf8').replace('../../base', '../../other'))
  assert.throws(() => openSchedule(mixed.run), { message: /two trainings: .*other, .*base/ })
  rmSync(mixed.first, { recursive: true })
  cpSync(mixed.base, mixed.first, { recursive: true })
  assert.throws(() => openSchedule(mixed.run), { message: /checkpoint-1 is a whole model, / })
  assert.equal(basename(mixed.first), 'checkpoint-1')
})

test('a quantised base is refused by the name of its method', t => {
  for (const [method, name] of [
    ['bitsandbytes', 'bitsandbytes'],
    ['gptq', 'GPTQ'],
    ['awq', 'AWQ'],
  ] as const) {
    const { run, base } = tinyAdapters(t)
    const file = join(base, 'config.json')
    const config = JSON.parse(readFileSync(file, 'utf8'))
    config.quantization_config = { quant_method: method }
    writeFileSync(file, JSON.stringify(config))
    const hint = /unquantised base with --base DIR/
    const expected = {
      code: 'PROXY_UNSUPPORTED',
      message: new RegExp(`quantised with ${name}`),
      hint,
    }
    assert.throws(() => openSchedule(run), expected)
  }
})
