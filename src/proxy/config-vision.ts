/** The vision tower's part of a checkpoint's config, with the defaults of Hugging Face's classes. */
import type { VisionConfig } from './config.ts'
import { ConfigReader, type Json } from './config-reader.ts'

type Defaults = Pick<VisionConfig, 'family' | 'patchSize' | 'epsilon'> & { activation: string }

/** What CLIPVisionConfig and SiglipVisionConfig differ in. */
const FAMILIES: Readonly<Record<string, Defaults>> = {
  clip_vision_model: { family: 'clip', patchSize: 32, activation: 'quick_gelu', epsilon: 1e-5 },
  siglip_vision_model: {
    family: 'siglip',
    patchSize: 16,
    activation: 'gelu_pytorch_tanh',
    epsilon: 1e-6,
  },
}

/** Where there is no `vision_config` at all: LlavaConfig's and TinyLlavaConfig's CLIP-L/336. */
const ABSENT: Json = {
  hidden_size: 1024,
  intermediate_size: 4096,
  patch_size: 14,
  image_size: 336,
  num_hidden_layers: 24,
  num_attention_heads: 16,
}

/** Hugging Face's llava and TinyLLaVA name the same two choices differently. */
const STRATEGIES = { llava: ['default', 'full'], tinyllava: ['patch', 'cls_patch'] } as const

/**
 * SigLIP 2 at a fixed resolution is `siglip_vision_model`; `siglip2_vision_model` is NaFlex, whose
 * number of patches follows the image. Throws PROXY_UNSUPPORTED, PROXY_INVALID.
 */
export function readVision(top: ConfigReader, kind: 'llava' | 'tinyllava'): VisionConfig {
  const given = top.section('vision_config') ?? ABSENT
  const reader = new ConfigReader(top.file, given, 'vision_config.')
  const type = reader.oneOf('model_type', Object.keys(FAMILIES)) ?? 'clip_vision_model'
  const { family, ...defaults } = FAMILIES[type]!
  if (reader.integer('num_channels', 3) !== 3) throw reader.unsupported('num_channels', '3')
  const layers = reader.positive('num_hidden_layers', 12)
  const strategies = STRATEGIES[kind]
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
    layersRun: readLayersRun(top, layers),
    dropFirstRow: top.oneOf('vision_feature_select_strategy', strategies) !== strategies[1],
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
  if (top.isList('vision_feature_layer')) {
    throw top.unsupported('vision_feature_layer', 'the number of one layer')
  }
  const index = top.integer('vision_feature_layer', -2)
  const layersRun = index < 0 ? layers + 1 + index : index
  if (layersRun < 0 || layersRun > layers) {
    throw top.invalid('vision_feature_layer', `the vision tower has ${layers} layers`)
  }
  return layersRun
}
