/**
 * Hugging Face's LlavaNextForConditionalGeneration and LlavaOnevisionForConditionalGeneration. Both
 * cut pictures in tiles: the whole picture first, then tiles of it on the grid that suits it best; a
 * learned row ends each line of the field that the tiles make.
 */

import {
  type Cut,
  NEWLINE,
  type Picture,
  type Pictures,
  type PixelBudget,
} from '../../ingest/image/picture.ts'
import { checkPixels, type ImageLimits, type Rgb } from '../../ingest/image/pixels.ts'
import { inBlocks, padToSquare, placed } from '../../ingest/image/preprocess.ts'
import { cropped, resize } from '../../ingest/image/resize.ts'
import { type ConfigReader, type ProxyConfig, patchesPerImage } from '../config.ts'
import { type Family, namedBy } from '../model.ts'
import { featureRows, MLP_CONNECTOR, SQUARE_TOWER } from '../vision.ts'
import { LLAVA_MODULES, shrunkSquare } from './llava.ts'
import { lengthMaxOf, readText, readVision } from './parts.ts'
import {
  CLIP_LOOK,
  HALF_LOOK,
  type Look,
  processorReader,
  readLook,
  tilePatches,
} from './pictures.ts'

/** Width and height of a field of tiles, in pixels. */
type Pinpoint = readonly [height: number, width: number]

type Size = { width: number; height: number }

const named = namedBy(LLAVA_MODULES)

/** What both have. */
const ANYRES = {
  nameOf: path => (path[0] === 'image_newline' ? 'connector.newline' : named(path)),
  tower: SQUARE_TOWER,
  connector: MLP_CONNECTOR,
  usual: config => ({ patches: patchesPerImage(config.vision), cut: wholeCut(config) }),
  shrunk(config, gridMax) {
    const small = shrunkSquare(config, gridMax)
    return { ...small, imageTokens: small.imageTokens + 1 }
  },
} satisfies Partial<Family>

/** LlavaNextConfig's. */
const NEXT_PINPOINTS: readonly Pinpoint[] = [
  [336, 672],
  [672, 336],
  [672, 672],
  [1008, 336],
  [336, 1008],
]

/** LLaVA 1.6. */
export const llavaNext: Family = {
  kind: 'llava_next',
  readConfig(top, checkpointDir) {
    const vision = readVision(top, ['default', 'full'])
    return {
      kind: 'llava_next',
      ...readAnyres(top, checkpointDir, vision, 32_000),
      more: { pinpoints: readPinpoints(top, NEXT_PINPOINTS).flat() },
    }
  },
  ...ANYRES,
  pictures(config, checkpointDir, budget) {
    const reader = processorReader(checkpointDir)
    const pinpoints = readFields(reader, config, NEXT_PINPOINTS, budget)
    return anyresPictures(config, { look: readLook(reader, CLIP_LOOK), pinpoints })
  },
}

/** LlavaOnevisionConfig's: up to 6 × 6 tiles of 384. */
const TILES = [1, 2, 3, 4, 5, 6]
const ONEVISION_PINPOINTS: readonly Pinpoint[] = TILES.flatMap(rows =>
  TILES.map((columns): Pinpoint => [384 * rows, 384 * columns]),
)

export const llavaOnevision: Family = {
  kind: 'llava_onevision',
  readConfig(top, checkpointDir) {
    const vision = readVision(top, ['default', 'full'], { layer: -1, strategy: 'full' })
    return {
      kind: 'llava_onevision',
      ...readAnyres(top, checkpointDir, vision, 151_646),
      blends: true,
      more: {
        pinpoints: readPinpoints(top, ONEVISION_PINPOINTS).flat(),
        tilesMax: readTilesMax(top),
      },
    }
  },
  ...ANYRES,
  pictures(config, checkpointDir, budget) {
    const reader = processorReader(checkpointDir)
    return anyresPictures(config, {
      look: readLook(reader, HALF_LOOK),
      pinpoints: readFields(reader, config, ONEVISION_PINPOINTS, budget),
      tilesMax: config.more!.tilesMax as number,
      onePadded: true,
    })
  },
}

/** `anyres_max_N`. Throws PROXY_UNSUPPORTED. */
function readTilesMax(top: ConfigReader): number {
  const aspect = top.text('vision_aspect_ratio', 'anyres_max_9')
  const found = /^anyres_max_(\d+)$/.exec(aspect)?.[1]
  if (found === undefined) throw top.unsupported('vision_aspect_ratio', 'anyres_max_N')
  return Number(found)
}

/** `image_grid_pinpoints`, flat. Throws PROXY_INVALID. */
function readPinpoints(reader: ConfigReader, otherwise: readonly Pinpoint[]): Pinpoint[] {
  const key = 'image_grid_pinpoints'
  if (!reader.has(key)) return [...otherwise]
  return reader.list(key).map(pair => {
    const [height, width] = Array.isArray(pair) ? pair.map(Number) : []
    if (height && width) return [height, width]
    throw reader.invalid(key, 'a list of [height, width] is expected')
  })
}

/** The configuration that both have; each adds its `kind` and its `more`. Throws PROXY_INVALID. */
function readAnyres(
  top: ConfigReader,
  checkpointDir: string,
  vision: ProxyConfig['vision'],
  imageTokenId: number,
) {
  checkTiles(top, vision)
  const lengthMax = lengthMaxOf(top, checkpointDir)
  return {
    vision,
    connector: { activation: top.activation('projector_hidden_act', 'gelu') },
    text: readText(top, lengthMax),
    imageTokens: featureRows(vision) + 1,
    imageTokenId: top.integer('image_token_index', top.integer('image_token_id', imageTokenId)),
    lengthMax,
    aspect: 'square',
    newline: true,
  } as const
}

/** The field that keeps most of a picture's pixels; of equal ones that with least around them. */
function bestPinpoint(pinpoints: readonly Pinpoint[], { width, height }: Size): Pinpoint {
  let [best, most, least] = [pinpoints[0]!, -1, Number.POSITIVE_INFINITY]
  for (const pinpoint of pinpoints) {
    const [h, w] = pinpoint
    const scale = Math.min(w / width, h / height)
    const kept = Math.min(Math.trunc(width * scale) * Math.trunc(height * scale), width * height)
    const rest = h * w - kept
    if (kept < most || (kept === most && rest >= least)) continue
    ;[best, most, least] = [pinpoint, kept, rest]
  }
  return best
}

/** The whole picture, squeezed to a tile, and the tiles of the field, row by row. */
function cutTiles(
  image: Rgb,
  [height, width]: Pinpoint,
  side: number,
  { resample }: Look,
  limits: Pick<ImageLimits, 'pixelsMax'>,
): Rgb[] {
  checkPixels({ width, height }, limits, `image in tiles, of ${image.width}×${image.height},`)
  const [across, down] = [width / image.width, height / image.height]
  const target =
    across < down
      ? { width, height: Math.min(Math.ceil(image.height * across), height) }
      : { width: Math.min(Math.ceil(image.width * down), width), height }
  const at = {
    left: Math.floor((width - target.width) / 2),
    top: Math.floor((height - target.height) / 2),
  }
  const field = placed(resize(image, { ...target, resample }), { width, height }, at, [0, 0, 0])
  const tiles = inBlocks(height / side, width / side, 1).map(([row, column]) =>
    cropped(field, { left: column * side, top: row * side, width: side, height: side }),
  )
  return [resize(image, { width: side, height: side, resample }), ...tiles]
}

/** The picture centred on a square of the mean colour, as one tile. */
function paddedTile(
  image: Rgb,
  side: number,
  { resample, mean }: Look,
  limits: Pick<ImageLimits, 'pixelsMax'>,
): Rgb {
  return resize(padToSquare(image, mean, limits), { width: side, height: side, resample })
}

/** What stands at the positions of one tile: its features, and the row that ends them. */
function wholeCut({ vision }: ProxyConfig): Cut {
  const features = featureRows(vision)
  const places = Int32Array.from({ length: features + 1 }, (_, i) => (i < features ? i : NEWLINE))
  return { ...tiled(vision, 1), features, positions: features + 1, places }
}

function tiled(vision: ProxyConfig['vision'], tiles: number): Pick<Cut, 'tiles' | 'grid'> {
  const side = Math.sqrt(patchesPerImage(vision))
  return { tiles, grid: [side, side] }
}

/**
 * What stands at the positions of a picture in tiles: the whole picture's features; then the field's, cut to
 * the picture's ratio, with the row that ends each line. `tilesMax`: a larger field is drawn together to as
 * many tiles' features, bilinearly.
 */
function fieldCut(
  { vision }: ProxyConfig,
  [height, width]: Pinpoint,
  image: Size,
  tilesMax = Number.POSITIVE_INFINITY,
): Cut {
  const side = Math.sqrt(patchesPerImage(vision))
  const [down, across] = [height / vision.imageSize, width / vision.imageSize]
  const base = side * side
  const features = base * (1 + down * across)
  const window = withoutBorder({ width: across * side, height: down * side }, image)
  const at = (row: number, column: number): number => {
    const [y, x] = [window.top + row, window.left + column]
    const tile = Math.floor(y / side) * across + Math.floor(x / side)
    return base * (1 + tile) + (y % side) * side + (x % side)
  }
  const places = Array.from({ length: base }, (_, i) => i)
  const ratio = Math.sqrt((window.height * window.width) / (tilesMax * base))
  const blends = ratio > 1.1 ? drawnTogether(window, ratio, at) : undefined
  const [rows, columns] = blends ? [blends.rows, blends.columns] : [window.height, window.width]
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      places.push(blends ? features + row * columns + column : at(row, column))
    }
    places.push(NEWLINE)
  }
  return {
    ...tiled(vision, 1 + down * across),
    features,
    positions: places.length,
    places: Int32Array.from(places),
    ...(blends && { blends: { rows: blends.of, weights: blends.weights } }),
  }
}

/** The part of a field that the picture covers, without what surrounds it. */
function withoutBorder(field: Size, image: Size): Size & { left: number; top: number } {
  const rest = (whole: number, kept: number): number =>
    Math.floor((whole - Math.trunc(Number(kept.toFixed(7)))) / 2)
  if (image.width / image.height > field.width / field.height) {
    const top = rest(field.height, image.height * (field.width / image.width))
    return { width: field.width, height: field.height - 2 * top, left: 0, top }
  }
  const left = rest(field.width, image.width * (field.height / image.height))
  return { width: field.width - 2 * left, height: field.height, left, top: 0 }
}

/** Bilinear, half-pixel centres, edges clamped, no antialiasing: torch's `interpolate`. */
function drawnTogether(
  { width, height }: Size,
  ratio: number,
  at: (row: number, column: number) => number,
): { rows: number; columns: number; of: Int32Array; weights: Float32Array } {
  const [rows, columns] = [Math.floor(height / ratio), Math.floor(width / ratio)]
  const [of, weights]: [number[], number[]] = [[], []]
  for (let row = 0; row < rows; row++) {
    const y = taps(row, rows, height)
    for (let column = 0; column < columns; column++) {
      const x = taps(column, columns, width)
      of.push(at(y.low, x.low), at(y.low, x.high), at(y.high, x.low), at(y.high, x.high))
      const [dy, dx] = [y.share, x.share]
      weights.push((1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx)
    }
  }
  return { rows, columns, of: Int32Array.from(of), weights: Float32Array.from(weights) }
}

function taps(
  i: number,
  size: number,
  whole: number,
): { low: number; high: number; share: number } {
  const at = Math.max(((i + 0.5) * whole) / size - 0.5, 0)
  const low = Math.min(Math.floor(at), whole - 1)
  return { low, high: Math.min(low + 1, whole - 1), share: at - low }
}

/** The features of a tile must be those of its patches. Throws PROXY_UNSUPPORTED. */
function checkTiles(top: ConfigReader, vision: ProxyConfig['vision']): void {
  if (featureRows(vision) === (vision.imageSize / vision.patchSize) ** 2) return
  throw top.unsupported('vision_feature_select_strategy', 'one feature for each patch of a tile')
}

/**
 * The processor's fields of tiles, which must be the model's, as far as a budget of pixels allows
 * them; none by default: the whole picture alone. Throws PROXY_INVALID.
 */
function readFields(
  reader: ConfigReader,
  { more }: ProxyConfig,
  otherwise: readonly Pinpoint[],
  budget: PixelBudget,
): readonly Pinpoint[] {
  const own = readPinpoints(reader, otherwise)
  if (String(own) !== String(more!.pinpoints)) {
    throw reader.invalid('image_grid_pinpoints', "the model's config.json says others")
  }
  if (budget === 'checkpoint') return own
  return own.filter(([height, width]) => height * width <= (budget ?? 0))
}

type AnyresOptions = {
  look: Look
  /** Fields of tiles; where there is none a picture stands whole. */
  pinpoints: readonly Pinpoint[]
  /** See `fieldCut`. */
  tilesMax?: number
  /** OneVision: several pictures stand whole, and a picture that does is padded to a square. */
  onePadded?: boolean
}

function anyresPictures(config: ProxyConfig, options: AnyresOptions): Pictures {
  const { look, pinpoints, tilesMax, onePadded = false } = options
  const { imageSize: side, patchSize } = config.vision
  const placeholder = '<image>'
  const pictureOf = (tiles: readonly Rgb[], cut: Cut): Picture => ({
    patches: tilePatches(tiles, look, patchSize),
    cut,
    text: placeholder.repeat(cut.positions),
  })
  return {
    placeholder,
    inOnePiece: true,
    described: options,
    cut: (image, count, limits) => {
      if (pinpoints.length > 0 && !(onePadded && count > 1)) {
        const pinpoint = bestPinpoint(pinpoints, image)
        const tiles = cutTiles(image, pinpoint, side, look, limits)
        return pictureOf(tiles, fieldCut(config, pinpoint, image, tilesMax))
      }
      const tile = onePadded
        ? paddedTile(image, side, look, limits)
        : resize(image, { width: side, height: side, resample: look.resample })
      return { ...pictureOf([tile], wholeCut(config)), variant: ' whole' }
    },
  }
}
