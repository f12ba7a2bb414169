/**
 * Vision towers of CLIP's and SigLIP's kind, and the connectors that go with them. Shapes: B tiles, N
 * patches, C channels, P patch size.
 */
import {
  type ConnectorConfig,
  type ProxyConfig,
  patchesPerImage,
  type VisionConfig,
} from './config.ts'
import {
  affine,
  type Connector,
  linear,
  type Parameter,
  parameter,
  shrunkText,
  type Tower,
} from './model.ts'
import { float32, type Ops } from './ops.ts'

export function encoder<V>(ops: Ops<V>, config: VisionConfig, embedded: V): V {
  let x = embedded
  for (let layer = 0; layer < config.layersRun; layer++) x = encoderLayer(ops, config, layer, x)
  return x
}

/** [B, N, 3*P*P] -> [B, N, C], without positions */
export function patchRows<V>(ops: Ops<V>, { width, patchSize }: VisionConfig, patches: V): V {
  return ops.linearAs(patches, 'vision.embeddings.patch_embedding', [width, 3 * patchSize ** 2])
}

function embedPatches<V>(ops: Ops<V>, config: VisionConfig, patches: V): V {
  let x = patchRows(ops, config, patches)
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

/** Rows of the hidden state that the connector reads. */
export function featureRows(vision: VisionConfig): number {
  const classToken = vision.family === 'clip' ? 1 : 0
  return patchesPerImage(vision) + classToken - (vision.dropFirstRow ? 1 : 0)
}

/** Patch and position embeddings, and what CLIP has beside them. */
function embeddingParameters(vision: VisionConfig): Parameter[] {
  const { width, patchSize } = vision
  const isClip = vision.family === 'clip'
  const at = 'vision.embeddings.'
  const positions = patchesPerImage(vision) + (isClip ? 1 : 0)
  const list = [
    parameter(`${at}patch_embedding.weight`, [width, 3, patchSize, patchSize]),
    parameter(`${at}position_embedding.weight`, [positions, width]),
  ]
  if (!isClip) return [...list, parameter(`${at}patch_embedding.bias`, [width])]
  return [
    ...list,
    parameter(`${at}class_embedding`, [width]),
    ...affine('vision.pre_layrnorm', [width]),
  ]
}

export function encoderParameters(vision: VisionConfig): Parameter[] {
  const { width, intermediate } = vision
  const list = embeddingParameters(vision)
  for (let layer = 0; layer < vision.layersRun; layer++) {
    const at = `vision.encoder.layers.${layer}.`
    for (const norm of ['layer_norm1', 'layer_norm2']) list.push(...affine(at + norm, [width]))
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'out_proj']) {
      list.push(...affine(`${at}self_attn.${name}`, [width, width]))
    }
    list.push(...affine(`${at}mlp.fc1`, [intermediate, width]))
    list.push(...affine(`${at}mlp.fc2`, [width, intermediate]))
  }
  return list
}

/** Pictures of one size, a square. */
export const SQUARE_TOWER: Tower = {
  parameters: ({ vision }) => encoderParameters(vision),
  inputs: ({ vision }) => ({
    patches: float32('M', patchesPerImage(vision), 3 * vision.patchSize ** 2),
  }),
  tables: () => ({}),
  /**
   * The hidden state that the connector reads: after `layersRun` encoder layers, without post norm.
   * patches [B, N, 3*P*P] (channel-major within a patch)
   * -> [B, N (CLIP: +1) (-1 without the first row), C]
   */
  run(ops, { vision }, { patches }) {
    const x = encoder(ops, vision, embedPatches(ops, vision, patches!)) // CLIP [B, 1+N, C]
    return [vision.dropFirstRow ? ops.dropFirstRow(x) : x]
  },
  width: ({ vision }) => vision.width,
}

/** Linear layers from vision channels Cv to text channels C: [M, N, Cv] -> [M, N, C] */
export const MLP_CONNECTOR: Connector = {
  parameters: ({ vision, text, connector, newline }) => [
    ...linear('connector.1', [text.width, vision.width]),
    ...furtherLayers(connector).flatMap(layer => linear(layer, [text.width, text.width])),
    ...(newline ? [parameter('connector.newline', [text.width])] : []),
  ],
  run: (ops, { connector }, features) => {
    let x = ops.linear(features, 'connector.1')
    for (const layer of furtherLayers(connector)) {
      x = ops.linear(ops.activation(x, connector.activation), layer)
    }
    return { images: x }
  },
}

/** The names of the layers behind the first. */
function furtherLayers({ layers = 2 }: ConnectorConfig): string[] {
  return Array.from({ length: layers - 1 }, (_, i) => `connector.${i + 2}`)
}

/** Sums of four rows each: rows [1, P*4] of x seen as [S, C], weights [1, P*4, 1] -> [1, P, C] */
export function blended<V>(ops: Ops<V>, x: V, rows: V, weights: V): V {
  const parts = ops.mul(ops.gatherFlatRows(x, rows), weights) // [1, P*4, C]
  return ops.transpose(ops.sumNeighbours(ops.transpose(parts), 4))
}

/** The same kind of tower, small. */
export function shrunkVision(vision: VisionConfig, gridMax: number): VisionConfig {
  const grid = Math.min(gridMax, Math.floor(vision.imageSize / vision.patchSize))
  return {
    ...vision,
    width: 2 * Math.floor(vision.width / vision.heads),
    heads: 2,
    intermediate: 160,
    layers: 2,
    layersRun: 2,
    imageSize: grid * vision.patchSize,
  }
}

/* Towers whose f × f neighbouring patches become one token. */

export function factorOf({ more }: ProxyConfig): number {
  return more!.factor as number
}

/** Channels of f × f patches. */
export function joinedWidth(config: ProxyConfig): number {
  return config.vision.width * factorOf(config) ** 2
}

export function shrunkJoined(config: ProxyConfig, gridMax: number): ProxyConfig {
  const factor = factorOf(config)
  const vision = shrunkVision(config.vision, factor * Math.max(1, Math.floor(gridMax / factor)))
  const imageTokens = patchesPerImage(vision) / factor ** 2
  return { ...config, vision, text: shrunkText(config.text), imageTokens }
}
