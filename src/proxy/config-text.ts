/** The language model's part of a checkpoint's config, with the defaults of Hugging Face's classes. */
import type { TextConfig } from './config.ts'
import { ConfigReader } from './config-reader.ts'
import type { RopeScaling } from './rope.ts'

type Family = Pick<TextConfig, 'width' | 'intermediate' | 'layers' | 'heads' | 'vocab'> &
  Pick<TextConfig, 'norm' | 'headNorm' | 'mlp'> & {
    /** What `qk_layernorm` asks for; null where there is no such key. */
    headNormAsked: TextConfig['headNorm'] | null
    /** null: as many as heads. */
    kvHeads: number | null
    /** null: width / heads. */
    headDim: number | null
    positions: number
    activation: string
    epsilon: number
    /** Part of a head that is rotated where the config may say so; null: always all of it. */
    rotaryFraction: number | null
    parallelResidual: boolean
  }

/** Llama's ways; the others differ in a few. Vicuna is a Llama, Qwen2.5 a Qwen2. */
const LLAMA: Family = {
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
const QWEN2: Family = {
  ...LLAMA,
  intermediate: 22_016,
  kvHeads: 32,
  vocab: 151_936,
  positions: 32_768,
}

/** LlamaConfig, Qwen2Config, Qwen3Config, StableLmConfig, PhiConfig. */
const FAMILIES: Readonly<Record<TextConfig['family'], Family>> = {
  llama: LLAMA,
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

/** Biases follow from the weights. Throws PROXY_UNSUPPORTED, PROXY_INVALID. */
export function readText(top: ConfigReader, lengthMax: number): TextConfig {
  const reader = textSection(top)
  const family = familyOf(reader)
  const defaults = FAMILIES[family]
  checkPlainAttention(reader)
  const width = reader.positive('hidden_size', defaults.width)
  const heads = reader.positive('num_attention_heads', defaults.heads)
  const kvHeads = reader.positive('num_key_value_heads', defaults.kvHeads ?? heads)
  const headDim = reader.positive('head_dim', defaults.headDim ?? Math.floor(width / heads))
  if (heads % kvHeads !== 0) {
    throw reader.invalid('num_key_value_heads', `it does not divide ${heads} heads`)
  }
  if (headDim % 2 !== 0) throw reader.invalid('head_dim', `${headDim} is odd; rotary wants pairs`)
  return {
    family,
    width,
    intermediate: reader.positive('intermediate_size', defaults.intermediate),
    layers: reader.positive('num_hidden_layers', defaults.layers),
    heads,
    kvHeads,
    headDim,
    ...readRope(reader, headDim, defaults, lengthMax),
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

/** The longest sequence that the language model was built for, in positions. */
export function readPositions(top: ConfigReader): number {
  const reader = textSection(top)
  return reader.positive('max_position_embeddings', FAMILIES[familyOf(reader)].positions)
}

function textSection(top: ConfigReader): ConfigReader {
  return new ConfigReader(top.file, top.section('text_config') ?? {}, 'text_config.')
}

function familyOf(reader: ConfigReader): TextConfig['family'] {
  const type = reader.oneOf('model_type', Object.keys(FAMILIES)) ?? 'llama'
  return type as TextConfig['family']
}

/** Every position sees all before it. */
function checkPlainAttention(reader: ConfigReader): void {
  if (reader.flag('use_sliding_window', false)) {
    throw reader.unsupported('use_sliding_window', 'false')
  }
  if (reader.list('layer_types').some(type => type !== 'full_attention')) {
    throw reader.unsupported('layer_types', 'full_attention')
  }
}

function readHeadNorm(
  reader: ConfigReader,
  { headNorm, headNormAsked }: Family,
): TextConfig['headNorm'] {
  if (!reader.flag('qk_layernorm', false)) return headNorm
  if (headNormAsked !== null) return headNormAsked
  throw reader.unsupported('qk_layernorm', 'false; true for stablelm and phi')
}

/** 4.x writes `rope_theta`, `partial_rotary_factor` and `rope_scaling`; 5.x `rope_parameters`. */
function readRope(
  reader: ConfigReader,
  headDim: number,
  { rotaryFraction, positions }: Family,
  lengthMax: number,
): Pick<TextConfig, 'ropeTheta' | 'rotaryDims' | 'ropeScaling'> {
  let ropeTheta = reader.positiveReal('rope_theta', 10_000)
  let fraction = reader.positiveReal('partial_rotary_factor', rotaryFraction ?? 1)
  let at = reader
  let ropeScaling: RopeScaling = { kind: 'default' }
  const lengths = { lengthMax, positions: reader.positive('max_position_embeddings', positions) }
  for (const key of ['rope_scaling', 'rope_parameters']) {
    const section = reader.section(key)
    if (section === undefined) continue
    at = new ConfigReader(reader.file, section, `${reader.prefix}${key}.`)
    ropeTheta = at.positiveReal('rope_theta', ropeTheta)
    fraction = at.positiveReal('partial_rotary_factor', fraction)
    ropeScaling = readScaling(at, reader, lengths)
  }
  const rotaryDims = Math.trunc(headDim * fraction)
  if (rotaryFraction === null && fraction !== 1) throw at.unsupported('partial_rotary_factor', '1')
  if (rotaryDims < 2 || rotaryDims % 2 !== 0 || rotaryDims > headDim) {
    const reason = `${rotaryDims} of a head's ${headDim} channels would turn; rotary wants pairs`
    throw at.invalid('partial_rotary_factor', reason)
  }
  return { ropeTheta, rotaryDims, ropeScaling }
}

const SCALINGS = ['default', 'linear', 'dynamic', 'yarn', 'llama3'] as const

/** Of the model before scaling, and of the longest sequence that will be run. */
type Lengths = { positions: number; lengthMax: number }

function readScaling(rope: ConfigReader, reader: ConfigReader, lengths: Lengths): RopeScaling {
  const kind = rope.oneOf('rope_type', SCALINGS) ?? rope.oneOf('type', SCALINGS) ?? 'default'
  if (kind === 'default') return { kind }
  const factor = rope.positiveReal('factor', Number.NaN)
  if (kind === 'linear') return { kind, factor }
  if (kind === 'dynamic') return readDynamic(rope, lengths)
  // Phi-3's place for it, which counts where it is there; elsewhere it stands with the scaling.
  const positionsBefore = reader.positive(
    'original_max_position_embeddings',
    rope.positive('original_max_position_embeddings', lengths.positions),
  )
  if (kind === 'yarn') return readYarn(rope, factor, positionsBefore)
  return {
    kind: 'llama3',
    factor,
    lowFrequencyFactor: rope.positiveReal('low_freq_factor', Number.NaN),
    highFrequencyFactor: rope.positiveReal('high_freq_factor', Number.NaN),
    positionsBefore,
  }
}

/** Beyond the model's own length its frequencies would depend on each sequence's. */
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
