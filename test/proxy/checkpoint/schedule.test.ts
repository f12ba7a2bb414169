import assert from 'node:assert/strict'
import {
  cpSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { XmasdError } from '../../../src/errors.ts'
import { writeSafetensors } from '../../../src/proxy/checkpoint/safetensors.ts'
import { checkLength, openSchedule, type Schedule } from '../../../src/proxy/checkpoint/schedule.ts'
import {
  configJson,
  diskName,
  type Layout,
  saveWeights,
  TINY,
  type Weights,
  writeTinyProxy,
} from '../../fixtures-tiny-proxy.ts'
import { temporaryFolder } from '../../support.ts'

const LAYOUTS: readonly Layout[] = ['legacy', 'v5', '4.52', 'tinyllava']

function tiny(t: TestContext, options: Parameters<typeof writeTinyProxy>[1] = {}) {
  const dir = temporaryFolder(t)
  return { dir, weights: writeTinyProxy(dir, options), last: join(dir, 'checkpoint-10') }
}

function steps(schedule: Schedule): number[] {
  return schedule.checkpoints.map(checkpoint => checkpoint.step)
}

/** Weights in two files, as a Trainer shards them. */
function saveShards(folder: string, weights: Weights): void {
  const map: Record<string, string> = {}
  const names = [...weights.keys()]
  const half = Math.floor(names.length / 2)
  for (const [i, part] of [names.slice(0, half), names.slice(half)].entries()) {
    const file = `model-0000${i + 1}-of-00002.safetensors`
    for (const name of part) map[diskName(name, 'legacy')] = file
    const tensors = part.map(name => [diskName(name, 'legacy'), weights.get(name)!] as const)
    writeSafetensors(join(folder, file), Object.fromEntries(tensors))
  }
  const index = JSON.stringify({ metadata: {}, weight_map: map })
  writeFileSync(join(folder, 'model.safetensors.index.json'), index)
}

function refused(dir: string, code: string, message: RegExp, hint = /./): void {
  assert.throws(
    () => openSchedule(dir),
    (error: unknown) => {
      assert.ok(error instanceof XmasdError, String(error))
      assert.equal(error.code, code)
      assert.match(error.message, message)
      assert.match(error.hint, hint)
      return true
    },
  )
}

test('checkpoints stand in the order of their numbers, not of their names', t => {
  const { dir } = tiny(t, { steps: [100, 9, 20] })
  mkdirSync(join(dir, 'runs'))
  writeFileSync(join(dir, 'checkpoint-notes.txt'), '')
  assert.deepEqual(steps(openSchedule(dir)), [9, 20, 100])
})

test('a folder that is one checkpoint is a schedule of one; a final model beside checkpoints is not', t => {
  const { dir, last } = tiny(t)
  assert.deepEqual(steps(openSchedule(last)), [0])
  cpSync(last, dir, { recursive: true })
  assert.deepEqual(steps(openSchedule(dir)), [2, 10])
})

test('every key layout gives the same parameters and the same fingerprint', t => {
  const schedules = LAYOUTS.map(layout => openSchedule(tiny(t, { layout }).dir))
  for (const { checkpoints, fingerprint } of schedules) {
    assert.equal(fingerprint, schedules[0]!.fingerprint)
    assert.deepEqual(
      [...checkpoints[0]!.tensors.keys()],
      [...schedules[0]!.checkpoints[0]!.tensors.keys()],
    )
  }
})

test('shards give what one file gives; links to files elsewhere are followed', t => {
  const { dir, weights, last } = tiny(t)
  const { fingerprint } = openSchedule(dir)
  renameSync(join(last, 'model.safetensors'), join(dir, 'blob'))
  symlinkSync(join(dir, 'blob'), join(last, 'model.safetensors'))
  assert.equal(openSchedule(dir).fingerprint, fingerprint)
  rmSync(join(last, 'model.safetensors'))
  saveShards(last, weights[1]!)
  assert.equal(openSchedule(dir).fingerprint, fingerprint)
})

test('the fingerprint of a schedule is the one that bundles already hold', t => {
  const written = 'b106908a463923dacd3e232b65652c3b451a6d0dbbf00c275f3458b538735565'
  assert.equal(openSchedule(tiny(t).dir).fingerprint, written)
})

test('a schedule for its logits needs the last layer and the head, and has the same fingerprint', t => {
  const { dir } = tiny(t)
  assert.throws(
    () => openSchedule(dir, 'logits'),
    /layers\.1\.self_attn\.v_proj\.weight is missing/,
  )
  const whole = tiny(t, { reach: 'logits' })
  const { fingerprint, checkpoints } = openSchedule(whole.dir, 'logits')
  assert.equal(fingerprint, openSchedule(dir).fingerprint)
  assert.ok(checkpoints[0]!.tensors.has('text.norm.weight'))
  const [weights] = whole.weights
  weights!.delete('head.weight')
  saveWeights(whole.last, weights!, 'legacy')
  assert.throws(
    () => openSchedule(whole.dir, 'logits'),
    /checkpoint-10: tensor head\.weight is missing/,
  )
})

test('the fingerprint moves with rope scaling, which no weight shows', t => {
  const scaled = { ...TINY, rope: { kind: 'linear' as const, factor: 2 } }
  const [plain, other] = [tiny(t), tiny(t, { shape: scaled })].map(({ dir }) => openSchedule(dir))
  assert.notEqual(plain!.fingerprint, other!.fingerprint)
})

test('the fingerprint moves with a weight, a step and the config', t => {
  const prints = new Set([openSchedule(tiny(t).dir).fingerprint])
  const { dir, weights, last } = tiny(t)
  weights[1]!.get('text.layers.1.self_attn.k_proj.weight')!.data[5]! += 1e-3
  saveWeights(last, weights[1]!, 'legacy')
  prints.add(openSchedule(dir).fingerprint)
  prints.add(openSchedule(tiny(t, { steps: [2, 11] }).dir).fingerprint)
  const other = tiny(t)
  for (const step of [2, 10]) {
    const config = { ...configJson(TINY), projector_hidden_act: 'relu' }
    writeFileSync(join(other.dir, `checkpoint-${step}`, 'config.json'), JSON.stringify(config))
  }
  prints.add(openSchedule(other.dir).fingerprint)
  assert.equal(prints.size, 4)
})

test('the vision tower is shared only where every byte of it is equal', t => {
  const { dir, weights, last } = tiny(t)
  assert.equal(openSchedule(dir).visionShared, true)
  weights[1]!.get('vision.encoder.layers.1.mlp.fc2.bias')!.data[0]! += 1e-6
  saveWeights(last, weights[1]!, 'legacy')
  assert.equal(openSchedule(dir).visionShared, false)
})

test('no folder, no checkpoint and two of one step are errors', t => {
  refused(join(temporaryFolder(t), 'none'), 'PROXY_INVALID', /none cannot be read/)
  refused(temporaryFolder(t), 'PROXY_INVALID', /holds no checkpoint-N/)
  const { dir, last } = tiny(t)
  cpSync(last, join(dir, 'checkpoint-010'), { recursive: true })
  refused(dir, 'CHECKPOINT_INVALID', /step 10 appears twice/)
})

test('a checkpoint that lacks its config, its weights or a shard is named', t => {
  const one = tiny(t)
  rmSync(join(one.last, 'config.json'))
  refused(one.dir, 'CHECKPOINT_INVALID', /checkpoint-10\/config\.json cannot be read/)
  const two = tiny(t)
  rmSync(join(two.last, 'model.safetensors'))
  refused(two.dir, 'CHECKPOINT_INVALID', /checkpoint-10: .*ENOENT/)
  const three = tiny(t)
  saveShards(three.last, three.weights[1]!)
  rmSync(join(three.last, 'model.safetensors'))
  rmSync(join(three.last, 'model-00002-of-00002.safetensors'))
  refused(three.dir, 'CHECKPOINT_INVALID', /checkpoint-10: .*model-00002-of-00002/)
})

test('weights that are not safetensors are named, with what makes them so', t => {
  const cases: [string, RegExp, RegExp][] = [
    ['pytorch_model.bin', /checkpoint-10 holds pickled weights/, /safe_serialization/],
    ['pytorch_model.bin.index.json', /pickled weights/, /safe_serialization/],
    [
      'adapter_model.safetensors',
      /adapter_config\.json cannot be read/,
      /copy this checkpoint again/,
    ],
    ['global_step10', /DeepSpeed/, /zero_to_fp32/],
    ['language_model', /separate parts/, /checkpoint-N/],
  ]
  for (const [name, message, hint] of cases) {
    const { dir, last } = tiny(t)
    renameSync(join(last, 'model.safetensors'), join(last, name))
    refused(dir, 'CHECKPOINT_INVALID', message, hint)
  }
})

test('a truncated file, a broken index and an index that leads outside are named', t => {
  const one = tiny(t)
  const file = join(one.last, 'model.safetensors')
  truncateSync(file, readFileSync(file).length - 10)
  refused(one.dir, 'CHECKPOINT_INVALID', /checkpoint-10: .*truncated/)
  const two = tiny(t)
  renameSync(join(two.last, 'model.safetensors'), join(two.last, 'model-1.safetensors'))
  writeFileSync(join(two.last, 'model.safetensors.index.json'), '{"weight_map": 3}')
  refused(two.dir, 'CHECKPOINT_INVALID', /checkpoint-10: .*index\.json is malformed/)
  const index = { weight_map: { 'lm_head.weight': '../checkpoint-2/model.safetensors' } }
  writeFileSync(join(two.last, 'model.safetensors.index.json'), JSON.stringify(index))
  refused(two.dir, 'CHECKPOINT_INVALID', /outside/)
})

test('a missing tensor, another shape and another dtype are named, checkpoint and tensor', t => {
  const name = 'text.layers.0.mlp.up_proj.weight'
  const missing = tiny(t)
  missing.weights[1]!.delete(name)
  saveWeights(missing.last, missing.weights[1]!, 'legacy')
  refused(
    missing.dir,
    'CHECKPOINT_INVALID',
    /checkpoint-10: tensor text\.layers\.0\.mlp\.up_proj\.weight is missing/,
  )
  const other = tiny(t)
  other.weights[1]!.set(name, { shape: [16, 20], data: new Float32Array(320) })
  saveWeights(other.last, other.weights[1]!, 'legacy')
  refused(
    other.dir,
    'CHECKPOINT_INVALID',
    /up_proj\.weight is \[16,20\]; its config asks for \[20,16\]/,
  )
  const wide = tiny(t)
  const tensors = [...wide.weights[1]!].map(
    ([key, { shape, data }]) =>
      [diskName(key, 'v5'), { shape, data: Float64Array.from(data) }] as const,
  )
  writeSafetensors(join(wide.last, 'model.safetensors'), Object.fromEntries(tensors))
  refused(wide.dir, 'CHECKPOINT_INVALID', /checkpoint-10: tensor .* is F64/)
})

test('checkpoints of different models are refused, with the difference', t => {
  const config = tiny(t)
  const changed = { ...configJson(TINY), vision_feature_layer: -3 }
  writeFileSync(join(config.last, 'config.json'), JSON.stringify(changed))
  refused(
    config.dir,
    'CHECKPOINT_INVALID',
    /checkpoint-10: its config differs.*vision\.layersRun 2 and 1/,
  )
  const bias = tiny(t)
  bias.weights[1]!.delete('connector.2.bias')
  saveWeights(bias.last, bias.weights[1]!, 'legacy')
  refused(bias.dir, 'CHECKPOINT_INVALID', /tensor connector\.2\.bias is in .*checkpoint-2 but not/)
})

test('layers that never run and tensors of no layout may be missing or there', t => {
  const { dir, weights, last } = tiny(t)
  weights[1]!.set('vision.post_layernorm.weight', { shape: [12], data: new Float32Array(12) })
  weights[1]!.delete('head.weight')
  weights[0]!.delete('head.weight')
  saveWeights(last, weights[1]!, '4.52')
  saveWeights(join(dir, 'checkpoint-2'), weights[0]!, 'legacy')
  assert.equal(openSchedule(dir).checkpoints.length, 2)
})

test('the prefixes of wrappers and the names of transformers 5.5 give the same fingerprint', t => {
  const { dir, weights } = tiny(t)
  const { fingerprint } = openSchedule(dir)
  const prefixes: ((name: string) => string)[] = [
    name => `module.${name}`,
    name => `_orig_mod.${name}`,
    name => `base_model.model.${name}`,
    name => `module._orig_mod.base_model.model.model.${name}`,
    name => name.replace('language_model.', 'model.language_model._orig_mod.'),
    name => name.replace('.layers.0.', '.layers.0._checkpoint_wrapped_module.'),
  ]
  for (const renamed of prefixes) {
    for (const [i, step] of [2, 10].entries()) {
      const tensors = [...weights[i]!].map(([n, v]) => [renamed(diskName(n, 'legacy')), v] as const)
      const file = join(dir, `checkpoint-${step}`, 'model.safetensors')
      writeSafetensors(file, Object.fromEntries(tensors))
    }
    assert.equal(openSchedule(dir).fingerprint, fingerprint, renamed('NAME'))
  }
})

test('a whole file is read beside an older index, and two sets of weights are a warning', t => {
  const { dir, last } = tiny(t)
  const plain = openSchedule(dir)
  assert.deepEqual(plain.warnings.length, 1)
  const index = { weight_map: { 'lm_head.weight': 'model-00001-of-00002.safetensors' } }
  writeFileSync(join(last, 'model.safetensors.index.json'), JSON.stringify(index))
  const { fingerprint, warnings } = openSchedule(dir)
  assert.equal(fingerprint, plain.fingerprint)
  assert.match(warnings[0]!, /checkpoint-10 holds two sets of weights: model\.safetensors is read/)
})

test('an unmerged adapter in a whole checkpoint, and a malformed adapter, are named', t => {
  const { dir, last, weights } = tiny(t)
  const name = 'base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight'
  const adapted = [...weights[1]!, [name, { shape: [1], data: new Float32Array(1) }] as const]
  writeSafetensors(join(last, 'model.safetensors'), Object.fromEntries(adapted))
  refused(dir, 'CHECKPOINT_INVALID', /not merged into the weights: base_model/, /merge_and_unload/)
  const folder = temporaryFolder(t)
  for (const at of [folder, join(folder, 'checkpoint-5')]) {
    mkdirSync(at, { recursive: true })
    writeFileSync(join(at, 'adapter_config.json'), '{}')
    refused(folder, 'CHECKPOINT_INVALID', /adapter_config\.json is malformed: .*peft_type/s)
  }
})

test('a tensor of an unknown dtype is refused where the proxy reads it, and ignored elsewhere', t => {
  const { dir, last, weights } = tiny(t)
  const replace = (name: string, by: string): void => {
    saveWeights(last, weights[1]!, 'legacy')
    const file = join(last, 'model.safetensors')
    const bytes = readFileSync(file)
    const length = Number(bytes.readBigUInt64LE())
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString())
    header[by] = { ...header[name], dtype: 'Q4' }
    if (by !== name) delete header[name]
    const text = Buffer.from(JSON.stringify(header))
    const size = Buffer.alloc(8)
    size.writeBigUInt64LE(BigInt(text.length))
    writeFileSync(file, Buffer.concat([size, text, bytes.subarray(8 + length)]))
  }
  const name = 'language_model.model.layers.0.mlp.up_proj.weight'
  replace(name, name)
  refused(dir, 'CHECKPOINT_INVALID', /up_proj\.weight is Q4; F32, F16, BF16 are read/)
  weights[1]!.set('text.unused', { shape: [1], data: new Float32Array(1) })
  replace('language_model.model.unused', 'some.scale')
  assert.equal(openSchedule(dir).checkpoints.length, 2)
})

test('a schedule of one checkpoint is refused, and named for what it is', t => {
  const { dir, last } = tiny(t)
  checkLength(openSchedule(dir))
  const message = (path: string): string => {
    try {
      checkLength(openSchedule(path))
    } catch (error) {
      return String((error as Error).message)
    }
    assert.fail('it was taken')
  }
  assert.match(message(last), /is one checkpoint, and no schedule: instability/)
  cpSync(last, join(dir, 'final'), { recursive: true })
  assert.match(message(join(dir, 'final')), /is one model, such as the final one, and no schedule/)
  rmSync(last, { recursive: true })
  assert.match(message(dir), /holds one checkpoint/)
})
