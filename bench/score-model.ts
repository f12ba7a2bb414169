/**
 * What bench:score runs on: a proxy with random weights, in the layout of Hugging Face's trainer, and
 * examples. `full` is SigLIP-base-like (12 layers, 768, 224/16 = 196 tokens) and Qwen2-0.5B-like (24
 * layers, 896, 14 heads of 64, 2 kv heads, ffn 4864, vocabulary 32000, tied): 474 million parameters.
 * `small` has as many tokens in 8 layers of 384.
 */
import { existsSync, linkSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { patches } from '../src/ingest/image/preprocess.ts'
import { normalDeviates, seededRandom, seedOf } from '../src/math/random.ts'
import { readProxyConfig } from '../src/proxy/checkpoint/config.ts'
import { type Parameter, parametersOf } from '../src/proxy/checkpoint/parameters.ts'
import { readHeader, readTensor, writeSafetensors } from '../src/proxy/checkpoint/safetensors.ts'
import type { ProxyConfig } from '../src/proxy/config.ts'
import type { Image, Sequence } from '../src/score/batch.ts'

export type Shape = {
  vision: { width: number; inner: number; layers: number; heads: number; size: number }
  text: { width: number; inner: number; layers: number; heads: number; kvHeads: number }
  vocab: number
  /** Tokens before the image; the fewest and the most behind it. */
  before: number
  after: readonly [number, number]
}

export const SHAPES: Record<'full' | 'small' | 'tiny', Shape> = {
  full: {
    vision: { width: 768, inner: 3072, layers: 12, heads: 12, size: 224 },
    text: { width: 896, inner: 4864, layers: 24, heads: 14, kvHeads: 2 },
    vocab: 32_000,
    before: 31,
    after: [80, 120],
  },
  small: {
    vision: { width: 384, inner: 1536, layers: 6, heads: 6, size: 224 },
    text: { width: 384, inner: 1536, layers: 8, heads: 6, kvHeads: 2 },
    vocab: 16_000,
    before: 31,
    after: [80, 120],
  },
  tiny: {
    vision: { width: 32, inner: 64, layers: 3, heads: 2, size: 64 },
    text: { width: 48, inner: 96, layers: 3, heads: 4, kvHeads: 2 },
    vocab: 200,
    before: 5,
    after: [8, 16],
  },
}

const PATCH = 16
const LAYERS_A_SHARD = 6

/**
 * Writes `folder/checkpoint-1/` to `checkpoint-T/` unless they exist. As after fine-tuning with a frozen
 * tower, all share the vision tower (one file, linked), and connector and language model differ. With
 * `towerMoves` the tower differs too.
 */
export function writeSchedule(
  folder: string,
  shape: Shape,
  checkpoints: number,
  towerMoves = false,
): void {
  const made = join(folder, 'made.json')
  const wanted = JSON.stringify({ shape, checkpoints, towerMoves, version: 1 })
  if (existsSync(made) && readFileSync(made, 'utf8') === wanted) return
  mkdirSync(folder, { recursive: true })
  for (let step = 1; step <= checkpoints; step++) writeCheckpoint(folder, shape, step, towerMoves)
  writeFileSync(made, wanted)
}

function writeCheckpoint(folder: string, shape: Shape, step: number, towerMoves: boolean): void {
  const dir = join(folder, `checkpoint-${step}`)
  mkdirSync(dir, { recursive: true })
  writeFileSync(join(dir, 'config.json'), JSON.stringify(configJson(shape), null, 2))
  const shards = new Map<string, Parameter[]>()
  for (const parameter of allParameters(readProxyConfig(dir))) {
    const shard = shardOf(parameter.name)
    shards.set(shard, [...(shards.get(shard) ?? []), parameter])
  }
  const map: Record<string, string> = {}
  for (const [shard, parameters] of shards) {
    const file = `model-${shard}.safetensors`
    for (const { name } of parameters) map[diskName(name)] = file
    const isFrozen = shard === 'vision' && !towerMoves
    if (isFrozen && step > 1) linkSync(join(folder, 'checkpoint-1', file), join(dir, file))
    else writeShard(join(dir, file), parameters, step)
  }
  writeFileSync(
    join(dir, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: {}, weight_map: map }),
  )
}

function writeShard(file: string, parameters: readonly Parameter[], step: number): void {
  const tensors = parameters.map(parameter => [
    diskName(parameter.name),
    { shape: parameter.shape, data: randomValues(parameter, step) },
  ])
  writeSafetensors(file, Object.fromEntries(tensors), { format: 'pt' })
}

function configJson({ vision, text, vocab }: Shape): object {
  return {
    architectures: ['LlavaForConditionalGeneration'],
    model_type: 'llava',
    image_token_index: vocab - 1,
    projector_hidden_act: 'gelu',
    vision_feature_layer: -2,
    vision_feature_select_strategy: 'full',
    tie_word_embeddings: true,
    image_seq_length: (vision.size / PATCH) ** 2,
    vision_config: {
      model_type: 'siglip_vision_model',
      hidden_size: vision.width,
      intermediate_size: vision.inner,
      num_hidden_layers: vision.layers,
      num_attention_heads: vision.heads,
      image_size: vision.size,
      patch_size: PATCH,
      vision_use_head: false,
    },
    text_config: {
      model_type: 'qwen2',
      hidden_size: text.width,
      intermediate_size: text.inner,
      num_hidden_layers: text.layers,
      num_attention_heads: text.heads,
      num_key_value_heads: text.kvHeads,
      vocab_size: vocab,
      max_position_embeddings: 2048,
      tie_word_embeddings: true,
    },
  }
}

/** Also tensors that the score never reads: the last layers, the last norms. */
function allParameters(config: ProxyConfig): Parameter[] {
  const { vision, text } = config
  const more = {
    ...config,
    vision: { ...vision, layersRun: vision.layers },
    text: { ...text, layers: text.layers + 1 },
  }
  const norm = (name: string, width: number) => ({ name, shape: [width], required: false })
  return [
    ...parametersOf(more).filter(({ name }) => !name.startsWith(`text.layers.${text.layers}.`)),
    norm('vision.post_layernorm.weight', vision.width),
    norm('vision.post_layernorm.bias', vision.width),
    norm('text.norm.weight', text.width),
  ]
    .filter(({ name }) => name !== 'head.weight' && !name.endsWith('o_proj.bias'))
    .filter(({ name }) => !/mlp\.(up|gate|down)_proj\.bias$/.test(name))
}

function shardOf(name: string): string {
  if (name.startsWith('vision.')) return 'vision'
  const layer = /^text\.layers\.(\d+)\./.exec(name)?.[1]
  return layer === undefined ? 'rest' : `text-${Math.floor(Number(layer) / LAYERS_A_SHARD)}`
}

function diskName(name: string): string {
  return name
    .replace(/^vision\./, 'vision_tower.vision_model.')
    .replace(/^text\./, 'language_model.model.')
    .replace(/^connector\./, 'multi_modal_projector.linear_')
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

/** Token ids of the text model; `image` is the number of the picture. */
export type Example = { ids: number[]; image: number }

/** Writes `examples.json` and `pixels.safetensors` into `folder`; `share` neighbours have one image. */
export function writeExamples(
  folder: string,
  shape: Shape,
  { count, share, seed }: { count: number; share: number; seed: number },
): void {
  const random = seededRandom(seed)
  const { vocab, before, vision } = shape
  const [fewest, most] = shape.after
  const id = (): number => Math.floor(random() * (vocab - 1))
  const system = Array.from({ length: before }, id)
  const slots = Array<number>((vision.size / PATCH) ** 2).fill(vocab - 1)
  const examples: Example[] = Array.from({ length: count }, (_, i) => {
    const length = fewest + Math.floor(random() * (most - fewest + 1))
    const text = Array.from({ length }, id)
    return { ids: [...system, ...slots, ...text], image: Math.floor(i / share) }
  })
  const images = Math.ceil(count / share)
  const pixels = Array.from({ length: images }, (_, i) => [
    String(i),
    {
      shape: [3, vision.size, vision.size],
      data: normalDeviates(random, 3 * vision.size ** 2),
    },
  ])
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'examples.json'), JSON.stringify(examples))
  writeSafetensors(join(folder, 'pixels.safetensors'), Object.fromEntries(pixels))
}

/** The examples of `writeExamples` as the scorer takes them; the later half of the text is the answer. */
export function readSequences(folder: string, { imageTokenId, vision }: ProxyConfig): Sequence[] {
  const examples: Example[] = JSON.parse(readFileSync(join(folder, 'examples.json'), 'utf8'))
  const file = join(folder, 'pixels.safetensors')
  const { tensors } = readHeader(file)
  const images = new Map<number, Image>()
  const side = { width: vision.imageSize, height: vision.imageSize }
  for (const { image } of examples) {
    if (images.has(image)) continue
    const pixels = readTensor(file, tensors.get(String(image))!)
    const cut = patches(pixels, side, vision.patchSize)
    images.set(image, { hash: `${folder} ${image}`, patches: cut })
  }
  return examples.map(({ ids, image }) => {
    const at = ids.flatMap((id, i) => (id === imageTokenId ? [i] : []))
    const first = at.at(-1)! + 2
    const answered = (ids.length - first) >> 1
    const last = (count: number, length: number): Int32Array =>
      Int32Array.from({ length: count }, (_, i) => length - count + i)
    const bare = ids.filter(id => id !== imageTokenId)
    return {
      ids: Int32Array.from(ids),
      columns: Int32Array.from(at),
      rows: last(ids.length - first, ids.length),
      answers: last(answered, ids.length),
      bare: { ids: Int32Array.from(bare), answers: last(answered, bare.length) },
      images: [images.get(image)!],
    }
  })
}
