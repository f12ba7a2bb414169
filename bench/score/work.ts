/**
 * The matrix products of scoring, counted: multiplications of the published way, and of xmasd's. Shapes: T
 * tokens of a sequence, N patches of a tile.
 */
import { familyOf } from '../../src/proxy/checkpoint/config.ts'
import { type Parameter, parametersOf } from '../../src/proxy/checkpoint/parameters.ts'
import type { ProxyConfig } from '../../src/proxy/config.ts'
import {
  distinctImages,
  type Image,
  LIMITS,
  packBatch,
  packingOf,
  planBatches,
  prefixKey,
  prefixLength,
  type Sequence,
} from '../../src/score/batch.ts'

/** Whose products are counted, and of which model: `all` its layers, or those that the score reads. */
type Model = { config: ProxyConfig; all: boolean }

export type Schedule = { checkpoints: number; visionShared: boolean }

/** How many times the products of xmasd the published way computes. */
export function workSaved(
  config: ProxyConfig,
  sequences: readonly Sequence[],
  schedule: Schedule,
): number {
  return publishedProducts(config, sequences, schedule) / ownProducts(config, sequences, schedule)
}

/** Every example at every checkpoint alone: tower, all tokens, logits, the whole map of every layer. */
function publishedProducts(
  config: ProxyConfig,
  sequences: readonly Sequence[],
  { checkpoints }: Schedule,
): number {
  const model = { config, all: true }
  const { text } = config
  const one = ({ ids: { length }, images }: Sequence): number =>
    towerProducts(model, images) +
    connectorProducts(model, images) +
    length * (linear(model, 'text.layers.') + text.vocab * text.width) +
    3 * text.layers * length ** 2 * text.heads * text.headDim
  return checkpoints * sum(sequences.map(one))
}

/** Pass by pass, as `packBatch` lays tokens out. */
function ownProducts(
  config: ProxyConfig,
  sequences: readonly Sequence[],
  { checkpoints, visionShared }: Schedule,
): number {
  const model = { config, all: false }
  const { text } = config
  const passes = planBatches(sequences, LIMITS).map(indices => indices.map(i => sequences[i]!))
  const score = passes.map(pass => {
    const { images, inputs } = packBatch(pass, packingOf(config))
    const tokens = inputs.ids.data.length
    const prefixes = new Map(pass.map(one => [prefixKey(one), prefixLength(one)]))
    const seen =
      sum([...prefixes.values()].map(length => length ** 2)) +
      sum(pass.map(one => (one.ids.length - prefixLength(one)) * one.ids.length))
    const rows = sum(pass.map(({ rows, ids }) => rows.length * ids.length))
    return (
      connectorProducts(model, images) +
      tokens * linear(model, 'text.layers.') +
      2 * (text.layers - 1) * seen * text.heads * text.headDim +
      text.layers * rows * text.kvHeads * text.headDim
    )
  })
  const towers = (visionShared ? 1 : checkpoints) * towerProducts(model, distinctImages(sequences))
  return towers + checkpoints * sum(score)
}

function towerProducts(model: Model, images: readonly Image[]): number {
  const { config, all } = model
  const { width, layers, layersRun } = config.vision
  const values = familyOf(config).tower.inputs(config).patches!.shape[2] as number
  return sum(
    images.map(({ patches, cut }) => {
      const count = patches.length / values
      const tile = count / (cut?.tiles ?? 1)
      const attention = 2 * (all ? layers : layersRun) * count * tile * width
      return count * linear(model, 'vision.') + attention
    }),
  )
}

function connectorProducts(model: Model, images: readonly Image[]): number {
  const rows = images.map(({ cut }) => cut?.features ?? model.config.imageTokens)
  return sum(rows) * linear(model, 'connector.')
}

/** Multiplications of a row with the weights whose names begin like this, tables left out. */
function linear({ config, all }: Model, prefix: string): number {
  const { vision } = config
  const layersRun = all ? vision.layers : vision.layersRun
  const run = { ...config, vision: { ...vision, layersRun } }
  const isProduct = ({ name, shape }: Parameter): boolean =>
    name.startsWith(prefix) && shape.length > 1 && !/pos(ition)?_embed/.test(name)
  const weights = parametersOf(run, all ? 'logits' : 'projections').filter(isProduct)
  return sum(weights.map(({ shape }) => shape.reduce((product, size) => product * size, 1)))
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
