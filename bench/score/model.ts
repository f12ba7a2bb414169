/**
 * Proxies with random weights for bench:score, in the layout of Hugging Face's trainer: config, tokenizer,
 * processor, chat template, safetensors. Of a LoRA shape the checkpoints are adapters, as peft leaves them.
 */
import { existsSync, linkSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { seededRandom, seedOf } from '../../src/math/random.ts'
import { readProxyConfig } from '../../src/proxy/checkpoint/config.ts'
import { type Parameter, parametersOf } from '../../src/proxy/checkpoint/parameters.ts'
import { writeSafetensors } from '../../src/proxy/checkpoint/safetensors.ts'
import { LETTERS, type Shape, SPECIAL } from './shapes.ts'

const LAYERS_A_SHARD = 6

/**
 * Writes `folder/checkpoint-1/` to `checkpoint-T/` unless they exist. As after fine-tuning with a frozen
 * tower, all share the vision tower (one file, linked), and connector and language model differ. With
 * `towerMoves` the tower differs too. Adapters have `folder/base/`.
 */
export function writeSchedule(
  folder: string,
  shape: Shape,
  checkpoints: number,
  towerMoves = false,
): void {
  const made = join(folder, 'made.json')
  const wanted = JSON.stringify({ shape, checkpoints, towerMoves, version: 2 })
  if (existsSync(made) && readFileSync(made, 'utf8') === wanted) return
  mkdirSync(folder, { recursive: true })
  const base = join(folder, 'base')
  if (shape.lora !== undefined) writeModel(base, shape, 0)
  for (let step = 1; step <= checkpoints; step++) {
    const dir = join(folder, `checkpoint-${step}`)
    const tower = step > 1 && !towerMoves ? join(folder, 'checkpoint-1') : undefined
    if (shape.lora === undefined) writeModel(dir, shape, step, tower)
    else writeAdapter(dir, base, shape.lora, step)
  }
  writeFileSync(made, wanted)
}

function writeJson(dir: string, name: string, value: unknown): void {
  writeFileSync(join(dir, name), JSON.stringify(value, null, 2))
}

/** `towerFrom`: the checkpoint that holds the same vision tower. */
function writeModel(dir: string, shape: Shape, step: number, towerFrom?: string): void {
  mkdirSync(dir, { recursive: true })
  writeJson(dir, 'config.json', shape.config)
  writePreparation(dir, shape)
  const shards = new Map<string, Parameter[]>()
  for (const parameter of allParameters(dir, shape)) {
    const shard = shardOf(parameter.name)
    shards.set(shard, [...(shards.get(shard) ?? []), parameter])
  }
  const map: Record<string, string> = {}
  for (const [shard, parameters] of shards) {
    const file = `model-${shard}.safetensors`
    const onDisk = parameters.map(
      parameter => [diskName(parameter.name, shape), parameter] as const,
    )
    for (const [name] of onDisk) map[name] = file
    const isShared = shard === 'vision' && towerFrom !== undefined
    if (isShared) linkSync(join(towerFrom, file), join(dir, file))
    else writeTensors(join(dir, file), onDisk, step)
  }
  writeJson(dir, 'model.safetensors.index.json', { metadata: {}, weight_map: map })
}

/** Every parameter of the model, also the layers that the score never reads. */
function allParameters(dir: string, { optional }: Shape): Parameter[] {
  const config = readProxyConfig(dir)
  const { vision } = config
  const whole = { ...config, vision: { ...vision, layersRun: vision.layers } }
  return parametersOf(whole, 'logits').filter(
    ({ name, required }) => optional.test(name) || (required && name !== 'head.weight'),
  )
}

function shardOf(name: string): string {
  if (name.startsWith('vision.')) return 'vision'
  const layer = /^text\.layers\.(\d+)\./.exec(name)?.[1]
  return layer === undefined ? 'rest' : `text-${Math.floor(Number(layer) / LAYERS_A_SHARD)}`
}

function diskName(name: string, { names }: Pick<Shape, 'names'>): string {
  const [canonical, disk] = names.find(([canonical]) => name.startsWith(canonical))!
  return disk + name.slice(canonical.length)
}

const ADAPTED = /^text\..*_proj\.weight$/

/** Names of modules as transformers 5 has them, whatever the base's files say. */
function writeAdapter(
  dir: string,
  base: string,
  { rank, alpha }: NonNullable<Shape['lora']>,
  step: number,
): void {
  mkdirSync(dir, { recursive: true })
  writeJson(dir, 'adapter_config.json', {
    ...{ peft_type: 'LORA', base_model_name_or_path: '../base', r: rank, lora_alpha: alpha },
    ...{ target_modules: '.*language_model.*_proj', task_type: 'CAUSAL_LM', bias: 'none' },
    ...{ inference_mode: true },
  })
  const adapted = parametersOf(readProxyConfig(base), 'logits').filter(({ name }) =>
    ADAPTED.test(name),
  )
  const factors = adapted.flatMap(({ name, shape, required }) => {
    const [outputs, inputs] = shape as [number, number]
    const module = name.replace(/^text\./, 'model.language_model.').replace(/\.weight$/, '')
    const factor = (side: string, own: number[]): readonly [string, Parameter] => [
      `base_model.model.${module}.lora_${side}.weight`,
      { name: `${name}.${side}`, shape: own, required },
    ]
    return [factor('A', [rank, inputs]), factor('B', [outputs, rank])]
  })
  writeTensors(join(dir, 'adapter_model.safetensors'), factors, step)
}

function writeTensors(
  file: string,
  parameters: readonly (readonly [name: string, parameter: Parameter])[],
  step: number,
): void {
  const tensors = parameters.map(([name, parameter]) => [
    name,
    { shape: parameter.shape, data: randomValues(parameter, step) },
  ])
  writeSafetensors(file, Object.fromEntries(tensors), { format: 'pt' })
}

/** Uniform with deviation 0.02, and 0.04 in q and k so that attention is far from flat; norms near 1. */
function randomValues({ name, shape }: Parameter, step: number): Float32Array {
  const random = seededRandom(seedOf(step, name))
  const isNorm = /norm\d?\.weight$/.test(name)
  const deviation = /text.*\.[qk]_proj/.test(name) ? 0.04 : 0.02
  const scale = 2 * Math.sqrt(3) * deviation
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1))
  const centre = isNorm ? 1 : 0
  for (let i = 0; i < values.length; i++) values[i] = centre + scale * (random() - 0.5)
  return values
}

/* What prepares examples. */

/** Tokenizer, processor, chat template. */
function writePreparation(dir: string, shape: Shape): void {
  writeJson(dir, 'processor_config.json', shape.processor)
  writeJson(dir, 'tokenizer.json', tokenizerJson())
  writeJson(dir, 'tokenizer_config.json', {
    tokenizer_class: 'PreTrainedTokenizerFast',
    ...{ eos_token: '<|im_end|>', pad_token: '<|endoftext|>', model_max_length: 4096 },
  })
  writeFileSync(join(dir, 'chat_template.jinja'), chatTemplate(shape))
}

/** The same letters before every picture; a turn has a token before and one behind it. */
function chatTemplate({ before, picture }: Shape): string {
  const turn = `{% for part in message['content'] %}{% if part['type'] == 'image' %}${picture}{% else %}{{ part['text'] }}{% endif %}{% endfor %}`
  const system = 'x'.repeat(before - 1)
  return `${system}{% for message in messages %}<|im_start|>${turn}<|im_end|>{% endfor %}`
}

/** Byte-level BPE without merges: a token a letter. */
function tokenizerJson(): object {
  const vocab = Object.fromEntries([...LETTERS].map((letter, id) => [letter, id]))
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false }
  const level = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: SPECIAL.map((content, i) => ({
      ...{ id: LETTERS.length + i, content, ...flags, special: true },
    })),
    normalizer: null,
    pre_tokenizer: level,
    post_processor: null,
    decoder: level,
    model: {
      ...{ type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null },
      ...{ end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, vocab, merges: [] },
    },
  }
}
