/** Qwen3VLForConditionalGeneration: DeepStack, learned positions drawn out to each grid, interleaved M-RoPE. */
import { inBlocks } from '../../ingest/image/preprocess.ts'
import type { ConfigReader, ProxyConfig } from '../config.ts'
import { affine, type Family, type Parameter, parameter } from '../model.ts'
import { float32, int32, type Ops } from '../ops.ts'
import { blended } from '../vision.ts'
import {
  mergedWidth,
  mergeOf,
  mlp,
  mlpParameters,
  plainBlock,
  plainBlockParameters,
  QWEN,
  type QwenDefaults,
  qwenInputs,
  qwenPatches,
  qwenPatchShape,
  qwenTables,
  readQwen,
  shrunkQwen,
} from './qwen.ts'

/** Qwen3VLConfig's. */
const DEFAULTS: QwenDefaults = {
  vision: {
    width: 1152,
    intermediate: 4304,
    layers: 27,
    heads: 16,
    patchSize: 16,
    activation: 'gelu_pytorch_tanh',
  },
  text: { width: 4096, headDim: 128, headNorm: 'rms', positions: 128_000, theta: 5_000_000 },
  axes: 'interleaved',
  imageTokenId: 151_655,
}

const LAYERS = ['mlp.linear_fc1', 'mlp.linear_fc2'] as const
const MERGER_LAYERS = ['linear_fc1', 'linear_fc2'] as const

export const qwen3vl: Family = {
  ...QWEN,
  kind: 'qwen3_vl',
  readConfig: (top, checkpointDir) => readQwen('qwen3_vl', top, checkpointDir, DEFAULTS, readOwn),
  tower: {
    parameters: towerParameters,
    inputs: config => ({
      ...qwenInputs(config),
      corners: int32(1, 'K'),
      cornerWeights: float32(1, 'K', 1),
    }),
    tables: (config, grid, tiles) => ({
      ...qwenTables(config, grid, tiles),
      ...cornerTables(config, grid),
    }),
    run: runTower,
    width: config => mergedWidth(config) * (1 + tapsOf(config).length),
  },
  connector: {
    parameters: connectorParameters,
    run: (ops, config, features) => {
      const width = mergedWidth(config)
      const { epsilon } = config.vision
      const level = (l: number) => ops.channels(features, l * width, width)
      const apart = ops.layerNorm(
        ops.joinRows(level(0), config.vision.width),
        'connector.merger.norm',
        epsilon,
      )
      return {
        images: mlp(ops, ops.joinRows(apart, width), 'connector.merger.', MERGER_LAYERS),
        deep: tapsOf(config).map((_, i) => {
          const at = `connector.deepstack_merger_list.${i}.`
          return mlp(ops, ops.layerNorm(level(1 + i), `${at}norm`, epsilon), at, MERGER_LAYERS)
        }),
      }
    },
  },
  shrunk: (config, gridMax) => shrunkQwen(config, gridMax, { taps: [0] }),
}

function readOwn(reader: ConfigReader): { taps: number[]; tableSide: number } {
  const taps = reader.has('deepstack_visual_indexes')
    ? reader.list('deepstack_visual_indexes').map(Number)
    : [8, 16, 24]
  if (taps.some((tap, i) => !Number.isInteger(tap) || tap <= (taps[i - 1] ?? -1))) {
    throw reader.invalid('deepstack_visual_indexes', 'ascending numbers of blocks are expected')
  }
  const tableSide = Math.sqrt(reader.positive('num_position_embeddings', 2304))
  if (Number.isInteger(tableSide)) return { taps, tableSide }
  throw reader.invalid('num_position_embeddings', 'a square is expected')
}

function tapsOf({ more }: ProxyConfig): readonly number[] {
  return more!.taps as readonly number[]
}

function towerParameters(config: ProxyConfig): Parameter[] {
  const { width, layersRun } = config.vision
  const side = config.more!.tableSide as number
  const list = [
    parameter('vision.patch_embed.proj.weight', qwenPatchShape(config)),
    parameter('vision.patch_embed.proj.bias', [width]),
    parameter('vision.pos_embed.weight', [side * side, width]),
  ]
  for (let layer = 0; layer < layersRun; layer++) {
    list.push(...plainBlockParameters(config, `vision.blocks.${layer}.`, LAYERS))
  }
  return list
}

/** The last block's patches and those of each tap, merge × merge of them side by side. */
function runTower<V>(
  ops: Ops<V>,
  config: ProxyConfig,
  inputs: Record<string, V>,
): readonly [V, ...V[]] {
  const { vision, more } = config
  const { patches, cos, sin, corners, cornerWeights } = inputs as Record<string, V> & { cos: V }
  const side = more!.tableSide as number
  const table = ops.weight('vision.pos_embed.weight', [1, side * side, vision.width])
  const places = blended(ops, table, corners!, cornerWeights!)
  const turns = { cos, sin: sin! }
  let x = ops.add(qwenPatches(ops, config, patches!), places)
  const levels: V[] = []
  for (let layer = 0; layer < vision.layersRun; layer++) {
    x = plainBlock(ops, config, `vision.blocks.${layer}.`, x, { turns, layers: LAYERS })
    if (tapsOf(config).includes(layer)) levels.push(ops.joinRows(x, mergedWidth(config)))
  }
  return [ops.joinRows(x, mergedWidth(config)), ...levels]
}

/** Bilinear, corners on corners: which rows of the learned table each patch mixes, and by what weights. */
function cornerTables(config: ProxyConfig, [rows, columns]: readonly [number, number]) {
  const side = config.more!.tableSide as number
  const [corners, weights]: [number[], number[]] = [[], []]
  for (const [row, column] of inBlocks(rows, columns, mergeOf(config))) {
    const [y, x] = [cornersOf(row, rows, side), cornersOf(column, columns, side)]
    const at = (row: number, column: number): number => row * side + column
    corners.push(at(y.low, x.low), at(y.low, x.high), at(y.high, x.low), at(y.high, x.high))
    const [dy, dx] = [y.share, x.share]
    weights.push((1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx)
  }
  return {
    corners: { data: Int32Array.from(corners), shape: [1, corners.length] },
    cornerWeights: { data: Float32Array.from(weights), shape: [1, weights.length, 1] },
  }
}

function cornersOf(i: number, count: number, side: number) {
  const at = (i * (side - 1)) / Math.max(count - 1, 1)
  const low = Math.floor(at)
  return { low, high: Math.min(low + 1, side - 1), share: at - low }
}

function connectorParameters(config: ProxyConfig): Parameter[] {
  const width = mergedWidth(config)
  const merger = (at: string, normWidth: number): Parameter[] => [
    ...affine(`${at}norm`, [normWidth]),
    ...mlpParameters(at, MERGER_LAYERS, [width, width, config.text.width]),
  ]
  return [
    ...merger('connector.merger.', config.vision.width),
    ...tapsOf(config).flatMap((_, i) => merger(`connector.deepstack_merger_list.${i}.`, width)),
  ]
}
