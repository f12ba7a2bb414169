/**
 * What the proxy is: read from a checkpoint's `config.json`, checked, with the defaults of Hugging
 * Face's config classes filled in. Both shapes are read: 4.x (`rope_theta`, defaults left out) and
 * 5.x (`rope_parameters`, everything written).
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { messageOf, XmasdError } from '../errors.ts'
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

type Json = Record<string, unknown>

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
  const reader = new Reader(file, json)
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
function readVision(top: Reader): VisionConfig {
  const given = top.section('vision_config') ?? {
    hidden_size: 1024,
    intermediate_size: 4096,
    patch_size: 14,
    image_size: 336,
    num_hidden_layers: 24,
    num_attention_heads: 16,
  }
  const reader = new Reader(top.file, given, 'vision_config.')
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
function readLayersRun(top: Reader, layers: number): number {
  const index = top.integer('vision_feature_layer', -2)
  const layersRun = index < 0 ? layers + 1 + index : index
  if (layersRun < 0 || layersRun > layers) {
    throw top.invalid('vision_feature_layer', `the vision tower has ${layers} layers`)
  }
  return layersRun
}

/** Defaults: LlamaConfig. Biases follow from the weights. */
function readText(top: Reader): TextConfig {
  const reader = new Reader(top.file, top.section('text_config') ?? {}, 'text_config.')
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
function readRopeTheta(reader: Reader): number {
  let theta = reader.positiveReal('rope_theta', 10_000)
  for (const key of ['rope_scaling', 'rope_parameters']) {
    const section = reader.section(key)
    if (section === undefined) continue
    const rope = new Reader(reader.file, section, `${reader.prefix}${key}.`)
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
function readLengthMax(checkpointDir: string, top: Reader): number {
  const own = top.positive('tokenizer_model_max_length', 0)
  if (own > 0) return own
  const text = new Reader(top.file, top.section('text_config') ?? {}, 'text_config.')
  const positions = text.positive('max_position_embeddings', 2048)
  const file = join(checkpointDir, 'tokenizer_config.json')
  const length = readJson(file, {}).model_max_length
  return typeof length === 'number' && length >= 1 && length < NO_LENGTH
    ? Math.min(Math.floor(length), positions)
    : positions
}

function readJson(file: string, otherwise?: Json): Json {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (otherwise !== undefined) return otherwise
    throw unreadable(file, `cannot be read: ${messageOf(error)}`)
  }
  try {
    const json: unknown = JSON.parse(text)
    if (isObject(json)) return json
  } catch (error) {
    throw unreadable(file, `is not JSON: ${messageOf(error)}`)
  }
  throw unreadable(file, 'is not a JSON object')
}

function unreadable(file: string, reason: string): XmasdError {
  const hint = 'Save or copy this checkpoint again, or take its folder away.'
  return new XmasdError('CHECKPOINT_INVALID', `${file} ${reason}`, hint)
}

function isObject(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function invalid(file: string, reason: string): XmasdError {
  return new XmasdError(
    'PROXY_INVALID',
    `${file} ${reason}`,
    'A proxy is a folder of checkpoint-N/ as a Hugging Face Trainer leaves it.',
  )
}

/** Hugging Face's names for the same function. */
const ACTIVATIONS: Record<string, Activation> = {
  gelu: 'gelu',
  gelu_new: 'gelu_pytorch_tanh',
  gelu_pytorch_tanh: 'gelu_pytorch_tanh',
  quick_gelu: 'quick_gelu',
  relu: 'relu',
  silu: 'silu',
  swish: 'silu',
}

/** Typed look-ups in one section of a config; null counts as absent, as in Hugging Face's classes. */
class Reader {
  readonly file: string
  readonly prefix: string
  readonly #json: Json

  constructor(file: string, json: Json, prefix = '') {
    this.file = file
    this.prefix = prefix
    this.#json = json
  }

  section(key: string): Json | undefined {
    const value = this.#json[key] ?? undefined
    if (value === undefined || isObject(value)) return value
    throw this.invalid(key, 'an object is expected')
  }

  integer(key: string, otherwise: number): number {
    const value = this.#json[key] ?? otherwise
    if (typeof value === 'number' && Number.isSafeInteger(value)) return value
    throw this.invalid(key, 'an integer is expected')
  }

  positive(key: string, otherwise: number): number {
    const value = this.integer(key, otherwise)
    if (value > 0 || (this.#json[key] ?? undefined) === undefined) return value
    throw this.invalid(key, 'a positive integer is expected')
  }

  positiveReal(key: string, otherwise: number): number {
    const value = this.#json[key] ?? otherwise
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
    throw this.invalid(key, 'a positive number is expected')
  }

  flag(key: string, otherwise: boolean): boolean {
    const value = this.#json[key] ?? otherwise
    if (typeof value === 'boolean') return value
    throw this.invalid(key, 'true or false is expected')
  }

  activation(key: string, otherwise: string): Activation {
    const name = this.oneOf(key, Object.keys(ACTIVATIONS)) ?? otherwise
    return ACTIVATIONS[name]!
  }

  /** The value, or undefined where absent; PROXY_UNSUPPORTED where it is none of `supported`. */
  oneOf(key: string, supported: readonly string[]): string | undefined {
    const value = this.#json[key] ?? undefined
    if (value === undefined) return undefined
    if (typeof value === 'string' && supported.includes(value)) return value
    throw this.unsupported(key, supported.join(', '))
  }

  absent(key: string): void {
    if ((this.#json[key] ?? undefined) !== undefined) throw this.unsupported(key, 'none')
  }

  invalid(key: string, reason: string): XmasdError {
    const value = JSON.stringify(this.#json[key] ?? null)
    return invalid(this.file, `has ${this.prefix}${key} ${value}: ${reason}`)
  }

  unsupported(key: string, supported: string): XmasdError {
    const value = JSON.stringify(this.#json[key] ?? null)
    return new XmasdError(
      'PROXY_UNSUPPORTED',
      `${this.file}: ${this.prefix}${key} ${value} is not supported (supported: ${supported})`,
      'Supported proxies: Hugging Face llava with a CLIP vision tower and a Llama language model.',
    )
  }
}
