/**
 * The language model: Llama, Qwen2, Qwen3, StableLM, Phi. Shapes: B batch, T tokens, C channels, H
 * heads, D channels of a head.
 */

import type { TextConfig } from './config.ts'
import { perHead } from './model.ts'
import type { AttentionShape, Ops } from './ops.ts'

/**
 * Token embeddings, with the connector's output at the image positions -> [B, T, C]. `imageRows`
 * [B, T] int32 indexes the rows of `images` [M, N, C]; `isImage` [B, T, 1] is 0 or 1.
 */
export function embedSequence<V>(
  ops: Ops<V>,
  inputs: { ids: V; images: V; imageRows: V; isImage: V },
): V {
  const tokens = ops.embed(inputs.ids, 'text.embed_tokens.weight')
  return ops.select(inputs.isImage, ops.gatherFlatRows(inputs.images, inputs.imageRows), tokens)
}

/** q [B, T, H*D], k and v [B, T, kvHeads*D]; q and k after rotary -> [B, T, H*D] */
export type Attend<V> = (q: V, k: V, v: V, shape: AttentionShape) => V

export type DecoderInput<V> = {
  x: V
  cos: V
  sin: V
  attend: Attend<V>
  addAfter?: ((layer: number, x: V) => V) | undefined
}

/**
 * Runs the decoder on `x` [B, T, C], whose tokens are turned by `cos` and `sin` [B, T, D/2]: see `rotaryTables`.
 * `addAfter` changes what a layer gives. Calls `visit` with the full-width outputs of q_proj and k_proj of every layer: biases included, before heads are split,
 * before head norms and rotary; and with the normed states `h` that they read. With `projectionsOnly` it stops after the last layer's projections and
 * returns those states; otherwise it returns the hidden states before the final
 * norm.
 */
export function decoder<V>(
  ops: Ops<V>,
  config: TextConfig,
  { x, cos, sin, attend, addAfter }: DecoderInput<V>,
  visit: (q: V, k: V, h: V) => void,
  projectionsOnly: boolean,
): V {
  for (let layer = 0; layer < config.layers; layer++) {
    const at = `text.layers.${layer}.`
    const h = norm(ops, config, x, `${at}input_layernorm`)
    const q = ops.linear(h, `${at}self_attn.q_proj`) // [B, T, H*D]
    const k = ops.linear(h, `${at}self_attn.k_proj`) // [B, T, kvHeads*D]
    visit(q, k, h)
    if (projectionsOnly && layer === config.layers - 1) return h
    const v = ops.linear(h, `${at}self_attn.v_proj`)
    const turned = rotated(ops, config, { q, k, cos, sin }, at)
    const { heads, kvHeads, headDim } = config
    const mixed = attend(turned.q, turned.k, v, { heads, kvHeads, headDim })
    const attended = ops.add(x, ops.linear(mixed, `${at}self_attn.o_proj`))
    const m = config.parallelResidual
      ? h
      : norm(ops, config, attended, `${at}post_attention_layernorm`)
    x = ops.add(attended, feedForward(ops, config, m, at))
    if (addAfter !== undefined) x = addAfter(layer, x)
  }
  return x
}

/** q and k after head norms, where the family has them, and rotary. */
function rotated<V>(
  ops: Ops<V>,
  config: TextConfig,
  input: { q: V; k: V; cos: V; sin: V },
  at: string,
): { q: V; k: V } {
  const { heads, kvHeads, headDim, rotaryDims: turned } = config
  const rotate = (y: V, heads: number, name: string): V => {
    const normed = normedHeads(ops, config, y, heads, `${at}self_attn.${name}`)
    return ops.rotary(normed, input.cos, input.sin, { heads, headDim, turned })
  }
  return { q: rotate(input.q, heads, 'q'), k: rotate(input.k, kvHeads, 'k') }
}

/** The norm of each head of q or k: [B, T, H*D] -> [B, T, H*D]. `at` ends in `.q` or `.k`. */
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

/** Hidden states -> logits [B, T, vocab], for training and the loss. */
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
