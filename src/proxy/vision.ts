/** The vision tower (CLIP, SigLIP). Shapes: B images, N patches, C channels, P patch size. */
import type { VisionConfig } from './config.ts'
import type { Ops } from './ops.ts'

/**
 * What the connector reads: the hidden state after `layersRun` encoder layers, no post norm.
 * patches [B, N, 3*P*P] (channel-major within a patch) -> [B, N (CLIP: +1) (-1 without the first row), C]
 */
export function visionTower<V>(ops: Ops<V>, config: VisionConfig, patches: V): V {
  let x = embedPatches(ops, config, patches) // [B, N, C], CLIP [B, 1+N, C]
  for (let layer = 0; layer < config.layersRun; layer++) x = encoderLayer(ops, config, layer, x)
  return config.dropFirstRow ? ops.dropFirstRow(x) : x
}

function embedPatches<V>(ops: Ops<V>, config: VisionConfig, patches: V): V {
  const name = 'vision.embeddings.patch_embedding'
  let x = ops.linearAs(patches, name, [config.width, 3 * config.patchSize ** 2]) // [B, N, C]
  if (config.family === 'clip') x = ops.prependRow(x, 'vision.embeddings.class_embedding')
  x = ops.add(x, ops.weight('vision.embeddings.position_embedding.weight'))
  return config.family === 'clip' ? ops.layerNorm(x, 'vision.pre_layrnorm', config.epsilon) : x
}

function encoderLayer<V>(ops: Ops<V>, config: VisionConfig, layer: number, x: V): V {
  const at = `vision.encoder.layers.${layer}.`
  const h = ops.layerNorm(x, `${at}layer_norm1`, config.epsilon)
  const [q, k, v] = ['q', 'k', 'v'].map(p => ops.linear(h, `${at}self_attn.${p}_proj`)) as [V, V, V]
  const headDim = config.width / config.heads
  const shape = { heads: config.heads, kvHeads: config.heads, headDim, causal: false }
  x = ops.add(x, ops.linear(ops.attention(q, k, v, shape), `${at}self_attn.out_proj`))
  const m = ops.layerNorm(x, `${at}layer_norm2`, config.epsilon)
  const up = ops.activation(ops.linear(m, `${at}mlp.fc1`), config.activation)
  return ops.add(x, ops.linear(up, `${at}mlp.fc2`))
}
