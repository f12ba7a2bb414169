/**
 * What the proxy is: read from a checkpoint's `config.json`, checked, with the defaults of Hugging
 * Face's config classes filled in. Both shapes are read: 4.x (`rope_theta`, defaults left out) and
 * 5.x (`rope_parameters`, everything written).
 */
import { join } from 'node:path'
import { XmasdError } from '../errors.ts'
import { ConfigReader, type Json, readJson } from './config-reader.ts'
import { readPositions, readText } from './config-text.ts'
import { readVision } from './config-vision.ts'
import type { Activation } from './ops.ts'
import type { RopeScaling } from './rope.ts'

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
  /** The connector does not read the first row: CLIP's class token. (SigLIP's first patch, if asked.) */
  dropFirstRow: boolean
}

export type ConnectorConfig = { activation: Activation }

export type TextConfig = {
  family: 'llama' | 'qwen2' | 'qwen3' | 'stablelm' | 'phi'
  width: number
  intermediate: number
  layers: number
  heads: number
  kvHeads: number
  headDim: number
  ropeTheta: number
  /** Channels of a head that are rotated. */
  rotaryDims: number
  ropeScaling: RopeScaling
  epsilon: number
  norm: 'rms' | 'layer'
  /** What each head of q and k goes through before rotary; the score reads q and k without it. */
  headNorm: 'none' | 'rms' | 'layer' | 'layer-per-head'
  /** Attention and feed-forward both read the layer's one norm, and are added together. */
  parallelResidual: boolean
  /** down(act(gate) * up), or down(act(up)). */
  mlp: 'gated' | 'plain'
  activation: Activation
  vocab: number
  tiedHead: boolean
}

export type ProxyConfig = {
  /** Hugging Face's llava, or TinyLLaVA-Factory's. */
  kind: 'llava' | 'tinyllava'
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
  checkLayout(reader, json)
  const kind =
    reader.oneOf('model_type', ['llava', 'tinyllava']) === 'tinyllava' ? 'tinyllava' : 'llava'
  reader.absent('quantization_config')
  const vision = readVision(reader, kind)
  const lengthMax = readLengthMax(checkpointDir, reader, kind)
  const text = readText(reader, lengthMax)
  return {
    kind,
    vision,
    connector: readConnector(reader, kind),
    text,
    imageTokens: featureRows(vision),
    imageTokenId: reader.integer(
      'image_token_index',
      reader.integer('image_token_id', kind === 'tinyllava' ? -200 : 32_000),
    ),
    lengthMax,
    aspect: reader.oneOf('image_aspect_ratio', ['square', 'pad']) === 'pad' ? 'pad' : 'square',
  }
}

const REPOSITORY_KEYS = ['mm_vision_tower', 'mm_projector_type', 'mm_hidden_size']

/** The LLaVA repository's configs say llava too; its weights have other names and no vision tower. */
function checkLayout(reader: ConfigReader, json: Json): void {
  const classes = reader.list('architectures').map(String)
  if (json.model_type === 'tinyllava' || classes.includes('LlavaForConditionalGeneration')) return
  const sign =
    classes.find(name => /^Llava\w+ForCausalLM$/.test(name)) ??
    REPOSITORY_KEYS.find(key => (json[key] ?? null) !== null)
  if (sign === undefined) return
  throw new XmasdError(
    'PROXY_UNSUPPORTED',
    `${reader.file} has ${sign}: the LLaVA repository's own layout`,
    'Convert every checkpoint to Hugging Face llava: convert_llava_weights_to_hf.py of transformers 4.',
  )
}

function readConnector(reader: ConfigReader, kind: ProxyConfig['kind']): ConnectorConfig {
  if (kind === 'llava') return { activation: reader.activation('projector_hidden_act', 'gelu') }
  reader.oneOf('connector_type', ['mlp2x_gelu'])
  return { activation: 'gelu' }
}

/** Patches that an image is cut into. What is left at the right and lower edge is not looked at. */
export function patchesPerImage(vision: VisionConfig): number {
  return Math.floor(vision.imageSize / vision.patchSize) ** 2
}

/** Rows of the hidden state that the connector reads: what an image takes in the sequence. */
function featureRows(vision: VisionConfig): number {
  const classToken = vision.family === 'clip' ? 1 : 0
  return patchesPerImage(vision) + classToken - (vision.dropFirstRow ? 1 : 0)
}

/** The trainer's own length, else the shorter of the tokenizer's and the language model's. */
function readLengthMax(
  checkpointDir: string,
  top: ConfigReader,
  kind: ProxyConfig['kind'],
): number {
  const own = top.positive('tokenizer_model_max_length', kind === 'tinyllava' ? 2048 : 0)
  if (own > 0) return own
  const positions = readPositions(top)
  const file = join(checkpointDir, 'tokenizer_config.json')
  const length = readJson(file, {}).model_max_length
  return typeof length === 'number' && length >= 1 && length < NO_LENGTH
    ? Math.min(Math.floor(length), positions)
    : positions
}
