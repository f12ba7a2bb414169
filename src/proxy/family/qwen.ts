/**
 * What Qwen's vision-language models share: pictures of any size as one grid of patches, merge × merge of
 * which become one token; rotary positions of rows and columns in the vision tower, of time, rows and
 * columns in the text (M-RoPE). N patches of a picture, C vision channels.
 */

import type { Cut, Pictures, PixelBudget } from '../../ingest/image/picture.ts'
import { checkPixels } from '../../ingest/image/pixels.ts'
import { inBlocks } from '../../ingest/image/preprocess.ts'
import { resize } from '../../ingest/image/resize.ts'
import type { ConfigReader, ProxyConfig, VisionConfig } from '../config.ts'
import { affine, type Family, namedBy, type Parameter, type Placed, shrunkText } from '../model.ts'
import { type Activation, float32, type HostTensor, type InputSpec, type Ops } from '../ops.ts'
import { turnedBy } from '../rope.ts'
import { lengthMaxOf, QWEN2, readText, type TextDefaults, type TextForm } from './parts.ts'
import { CLIP_LOOK, processorReader, readLook, tilePatches } from './pictures.ts'

/** Merged tokens of a side of a picture of the usual size. */
const USUAL_SIDE = 16

export type QwenDefaults = {
  /** `ratio`: of `mlp_ratio`, where the tower's width is `embed_dim` and `hidden_size` is the text's. */
  vision: Pick<VisionConfig, 'width' | 'layers' | 'heads' | 'patchSize'> & {
    activation: string
  } & ({ intermediate: number } | { ratio: number })
  text: Partial<TextDefaults>
  axes: NonNullable<TextForm['axes']>
  imageTokenId: number
}

/** `readOwn`: what else its vision section says. Throws PROXY_INVALID, PROXY_UNSUPPORTED. */
export function readQwen(
  kind: string,
  top: ConfigReader,
  checkpointDir: string,
  defaults: QwenDefaults,
  readOwn: (vision: ConfigReader) => ProxyConfig['more'] = () => ({}),
): ProxyConfig {
  const reader = top.section('vision_config')
  if (reader === undefined) throw top.invalid('vision_config', 'an object is expected')
  const merge = reader.positive('spatial_merge_size', 2)
  const form: TextForm = {
    reader: top.section('text_config') ?? top,
    family: defaults.text.headNorm === 'rms' ? 'qwen3' : 'qwen2',
    defaults: { ...QWEN2, ...defaults.text },
    axes: defaults.axes,
  }
  const lengthMax = lengthMaxOf(top, checkpointDir, form)
  return {
    kind,
    vision: readVision(kind, reader, merge, defaults.vision),
    connector: { activation: 'gelu' },
    text: readText(top, lengthMax, form),
    imageTokens: USUAL_SIDE ** 2,
    imageTokenId: top.integer('image_token_id', defaults.imageTokenId),
    lengthMax,
    aspect: 'square',
    more: { merge, frames: reader.positive('temporal_patch_size', 2), ...readOwn(reader) },
  }
}

function readVision(
  family: string,
  reader: ConfigReader,
  merge: number,
  defaults: QwenDefaults['vision'],
): VisionConfig {
  const layers = reader.positive('depth', defaults.layers)
  const patchSize = reader.positive('patch_size', defaults.patchSize)
  const width = reader.positive('ratio' in defaults ? 'embed_dim' : 'hidden_size', defaults.width)
  const vision: VisionConfig = {
    family,
    width,
    intermediate:
      'ratio' in defaults
        ? width * reader.positive('mlp_ratio', defaults.ratio)
        : reader.positive('intermediate_size', defaults.intermediate),
    layers,
    heads: reader.positive('num_heads', defaults.heads),
    imageSize: patchSize * merge * USUAL_SIDE,
    patchSize,
    activation: reader.activation('hidden_act', defaults.activation),
    epsilon: 1e-6,
    layersRun: layers,
    dropFirstRow: false,
  }
  const headDim = vision.width / vision.heads
  if (headDim % 4 !== 0) {
    throw reader.invalid('num_heads', `${headDim} channels of a head are no multiple of 4`)
  }
  return vision
}

const named = namedBy({
  parts: {
    language_model: 'text',
    lm_head: 'head',
    layers: 'text',
    embed_tokens: 'text',
    norm: 'text',
  },
  containers: ['model'],
})

/** The text's modules stand bare in files of transformers 4. */
const BARE = ['layers', 'embed_tokens', 'norm']

const nameOf: Family['nameOf'] = path => {
  const [first = '', second = ''] = path
  if (BARE.includes(first)) return named(['language_model', ...path])
  if (first !== 'visual') return named(path)
  const part = /^(merger|deepstack_merger_list)$/.test(second) ? 'connector' : 'vision'
  return [part, ...path.slice(1)].join('.')
}

export function mergeOf({ more }: ProxyConfig): number {
  return more!.merge as number
}

/** Channels of merge × merge patches. */
export function mergedWidth(config: ProxyConfig): number {
  return config.vision.width * mergeOf(config) ** 2
}

/* The vision tower. */

function patchValues({ vision, more }: ProxyConfig): number {
  return 3 * (more!.frames as number) * vision.patchSize ** 2
}

export function qwenInputs(config: ProxyConfig): Record<string, InputSpec> {
  const half = config.vision.width / config.vision.heads / 2
  return {
    patches: float32('M', 'N', patchValues(config)),
    cos: float32('M', 'N', half),
    sin: float32('M', 'N', half),
  }
}

/** Turns of every patch by its row and its column: [M, N, D/2] each. */
export function qwenTables(
  config: ProxyConfig,
  [rows, columns]: readonly [number, number],
  tiles: number,
): { cos: HostTensor; sin: HostTensor } {
  const quarter = config.vision.width / config.vision.heads / 4
  const places = inBlocks(rows, columns, mergeOf(config))
  const all = Array.from({ length: tiles }, () => places).flat()
  const positions = [...all.map(([row]) => row), ...all.map(([, column]) => column)]
  const frequencies = Array.from(
    { length: 2 * quarter },
    (_, i) => 10_000 ** -((i % quarter) / quarter),
  )
  const axes = frequencies.map((_, i) => Math.floor(i / quarter))
  const { cos, sin } = turnedBy(frequencies, axes, positions, all.length)
  const shape = [tiles, places.length, 2 * quarter]
  return { cos: { data: cos, shape }, sin: { data: sin, shape } }
}

/** [M, N, X] -> [M, N, C] */
export function qwenPatches<V>(ops: Ops<V>, config: ProxyConfig, patches: V): V {
  return ops.linearAs(patches, 'vision.patch_embed.proj', [
    config.vision.width,
    patchValues(config),
  ])
}

export function qwenPatchShape({ vision, more }: ProxyConfig): number[] {
  return [vision.width, 3, more!.frames as number, vision.patchSize, vision.patchSize]
}

/** Attention of one block over normed patches [M, N, C]; `mask` [1, 1, N, N]. */
export function qwenAttention<V>(
  ops: Ops<V>,
  { vision }: ProxyConfig,
  at: string,
  x: V,
  { cos, sin, mask }: { cos: V; sin: V; mask?: V | undefined },
): V {
  const { width, heads } = vision
  const headDim = width / heads
  const qkv = ops.linear(x, `${at}attn.qkv`)
  const part = (i: number): V => ops.channels(qkv, i * width, width)
  const turned = (y: V): V => ops.rotary(y, cos, sin, { heads, headDim, turned: headDim })
  const shape = { heads, kvHeads: heads, headDim, causal: false }
  const mixed = ops.attention(turned(part(0)), turned(part(1)), part(2), shape, mask)
  return ops.linear(mixed, `${at}attn.proj`)
}

export function attentionParameters({ vision: { width } }: ProxyConfig, at: string): Parameter[] {
  return [
    ...affine(`${at}attn.qkv`, [3 * width, width]),
    ...affine(`${at}attn.proj`, [width, width]),
  ]
}

/** The two linear layers of an MLP, by name. */
type Mlp = readonly [up: string, down: string]

/** `widths`: of input, inner channels, output. */
export function mlpParameters(
  at: string,
  [up, down]: Mlp,
  [before, inner, after]: readonly [number, number, number],
): Parameter[] {
  return [...affine(at + up, [inner, before]), ...affine(at + down, [after, inner])]
}

export function mlp<V>(
  ops: Ops<V>,
  x: V,
  at: string,
  [up, down]: Mlp,
  activation: Activation = 'gelu',
): V {
  return ops.linear(ops.activation(ops.linear(x, at + up), activation), at + down)
}

/** A block with LayerNorms: [M, N, C] -> [M, N, C] */
export function plainBlock<V>(
  ops: Ops<V>,
  config: ProxyConfig,
  at: string,
  x: V,
  { turns, layers }: { turns: { cos: V; sin: V }; layers: Mlp },
): V {
  const { activation, epsilon } = config.vision
  const h = ops.layerNorm(x, `${at}norm1`, epsilon)
  const y = ops.add(x, qwenAttention(ops, config, at, h, turns))
  return ops.add(y, mlp(ops, ops.layerNorm(y, `${at}norm2`, epsilon), at, layers, activation))
}

export function plainBlockParameters(config: ProxyConfig, at: string, layers: Mlp): Parameter[] {
  const { width, intermediate } = config.vision
  return [
    ...affine(`${at}norm1`, [width]),
    ...affine(`${at}norm2`, [width]),
    ...attentionParameters(config, at),
    ...mlpParameters(at, layers, [width, intermediate, width]),
  ]
}

/* Pictures. */

type Size = { width: number; height: number }

const PLACEHOLDER = '<|image_pad|>'

/** A fixed budget by default, so that pictures of all sizes have about as many tokens. */
function pictures(config: ProxyConfig, checkpointDir: string, budget: PixelBudget): Pictures {
  const reader = processorReader(checkpointDir)
  const look = readLook(reader, CLIP_LOOK)
  const merge = checkGrid(reader, config)
  const { patchSize } = config.vision
  const unit = patchSize * merge
  const fixed = budget ?? (unit * USUAL_SIDE) ** 2
  const pixels = fixed === 'checkpoint' ? readPixels(reader) : { min: fixed, max: fixed }
  return {
    placeholder: PLACEHOLDER,
    inOnePiece: true,
    described: { ...look, ...pixels, unit, patchSize },
    cut: (image, _, limits) => {
      const target = fittingSize(image, unit, pixels)
      checkPixels(target, limits, `resized image, of ${image.width}×${image.height},`)
      const tile = resize(image, { ...target, resample: look.resample })
      const order = { block: merge, times: config.more!.frames as number }
      const cut = qwenCut(target.height / patchSize, target.width / patchSize, merge)
      const text = PLACEHOLDER.repeat(cut.positions)
      return { patches: tilePatches([tile], look, patchSize, order), cut, text }
    },
  }
}

/** The processor must cut pictures as the vision tower takes them. Returns the merge. */
function checkGrid(reader: ConfigReader, { vision, more }: ProxyConfig): number {
  for (const [key, own, otherwise] of [
    ['patch_size', vision.patchSize, 14],
    ['merge_size', more!.merge, 2],
    ['temporal_patch_size', more!.frames, 2],
  ] as const) {
    if (reader.integer(key, otherwise) !== own) {
      throw reader.invalid(key, `the vision tower's is ${own}`)
    }
  }
  return more!.merge as number
}

/** Qwen2VLImageProcessor's; older files say `min_pixels` and `max_pixels`. */
function readPixels(reader: ConfigReader): { min: number; max: number } {
  const size = reader.section('size')
  return {
    min: reader.positive('min_pixels', size?.positive('shortest_edge') ?? 56 * 56),
    max: reader.positive('max_pixels', size?.positive('longest_edge') ?? 28 * 28 * 1280),
  }
}

/** Multiples of `unit` near the picture's size, of an area from about `min` to about `max`. */
export function fittingSize(
  { width, height }: Size,
  unit: number,
  { min, max }: { min: number; max: number },
): Size {
  const near = { width: roundEven(width / unit) * unit, height: roundEven(height / unit) * unit }
  const area = near.width * near.height
  if (area > max) {
    const shrink = Math.sqrt((height * width) / max)
    const fit = (side: number) => Math.max(unit, Math.floor(side / shrink / unit) * unit)
    return { width: fit(width), height: fit(height) }
  }
  if (area >= min) return near
  const grow = Math.sqrt(min / (height * width))
  const fit = (side: number) => Math.ceil((side * grow) / unit) * unit
  return { width: fit(width), height: fit(height) }
}

/** Python's round: halves go to the even number. */
function roundEven(value: number): number {
  const floor = Math.floor(value)
  const rest = value - floor
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor
}

function qwenCut(rows: number, columns: number, merge: number): Cut {
  const field = [rows / merge, columns / merge] as const
  const features = field[0] * field[1]
  return { tiles: 1, grid: [rows, columns], features, positions: features, field }
}

function usual(config: ProxyConfig): { patches: number; cut: Cut } {
  const side = config.vision.imageSize / config.vision.patchSize
  return { patches: side * side, cut: qwenCut(side, side, mergeOf(config)) }
}

/** `more`: how the family's own settings look in two blocks. */
export function shrunkQwen(
  config: ProxyConfig,
  gridMax: number,
  more: Pick<ProxyConfig, 'more'>['more'],
): ProxyConfig {
  const { vision, text } = config
  const merge = mergeOf(config)
  const side = merge * Math.max(1, Math.floor(gridMax / merge))
  return {
    ...config,
    vision: {
      ...vision,
      width: 2 * (vision.width / vision.heads),
      heads: 2,
      intermediate: 160,
      layers: 2,
      layersRun: 2,
      imageSize: side * vision.patchSize,
    },
    text: shrunkText(text),
    imageTokens: (side / merge) ** 2,
    more: { ...config.more, ...more },
  }
}

/**
 * Text counts up by 1 on all axes. A picture that begins at p has (p, p + row, p + column); behind it counting
 * goes on at p + the longer side.
 */
function multiAxisPositions({ ids: { length }, columns, images }: Placed): Int32Array {
  const positions = new Int32Array(3 * length)
  let [at, next, column] = [0, 0, 0]
  const put = (time: number, row: number, x: number): void => {
    if (at < length) positions.set([time], at)
    if (at < length) positions.set([row], length + at)
    if (at < length) positions.set([x], 2 * length + at)
    at++
  }
  for (const { cut } of images) {
    const start = columns[column]
    if (start === undefined) break
    while (at < start) put(next, next, next++)
    const [rows, across] = cut!.field!
    for (let i = 0; i < rows * across; i++) {
      put(next, next + Math.floor(i / across), next + (i % across))
    }
    column += rows * across
    next += Math.max(rows, across)
  }
  while (at < length) put(next, next, next++)
  return positions
}

/** What all of them have in common. */
export const QWEN: Pick<Family, 'nameOf' | 'pictures' | 'usual' | 'positions'> = {
  nameOf,
  pictures,
  usual,
  positions: multiAxisPositions,
}
