/**
 * InternVL3 in its Hugging Face layout: an InternViT over square tiles, whose f × f neighbouring patches become
 * one token. N patches of a tile, C vision channels.
 */

import type { Picture, Pictures, PixelBudget } from '../../ingest/image/picture.ts'
import { checkPixels, type ImageLimits, type Rgb } from '../../ingest/image/pixels.ts'
import { inBlocks } from '../../ingest/image/preprocess.ts'
import { cropped, resize } from '../../ingest/image/resize.ts'
import {
  type ConfigReader,
  type ProxyConfig,
  patchesPerImage,
  type VisionConfig,
} from '../config.ts'
import { affine, type Family, linear, namedBy, type Parameter, parameter } from '../model.ts'
import { float32, int32, type Ops } from '../ops.ts'
import { factorOf, joinedWidth, patchRows, shrunkJoined } from '../vision.ts'
import { lengthMaxOf, QWEN2, readText, type TextForm, textForm } from './parts.ts'
import { CLIP_LOOK, type Look, processorReader, readLook, tilePatches } from './pictures.ts'

/** torch's own, of the connector's LayerNorm. */
const EPSILON = 1e-5

const PROJECTION = 'vision.embeddings.patch_embedding'

export const internvl: Family = {
  kind: 'internvl',
  readConfig,
  nameOf: path => named(path)?.replace('vision.embeddings.patch_embeddings.projection', PROJECTION),
  tower: {
    parameters: towerParameters,
    inputs: ({ vision }) => ({
      patches: float32('M', patchesPerImage(vision), 3 * vision.patchSize ** 2),
      places: int32(1, patchesPerImage(vision) + 1),
    }),
    tables: (config, [side]) => {
      const blocks = inBlocks(side, side, factorOf(config))
      const places = [0, ...blocks.map(([row, column]) => 1 + row * side + column)]
      return { places: { data: Int32Array.from(places), shape: [1, places.length] } }
    },
    run: runTower,
    width: joinedWidth,
  },
  connector: {
    parameters: config => [
      ...affine('connector.layer_norm', [joinedWidth(config)]),
      ...linear('connector.linear_1', [config.text.width, joinedWidth(config)]),
      ...linear('connector.linear_2', [config.text.width, config.text.width]),
    ],
    run: (ops, { connector: { activation } }, features) => {
      const inner = ops.linear(
        ops.layerNorm(features, 'connector.layer_norm', EPSILON),
        'connector.linear_1',
      )
      return { images: ops.linear(ops.activation(inner, activation), 'connector.linear_2') }
    },
  },
  pictures,
  usual: ({ vision }) => ({ patches: patchesPerImage(vision) }),
  shrunk: shrunkJoined,
}

const named = namedBy({
  parts: {
    language_model: 'text',
    lm_head: 'head',
    vision_tower: 'vision',
    multi_modal_projector: 'connector',
  },
  containers: ['model'],
})

function readConfig(top: ConfigReader, checkpointDir: string): ProxyConfig {
  const vision = readVision(top)
  const factor = 1 / top.positiveReal('downsample_ratio', 0.5)
  const side = vision.imageSize / vision.patchSize
  if (!Number.isInteger(factor) || !Number.isInteger(side / factor)) {
    throw top.invalid(
      'downsample_ratio',
      `1/${factor} does not divide the ${side} patches of a side`,
    )
  }
  top.oneOf('vision_feature_select_strategy', ['default'])
  if (top.integer('vision_feature_layer', -1) !== -1)
    throw top.unsupported('vision_feature_layer', '-1')
  const form = readForm(top)
  const lengthMax = lengthMaxOf(top, checkpointDir, form)
  const own = top.section('vision_config')!
  return {
    kind: 'internvl',
    vision,
    connector: { activation: top.activation('projector_hidden_act', 'gelu') },
    text: readText(top, lengthMax, form),
    imageTokens: (side / factor) ** 2,
    imageTokenId: top.integer('image_token_id', 151_667),
    lengthMax,
    aspect: 'square',
    more: {
      factor,
      norm: own.oneOf('norm_type', ['layer_norm', 'rms_norm']) ?? 'layer_norm',
      headNorm: own.flag('use_qk_norm', false),
      lastNorm: !own.flag('use_mean_pooling', true),
    },
  }
}

/** A Qwen2 where `text_config` does not say. */
function readForm(top: ConfigReader): TextForm {
  const reader = top.section('text_config')
  if (reader === undefined || reader.has('model_type')) return textForm(top)
  return { reader, family: 'qwen2', defaults: QWEN2 }
}

function readVision(top: ConfigReader): VisionConfig {
  const reader = top.section('vision_config')
  if (reader === undefined) throw top.invalid('vision_config', 'an object is expected')
  const layers = reader.positive('num_hidden_layers', 24)
  if (!reader.flag('use_absolute_position_embeddings', true)) {
    throw reader.unsupported('use_absolute_position_embeddings', 'true')
  }
  return {
    family: 'internvl',
    width: reader.positive('hidden_size', 1024),
    intermediate: reader.positive('intermediate_size', 4096),
    layers,
    heads: reader.positive('num_attention_heads', 16),
    imageSize: squareSide(reader, 'image_size', 448),
    patchSize: squareSide(reader, 'patch_size', 14),
    activation: reader.activation('hidden_act', 'gelu'),
    epsilon: reader.positiveReal('layer_norm_eps', 1e-6),
    layersRun: layers,
    dropFirstRow: true,
  }
}

/** A side, or [height, width] that are equal. */
function squareSide(reader: ConfigReader, key: string, otherwise: number): number {
  if (!reader.isList(key)) return reader.positive(key, otherwise)
  const [height, width] = reader.list(key).map(Number)
  if (height === width && Number.isInteger(height)) return height!
  throw reader.unsupported(key, 'a square')
}

function towerParameters({ vision, more }: ProxyConfig): Parameter[] {
  const { width, intermediate, patchSize } = vision
  const norm = (name: string): Parameter[] =>
    more!.norm === 'rms_norm' ? [parameter(`${name}.weight`, [width])] : affine(name, [width])
  const list = [
    parameter(`${PROJECTION}.weight`, [width, 3, patchSize, patchSize]),
    parameter(`${PROJECTION}.bias`, [width]),
    parameter('vision.embeddings.cls_token', [1, 1, width]),
    parameter('vision.embeddings.position_embeddings', [1, patchesPerImage(vision) + 1, width]),
  ]
  for (let layer = 0; layer < vision.layersRun; layer++) {
    const at = `vision.encoder.layer.${layer}.`
    list.push(...norm(`${at}layernorm_before`), ...norm(`${at}layernorm_after`))
    for (const name of ['q_proj', 'k_proj', 'v_proj', 'projection_layer']) {
      list.push(...linear(`${at}attention.${name}`, [width, width]))
    }
    const heads = more!.headNorm ? ['q_norm', 'k_norm'] : []
    list.push(...heads.map(name => parameter(`${at}attention.${name}.weight`, [width])))
    list.push(parameter(`${at}lambda_1`, [width]), parameter(`${at}lambda_2`, [width]))
    list.push(...affine(`${at}mlp.fc1`, [intermediate, width]))
    list.push(...affine(`${at}mlp.fc2`, [width, intermediate]))
  }
  return more!.lastNorm ? [...list, ...affine('vision.layernorm', [width])] : list
}

function runTower<V>(ops: Ops<V>, config: ProxyConfig, inputs: Record<string, V>): [V] {
  const { vision, more } = config
  const { width, epsilon } = vision
  const table = ops.weight('vision.embeddings.position_embeddings', [
    1,
    patchesPerImage(vision) + 1,
    width,
  ])
  const rows = ops.prependRow(
    patchRows(ops, vision, inputs.patches!),
    'vision.embeddings.cls_token',
  )
  let x = ops.add(rows, ops.gatherFlatRows(table, inputs.places!)) // [M, 1+N, C]
  for (let layer = 0; layer < vision.layersRun; layer++) x = block(ops, config, layer, x)
  if (more!.lastNorm) x = ops.layerNorm(x, 'vision.layernorm', epsilon)
  return [ops.joinRows(ops.dropFirstRow(x), joinedWidth(config))]
}

function block<V>(ops: Ops<V>, { vision, more }: ProxyConfig, layer: number, x: V): V {
  const { width, heads, epsilon, activation } = vision
  const at = `vision.encoder.layer.${layer}.`
  const norm = (y: V, name: string): V =>
    more!.norm === 'rms_norm'
      ? ops.rmsNorm(y, at + name, epsilon)
      : ops.layerNorm(y, at + name, epsilon)
  const h = norm(x, 'layernorm_before')
  const projected = (name: string): V => ops.linear(h, `${at}attention.${name}_proj`)
  /** Over all heads together; its epsilon is the class's own. */
  const normed = (name: 'q' | 'k'): V =>
    more!.headNorm
      ? ops.rmsNorm(projected(name), `${at}attention.${name}_norm`, 1e-6)
      : projected(name)
  const shape = { heads, kvHeads: heads, headDim: width / heads, causal: false }
  const mixed = ops.attention(normed('q'), normed('k'), projected('v'), shape)
  const attended = ops.linear(mixed, `${at}attention.projection_layer`)
  const y = ops.add(x, ops.mul(attended, ops.weight(`${at}lambda_1`)))
  const inner = ops.linear(norm(y, 'layernorm_after'), `${at}mlp.fc1`)
  const fed = ops.linear(ops.activation(inner, activation), `${at}mlp.fc2`)
  return ops.add(y, ops.mul(fed, ops.weight(`${at}lambda_2`)))
}

/* Pictures. */

function pictures(config: ProxyConfig, checkpointDir: string, budget: PixelBudget): Pictures {
  const { vision, imageTokens } = config
  const edge = vision.imageSize
  const reader = processorReader(checkpointDir)
  const size = reader.section('size')
  if (
    (size?.integer('height', 384) ?? 384) !== edge ||
    (size?.integer('width', edge) ?? edge) !== edge
  ) {
    throw reader.invalid('size', `the vision tower takes tiles of ${edge}×${edge}`)
  }
  const look = readLook(reader, CLIP_LOOK)
  const own = { min: reader.positive('min_patches', 1), max: reader.positive('max_patches', 12) }
  const tiles =
    budget === 'checkpoint' ? own : { min: 1, max: Math.floor((budget ?? 1) / (edge * edge)) }
  const side = edge / vision.patchSize
  const placeholder = '<IMG_CONTEXT>'
  return {
    placeholder,
    inOnePiece: true,
    described: { look, edge, tiles },
    cut: (image, _, limits): Picture => {
      const cut = tilesOf(image, { look, edge, tiles }, limits)
      const positions = cut.length * imageTokens
      return {
        patches: tilePatches(cut, look, vision.patchSize, { block: factorOf(config) }),
        cut: { tiles: cut.length, grid: [side, side], features: positions, positions },
        text: `<img>${placeholder.repeat(positions)}</img>`,
      }
    },
  }
}

type Tiling = { look: Look; edge: number; tiles: { min: number; max: number } }

/** Tiles row by row, and behind several of them the whole picture. */
function tilesOf(
  image: Rgb,
  { look: { resample }, edge, tiles }: Tiling,
  limits: Pick<ImageLimits, 'pixelsMax'>,
): Rgb[] {
  const whole = { width: edge, height: edge, resample }
  if (tiles.max < 2) return [resize(image, whole)]
  const [columns, rows] = bestGrid(image, edge, tiles)
  const target = { width: columns * edge, height: rows * edge }
  checkPixels(target, limits, `image in tiles, of ${image.width}×${image.height},`)
  const field = resize(image, { ...target, resample })
  if (columns * rows === 1) return [field]
  const parts = inBlocks(rows, columns, 1).map(([row, column]) =>
    cropped(field, { left: column * edge, top: row * edge, width: edge, height: edge }),
  )
  return [...parts, resize(image, whole)]
}

/**
 * The grid nearest to the picture's ratio; of equal ones the largest that is less than twice the picture.
 * Grids are tried by their number of tiles, then by their columns.
 */
export function bestGrid(
  { width, height }: { width: number; height: number },
  edge: number,
  { min, max }: Tiling['tiles'],
): [columns: number, rows: number] {
  const grids: [number, number][] = []
  for (let columns = 1; columns <= max; columns++) {
    for (let rows = 1; rows <= max; rows++) {
      if (columns * rows >= min && columns * rows <= max) grids.push([columns, rows])
    }
  }
  grids.sort((a, b) => a[0] * a[1] - b[0] * b[1])
  let [best, least]: [[number, number], number] = [[1, 1], Number.POSITIVE_INFINITY]
  for (const [columns, rows] of grids) {
    const difference = Math.abs(width / height - columns / rows)
    const isFilled = width * height > 0.5 * edge * edge * columns * rows
    if (difference < least || (difference === least && isFilled)) best = [columns, rows]
    least = Math.min(least, difference)
  }
  return best
}
