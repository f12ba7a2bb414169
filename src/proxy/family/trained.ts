/** What `xmasd train` leaves: a Hugging Face llava over CLIP and Llama. Its files, of our own making. */
import type { ProxyConfig } from '../config.ts'

export const TRAINED = { kind: 'llava', configJson, diskName }

/** The key layout that every transformers version with llava reads (goldens' README: `legacy`). */
const PREFIXES: readonly (readonly [canonical: string, onDisk: string])[] = [
  ['text.', 'language_model.model.'],
  ['head.', 'language_model.lm_head.'],
  ['vision.', 'vision_tower.vision_model.'],
  ['connector.', 'multi_modal_projector.linear_'],
]

function diskName(name: string): string {
  const [canonical, onDisk] = PREFIXES.find(([prefix]) => name.startsWith(prefix))!
  return onDisk + name.slice(canonical.length)
}

/** config.json, in the form that transformers 4.x and 5.x both read. */
function configJson({ vision, text, imageTokens, imageTokenId, lengthMax }: ProxyConfig): object {
  return {
    architectures: ['LlavaForConditionalGeneration'],
    model_type: 'llava',
    ignore_index: -100,
    image_seq_length: imageTokens,
    image_token_index: imageTokenId,
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
