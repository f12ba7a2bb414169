/**
 * What the proxy is: read from a checkpoint's `config.json`, checked, with the defaults of Hugging
 * Face's config classes filled in. Both shapes are read: 4.x (`rope_theta`, defaults left out) and
 * 5.x (`rope_parameters`, everything written).
 */
import { join } from 'node:path'
import { ConfigReader, readJson } from './config-reader.ts'
import type { Activation } from './ops.ts'

export type VisionConfig = {
  family: 'clip' | 'siglip'
  width: number
  intermediate: number
  layers: number
  heads: number
  imageSize: number
  patchSize: number
  activation: Activation
  epsilon: number
  /** How many encoder layers run: the hidden state that the connector reads. */
  layersRun: number
  /** Is the class token dropped from what the connector reads. */
  dropClassToken: boolean
}

export type ConnectorConfig = { activation: Activation }

export type TextConfig = {
  family: 'llama'
  width: number
  intermediate: number
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  ropeTheta: number
  /** Channels of a head that are rotated. */
  rotaryDims: number
  epsilon: number
  norm: 'rms' | 'layer'
  activation: Activation
  vocab: number
  tiedHead: boolean
}

export type ProxyConfig = {
  kind: 'llava'
  vision: VisionConfig
  connector: ConnectorConfig
  text: TextConfig
  /** Image positions an image takes in the sequence. */
  imageTokens: number
  imageTokenId: number
  /** Longest sequence, in positions after the image is expanded. */
  lengthMax: number
  aspect: 'square' | 'pad'
}

/** A `model_max_length` from here on stands for "none" (Hugging Face writes 1e30). */
const NO_LENGTH = 1e9

/**
 * The proxy of one checkpoint folder. Throws PROXY_UNSUPPORTED, naming what is supported, for
 * families and features that are not; PROXY_INVALID for values that make no sense;
 * CHECKPOINT_INVALID for a file that is missing or is not JSON.
 */
export function readProxyConfig(checkpointDir: string): ProxyConfig {
  const file = join(checkpointDir, 'config.json')
  const json = readJson(file)
  const reader = new ConfigReader(file, json)
  reader.oneOf('model_type', ['llava'])
  reader.absent('quantization_config')
  const vision = readVision(reader)
  const text = readText(reader)
  return {
    kind: 'llava',
    vision,
    connector: { activation: reader.activation('projector_hidden_act', 'gelu') },
    text,
    imageTokens: featureRows(vision),
    imageTokenId: reader.integer('image_token_index', reader.integer('image_token_id', 32_000)),
    lengthMax: readLengthMax(checkpointDir, reader),
    aspect: json.image_aspect_ratio === 'pad' ? 'pad' : 'square',
  }
}

/** Patches that an image is cut into. What is left at the right and lower edge is not looked at. */
export function patchesPerImage(vision: VisionConfig): number {
  return Math.floor(vision.imageSize / vision.patchSize) ** 2
}

/** Rows of the hidden state that the connector reads: what an image takes in the sequence. */
function featureRows(vision: VisionConfig): number {
  const hasClassToken = vision.family === 'clip' && !vision.dropClassToken
  return patchesPerImage(vision) + (hasClassToken ? 1 : 0)
}

/** Defaults: CLIPVisionConfig; where there is no `vision_config` at all, LlavaConfig's CLIP-L/336. */
function readVision(top: ConfigReader): VisionConfig {
  const given = top.section('vision_config') ?? {
    hidden_size: 1024,
    intermediate_size: 4096,
    patch_size: 14,
    image_size: 336,
    num_hidden_layers: 24,
    num_attention_heads: 16,
  }
  const reader = new ConfigReader(top.file, given, 'vision_config.')
  reader.oneOf('model_type', ['clip_vision_model'])
  if (reader.integer('num_channels', 3) !== 3) throw reader.unsupported('num_channels', '3')
  const layers = reader.positive('num_hidden_layers', 12)
  const vision: VisionConfig = {
    family: 'clip',
    width: reader.positive('hidden_size', 768),
    intermediate: reader.positive('intermediate_size', 3072),
    layers,
    heads: reader.positive('num_attention_heads', 12),
    imageSize: reader.positive('image_size', 224),
    patchSize: reader.positive('patch_size', 32),
    activation: reader.activation('hidden_act', 'quick_gelu'),
    epsilon: reader.positiveReal('layer_norm_eps', 1e-5),
    layersRun: readLayersRun(top, layers),
    dropClassToken: top.oneOf('vision_feature_select_strategy', ['default', 'full']) !== 'full',
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
function readLayersRun(top: ConfigReader, layers: number): number {
  const index = top.integer('vision_feature_layer', -2)
  const layersRun = index < 0 ? layers + 1 + index : index
  if (layersRun < 0 || layersRun > layers) {
    throw top.invalid('vision_feature_layer', `the vision tower has ${layers} layers`)
  }
  return layersRun
}

/** Defaults: LlamaConfig. Biases follow from the weights. */
function readText(top: ConfigReader): TextConfig {
  const reader = new ConfigReader(top.file, top.section('text_config') ?? {}, 'text_config.')
  reader.oneOf('model_type', ['llama'])
  const width = reader.positive('hidden_size', 4096)
  const heads = reader.positive('num_attention_heads', 32)
  const kvHeads = reader.positive('num_key_value_heads', heads)
  const headDim = reader.positive('head_dim', Math.floor(width / heads))
  if (heads % kvHeads !== 0) {
    throw reader.invalid('num_key_value_heads', `it does not divide ${heads} heads`)
  }
  if (headDim % 2 !== 0) throw reader.invalid('head_dim', `${headDim} is odd; rotary wants pairs`)
  return {
    family: 'llama',
    width,
    intermediate: reader.positive('intermediate_size', 11_008),
    layers: reader.positive('num_hidden_layers', 32),
    heads,
    kvHeads,
    headDim,
    ropeTheta: readRopeTheta(reader),
    rotaryDims: headDim,
    epsilon: reader.positiveReal('rms_norm_eps', 1e-6),
    norm: 'rms',
    activation: reader.activation('hidden_act', 'silu'),
    vocab: reader.positive('vocab_size', 32_000),
    tiedHead: reader.flag('tie_word_embeddings', top.flag('tie_word_embeddings', false)),
  }
}

/** Plain rotary embedding only: every kind of scaling is refused by name. */
function readRopeTheta(reader: ConfigReader): number {
  let theta = reader.positiveReal('rope_theta', 10_000)
  for (const key of ['rope_scaling', 'rope_parameters']) {
    const section = reader.section(key)
    if (section === undefined) continue
    const rope = new ConfigReader(reader.file, section, `${reader.prefix}${key}.`)
    rope.oneOf('rope_type', ['default'])
    rope.oneOf('type', ['default'])
    if (rope.positiveReal('partial_rotary_factor', 1) !== 1) {
      throw rope.unsupported('partial_rotary_factor', '1')
    }
    theta = rope.positiveReal('rope_theta', theta)
  }
  return theta
}

/** The trainer's own length, else the shorter of the tokenizer's and the language model's. */
function readLengthMax(checkpointDir: string, top: ConfigReader): number {
  const own = top.positive('tokenizer_model_max_length', 0)
  if (own > 0) return own
  const text = new ConfigReader(top.file, top.section('text_config') ?? {}, 'text_config.')
  const positions = text.positive('max_position_embeddings', 2048)
  const file = join(checkpointDir, 'tokenizer_config.json')
  const length = readJson(file, {}).model_max_length
  return typeof length === 'number' && length >= 1 && length < NO_LENGTH
    ? Math.min(Math.floor(length), positions)
    : positions
}
