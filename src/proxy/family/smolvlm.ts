/**
 * SmolVLM, SmolVLM2 and Idefics3: a SigLIP of square tiles, whose f × f neighbouring patches become one
 * token. N patches of a tile, C vision channels.
 */

import type { Picture, Pictures, PixelBudget } from '../../ingest/image/picture.ts'
import type { Rgb } from '../../ingest/image/pixels.ts'
import { checkPixels, type ImageLimits } from '../../ingest/image/pixels.ts'
import { inBlocks } from '../../ingest/image/preprocess.ts'
import { cropped, RESAMPLE, resize } from '../../ingest/image/resize.ts'
import {
  type ConfigReader,
  type ProxyConfig,
  patchesPerImage,
  type VisionConfig,
} from '../config.ts'
import { affine, type Family, linear, namedBy } from '../model.ts'
import { float32, int32 } from '../ops.ts'
import {
  encoder,
  encoderParameters,
  factorOf,
  joinedWidth,
  patchRows,
  shrunkJoined,
} from '../vision.ts'
import { lengthMaxOf, readText } from './parts.ts'
import { HALF_LOOK, type Look, processorReader, readLook, tilePatches } from './pictures.ts'

export const smolvlm = familyOfKind('smolvlm')
export const idefics3 = familyOfKind('idefics3')

function familyOfKind(kind: string): Family {
  return {
    kind,
    readConfig: (top, checkpointDir) => readConfig(kind, top, checkpointDir),
    nameOf: namedBy({
      parts: {
        text_model: 'text',
        lm_head: 'head',
        vision_model: 'vision',
        connector: 'connector',
      },
      containers: ['modality_projection'],
    }),
    tower: {
      parameters: ({ vision }) => [
        ...encoderParameters(vision),
        ...affine('vision.post_layernorm', [vision.width]),
      ],
      inputs: ({ vision }) => {
        const count = patchesPerImage(vision)
        return {
          patches: float32('M', count, 3 * vision.patchSize ** 2),
          places: int32(1, count),
        }
      },
      tables: (config, [side]) => {
        const buckets = positionBuckets(side)
        const places = inBlocks(side, side, factorOf(config)).map(
          ([row, column]) => buckets[row]! * side + buckets[column]!,
        )
        return { places: { data: Int32Array.from(places), shape: [1, side * side] } }
      },
      run: (ops, config, { patches, places }) => {
        const { vision } = config
        const table = 'vision.embeddings.position_embedding.weight'
        const embedded = ops.add(patchRows(ops, vision, patches!), ops.embed(places!, table))
        const x = encoder(ops, vision, embedded) // [M, N, C]
        const normed = ops.layerNorm(x, 'vision.post_layernorm', vision.epsilon)
        return [ops.joinRows(normed, joinedWidth(config))]
      },
      width: joinedWidth,
    },
    connector: {
      parameters: config => linear('connector.proj', [config.text.width, joinedWidth(config)]),
      run: (ops, _, features) => ({ images: ops.linear(features, 'connector.proj') }),
    },
    pictures,
    usual: ({ vision }) => ({ patches: patchesPerImage(vision) }),
    shrunk: shrunkJoined,
  }
}

function readConfig(kind: string, top: ConfigReader, checkpointDir: string): ProxyConfig {
  const vision = readVision(top)
  const factor = top.positive('scale_factor', 2)
  const side = vision.imageSize / vision.patchSize
  if (!Number.isInteger(side / factor)) {
    throw top.invalid('scale_factor', `it does not divide the ${side} patches of a side`)
  }
  const lengthMax = lengthMaxOf(top, checkpointDir)
  return {
    kind,
    vision,
    connector: { activation: 'gelu' },
    text: readText(top, lengthMax),
    imageTokens: (side / factor) ** 2,
    imageTokenId: top.integer('image_token_id', 128_257),
    lengthMax,
    aspect: 'square',
    more: { factor },
  }
}

/** SmolVLMVisionConfig and Idefics3VisionConfig, which are the same. */
function readVision(top: ConfigReader): VisionConfig {
  const reader = top.section('vision_config')
  if (reader === undefined) throw top.invalid('vision_config', 'an object is expected')
  const layers = reader.positive('num_hidden_layers', 12)
  const vision: VisionConfig = {
    family: 'siglip',
    width: reader.positive('hidden_size', 1152),
    intermediate: reader.positive('intermediate_size', 3072),
    layers,
    heads: reader.positive('num_attention_heads', 16),
    imageSize: reader.positive('image_size', 224),
    patchSize: reader.positive('patch_size', 32),
    activation: reader.activation('hidden_act', 'gelu_pytorch_tanh'),
    epsilon: reader.positiveReal('layer_norm_eps', 1e-6),
    layersRun: layers,
    dropFirstRow: false,
  }
  if (vision.width % vision.heads !== 0) {
    throw reader.invalid('num_attention_heads', `it does not divide hidden_size ${vision.width}`)
  }
  return vision
}

/**
 * The row of the position table for each patch of a side, as float32 gives it: transformers looks up
 * k · (1/side) among the boundaries 1/side, 2/side …, and for some sides a product falls below its own
 * boundary.
 */
export function positionBuckets(side: number): number[] {
  const step = 1 / side
  const boundaries = Array.from({ length: side - 1 }, (_, i) => boundary(i, step, side - 1))
  return Array.from({ length: side }, (_, k) => {
    const place = Math.fround(k * Math.fround(step))
    return boundaries.filter(boundary => boundary <= place).length
  })
}

/** What a loop of torch.arange takes at once, on a CPU with AVX2: two vectors of 8. */
const [VECTOR, LOOP] = [8, 16]

/** Value `i` of `count` of torch.arange(step, 1, step): a vector adds to its rounded first value. */
function boundary(i: number, step: number, count: number): number {
  if (i >= Math.floor(count / LOOP) * LOOP) return Math.fround(step + i * step)
  const first = Math.fround(step + (i - (i % VECTOR)) * step)
  return Math.fround(first + (i % VECTOR) * step)
}

/* Pictures. */

type Cutting = {
  look: Look
  /** The side of a tile. */
  edge: number
  /** The longer side that a picture is brought to first. */
  longest: number
  isSplit: boolean
}

function pictures(config: ProxyConfig, checkpointDir: string, budget: PixelBudget): Pictures {
  const cutting = readCutting(config, checkpointDir, budget)
  const { vision, imageTokens } = config
  const side = vision.imageSize / vision.patchSize
  return {
    placeholder: '<image>',
    inOnePiece: true,
    described: cutting,
    cut: (image, _, limits): Picture => {
      const { tiles, rows, columns } = tilesOf(image, cutting, limits)
      const order = { block: factorOf(config) }
      const positions = tiles.length * imageTokens
      return {
        patches: tilePatches(tiles, cutting.look, vision.patchSize, order),
        cut: { tiles: tiles.length, grid: [side, side], features: positions, positions },
        text: expansion(imageTokens, rows, columns),
      }
    },
  }
}

/** One square picture by default; with more pixels, as many tiles as they make. */
function readCutting({ vision }: ProxyConfig, checkpointDir: string, budget: PixelBudget): Cutting {
  const reader = processorReader(checkpointDir)
  const edge = reader.section('max_image_size')?.positive('longest_edge') ?? 364
  if (edge !== vision.imageSize) {
    const reason = `the vision tower takes tiles of ${vision.imageSize}×${vision.imageSize}`
    throw reader.invalid('max_image_size', reason)
  }
  const look = readLook(reader, { ...HALF_LOOK, resample: RESAMPLE.lanczos })
  const longest = reader.section('size')?.positive('longest_edge') ?? 4 * 364
  const own = { look, edge, longest, isSplit: reader.flag('do_image_splitting', true) }
  if (budget === 'checkpoint') return own
  const across = Math.floor(Math.sqrt(budget ?? 1) / edge)
  return across < 2 ? { ...own, isSplit: false } : { ...own, longest: across * edge, isSplit: true }
}

/** Tiles row by row and then the whole picture; `rows` is 0 where there is the whole picture alone. */
function tilesOf(
  image: Rgb,
  { look: { resample }, edge, longest, isSplit }: Cutting,
  limits: Pick<ImageLimits, 'pixelsMax'>,
): { tiles: Rgb[]; rows: number; columns: number } {
  const first = withLongest(image, longest)
  checkPixels(first, limits, `resized image, of ${image.width}×${image.height},`)
  const whole = { width: edge, height: edge, resample }
  const resized = resize(image, { ...first, resample })
  if (!isSplit) return { tiles: [resize(resized, whole)], rows: 0, columns: 0 }
  const target = inWholeTiles(first, edge)
  checkPixels(target, limits, `resized image, of ${image.width}×${image.height},`)
  const field = resize(resized, { ...target, resample })
  const [rows, columns] = [target.height / edge, target.width / edge]
  if (rows === 1 && columns === 1) return { tiles: [field], rows: 0, columns: 0 }
  const tiles = inBlocks(rows, columns, 1).map(([row, column]) =>
    cropped(field, { left: column * edge, top: row * edge, width: edge, height: edge }),
  )
  return { tiles: [...tiles, resize(field, whole)], rows, columns }
}

type Size = { width: number; height: number }

/** The longer side becomes `longest`, the other keeps the ratio and is even. */
function withLongest({ width, height }: Size, longest: number): Size {
  const ratio = width / height
  const even = (side: number): number => Math.max(1, side + (side % 2))
  return width >= height
    ? { width: longest, height: even(Math.trunc(longest / ratio)) }
    : { width: even(Math.trunc(longest * ratio)), height: longest }
}

function inWholeTiles({ width, height }: Size, edge: number): Size {
  const ratio = width / height
  const up = (side: number): number => Math.ceil(side / edge) * edge
  return width >= height
    ? { width: up(width), height: up(Math.trunc(up(width) / ratio)) }
    : { width: up(Math.trunc(up(height) * ratio)), height: up(height) }
}

/** The text of a picture. */
function expansion(imageTokens: number, rows: number, columns: number): string {
  const tile = (name: string): string =>
    `<fake_token_around_image>${name}${'<image>'.repeat(imageTokens)}`
  let text = ''
  for (let row = 1; row <= rows; row++) {
    for (let column = 1; column <= columns; column++) text += tile(`<row_${row}_col_${column}>`)
    text += '\n'
  }
  return `${text}${rows > 0 ? '\n' : ''}${tile('<global-img>')}<fake_token_around_image>`
}
