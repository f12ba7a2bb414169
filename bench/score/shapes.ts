/**
 * The shapes of bench:score: what the files of a checkpoint say, and how the examples are built. A shape is
 * a row of `SHAPES`.
 */
import type { Json } from '../../src/ingest/form/json.ts'
import type { ProxyConfig } from '../../src/proxy/config.ts'

/** Canonical names of tensors begin like the first, their names on disk like the second. */
type Names = readonly (readonly [canonical: string, disk: string])[]

export type Shape = {
  /** config.json and processor_config.json */
  config: Json
  processor: Json
  names: Names
  /** Which of the parameters that a checkpoint may lack it has: biases, by canonical name. */
  optional: RegExp
  /** What a prompt shows for a picture; the processor expands the image token in it. */
  picture: string
  /** Width and height of the pictures, which neither side has to resize. */
  side: number
  /** Tokens before the picture's; the fewest and the most behind it. */
  before: number
  after: readonly [number, number]
  /** Checkpoints are LoRA adapters of this rank, on every linear layer of the language model. */
  lora?: { rank: number; alpha: number }
  /** What the model has of which the shape keeps a part. */
  whole?: Whole
}

export type Whole = { visionLayers: number; textLayers: number; vocab: number; more?: Json }

/** The tokenizer of all shapes: a token a letter, and these. */
export const LETTERS = 'abcdefghijklmnopqrstuvwxyz'
export const SPECIAL = [
  '<|endoftext|>',
  '<|im_start|>',
  '<|im_end|>',
  '<image>',
  '<|vision_start|>',
  '<|vision_end|>',
  '<|image_pad|>',
  '<|video_pad|>',
  '<fake_token_around_image>',
  '<global-img>',
  '<end_of_utterance>',
]

function tokenId(name: string): number {
  return LETTERS.length + SPECIAL.indexOf(name)
}

const PIXELS = {
  ...{ do_convert_rgb: true, do_resize: true, do_rescale: true, do_normalize: true },
  ...{ rescale_factor: 1 / 255, image_mean: [0.5, 0.5, 0.5], image_std: [0.5, 0.5, 0.5] },
}

type Sizes = {
  vision: { width: number; inner: number; layers: number; heads: number; side: number }
  text: { width: number; inner: number; layers: number; heads: number; kvHeads: number }
  vocab: number
}

/** Of a LLaVA-like `vision_config` and of a `text_config`. */
function layersConfig({ width, inner, layers, heads }: Sizes['vision'] | Sizes['text']): Json {
  return {
    hidden_size: width,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: heads,
  }
}

function textConfig({ text, vocab }: Sizes, more: Json): Json {
  return { ...layersConfig(text), num_key_value_heads: text.kvHeads, vocab_size: vocab, ...more }
}

const PATCH = 16

type Family = Omit<Shape, 'before' | 'after'>

/** SigLIP and Qwen2, the head tied to the embeddings. */
function llava(sizes: Sizes): Family {
  const { side } = sizes.vision
  const select = { vision_feature_select_strategy: 'full' }
  return {
    config: {
      ...{ architectures: ['LlavaForConditionalGeneration'], model_type: 'llava' },
      image_token_index: tokenId('<image>'),
      ...{ projector_hidden_act: 'gelu', vision_feature_layer: -2, ...select },
      ...{ tie_word_embeddings: true, image_seq_length: (side / PATCH) ** 2 },
      vision_config: {
        ...{ model_type: 'siglip_vision_model', ...layersConfig(sizes.vision) },
        ...{ image_size: side, patch_size: PATCH, vision_use_head: false },
      },
      text_config: textConfig(sizes, {
        ...{ model_type: 'qwen2', max_position_embeddings: 2048, tie_word_embeddings: true },
      }),
    },
    processor: {
      processor_class: 'LlavaProcessor',
      image_processor: {
        ...{ image_processor_type: 'SiglipImageProcessor', ...PIXELS, resample: 3 },
        size: { height: side, width: side },
      },
      ...{ image_token: '<image>', patch_size: PATCH, num_additional_image_tokens: 0, ...select },
    },
    names: [
      ['vision.', 'vision_tower.vision_model.'],
      ['text.', 'language_model.model.'],
      ['connector.', 'multi_modal_projector.linear_'],
    ],
    optional: /^connector\.|\.[qkv]_proj\.bias$/,
    picture: '<image>',
    side,
  }
}

/** CLIP and StableLM with biases of q, k and v: what TinyLLaVA fine-tunes, in the layout of LLaVA. */
function stablelm(sizes: Sizes): Family {
  const { side } = sizes.vision
  const patch = 14
  const select = { vision_feature_select_strategy: 'default' }
  return {
    config: {
      ...{ architectures: ['LlavaForConditionalGeneration'], model_type: 'llava' },
      image_token_index: tokenId('<image>'),
      ...{ projector_hidden_act: 'gelu', vision_feature_layer: -2, ...select },
      ...{ tie_word_embeddings: false, image_seq_length: (side / patch) ** 2 },
      vision_config: {
        ...{ model_type: 'clip_vision_model', ...layersConfig(sizes.vision) },
        ...{ image_size: side, patch_size: patch },
      },
      text_config: textConfig(sizes, {
        ...{ model_type: 'stablelm', max_position_embeddings: 4096, layer_norm_eps: 1e-5 },
        ...{ use_qkv_bias: true, partial_rotary_factor: 0.25, tie_word_embeddings: false },
      }),
    },
    processor: {
      processor_class: 'LlavaProcessor',
      image_processor: {
        ...{ image_processor_type: 'CLIPImageProcessor', ...PIXELS, resample: 3 },
        ...{ size: { shortest_edge: side }, do_center_crop: true },
        crop_size: { height: side, width: side },
      },
      ...{ image_token: '<image>', patch_size: patch, num_additional_image_tokens: 1, ...select },
    },
    names: [
      ['vision.', 'vision_tower.vision_model.'],
      ['text.', 'language_model.model.'],
      ['head.', 'language_model.lm_head.'],
      ['connector.', 'multi_modal_projector.linear_'],
    ],
    optional: /^connector\.|\.[qkv]_proj\.bias$|^head\.weight$/,
    picture: '<image>',
    side,
  }
}

/** Each picture one square of (side / 64)² tokens, as xmasd takes it by default. */
function smolvlm(sizes: Sizes): Family {
  const { side } = sizes.vision
  const factor = 4
  return {
    config: {
      ...{ architectures: ['SmolVLMForConditionalGeneration'], model_type: 'smolvlm' },
      ...{ image_token_id: tokenId('<image>'), scale_factor: factor, tie_word_embeddings: false },
      vision_config: {
        ...{ model_type: 'smolvlm_vision', ...layersConfig(sizes.vision) },
        ...{ image_size: side, patch_size: PATCH },
      },
      text_config: textConfig(sizes, {
        ...{ model_type: 'llama', max_position_embeddings: 8192, rms_norm_eps: 1e-5 },
        ...{ rope_theta: 100_000, tie_word_embeddings: false },
      }),
    },
    processor: {
      ...{ processor_class: 'SmolVLMProcessor', image_seq_len: (side / PATCH / factor) ** 2 },
      image_processor: {
        ...{ image_processor_type: 'SmolVLMImageProcessor', ...PIXELS, resample: 1 },
        ...{ do_image_splitting: false, do_pad: true },
        ...{ size: { longest_edge: side }, max_image_size: { longest_edge: side } },
      },
      video_processor: { video_processor_type: 'SmolVLMVideoProcessor' },
    },
    names: [
      ['vision.', 'model.vision_model.'],
      ['text.', 'model.text_model.'],
      ['head.', 'lm_head.'],
      ['connector.', 'model.connector.modality_projection.'],
    ],
    optional: /^head\.weight$/,
    picture: '<image>',
    side,
  }
}

/** `taps`: vision blocks whose output goes to the first text layers; `sections`: M-RoPE's. */
function qwen3vl(sizes: Sizes & { taps: number[]; headDim: number; sections: number[] }): Family {
  const { vision, text } = sizes
  const merge = 2
  return {
    config: {
      ...{ architectures: ['Qwen3VLForConditionalGeneration'], model_type: 'qwen3_vl' },
      image_token_id: tokenId('<|image_pad|>'),
      video_token_id: tokenId('<|video_pad|>'),
      vision_start_token_id: tokenId('<|vision_start|>'),
      vision_end_token_id: tokenId('<|vision_end|>'),
      tie_word_embeddings: true,
      vision_config: {
        ...{ model_type: 'qwen3_vl_vision', depth: vision.layers, hidden_size: vision.width },
        ...{
          intermediate_size: vision.inner,
          num_heads: vision.heads,
          out_hidden_size: text.width,
        },
        ...{ patch_size: PATCH, spatial_merge_size: merge, temporal_patch_size: 2 },
        ...{ num_position_embeddings: 48 ** 2, deepstack_visual_indexes: sizes.taps },
      },
      text_config: textConfig(sizes, {
        ...{ model_type: 'qwen3_vl_text', max_position_embeddings: 262_144 },
        ...{ head_dim: sizes.headDim, rms_norm_eps: 1e-6, tie_word_embeddings: true },
        rope_parameters: {
          ...{ rope_type: 'default', rope_theta: 5_000_000 },
          ...{ mrope_section: sizes.sections, mrope_interleaved: true },
        },
      }),
    },
    processor: {
      processor_class: 'Qwen3VLProcessor',
      image_processor: {
        ...{ image_processor_type: 'Qwen2VLImageProcessor', ...PIXELS, resample: 3 },
        ...{ patch_size: PATCH, merge_size: merge, temporal_patch_size: 2 },
        size: { shortest_edge: vision.side ** 2, longest_edge: vision.side ** 2 },
      },
      video_processor: { video_processor_type: 'Qwen3VLVideoProcessor' },
    },
    names: [
      ['vision.', 'model.visual.'],
      ['text.', 'model.language_model.'],
      ['connector.', 'model.visual.'],
    ],
    optional: /^$/,
    picture: '<|vision_start|><|image_pad|><|vision_end|>',
    side: vision.side,
  }
}

const USUAL = { before: 31, after: [80, 120] } as const
const FEW = { before: 5, after: [8, 16] } as const

const FULL: Shape = {
  ...llava({
    vision: { width: 768, inner: 3072, layers: 12, heads: 12, side: 224 },
    text: { width: 896, inner: 4864, layers: 24, heads: 14, kvHeads: 2 },
    vocab: 32_000,
  }),
  ...USUAL,
}

const TINY_SIZES: Sizes = {
  vision: { width: 32, inner: 64, layers: 3, heads: 2, side: 64 },
  text: { width: 48, inner: 96, layers: 3, heads: 4, kvHeads: 2 },
  vocab: 200,
}
const TINY: Shape = { ...llava(TINY_SIZES), ...FEW }

/**
 * `full` is SigLIP-base-like (12 layers, 768, 224/16 = 196 tokens) and Qwen2-0.5B-like (24 layers, 896, 14
 * heads of 64, 2 kv heads, ffn 4864, vocabulary 32000, tied): 474 million parameters. `small` has as many
 * tokens in 8 layers of 384. `lora` are adapters on `full`. The others have the sizes of the model that they
 * are named after; of Qwen3-VL-2B a quarter of all layers and of the vocabulary, so that four checkpoints
 * fit 12 GB.
 */
export const SHAPES = {
  full: FULL,
  small: {
    ...llava({
      vision: { width: 384, inner: 1536, layers: 6, heads: 6, side: 224 },
      text: { width: 384, inner: 1536, layers: 8, heads: 6, kvHeads: 2 },
      vocab: 16_000,
    }),
    ...USUAL,
  },
  lora: { ...FULL, lora: { rank: 16, alpha: 32 } },
  'smolvlm-256m': {
    ...smolvlm({
      vision: { width: 768, inner: 3072, layers: 12, heads: 12, side: 512 },
      text: { width: 576, inner: 1536, layers: 30, heads: 9, kvHeads: 3 },
      vocab: 49_280,
    }),
    ...USUAL,
  },
  'qwen3-vl-2b': {
    ...qwen3vl({
      vision: { width: 1024, inner: 4096, layers: 6, heads: 16, side: 512 },
      text: { width: 2048, inner: 6144, layers: 7, heads: 16, kvHeads: 8 },
      ...{ vocab: 37_984, taps: [1, 2, 4], headDim: 128, sections: [24, 20, 20] },
    }),
    ...USUAL,
    whole: { visionLayers: 24, textLayers: 28, vocab: 151_936, more: { taps: [5, 11, 17] } },
  },
  'stablelm-2-1.6b': {
    ...stablelm({
      vision: { width: 1024, inner: 4096, layers: 24, heads: 16, side: 336 },
      text: { width: 2048, inner: 5632, layers: 24, heads: 32, kvHeads: 32 },
      vocab: 100_352,
    }),
    ...USUAL,
  },
  tiny: TINY,
  'tiny-lora': { ...TINY, lora: { rank: 4, alpha: 8 } },
  'tiny-smolvlm': { ...smolvlm(TINY_SIZES), ...FEW },
  'tiny-stablelm': {
    ...stablelm({
      vision: { ...TINY_SIZES.vision, side: 56 },
      text: { ...TINY_SIZES.text, heads: 3, kvHeads: 3 },
      vocab: TINY_SIZES.vocab,
    }),
    ...FEW,
  },
  'tiny-qwen3-vl': {
    ...qwen3vl({ ...TINY_SIZES, taps: [0, 2], headDim: 16, sections: [4, 2, 2] }),
    ...FEW,
    whole: { visionLayers: 5, textLayers: 12, vocab: 4000, more: { taps: [0, 3] } },
  },
} satisfies Record<string, Shape>

/** The shape of that name. Throws for another. */
export function shapeOf(name: string): Shape {
  const shape: Shape | undefined = SHAPES[name as keyof typeof SHAPES]
  if (shape === undefined) throw new Error(`--shape is one of ${Object.keys(SHAPES).join(', ')}`)
  return shape
}

/** The proxy that the shape is a part of, by the config of that part. */
export function wholeConfig({ whole }: Pick<Shape, 'whole'>, config: ProxyConfig): ProxyConfig {
  if (whole === undefined) return config
  const { visionLayers: layers, textLayers, vocab, more } = whole
  return {
    ...config,
    vision: { ...config.vision, layers, layersRun: layers },
    text: { ...config.text, layers: textLayers, vocab },
    more: { ...config.more, ...(more as ProxyConfig['more']) },
  }
}
