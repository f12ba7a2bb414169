/** Tiny proxies with seeded random weights, in every key layout and config shape, for tests. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { seededRandom } from '../src/math/random.ts'
import { readProxyConfig } from '../src/proxy/checkpoint/config.ts'
import { type Parameter, parametersOf, type Reach } from '../src/proxy/checkpoint/parameters.ts'
import { writeSafetensors } from '../src/proxy/checkpoint/safetensors.ts'
import type { ProxyConfig } from '../src/proxy/config.ts'
import type { RopeScaling } from '../src/proxy/rope.ts'
import type { Sequence } from '../src/score/batch.ts'

export type TinyShape = {
  kind: 'llava' | 'tinyllava'
  visionFamily: 'clip' | 'siglip'
  family: ProxyConfig['text']['family']
  vision: { width: number; heads: number; layers: number; imageSize: number; patchSize: number }
  /** The longest sequence. */
  positions: number
  featureLayer: number
  /** TinyLLaVA calls them "patch" and "cls_patch". */
  strategy: 'default' | 'full'
  width: number
  layers: number
  heads: number
  kvHeads: number
  /** null: width / heads, left out of the config. */
  headDim: number | null
  tied: boolean
  attentionBias: boolean
  /** Part of a head that is rotated; null: left out of the config. */
  rotaryFraction: number | null
  rope: RopeScaling
  /** StableLM alone may choose. */
  parallelResidual: boolean
  /** StableLM and Phi may choose: `qk_layernorm`. */
  headNorm: boolean
}

export const TINY: TinyShape = {
  kind: 'llava',
  visionFamily: 'clip',
  family: 'llama',
  vision: { width: 12, heads: 2, layers: 3, imageSize: 8, patchSize: 4 },
  positions: 128,
  featureLayer: -2,
  strategy: 'default',
  width: 16,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: null,
  tied: false,
  attentionBias: false,
  rotaryFraction: null,
  rope: { kind: 'default' },
  parallelResidual: false,
  headNorm: false,
}

export const VOCAB = 40
export type Layout = 'legacy' | 'v5' | '4.52' | 'tinyllava'
export type Weights = Map<string, { shape: readonly number[]; data: Float32Array }>

/** config.json as transformers 4.x (defaults left out) or 5.x (all written) writes it. */
export function configJson(shape: TinyShape, style: '4.x' | '5.x' = '4.x'): object {
  const { vision, kind } = shape
  const strategy = { default: 'patch', full: 'cls_patch' }[shape.strategy]
  const imageId = style === '4.x' ? { image_token_index: 39 } : { image_token_id: 39 }
  return {
    model_type: kind,
    ...(kind === 'llava'
      ? { ...imageId, vision_feature_select_strategy: shape.strategy }
      : {
          image_token_index: -200,
          vision_feature_select_strategy: strategy,
          connector_type: 'mlp2x_gelu',
          tokenizer_model_max_length: shape.positions,
        }),
    vision_feature_layer: shape.featureLayer,
    tie_word_embeddings: shape.tied,
    text_config: { ...textJson(shape), ...ropeJson(shape, style) },
    vision_config: {
      model_type: `${shape.visionFamily}_vision_model`,
      hidden_size: vision.width,
      intermediate_size: 18,
      num_hidden_layers: vision.layers,
      num_attention_heads: vision.heads,
      image_size: vision.imageSize,
      patch_size: vision.patchSize,
      ...(style === '4.x'
        ? {}
        : shape.visionFamily === 'clip'
          ? { hidden_act: 'quick_gelu', layer_norm_eps: 1e-5 }
          : { hidden_act: 'gelu_pytorch_tanh', layer_norm_eps: 1e-6 }),
    },
  }
}

function textJson(shape: TinyShape): object {
  const hasLayerNorm = shape.family === 'stablelm' || shape.family === 'phi'
  return {
    model_type: shape.family,
    hidden_size: shape.width,
    intermediate_size: 20,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    ...(shape.headDim === null ? {} : { head_dim: shape.headDim }),
    vocab_size: VOCAB,
    max_position_embeddings: shape.positions,
    [hasLayerNorm ? 'layer_norm_eps' : 'rms_norm_eps']: 1e-5,
    tie_word_embeddings: shape.tied,
    attention_bias: shape.attentionBias,
    ...(shape.family === 'stablelm' ? { use_parallel_residual: shape.parallelResidual } : {}),
    ...(shape.headNorm ? { qk_layernorm: true } : {}),
  }
}

function ropeJson({ family, rope, rotaryFraction }: TinyShape, style: '4.x' | '5.x'): object {
  const partial = rotaryFraction === null ? {} : { partial_rotary_factor: rotaryFraction }
  const scaling = scalingJson(rope)
  if (style === '4.x') {
    const old = rope.kind === 'default' ? null : { type: rope.kind, ...scaling }
    return { rope_theta: 5000, ...partial, rope_scaling: old }
  }
  return {
    rope_parameters: { rope_theta: 5000, rope_type: rope.kind, ...scaling, ...partial },
    hidden_act: family === 'phi' ? 'gelu_new' : 'silu',
  }
}

function scalingJson(rope: RopeScaling): object {
  switch (rope.kind) {
    case 'default':
      return {}
    case 'linear':
      return { factor: rope.factor }
    case 'dynamic':
      return { factor: 2 }
    case 'llama3':
      return {
        factor: rope.factor,
        low_freq_factor: rope.lowFrequencyFactor,
        high_freq_factor: rope.highFrequencyFactor,
        original_max_position_embeddings: rope.positionsBefore,
      }
    case 'yarn':
      return {
        factor: rope.factor,
        beta_fast: rope.turnsFast,
        beta_slow: rope.turnsSlow,
        truncate: rope.truncates,
        attention_factor: rope.amplitude,
        original_max_position_embeddings: rope.positionsBefore,
      }
  }
}

export type TinyProxyOptions = {
  shape?: TinyShape
  steps?: readonly number[]
  seed?: number
  layout?: Layout
  style?: '4.x' | '5.x'
  /** The vision tower moves too. */
  visionTrains?: boolean
  /** What the weights must be enough for. Default: the projections. */
  reach?: Reach
}

/** Writes `dir/checkpoint-N/` for every step; returns the canonical weights, one map a step. */
export function writeTinyProxy(dir: string, options: TinyProxyOptions = {}): Weights[] {
  const { shape = TINY, steps = [2, 10], seed = 1, layout = 'legacy', style = '4.x' } = options
  return steps.map((step, t) => {
    const folder = join(dir, `checkpoint-${step}`)
    mkdirSync(folder, { recursive: true })
    writeFileSync(join(folder, 'config.json'), JSON.stringify(configJson(shape, style)))
    const weights: Weights = new Map()
    for (const parameter of parametersOf(readProxyConfig(folder), options.reach)) {
      if (!parameter.required && !isThere(parameter.name, shape)) continue
      const frozen = parameter.name.startsWith('vision.') && options.visionTrains !== true
      weights.set(parameter.name, randomTensor(parameter, seed * 100 + (frozen ? 0 : t)))
    }
    saveWeights(folder, weights, layout, shape.family)
    return weights
  })
}

function isThere(name: string, shape: TinyShape): boolean {
  if (name.startsWith('connector.')) return true
  if (name === 'head.weight') return !shape.tied
  if (name === 'head.bias') return shape.family === 'phi'
  if (shape.family === 'phi' && name.startsWith('text.')) return true
  return shape.attentionBias && name.includes('self_attn')
}

/** Uniform; norms around 1, embeddings wide, so that attention is far from flat. */
export function randomTensor(
  { name, shape }: Parameter,
  seed: number,
): {
  shape: readonly number[]
  data: Float32Array
} {
  const random = seededRandom([...name].reduce((h, c) => (h * 31 + c.charCodeAt(0)) | 0, seed))
  const isNorm = /norm(\d|s\.\d+)?\.weight$/.test(name)
  const width = name.includes('embed') ? 2 : 0.9
  const size = shape.reduce((product, n) => product * n, 1)
  const data = Float32Array.from(
    { length: size },
    () => (random() - 0.5) * width + (isNorm ? 1 : 0),
  )
  return { shape, data }
}

export function saveWeights(
  folder: string,
  weights: Weights,
  layout: Layout,
  family: TinyShape['family'] = 'llama',
): void {
  const tensors = Object.fromEntries(
    [...weights].map(([name, t]) => [diskName(name, layout, family), t]),
  )
  writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' })
}

const PREFIXES: Record<Layout, { text: string; head: string; vision: string; connector: string }> =
  {
    legacy: {
      text: 'language_model.model.',
      head: 'language_model.lm_head.',
      vision: 'vision_tower.vision_model.',
      connector: 'multi_modal_projector.linear_',
    },
    v5: {
      text: 'language_model.model.',
      head: 'language_model.lm_head.',
      vision: 'vision_tower.',
      connector: 'multi_modal_projector.linear_',
    },
    '4.52': {
      text: 'model.language_model.',
      head: 'lm_head.',
      vision: 'model.vision_tower.vision_model.',
      connector: 'model.multi_modal_projector.linear_',
    },
    tinyllava: {
      text: 'language_model.model.',
      head: 'language_model.lm_head.',
      vision: 'vision_tower._vision_tower.vision_model.',
      connector: 'connector._connector.',
    },
  }

/** How a layout and a family spell a canonical name (goldens' README, "Key layouts"). */
export function diskName(
  name: string,
  layout: Layout,
  family: TinyShape['family'] = 'llama',
): string {
  const [part] = name.split('.') as ['text' | 'head' | 'vision' | 'connector']
  const rest = name.slice(part.length + 1)
  if (part === 'connector' && layout === 'tinyllava') {
    return PREFIXES[layout].connector + rest.replace(/^1/, '0')
  }
  return PREFIXES[layout][part] + (part === 'text' && family === 'phi' ? phiName(rest) : rest)
}

function phiName(name: string): string {
  return name
    .replace('self_attn.o_proj', 'self_attn.dense')
    .replace('mlp.up_proj', 'mlp.fc1')
    .replace('mlp.down_proj', 'mlp.fc2')
    .replace(/^norm\./, 'final_layernorm.')
}

/** A sequence of random ids: `before` tokens, the images with one token between, `after` tokens. */
export function randomSequence(
  random: () => number,
  options: {
    before: number
    after: number
    imageTokens: number
    patchValues: number
    hash?: string
    /** How many, 1 if left out. All but the first have hashes of their own. */
    images?: number
  },
): Sequence {
  const { before, after, imageTokens, patchValues, images: count = 1 } = options
  const end = before + count * (imageTokens + 1) - 1
  const length = end + after
  const images = Array.from({ length: count }, (_, i) => {
    const patches = Float32Array.from({ length: patchValues }, () => random() * 4 - 2)
    return { hash: (i === 0 ? options.hash : undefined) ?? String(random()), patches }
  })
  const columnAt = (i: number): number => before + i + Math.floor(i / imageTokens)
  return {
    ids: Int32Array.from({ length }, () => Math.floor(random() * VOCAB)),
    columns: Int32Array.from({ length: count * imageTokens }, (_, i) => columnAt(i)),
    rows: Int32Array.from({ length: after - 1 }, (_, i) => end + 1 + i),
    answers: Int32Array.from({ length: after }, (_, i) => end + i).filter(
      position => position === length - 1 || position % 5 < 3,
    ),
    questions: Int32Array.from({ length }, (_, i) => i).filter(
      position => position % 3 === 0 && (position < before || position >= end),
    ),
    images,
  }
}
