/** What `doctor` says of folders that are no schedule: what each is, and what to do. */
import assert from 'node:assert/strict'
import { cpSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { temporaryFolder } from '../support.ts'
import { DEMO_PROXY, run } from './command.ts'

type Json = Record<string, unknown>

const STEPS = ['checkpoint-100', 'checkpoint-230'] as const

function edit(file: string, change: (json: Json) => Json): void {
  writeFileSync(file, JSON.stringify(change(JSON.parse(readFileSync(file, 'utf8')))))
}

function copyCheckpoints(proxy: string): void {
  cpSync(join(DEMO_PROXY, 'template.json'), join(proxy, 'template.json'))
  for (const step of STEPS) cpSync(join(DEMO_PROXY, step), join(proxy, step), { recursive: true })
}

/** Both checkpoints, each changed. */
function changed(change: (checkpoint: string) => void): (proxy: string) => void {
  return proxy => {
    copyCheckpoints(proxy)
    for (const step of STEPS) change(join(proxy, step))
  }
}

function configured(change: (config: Json) => Json): (proxy: string) => void {
  return changed(checkpoint => edit(join(checkpoint, 'config.json'), change))
}

function adapters(config: (index: number) => Json): (proxy: string) => void {
  return proxy => {
    for (const [i, step] of STEPS.entries()) {
      mkdirSync(join(proxy, step))
      const said = { peft_type: 'LORA', r: 8, lora_alpha: 16, ...config(i) }
      writeFileSync(join(proxy, step, 'adapter_config.json'), JSON.stringify(said))
    }
  }
}

const weights = 'model.safetensors'

const CASES: [what: string, make: (proxy: string) => void, says: RegExp, fix: RegExp][] = [
  [
    'a final model',
    proxy => cpSync(join(DEMO_PROXY, STEPS[0]), proxy, { recursive: true }),
    /is one model, such as the final one, and no schedule/,
    /the folder that holds checkpoint-N/,
  ],
  [
    'one checkpoint',
    proxy => cpSync(join(DEMO_PROXY, STEPS[0]), join(proxy, STEPS[0]), { recursive: true }),
    /holds one checkpoint: instability is the movement between at least 2/,
    /save_strategy "steps" and no save_total_limit/,
  ],
  [
    'adapters without their base',
    adapters(() => ({ base_model_name_or_path: 'team/base' })),
    /is a LoRA adapter, and its base model team\/base is not in/,
    /--base DIR, or proxy\.base/,
  ],
  [
    'DoRA',
    adapters(() => ({ base_model_name_or_path: DEMO_PROXY, use_dora: true })),
    /checkpoint-100 is an adapter of type DoRA/,
    /merge_and_unload/,
  ],
  [
    'GPTQ',
    configured(config => ({ ...config, quantization_config: { quant_method: 'gptq' } })),
    /quantised with GPTQ, which is not read/,
    /dequantise/,
  ],
  [
    'pickles',
    changed(dir => renameSync(join(dir, weights), join(dir, 'pytorch_model.bin'))),
    /checkpoint-100 holds pickled weights, which are not read: pytorch_model\.bin/,
    /safe_serialization=True/,
  ],
  [
    'DeepSpeed shards',
    changed(dir => {
      rmSync(join(dir, weights))
      mkdirSync(join(dir, 'global_step100'))
    }),
    /the parts of a sharded DeepSpeed or FSDP model: global_step100/,
    /zero_to_fp32\.py/,
  ],
  [
    'a missing shard',
    changed(dir => {
      rmSync(join(dir, weights))
      const weight_map = { 'lm_head.weight': 'model-00002-of-00002.safetensors' }
      writeFileSync(join(dir, `${weights}.index.json`), JSON.stringify({ weight_map }))
    }),
    /checkpoint-100: .*model-00002-of-00002\.safetensors/,
    /Save or copy this checkpoint again/,
  ],
  [
    'another tokenizer',
    proxy => {
      copyCheckpoints(proxy)
      const file = join(proxy, STEPS[1], 'tokenizer.json')
      edit(file, ({ added_tokens, ...json }) => ({ ...json, added_tokens: [] }))
    },
    /checkpoint-230\/tokenizer\.json says another added_tokens than .*checkpoint-100/,
    /copy the file of the first checkpoint, or remove this checkpoint/,
  ],
  [
    'mixed bases',
    adapters(i => ({ base_model_name_or_path: join(DEMO_PROXY, STEPS[i]!) })),
    /checkpoints of two trainings: .*is a LoRA adapter of .*checkpoint-100, .*checkpoint-230/,
    /Keep the checkpoints of one training/,
  ],
  [
    'linear attention, as of Qwen3.5',
    configured(({ text_config, ...config }) => {
      const layer_types = ['linear_attention', 'full_attention']
      return {
        ...config,
        model_type: 'qwen3_5',
        text_config: { ...(text_config as Json), layer_types },
      }
    }),
    /qwen3_5 has layers of linear_attention, which have no q and k to score by/,
    /Take a proxy whose layers all have full attention/,
  ],
  [
    'an empty folder',
    () => {},
    /holds no checkpoint-N folder/,
    /A proxy is a folder of checkpoint-N/,
  ],
]

test('doctor says of each of twelve wrong folders what it is and what to do', async t => {
  const folder = temporaryFolder(t)
  const check = async ([what, make, says, fix]: (typeof CASES)[number], i: number) => {
    const proxy = join(folder, `proxy-${i}`)
    mkdirSync(proxy)
    make(proxy)
    const config = join(folder, `${i}.yaml`)
    writeFileSync(config, `proxy: { path: ${proxy}, device: cpu }`)
    const { code, stdout } = await run(['doctor', '--json', '--config', config])
    assert.equal(code, 1, what)
    const { findings } = JSON.parse(stdout) as { findings: Record<string, string>[] }
    const found = findings.find(({ name }) => name === 'proxy')!
    assert.equal(found.status, 'fail', what)
    assert.match(found.detail!, says, what)
    assert.match(found.fix!, fix, what)
  }
  assert.equal(CASES.length, 12)
  for (let at = 0; at < CASES.length; at += 2) {
    await Promise.all(CASES.slice(at, at + 2).map((one, i) => check(one, at + i)))
  }
})
