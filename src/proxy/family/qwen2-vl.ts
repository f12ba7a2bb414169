/**
 * Qwen2VLForConditionalGeneration, whose patches attend to all of their picture, and
 * Qwen2_5_VLForConditionalGeneration, whose patches do so in a few blocks and within windows in the others.
 * M-RoPE in stretches.
 */
import { inBlocks } from '../../ingest/image/preprocess.ts'
import type { ConfigReader, ProxyConfig } from '../config.ts'
import { affine, type Connector, type Family, type Parameter, parameter } from '../model.ts'
import { float32, type HostTensor, MASKED, type Ops } from '../ops.ts'
import {
  attentionParameters,
  mergedWidth,
  mergeOf,
  mlp,
  mlpParameters,
  plainBlock,
  plainBlockParameters,
  QWEN,
  type QwenDefaults,
  qwenAttention,
  qwenInputs,
  qwenPatches,
  qwenPatchShape,
  qwenTables,
  readQwen,
  shrunkQwen,
} from './qwen.ts'

/** Of both. */
const TEXT: QwenDefaults['text'] = {
  width: 8192,
  intermediate: 29_568,
  layers: 80,
  heads: 64,
  kvHeads: 8,
  vocab: 152_064,
  epsilon: 1e-5,
  theta: 1_000_000,
}

/** Qwen2VLConfig's. */
const QWEN2_DEFAULTS: QwenDefaults = {
  vision: {
    width: 1280,
    ratio: 4,
    layers: 32,
    heads: 16,
    patchSize: 14,
    activation: 'quick_gelu',
  },
  text: TEXT,
  axes: 'stretches',
  imageTokenId: 151_655,
}

/** Qwen2_5_VLConfig's. */
const QWEN25_DEFAULTS: QwenDefaults = {
  vision: {
    width: 3584,
    intermediate: 3420,
    layers: 32,
    heads: 16,
    patchSize: 14,
    activation: 'silu',
  },
  text: TEXT,
  axes: 'stretches',
  imageTokenId: 151_655,
}

const BLOCK_LAYERS = ['mlp.fc1', 'mlp.fc2'] as const
const MERGER = 'connector.merger.'
const MERGER_LAYERS = ['mlp.0', 'mlp.2'] as const

export const qwen2vl: Family = {
  ...QWEN,
  kind: 'qwen2_vl',
  readConfig: (top, checkpointDir) => readQwen('qwen2_vl', top, checkpointDir, QWEN2_DEFAULTS),
  tower: {
    parameters: config => [
      parameter('vision.patch_embed.proj.weight', qwenPatchShape(config)),
      ...Array.from({ length: config.vision.layersRun }, (_, layer) =>
        plainBlockParameters(config, `vision.blocks.${layer}.`, BLOCK_LAYERS),
      ).flat(),
    ],
    inputs: qwenInputs,
    tables: qwenTables,
    run(ops, config, inputs) {
      const { patches, cos, sin } = inputs
      const turns = { cos: cos!, sin: sin! }
      let x = qwenPatches(ops, config, patches!)
      for (let layer = 0; layer < config.vision.layersRun; layer++) {
        x = plainBlock(ops, config, `vision.blocks.${layer}.`, x, { turns, layers: BLOCK_LAYERS })
      }
      return [ops.joinRows(x, mergedWidth(config))]
    },
    width: mergedWidth,
  },
  connector: merger('layer'),
  shrunk: (config, gridMax) => shrunkQwen(config, gridMax, {}),
}

export const qwen25vl: Family = {
  ...QWEN,
  kind: 'qwen2_5_vl',
  readConfig: (top, checkpointDir) =>
    readQwen('qwen2_5_vl', top, checkpointDir, QWEN25_DEFAULTS, readOwn),
  tower: {
    parameters: towerParameters,
    inputs: config => ({ ...qwenInputs(config), windows: float32(1, 1, 'N', 'N') }),
    tables: (config, grid, tiles) => ({
      ...qwenTables(config, grid, tiles),
      windows: windowMask(config, grid),
    }),
    run: runTower,
    width: mergedWidth,
  },
  connector: merger('rms'),
  shrunk: (config, gridMax) => shrunkQwen(config, gridMax, { full: [1] }),
}

function readOwn(reader: ConfigReader): { window: number; full: number[] } {
  const key = 'fullatt_block_indexes'
  const full = reader.has(key) ? reader.list(key).map(Number) : [7, 15, 23, 31]
  return { window: reader.positive('window_size', 112), full }
}

function towerParameters(config: ProxyConfig): Parameter[] {
  const { width, intermediate, layersRun } = config.vision
  const list = [parameter('vision.patch_embed.proj.weight', qwenPatchShape(config))]
  for (let layer = 0; layer < layersRun; layer++) {
    const at = `vision.blocks.${layer}.`
    for (const norm of ['norm1', 'norm2']) list.push(parameter(`${at}${norm}.weight`, [width]))
    list.push(...attentionParameters(config, at))
    list.push(...affine(`${at}mlp.gate_proj`, [intermediate, width]))
    list.push(...affine(`${at}mlp.up_proj`, [intermediate, width]))
    list.push(...affine(`${at}mlp.down_proj`, [width, intermediate]))
  }
  return list
}

function runTower<V>(ops: Ops<V>, config: ProxyConfig, inputs: Record<string, V>): [V] {
  const { vision, more } = config
  const { epsilon } = vision
  const { patches, cos, sin, windows } = inputs as { [name: string]: V } & { cos: V; sin: V }
  const full = more!.full as readonly number[]
  let x = qwenPatches(ops, config, patches!)
  for (let layer = 0; layer < vision.layersRun; layer++) {
    const at = `vision.blocks.${layer}.`
    const h = ops.rmsNorm(x, `${at}norm1`, epsilon)
    const mask = full.includes(layer) ? undefined : windows
    x = ops.add(x, qwenAttention(ops, config, at, h, { cos, sin, mask }))
    const m = ops.rmsNorm(x, `${at}norm2`, epsilon)
    const gate = ops.activation(ops.linear(m, `${at}mlp.gate_proj`), vision.activation)
    const inner = ops.mul(gate, ops.linear(m, `${at}mlp.up_proj`))
    x = ops.add(x, ops.linear(inner, `${at}mlp.down_proj`))
  }
  return [ops.joinRows(x, mergedWidth(config))]
}

/** [1, 1, N, N]: 0 between patches of one window. Windows are counted from the upper left and cut off. */
function windowMask(config: ProxyConfig, [rows, columns]: readonly [number, number]): HostTensor {
  const merge = mergeOf(config)
  const step = Math.floor((config.more!.window as number) / merge / config.vision.patchSize) * merge
  const windows = inBlocks(rows, columns, merge).map(
    ([row, column]) => Math.floor(row / step) * columns + Math.floor(column / step),
  )
  const count = windows.length
  const data = new Float32Array(count * count)
  for (let i = 0; i < data.length; i++) {
    if (windows[Math.floor(i / count)] !== windows[i % count]) data[i] = MASKED
  }
  return { data, shape: [1, 1, count, count] }
}

/** A norm of each patch, then an MLP over merge × merge of them side by side. */
function merger(norm: 'rms' | 'layer'): Connector {
  const name = `${MERGER}ln_q`
  return {
    parameters(config) {
      const { vision, text } = config
      const width = mergedWidth(config)
      return [
        parameter(`${name}.weight`, [vision.width]),
        ...(norm === 'layer' ? [parameter(`${name}.bias`, [vision.width])] : []),
        ...mlpParameters(MERGER, MERGER_LAYERS, [width, width, text.width]),
      ]
    },
    run(ops, config, features) {
      const { width, epsilon } = config.vision
      const apart = ops.joinRows(features, width)
      const normed =
        norm === 'rms' ? ops.rmsNorm(apart, name, epsilon) : ops.layerNorm(apart, name, epsilon)
      return { images: mlp(ops, ops.joinRows(normed, mergedWidth(config)), MERGER, MERGER_LAYERS) }
    },
  }
}
