/** What a proxy to be trained looks like, and its configuration files in Hugging Face form. */
import { XmasdError } from '../errors.ts'
import type { Template } from '../ingest/template.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { IMAGE_ID, VOCAB_SIZE } from './byte-tokenizer.ts'

/** A small CLIP + Llama. Widths in channels, sizes in pixels, layers of each side. */
export type ProxyShape = {
  imageSize: number
  patchSize: number
  visionWidth: number
  visionLayers: number
  width: number
  layers: number
  heads: number
  kvHeads: number
  /** Longest sequence, in positions. */
  lengthMax: number
}

export const SMALL_PROXY: ProxyShape = {
  imageSize: 56,
  patchSize: 8,
  visionWidth: 48,
  visionLayers: 2,
  width: 64,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  lengthMax: 512,
}

/** Short: every character is a token. */
export const TRAINING_TEMPLATE: Template = {
  system: '',
  image: '<image>\n{{content}}',
  user: 'USER: {{content}} ',
  assistant: 'ASSISTANT: {{content}}</s>',
}

/** As `readProxyConfig` reads what `configJson` writes. Throws CONFIG_INVALID where sizes don't fit. */
export function configOf(shape: ProxyShape): ProxyConfig {
  checkShape(shape)
  const visionHeads = visionHeadsOf(shape)
  return {
    kind: 'llava',
    vision: {
      family: 'clip',
      width: shape.visionWidth,
      intermediate: 2 * shape.visionWidth,
      layers: shape.visionLayers,
      heads: visionHeads,
      imageSize: shape.imageSize,
      patchSize: shape.patchSize,
      activation: 'quick_gelu',
      epsilon: 1e-5,
      layersRun: shape.visionLayers,
      dropFirstRow: true,
    },
    connector: { activation: 'gelu' },
    text: {
      family: 'llama',
      width: shape.width,
      intermediate: 2 * shape.width,
      layers: shape.layers,
      heads: shape.heads,
      kvHeads: shape.kvHeads,
      headDim: shape.width / shape.heads,
      ropeTheta: 10_000,
      rotaryDims: shape.width / shape.heads,
      ropeScaling: { kind: 'default' },
      epsilon: 1e-5,
      norm: 'rms',
      headNorm: 'none',
      parallelResidual: false,
      mlp: 'gated',
      activation: 'silu',
      vocab: VOCAB_SIZE,
      tiedHead: true,
    },
    imageTokens: Math.floor(shape.imageSize / shape.patchSize) ** 2,
    imageTokenId: IMAGE_ID,
    lengthMax: shape.lengthMax,
    aspect: 'square',
  }
}

function visionHeadsOf({ heads, visionWidth }: ProxyShape): number {
  return visionWidth % heads === 0 ? heads : 1
}

function checkShape(shape: ProxyShape): void {
  for (const [name, value] of Object.entries(shape)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw refusal(`${name} is ${value}`, 'Give whole numbers above 0.')
    }
  }
  const { width, heads, kvHeads, imageSize, patchSize } = shape
  if (width % (2 * heads) !== 0) {
    throw refusal(`width ${width} does not divide`, `Take a multiple of ${2 * heads}.`)
  }
  if (heads % kvHeads !== 0) throw refusal(`${kvHeads} kv heads`, `Take a divisor of ${heads}.`)
  if (patchSize > imageSize) {
    throw refusal(`patch size ${patchSize} is above image size ${imageSize}`, 'Take a smaller one.')
  }
}

function refusal(reason: string, hint: string): XmasdError {
  return new XmasdError('CONFIG_INVALID', `the proxy cannot have this shape: ${reason}`, hint)
}

/** config.json, in the form that transformers 4.x and 5.x both read. */
export function configJson({ vision, text, imageTokens, lengthMax }: ProxyConfig): object {
  return {
    architectures: ['LlavaForConditionalGeneration'],
    model_type: 'llava',
    ignore_index: -100,
    image_seq_length: imageTokens,
    image_token_index: IMAGE_ID,
    pad_token_id: 0,
    projector_hidden_act: 'gelu',
    text_config: {
      architectures: ['LlamaForCausalLM'],
      model_type: 'llama',
      hidden_act: text.activation,
      hidden_size: text.width,
      intermediate_size: text.intermediate,
      num_hidden_layers: text.layers,
      num_attention_heads: text.heads,
      num_key_value_heads: text.kvHeads,
      head_dim: text.headDim,
      rms_norm_eps: text.epsilon,
      rope_theta: text.ropeTheta,
      max_position_embeddings: lengthMax,
      vocab_size: text.vocab,
      bos_token_id: 1,
      eos_token_id: 2,
      pad_token_id: 0,
      tie_word_embeddings: text.tiedHead,
      torch_dtype: 'float32',
    },
    tie_word_embeddings: text.tiedHead,
    torch_dtype: 'float32',
    vision_config: {
      model_type: 'clip_vision_model',
      hidden_act: vision.activation,
      hidden_size: vision.width,
      intermediate_size: vision.intermediate,
      num_hidden_layers: vision.layers,
      num_attention_heads: vision.heads,
      image_size: vision.imageSize,
      patch_size: vision.patchSize,
      layer_norm_eps: vision.epsilon,
      projection_dim: vision.width,
    },
    vision_feature_layer: -1,
    vision_feature_select_strategy: 'default',
  }
}

/** preprocessor_config.json: the whole picture, squeezed to a square, so that no part is cropped. */
export function imageProcessorJson({ vision }: ProxyConfig): object {
  const side = { height: vision.imageSize, width: vision.imageSize }
  return {
    image_processor_type: 'CLIPImageProcessor',
    do_convert_rgb: true,
    do_resize: true,
    size: side,
    resample: 3,
    do_center_crop: true,
    crop_size: side,
    do_rescale: true,
    rescale_factor: 1 / 255,
    do_normalize: true,
    image_mean: [0.48145466, 0.4578275, 0.40821073],
    image_std: [0.26862954, 0.26130258, 0.27577711],
  }
}
