/** Qwen2_5_VLForConditionalGeneration: attention within windows, but in a few full blocks; M-RoPE in stretches. */
import { inBlocks } from '../../ingest/image/preprocess.ts'
import type { ConfigReader, ProxyConfig } from '../config.ts'
import { affine, type Family, type Parameter, parameter } from '../model.ts'
import { float32, type HostTensor, type Ops } from '../ops.ts'
import {
  attentionParameters,
  mergedWidth,
  mergeOf,
  multiAxisPositions,
  type QwenDefaults,
  qwenAttention,
  qwenInputs,
  qwenNames,
  qwenPatches,
  qwenPatchShape,
  qwenPictures,
  qwenTables,
  qwenUsual,
  readQwen,
  shrunkQwen,
} from './qwen.ts'

/** Qwen2_5_VLConfig's. */
const DEFAULTS: QwenDefaults = {
  vision: {
    width: 3584,
    intermediate: 3420,
    layers: 32,
    heads: 16,
    patchSize: 14,
    activation: 'silu',
  },
  text: {
    width: 8192,
    intermediate: 29_568,
    layers: 80,
    heads: 64,
    kvHeads: 8,
    vocab: 152_064,
    epsilon: 1e-5,
    theta: 1_000_000,
  },
  axes: 'stretches',
  imageTokenId: 151_655,
}

/** Of RMSNorms in tower and merger. */
const EPSILON = 1e-6

export const qwen25vl: Family = {
  kind: 'qwen2_5_vl',
  readConfig(top, checkpointDir) {
    const config = readQwen('qwen2_5_vl', top, checkpointDir, DEFAULTS)
    return { ...config, more: { ...config.more, ...readOwn(top.section('vision_config')!) } }
  },
  nameOf: qwenNames,
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
  connector: {
    parameters: config => {
      const width = mergedWidth(config)
      return [
        parameter('connector.merger.ln_q.weight', [config.vision.width]),
        ...affine('connector.merger.mlp.0', [width, width]),
        ...affine('connector.merger.mlp.2', [config.text.width, width]),
      ]
    },
    run: (ops, config, features) => {
      const apart = ops.joinRows(features, config.vision.width)
      const normed = ops.rmsNorm(apart, 'connector.merger.ln_q', EPSILON)
      const inner = ops.linear(ops.joinRows(normed, mergedWidth(config)), 'connector.merger.mlp.0')
      return { images: ops.linear(ops.activation(inner, 'gelu'), 'connector.merger.mlp.2') }
    },
  },
  pictures: qwenPictures('<|image_pad|>'),
  usual: qwenUsual,
  shrunk: (config, gridMax) => shrunkQwen(config, gridMax, { full: [1] }),
  positions: multiAxisPositions,
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
  const { patches, cos, sin, windows } = inputs as { [name: string]: V } & { cos: V; sin: V }
  const full = more!.full as readonly number[]
  let x = qwenPatches(ops, config, patches!)
  for (let layer = 0; layer < vision.layersRun; layer++) {
    const at = `vision.blocks.${layer}.`
    const h = ops.rmsNorm(x, `${at}norm1`, EPSILON)
    const mask = full.includes(layer) ? undefined : windows
    x = ops.add(x, qwenAttention(ops, config, at, h, { cos, sin, mask }))
    const m = ops.rmsNorm(x, `${at}norm2`, EPSILON)
    const gate = ops.activation(ops.linear(m, `${at}mlp.gate_proj`), vision.activation)
    const inner = ops.mul(gate, ops.linear(m, `${at}mlp.up_proj`))
    x = ops.add(x, ops.linear(inner, `${at}mlp.down_proj`))
  }
  return [ops.joinRows(x, mergedWidth(config))]
}

/** Far below any product, yet finite: exp() of it is exactly 0. */
const MASKED = -1e30

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
