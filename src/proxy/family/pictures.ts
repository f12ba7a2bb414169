/**
 * What families share in making pictures ready: the look of pixels, and the fixed square of CLIP's and
 * SigLIP's own image processors.
 */
import { XmasdError } from '../../errors.ts'
import type { Json } from '../../ingest/form/json.ts'
import type { Pictures } from '../../ingest/image/picture.ts'
import type { Rgb } from '../../ingest/image/pixels.ts'
import {
  DEFAULTS,
  type ImageProcessor,
  normalise,
  type PatchOrder,
  patches,
  preprocess,
  readImageProcessor,
  readProcessorFile,
} from '../../ingest/image/preprocess.ts'
import { RESAMPLE, type Resample } from '../../ingest/image/resize.ts'
import { joinedFloats } from '../../math/vectors.ts'
import { ConfigReader, type ProxyConfig } from '../config.ts'

/** Resampling and scaling of pixels. */
export type Look = Pick<ImageProcessor, 'resample' | 'rescale' | 'mean' | 'std'>

/** The image processor's file of a checkpoint. Throws PROXY_INVALID. */
export function processorReader(checkpointDir: string): ConfigReader {
  const { file, json } = readProcessorFile(checkpointDir)
  return new ConfigReader(file, (json ?? {}) as Json)
}

/** Throws PROXY_INVALID, PROXY_UNSUPPORTED. */
export function readLook(
  reader: ConfigReader,
  defaults: { mean: readonly number[]; std: readonly number[]; resample?: Resample },
): Look {
  for (const step of ['do_resize', 'do_rescale', 'do_normalize']) {
    if (!reader.flag(step, true)) throw reader.unsupported(step, 'true')
  }
  const triple = (key: string, otherwise: readonly number[]): readonly number[] => {
    if (!reader.has(key)) return otherwise
    const values = reader.list(key).map(Number)
    if (values.length === 3 && values.every(Number.isFinite)) return values
    throw reader.invalid(key, 'three numbers are expected')
  }
  const resample = reader.integer('resample', defaults.resample ?? RESAMPLE.bicubic)
  if (!Object.values<number>(RESAMPLE).includes(resample)) {
    throw reader.unsupported('resample', Object.values(RESAMPLE).join(', '))
  }
  return {
    resample: resample as Resample,
    rescale: reader.positiveReal('rescale_factor', 1 / 255),
    mean: triple('image_mean', defaults.mean),
    std: triple('image_std', defaults.std),
  }
}

export const CLIP_LOOK = DEFAULTS.clip
export const HALF_LOOK = DEFAULTS.siglip

/** The patches of tiles of one size, one tile after the other: [tiles * N, X] */
export function tilePatches(
  tiles: readonly Rgb[],
  look: Look,
  patchSize: number,
  order: PatchOrder = {},
): Float32Array {
  const parts = tiles.map(tile => patches(normalise(tile, look), tile, patchSize, order))
  return joinedFloats(parts)
}

/**
 * Pictures that CLIP's or SigLIP's own processor makes square. `implied`: what its file would say, where a
 * trainer saves none.
 */
export function squarePictures(
  config: ProxyConfig,
  checkpointDir: string,
  implied?: unknown,
): Pictures {
  const { vision, imageTokens } = config
  const processor = readImageProcessor(checkpointDir, config, implied)
  checkSide(processor, vision.imageSize)
  const side = { width: vision.imageSize, height: vision.imageSize }
  const placeholder = '<image>'
  const text = placeholder.repeat(imageTokens)
  return {
    placeholder,
    inOnePiece: false,
    described: processor,
    cut: (image, _, limits) => ({
      patches: patches(preprocess(image, processor, limits), side, vision.patchSize),
      text,
    }),
  }
}

/** The image processor must make what the vision tower takes. */
function checkSide({ size, crop }: ImageProcessor, imageSize: number): void {
  const made = crop ?? (size !== null && 'width' in size ? size : null)
  if (made !== null && made.width === imageSize && made.height === imageSize) return
  throw new XmasdError(
    'PROXY_INVALID',
    `the image processor makes ${made === null ? 'images of any size' : `${made.width}×${made.height}`}, ` +
      `the vision tower takes ${imageSize}×${imageSize}`,
    'copy preprocessor_config.json of the base model into the checkpoint',
  )
}
