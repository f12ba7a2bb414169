/** The language model (Llama). Shapes: B batch, T tokens, C channels, d projection width. */
import type { TextConfig } from './config.ts'
import type { Ops } from './ops.ts'

/**
 * Token embeddings with the connector's output put in at the image positions -> [B, T, C].
 * `imageRows` [B, T] int32 indexes the rows of `images` [M, N, C], `isImage` [B, T, 1] is 0 or 1.
 */
export function embedSequence<V>(
  ops: Ops<V>,
  inputs: { ids: V; images: V; imageRows: V; isImage: V },
): V {
  const tokens = ops.embed(inputs.ids, 'text.embed_tokens.weight')
  return ops.select(inputs.isImage, ops.gatherFlatRows(inputs.images, inputs.imageRows), tokens)
}

/**
 * Runs the decoder on `x` [B, T, C] and shows the full-width outputs of q_proj and k_proj of every
 * layer: biases included, before heads are split, before rotary. Causal; right padding needs no
 * mask as long as nobody reads the padded positions. Stops after the last layer's projections when
 * `projectionsOnly`, else returns the hidden states before the final norm.
 */
export function decoder<V>(
  ops: Ops<V>,
  config: TextConfig,
  x: V,
  visit: (q: V, k: V, layer: number) => void,
  projectionsOnly: boolean,
): V {
  const inverseFrequencies = ropeInverseFrequencies(config.ropeTheta, config.rotaryDims)
  for (let layer = 0; layer < config.layers; layer++) {
    const at = `text.layers.${layer}.`
    const h = norm(ops, config, x, `${at}input_layernorm`)
    const q = ops.linear(h, `${at}self_attn.q_proj`) // [B, T, H*D]
    const k = ops.linear(h, `${at}self_attn.k_proj`) // [B, T, kvHeads*D]
    visit(q, k, layer)
    if (projectionsOnly && layer === config.layers - 1) return x
    const v = ops.linear(h, `${at}self_attn.v_proj`)
    const { heads, kvHeads, headDim } = config
    const turned = (y: V, count: number): V =>
      ops.rotary(y, { heads: count, headDim, inverseFrequencies })
    const shape = { heads, kvHeads, headDim, causal: true }
    const mixed = ops.attention(turned(q, heads), turned(k, kvHeads), v, shape)
    x = ops.add(x, ops.linear(mixed, `${at}self_attn.o_proj`))
    x = ops.add(
      x,
      feedForward(ops, config, norm(ops, config, x, `${at}post_attention_layernorm`), at),
    )
  }
  return x
}

/** Hidden states -> logits [B, T, vocab]. Only training needs them. */
export function languageHead<V>(ops: Ops<V>, config: TextConfig, hidden: V): V {
  const x = norm(ops, config, hidden, 'text.norm')
  return ops.linear(x, config.tiedHead ? 'text.embed_tokens' : 'head')
}

function feedForward<V>(ops: Ops<V>, config: TextConfig, x: V, at: string): V {
  const gate = ops.activation(ops.linear(x, `${at}mlp.gate_proj`), config.activation)
  return ops.linear(ops.mul(gate, ops.linear(x, `${at}mlp.up_proj`)), `${at}mlp.down_proj`)
}

function norm<V>(ops: Ops<V>, config: TextConfig, x: V, name: string): V {
  return config.norm === 'rms'
    ? ops.rmsNorm(x, name, config.epsilon)
    : ops.layerNorm(x, name, config.epsilon)
}

/** 1 / theta^(2i/dims), i < dims/2. */
export function ropeInverseFrequencies(theta: number, dims: number): Float64Array {
  return Float64Array.from({ length: dims / 2 }, (_, i) => theta ** ((-2 * i) / dims))
}
