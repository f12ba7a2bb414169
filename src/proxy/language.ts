/**
 * The language model: Llama, Qwen2, Qwen3, StableLM, Phi. Shapes: B batch, T tokens, C channels, H
 * heads, D channels of a head.
 */
import type { TextConfig } from './config.ts'
import type { AttentionShape, Ops } from './ops.ts'
import { perHead } from './parameters.ts'
import { ropeAmplitude, ropeInverseFrequencies } from './rope.ts'

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

/** q [B, T, H*D], k and v [B, T, kvHeads*D], q and k rotated -> [B, T, H*D] */
export type Attend<V> = (q: V, k: V, v: V, shape: AttentionShape) => V

/** Every sequence alone. Right padding needs no mask: nobody reads the padded positions. */
export function causalAttention<V>(ops: Ops<V>): Attend<V> {
  return (q, k, v, shape) => ops.attention(q, k, v, { ...shape, causal: true })
}

/**
 * Runs the decoder on `x` [B, T, C], whose tokens stand at `positions` [B, T] and see of each other
 * what `attend` lets them. Shows the full-width outputs of q_proj and k_proj of every layer: biases
 * included, before heads are split, before norms of heads, before rotary. Stops after the last
 * layer's projections when `projectionsOnly` and returns the normed states that they read, else the
 * hidden states before the final norm.
 */
export function decoder<V>(
  ops: Ops<V>,
  config: TextConfig,
  { x, positions, attend }: { x: V; positions: V; attend: Attend<V> },
  visit: (q: V, k: V, layer: number) => void,
  projectionsOnly: boolean,
): V {
  const { ropeTheta, rotaryDims, ropeScaling } = config
  const inverseFrequencies = ropeInverseFrequencies(ropeTheta, rotaryDims, ropeScaling)
  for (let layer = 0; layer < config.layers; layer++) {
    const at = `text.layers.${layer}.`
    const h = norm(ops, config, x, `${at}input_layernorm`)
    const q = ops.linear(h, `${at}self_attn.q_proj`) // [B, T, H*D]
    const k = ops.linear(h, `${at}self_attn.k_proj`) // [B, T, kvHeads*D]
    visit(q, k, layer)
    if (projectionsOnly && layer === config.layers - 1) return h
    const v = ops.linear(h, `${at}self_attn.v_proj`)
    const turned = rotated(ops, config, { q, k, positions, inverseFrequencies }, at)
    const { heads, kvHeads, headDim } = config
    const mixed = attend(turned.q, turned.k, v, { heads, kvHeads, headDim })
    const attended = ops.add(x, ops.linear(mixed, `${at}self_attn.o_proj`))
    const m = config.parallelResidual
      ? h
      : norm(ops, config, attended, `${at}post_attention_layernorm`)
    x = ops.add(attended, feedForward(ops, config, m, at))
  }
  return x
}

/** q and k as attention reads them: heads normed where the family does so, then rotary. */
function rotated<V>(
  ops: Ops<V>,
  config: TextConfig,
  input: { q: V; k: V; positions: V; inverseFrequencies: Float64Array },
  at: string,
): { q: V; k: V } {
  const { heads, kvHeads, headDim } = config
  const { positions, inverseFrequencies } = input
  const amplitude = ropeAmplitude(config.ropeScaling)
  const turned = (y: V, count: number, name: string): V => {
    const normed = normedHeads(ops, config, y, count, `${at}self_attn.${name}`)
    return ops.rotary(normed, positions, { heads: count, headDim, inverseFrequencies, amplitude })
  }
  return { q: turned(input.q, heads, 'q'), k: turned(input.k, kvHeads, 'k') }
}

/** Every head of q or k through its norm: [B, T, H*D] -> [B, T, H*D]. `at` ends in `.q` or `.k`. */
function normedHeads<V>(ops: Ops<V>, config: TextConfig, x: V, heads: number, at: string): V {
  const { headNorm, epsilon } = config
  if (headNorm === 'none') return x
  const split = ops.splitHeads(x, heads) // [B, T, H, D]
  return ops.mergeHeads(
    headNorm === 'rms'
      ? ops.rmsNorm(split, `${at}_norm`, epsilon)
      : headNorm === 'layer'
        ? ops.layerNorm(split, `${at}_layernorm`, epsilon)
        : ops.layerNormHeads(split, perHead(`${at}_layernorm`, heads), epsilon),
  )
}

/** Hidden states -> logits [B, T, vocab]. Only training needs them. */
export function languageHead<V>(ops: Ops<V>, config: TextConfig, hidden: V): V {
  const x = norm(ops, config, hidden, 'text.norm')
  return ops.linear(x, config.tiedHead ? 'text.embed_tokens' : 'head')
}

function feedForward<V>(ops: Ops<V>, config: TextConfig, x: V, at: string): V {
  const up = ops.linear(x, `${at}mlp.up_proj`)
  const inner =
    config.mlp === 'gated'
      ? ops.mul(ops.activation(ops.linear(x, `${at}mlp.gate_proj`), config.activation), up)
      : ops.activation(up, config.activation)
  return ops.linear(inner, `${at}mlp.down_proj`)
}

function norm<V>(ops: Ops<V>, config: TextConfig, x: V, name: string): V {
  return config.norm === 'rms'
    ? ops.rmsNorm(x, name, config.epsilon)
    : ops.layerNorm(x, name, config.epsilon)
}
