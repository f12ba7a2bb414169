/**
 * The parts that families share: CLIP and SigLIP vision towers, and the language models. What a config
 * leaves out is what Hugging Face's config classes fill in.
 */
import { join } from 'node:path'
import { ConfigReader, readJson, type TextConfig, type VisionConfig } from '../config.ts'
import type { RopeScaling } from '../rope.ts'

type VisionDefaults = Pick<VisionConfig, 'family' | 'patchSize' | 'epsilon'> & {
  activation: string
}

/** CLIPVisionConfig, SiglipVisionConfig. `siglip2_vision_model` is NaFlex: its patches follow the image. */
const TOWERS: Readonly<Record<string, VisionDefaults>> = {
  clip_vision_model: { family: 'clip', patchSize: 32, activation: 'quick_gelu', epsilon: 1e-5 },
  siglip_vision_model: {
    family: 'siglip',
    patchSize: 16,
    activation: 'gelu_pytorch_tanh',
    epsilon: 1e-6,
  },
}

/** CLIP-L/336: LlavaConfig's and TinyLlavaConfig's tower where `vision_config` is absent. */
const TOWER_ABSENT = {
  hidden_size: 1024,
  intermediate_size: 4096,
  patch_size: 14,
  image_size: 336,
  num_hidden_layers: 24,
  num_attention_heads: 16,
}

/**
 * `strategies` are the family's two values of `vision_feature_select_strategy`: without the first row,
 * and with it. Throws PROXY_UNSUPPORTED, PROXY_INVALID.
 */
export function readVision(
  top: ConfigReader,
  strategies: readonly [string, string],
  implied: { layer: number; strategy: string } = { layer: -2, strategy: strategies[0] },
): VisionConfig {
  const strategy = top.oneOf('vision_feature_select_strategy', strategies) ?? implied.strategy
  const reader =
    top.section('vision_config') ?? new ConfigReader(top.file, TOWER_ABSENT, 'vision_config.')
  const type = reader.oneOf('model_type', Object.keys(TOWERS)) ?? 'clip_vision_model'
  const { family, ...defaults } = TOWERS[type]!
  if (reader.integer('num_channels', 3) !== 3) throw reader.unsupported('num_channels', '3')
  const layers = reader.positive('num_hidden_layers', 12)
  const vision: VisionConfig = {
    family,
    width: reader.positive('hidden_size', 768),
    intermediate: reader.positive('intermediate_size', 3072),
    layers,
    heads: reader.positive('num_attention_heads', 12),
    imageSize: reader.positive('image_size', 224),
    patchSize: reader.positive('patch_size', defaults.patchSize),
    activation: reader.activation('hidden_act', defaults.activation),
    epsilon: reader.positiveReal('layer_norm_eps', defaults.epsilon),
    layersRun: readLayersRun(top, layers, implied.layer),
    dropFirstRow: strategy !== strategies[1],
  }
  if (vision.width % vision.heads !== 0) {
    throw reader.invalid('num_attention_heads', `it does not divide hidden_size ${vision.width}`)
  }
  if (vision.patchSize > vision.imageSize) {
    throw reader.invalid('patch_size', `it is above image_size ${vision.imageSize}`)
  }
  return vision
}

/** `vision_feature_layer` counts hidden states: 0 the embeddings, -1 the last layer's output. */
function readLayersRun(top: ConfigReader, layers: number, implied: number): number {
  if (top.isList('vision_feature_layer')) {
    throw top.unsupported('vision_feature_layer', 'the number of one layer')
  }
  const index = top.integer('vision_feature_layer', implied)
  const layersRun = index < 0 ? layers + 1 + index : index
  if (layersRun < 0 || layersRun > layers) {
    throw top.invalid('vision_feature_layer', `the vision tower has ${layers} layers`)
  }
  return layersRun
}

export function readAspect(top: ConfigReader): 'square' | 'pad' {
  return top.oneOf('image_aspect_ratio', ['square', 'pad']) ?? 'square'
}

/** Hugging Face writes a `model_max_length` of 1e30 for "no limit". */
const NO_LENGTH = 1e9

/** The shorter of the tokenizer's `model_max_length` and the language model's positions. */
export function lengthMaxOf(
  top: ConfigReader,
  checkpointDir: string,
  { reader, defaults } = textForm(top),
): number {
  const positions = reader.positive('max_position_embeddings', defaults.positions)
  const length = readJson(join(checkpointDir, 'tokenizer_config.json'), {}).model_max_length
  return typeof length === 'number' && length >= 1 && length < NO_LENGTH
    ? Math.min(Math.floor(length), positions)
    : positions
}

export type TextDefaults = Pick<
  TextConfig,
  'width' | 'intermediate' | 'layers' | 'heads' | 'vocab'
> &
  Pick<TextConfig, 'norm' | 'headNorm' | 'mlp' | 'parallelResidual' | 'epsilon'> & {
    /** Norm that `qk_layernorm: true` asks for; null where the class has no such key. */
    headNormAsked: TextConfig['headNorm'] | null
    /** null: as many as heads. */
    kvHeads: number | null
    /** null: width / heads. */
    headDim: number | null
    positions: number
    /** Default of `rope_theta`. Default: 10,000. */
    theta?: number
    /** Default of `sliding_window`, where the class has the key in that sense. */
    window?: number
    activation: string
    /** Default of `partial_rotary_factor`; null where the class has no such key. */
    rotaryFraction: number | null
  }

/** Vicuna is a Llama, Qwen2.5 a Qwen2. */
export const LLAMA: TextDefaults = {
  width: 4096,
  intermediate: 11_008,
  layers: 32,
  heads: 32,
  kvHeads: null,
  headDim: null,
  vocab: 32_000,
  positions: 2048,
  activation: 'silu',
  epsilon: 1e-6,
  norm: 'rms',
  headNorm: 'none',
  headNormAsked: null,
  mlp: 'gated',
  rotaryFraction: null,
  parallelResidual: false,
}
export const QWEN2: TextDefaults = {
  ...LLAMA,
  intermediate: 22_016,
  kvHeads: 32,
  vocab: 151_936,
  positions: 32_768,
}

/** LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, StableLmConfig, PhiConfig. */
const LANGUAGE_MODELS: Readonly<Record<TextConfig['family'], TextDefaults>> = {
  llama: LLAMA,
  mistral: { ...LLAMA, intermediate: 14_336, kvHeads: 8, positions: 131_072, window: 4096 },
  qwen2: QWEN2,
  qwen3: { ...QWEN2, headDim: 128, headNorm: 'rms' },
  stablelm: {
    ...LLAMA,
    width: 2560,
    intermediate: 6912,
    kvHeads: 32,
    vocab: 50_304,
    positions: 4096,
    epsilon: 1e-5,
    norm: 'layer',
    headNormAsked: 'layer-per-head',
    rotaryFraction: 0.25,
  },
  phi: {
    ...LLAMA,
    width: 2048,
    intermediate: 8192,
    layers: 24,
    vocab: 51_200,
    activation: 'gelu_new',
    epsilon: 1e-5,
    norm: 'layer',
    headNormAsked: 'layer',
    mlp: 'plain',
    rotaryFraction: 0.5,
    parallelResidual: true,
  },
}

/** Where a config describes its language model, and what its class fills in. */
export type TextForm = {
  reader: ConfigReader
  family: TextConfig['family']
  defaults: TextDefaults
  /** How the three positions of a token share the frequencies, where it has three. */
  axes?: 'stretches' | 'interleaved'
}

/** The form of a `text_config` by its `model_type`. Throws PROXY_UNSUPPORTED. */
export function textForm(top: ConfigReader): TextForm {
  const reader = top.section('text_config') ?? new ConfigReader(top.file, {}, 'text_config.')
  const families = Object.keys(LANGUAGE_MODELS) as TextConfig['family'][]
  return formOf(reader, reader.oneOf('model_type', families) ?? 'llama')
}

/** The form of a language model that `reader` describes. */
export function formOf(reader: ConfigReader, family: TextConfig['family']): TextForm {
  return { reader, family, defaults: LANGUAGE_MODELS[family] }
}

/** The language model, without biases: the weights tell those. Throws PROXY_UNSUPPORTED, PROXY_INVALID. */
export function readText(
  top: ConfigReader,
  lengthMax: number,
  form: TextForm = textForm(top),
): TextConfig {
  const { reader, family, defaults } = form
  checkPlainAttention(reader, defaults, lengthMax)
  const width = reader.positive('hidden_size', defaults.width)
  const heads = reader.positive('num_attention_heads', defaults.heads)
  const kvHeads = reader.positive('num_key_value_heads', defaults.kvHeads ?? heads)
  const headDim = reader.positive('head_dim', defaults.headDim ?? Math.floor(width / heads))
  if (heads % kvHeads !== 0) {
    throw reader.invalid('num_key_value_heads', `it does not divide ${heads} heads`)
  }
  if (headDim % 2 !== 0)
    throw reader.invalid('head_dim', `${headDim} is odd; rotary turns pairs of channels`)
  return {
    family,
    width,
    intermediate: reader.positive('intermediate_size', defaults.intermediate),
    layers: reader.positive('num_hidden_layers', defaults.layers),
    heads,
    kvHeads,
    headDim,
    ...readRope(form, headDim, lengthMax),
    epsilon: reader.positiveReal(
      defaults.norm === 'rms' ? 'rms_norm_eps' : 'layer_norm_eps',
      defaults.epsilon,
    ),
    norm: defaults.norm,
    headNorm: readHeadNorm(reader, defaults),
    parallelResidual:
      family === 'stablelm'
        ? reader.flag('use_parallel_residual', false)
        : defaults.parallelResidual,
    mlp: defaults.mlp,
    activation: reader.activation('hidden_act', defaults.activation),
    vocab: reader.positive('vocab_size', defaults.vocab),
    tiedHead: reader.flag('tie_word_embeddings', top.flag('tie_word_embeddings', false)),
  }
}

/** Every position attends to all positions before it. */
function checkPlainAttention(
  reader: ConfigReader,
  { window }: TextDefaults,
  lengthMax: number,
): void {
  if (window !== undefined && !reader.is('sliding_window', null)) {
    const seen = reader.positive('sliding_window', window)
    const least = `null, or the longest sequence's ${lengthMax}`
    if (seen < lengthMax) throw reader.unsupported('sliding_window', least)
  }
  if (reader.flag('use_sliding_window', false)) {
    throw reader.unsupported('use_sliding_window', 'false')
  }
  if (reader.list('layer_types').some(type => type !== 'full_attention')) {
    throw reader.unsupported('layer_types', 'full_attention')
  }
}

function readHeadNorm(
  reader: ConfigReader,
  { headNorm, headNormAsked }: TextDefaults,
): TextConfig['headNorm'] {
  if (!reader.flag('qk_layernorm', false)) return headNorm
  if (headNormAsked !== null) return headNormAsked
  throw reader.unsupported('qk_layernorm', 'false; true for stablelm and phi')
}

/** 4.x writes `rope_theta`, `partial_rotary_factor` and `rope_scaling`; 5.x `rope_parameters`. */
function readRope(
  { reader, defaults, axes }: TextForm,
  headDim: number,
  lengthMax: number,
): Pick<TextConfig, 'ropeTheta' | 'rotaryDims' | 'ropeScaling' | 'ropeAxes'> {
  const { rotaryFraction, positions, theta = 10_000 } = defaults
  let ropeTheta = reader.positiveReal('rope_theta', theta)
  let fraction = reader.positiveReal('partial_rotary_factor', rotaryFraction ?? 1)
  let at = reader
  let ropeScaling: RopeScaling = { kind: 'default' }
  const lengths = { lengthMax, positions: reader.positive('max_position_embeddings', positions) }
  for (const key of ['rope_scaling', 'rope_parameters']) {
    const section = reader.section(key)
    if (section === undefined) continue
    at = section
    ropeTheta = at.positiveReal('rope_theta', ropeTheta)
    fraction = at.positiveReal('partial_rotary_factor', fraction)
    ropeScaling = isPlain(at, axes) ? { kind: 'default' } : readScaling(at, reader, lengths)
  }
  if (axes === undefined && at.has('mrope_section')) throw at.unsupported('mrope_section', 'none')
  const rotaryDims = Math.trunc(headDim * fraction)
  if (rotaryFraction === null && fraction !== 1) throw at.unsupported('partial_rotary_factor', '1')
  if (rotaryDims < 2 || rotaryDims % 2 !== 0 || rotaryDims > headDim) {
    const reason = `${rotaryDims} of a head's ${headDim} channels would be rotated; rotary turns pairs`
    throw at.invalid('partial_rotary_factor', reason)
  }
  const ropeAxes = axes === undefined ? {} : { ropeAxes: readAxes(at, axes, rotaryDims / 2) }
  return { ropeTheta, rotaryDims, ropeScaling, ...ropeAxes }
}

/** transformers 4 calls M-RoPE a scaling of its own; it scales nothing. */
function isPlain(rope: ConfigReader, axes: TextForm['axes']): boolean {
  return axes !== undefined && (rope.is('rope_type', 'mrope') || rope.is('type', 'mrope'))
}

/** M-RoPE: the axis of each frequency, 0 time, 1 rows, 2 columns. */
function readAxes(
  rope: ConfigReader,
  order: 'stretches' | 'interleaved',
  frequencies: number,
): number[] {
  const section = rope.list('mrope_section').map(Number)
  const sum = section.reduce((total, count) => total + count, 0)
  if (section.length !== 3 || sum !== frequencies) {
    throw rope.invalid('mrope_section', `three counts that sum up to ${frequencies} are expected`)
  }
  if (order === 'stretches') return section.flatMap((count, axis) => Array(count).fill(axis))
  return Array.from({ length: frequencies }, (_, j) =>
    j % 3 && j < 3 * section[j % 3]! ? j % 3 : 0,
  )
}

const SCALINGS = ['default', 'linear', 'dynamic', 'yarn', 'llama3'] as const

/** Positions of the model before scaling; length of the longest sequence that runs. */
type Lengths = { positions: number; lengthMax: number }

function readScaling(rope: ConfigReader, reader: ConfigReader, lengths: Lengths): RopeScaling {
  const kind = rope.oneOf('rope_type', SCALINGS) ?? rope.oneOf('type', SCALINGS) ?? 'default'
  if (kind === 'default') return { kind }
  const factor = rope.positiveReal('factor')
  if (kind === 'linear') return { kind, factor }
  if (kind === 'dynamic') return readDynamic(rope, lengths)
  // Phi-3 writes it beside the scaling, and that one wins; others write it inside.
  const positionsBefore = reader.positive(
    'original_max_position_embeddings',
    rope.positive('original_max_position_embeddings', lengths.positions),
  )
  if (kind === 'yarn') return readYarn(rope, factor, positionsBefore)
  return {
    kind: 'llama3',
    factor,
    lowFrequencyFactor: rope.positiveReal('low_freq_factor'),
    highFrequencyFactor: rope.positiveReal('high_freq_factor'),
    positionsBefore,
  }
}

/** Beyond the model's own length the frequencies would depend on the length of each sequence. */
function readDynamic(rope: ConfigReader, { positions, lengthMax }: Lengths): RopeScaling {
  if (lengthMax <= positions) return { kind: 'dynamic' }
  throw rope.unsupported(
    'rope_type',
    `dynamic up to max_position_embeddings ${positions}; the longest sequence is ${lengthMax}`,
  )
}

function readYarn(rope: ConfigReader, factor: number, positionsBefore: number): RopeScaling {
  const growth = (scale: number): number => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1)
  const [scale, scaleAll] = [rope.real('mscale', 0), rope.real('mscale_all_dim', 0)]
  const implied = scale !== 0 && scaleAll !== 0 ? growth(scale) / growth(scaleAll) : growth(1)
  return {
    kind: 'yarn',
    factor,
    turnsFast: rope.positiveReal('beta_fast', 32),
    turnsSlow: rope.positiveReal('beta_slow', 1),
    positionsBefore,
    truncates: rope.flag('truncate', true),
    amplitude: rope.positiveReal('attention_factor', implied),
  }
}
