/**
 * RGB to what the vision tower reads, as Hugging Face's CLIP and SigLIP image processors (Pillow
 * backend) and np_reference.preprocess do it, bit for bit.
 *
 * S side of the model's image, P side of a patch, N = (S/P)² patches.
 */
import { existsSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { z } from 'zod'
import { messageOf, XmasdError } from '../../errors.ts'
import { checkPixels, type ImageLimits, type Rgb } from './pixels.ts'
import { type Crop, RESAMPLE, type Resample, resize } from './resize.ts'

export type Size = { width: number; height: number }

/** What preprocessor_config.json says, defaults filled in, and the model's `aspect`. */
export type ImageProcessor = {
  aspect: 'square' | 'pad'
  /** The target of the resize: a fixed size, or the length of the shorter side. Null: no resize. */
  size: Size | { shortestEdge: number } | null
  crop: Size | null
  resample: Resample
  rescale: number
  mean: readonly number[]
  std: readonly number[]
}

const side = z.int().min(1)
const sides = z.looseObject({ height: side, width: side })
const triple = z.array(z.number()).length(3)
const flag = z.boolean().nullish()

const ProcessorFile = z.looseObject({
  image_processor_type: z.string().nullish(),
  feature_extractor_type: z.string().nullish(),
  do_resize: flag,
  do_center_crop: flag,
  do_rescale: flag,
  do_normalize: flag,
  do_pad: flag,
  size: z.union([side, z.record(z.string(), side.nullish())]).nullish(),
  crop_size: z.union([side, sides]).nullish(),
  resample: z.union([z.literal(0), z.literal(1), z.literal(2), z.literal(3)]).nullish(),
  rescale_factor: z.number().nullish(),
  image_mean: triple.nullish(),
  image_std: triple.nullish(),
})
type ProcessorFile = z.infer<typeof ProcessorFile>

const RESCALE = 1 / 255
/** The classes' own defaults, for keys that the file leaves out. */
export const DEFAULTS = {
  clip: {
    side: 224,
    mean: [0.48145466, 0.4578275, 0.40821073],
    std: [0.26862954, 0.26130258, 0.27577711],
  },
  siglip: { side: 224, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] },
} as const

/**
 * Reads what `readProcessorFile` finds in a checkpoint. Throws PROXY_INVALID where it is malformed,
 * PROXY_UNSUPPORTED for a processor that is neither CLIP's nor SigLIP's.
 */
export function readImageProcessor(
  checkpointDir: string,
  { aspect }: { aspect: 'square' | 'pad' },
  implied?: unknown,
): ImageProcessor {
  const { file, json } = readProcessorFile(checkpointDir, implied)
  const parsed = ProcessorFile.safeParse(json)
  if (!parsed.success) throw invalid(file, z.prettifyError(parsed.error))
  const family = familyOf(parsed.data, file)
  const { do_resize, do_center_crop, do_rescale, do_normalize, ...said } = parsed.data
  const defaults = DEFAULTS[family]
  const crops = do_center_crop ?? family === 'clip'
  const normalises = do_normalize ?? true
  return {
    aspect,
    size: (do_resize ?? true) ? targetSize(said.size, family, file) : null,
    crop: crops ? cropSize(said.crop_size ?? defaults.side) : null,
    resample: said.resample ?? RESAMPLE.bicubic,
    rescale: (do_rescale ?? true) ? (said.rescale_factor ?? RESCALE) : 1,
    mean: normalises ? (said.image_mean ?? defaults.mean) : [0, 0, 0],
    std: normalises ? (said.image_std ?? defaults.std) : [1, 1, 1],
  }
}

/**
 * `preprocessor_config.json`, or the `image_processor` of processor_config.json, or what the rest of the
 * checkpoint implies. Throws PROXY_INVALID where there is none of them.
 */
export function readProcessorFile(
  folder: string,
  implied?: unknown,
): { file: string; json: unknown } {
  const file = processorFileOf(folder)
  if (file !== undefined) {
    const json = readObject(file)
    return { file, json: basename(file) === NESTED ? json.image_processor : json }
  }
  if (implied !== undefined) return { file: join(folder, 'config.json'), json: implied }
  throw invalid(join(folder, DIRECT), 'there is no such file')
}

const DIRECT = 'preprocessor_config.json'
const NESTED = 'processor_config.json'

/** The file that says how images are processed; a `processor_config.json` of transformers 4 says nothing of it. */
export function processorFileOf(folder: string): string | undefined {
  const [direct, nested] = [join(folder, DIRECT), join(folder, NESTED)]
  if (existsSync(direct)) return direct
  const says = existsSync(nested) && readObject(nested).image_processor !== undefined
  return says ? nested : undefined
}

function readObject(file: string): Record<string, unknown> {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) ?? {}
  } catch (error) {
    throw invalid(file, messageOf(error), error)
  }
}

function familyOf(json: ProcessorFile, file: string): 'clip' | 'siglip' {
  const type = json.image_processor_type ?? json.feature_extractor_type ?? 'CLIPImageProcessor'
  const family = /^(CLIP|Siglip)(ImageProcessor|FeatureExtractor)/.exec(type)?.[1]?.toLowerCase()
  if ((family === 'clip' || family === 'siglip') && json.do_pad !== true) return family
  throw unsupported(
    file,
    `${type}${json.do_pad === true ? ' with do_pad' : ''}`,
    'use a proxy whose image processor is CLIPImageProcessor or SiglipImageProcessor',
  )
}

/** transformers 4 and 5 make different images of any other. */
const SIZE_HINT = 'give size as shortest_edge alone, or as height and width'

function targetSize(
  size: ProcessorFile['size'],
  family: 'clip' | 'siglip',
  file: string,
): ImageProcessor['size'] {
  const said = size ?? DEFAULTS[family].side
  if (typeof said === 'number') {
    return family === 'clip' ? { shortestEdge: said } : { width: said, height: said }
  }
  const { shortest_edge: shortestEdge, height, width } = said
  const read = shortestEdge ? ['shortest_edge'] : ['height', 'width']
  const other = Object.keys(said).find(key => said[key] && !read.includes(key))
  if (other !== undefined) throw unsupported(file, `a size with ${other}`, SIZE_HINT)
  if (shortestEdge) return { shortestEdge }
  if (height && width) return { width, height }
  throw invalid(file, 'its size has neither shortest_edge nor height and width')
}

function cropSize(size: NonNullable<ProcessorFile['crop_size']>): Size {
  return typeof size === 'number'
    ? { width: size, height: size }
    : { width: size.width, height: size.height }
}

/**
 * Resized and cropped RGB. Where the crop is larger than the image, black surrounds it.
 * Throws IMAGE_TOO_MANY_PIXELS where padding or resizing would pass `pixelsMax`.
 */
export function resizeAndCrop(
  image: Rgb,
  processor: ImageProcessor,
  limits: Pick<ImageLimits, 'pixelsMax'>,
): Rgb {
  const source = processor.aspect === 'pad' ? padToSquare(image, processor.mean, limits) : image
  const target = targetOf(source, processor.size)
  checkPixels(target, limits, `resized image, of ${image.width}×${image.height},`)
  const { resample } = processor
  const crop = processor.crop
  if (crop === null) return resize(source, { ...target, resample })
  // Python's // rounds down, and so does HF's placing of an image that is smaller than the crop.
  const left = Math.floor((target.width - crop.width) / 2)
  const top = Math.floor((target.height - crop.height) / 2)
  const inside: Crop = {
    left: Math.max(0, left),
    top: Math.max(0, top),
    width: Math.min(target.width, crop.width),
    height: Math.min(target.height, crop.height),
  }
  const part = resize(source, { ...target, resample, crop: inside })
  return placed(part, crop, { left: Math.max(0, -left), top: Math.max(0, -top) }, [0, 0, 0])
}

/**
 * Pixel values [3, S, S]: float64 product rounded to float32, then float32 subtraction and division,
 * as numpy computes them.
 */
export function normalise(
  image: Rgb,
  { rescale, mean, std }: Pick<ImageProcessor, 'rescale' | 'mean' | 'std'>,
): Float32Array {
  const plane = image.width * image.height
  const values = new Float32Array(3 * plane)
  const table = new Float32Array(256)
  for (let c = 0; c < 3; c++) {
    const [shift, scale] = [Math.fround(mean[c]!), Math.fround(std[c]!)]
    for (let level = 0; level < 256; level++) {
      table[level] = Math.fround(Math.fround(level * rescale) - shift) / scale
    }
    for (let i = 0; i < plane; i++) values[c * plane + i] = table[image.data[i * 3 + c]!]!
  }
  return values
}

/** Pixel values [3, S, S] of an image; S is the crop's or the target's side. */
export function preprocess(
  image: Rgb,
  processor: ImageProcessor,
  limits: Pick<ImageLimits, 'pixelsMax'>,
): Float32Array {
  return normalise(resizeAndCrop(image, processor, limits), processor)
}

/** The order of patches, and how often each frame of a picture is repeated within them. */
export type PatchOrder = { block?: number; times?: number }

/**
 * [3, height, width] -> [N, 3·times·P·P]: patches row by row, or in blocks of `block` × `block`; within a
 * patch channel, frame, row, column, as a conv kernel is laid out. A rest of a patch is left out.
 */
export function patches(
  pixelValues: Float32Array,
  size: Size,
  patchSize: number,
  { block = 1, times = 1 }: PatchOrder = {},
): Float32Array {
  const [rows, columns] = [size.height, size.width].map(side => Math.floor(side / patchSize))
  const values = new Float32Array(rows! * columns! * 3 * times * patchSize ** 2)
  let to = 0
  for (const [row, column] of inBlocks(rows!, columns!, block)) {
    for (let c = 0; c < 3; c++) {
      for (let frame = 0; frame < times; frame++) {
        for (let y = 0; y < patchSize; y++) {
          const line = c * size.height + row * patchSize + y
          const from = line * size.width + column * patchSize
          values.set(pixelValues.subarray(from, from + patchSize), to)
          to += patchSize
        }
      }
    }
  }
  return values
}

/** The places of a field, block by block; rows and columns are whole blocks. */
export function inBlocks(rows: number, columns: number, block: number): [number, number][] {
  const places: [number, number][] = []
  for (let top = 0; top < rows; top += block) {
    for (let left = 0; left < columns; left += block) {
      for (let y = 0; y < block; y++) {
        for (let x = 0; x < block; x++) places.push([top + y, left + x])
      }
    }
  }
  return places
}

/** `image_aspect_ratio: pad`: centred on a square of the mean colour. */
export function padToSquare(
  image: Rgb,
  mean: readonly number[],
  limits: Pick<ImageLimits, 'pixelsMax'>,
): Rgb {
  const side = Math.max(image.width, image.height)
  checkPixels({ width: side, height: side }, limits, 'image padded to a square')
  const left = Math.floor((side - image.width) / 2)
  const top = Math.floor((side - image.height) / 2)
  const colour = mean.map(value => Math.trunc(value * 255))
  return placed(image, { width: side, height: side }, { left, top }, colour)
}

export function placed(
  image: Rgb,
  { width, height }: Size,
  at: { left: number; top: number },
  colour: readonly number[],
): Rgb {
  if (image.width === width && image.height === height) return image
  const data = new Uint8Array(width * height * 3)
  if (colour.some(level => level !== 0)) {
    for (let i = 0; i < data.length; i++) data[i] = colour[i % 3]!
  }
  for (let y = 0; y < image.height; y++) {
    const row = image.data.subarray(y * image.width * 3, (y + 1) * image.width * 3)
    data.set(row, ((at.top + y) * width + at.left) * 3)
  }
  return { width, height, data }
}

/** The shorter side becomes `shortestEdge`, the longer keeps the ratio, rounded down. */
function targetOf({ width, height }: Size, size: ImageProcessor['size']): Size {
  if (size === null) return { width, height }
  if (!('shortestEdge' in size)) return size
  const edge = size.shortestEdge
  return width <= height
    ? { width: edge, height: Math.trunc((edge * height) / width) }
    : { width: Math.trunc((edge * width) / height), height: edge }
}

function unsupported(file: string, what: string, hint: string): XmasdError {
  return new XmasdError('PROXY_UNSUPPORTED', `${file} asks for ${what}`, hint)
}

function invalid(file: string, why: string, cause?: unknown): XmasdError {
  return new XmasdError(
    'PROXY_INVALID',
    `${file} is no image processor's configuration: ${why}`,
    'copy preprocessor_config.json of the base model into the checkpoint',
    { cause },
  )
}
