/**
 * Which sequences run together, and their arrays. Every distinct token runs once: what stands before the first image, once for all
 * sequences that begin alike; up to the last image (the *prefix*), once for all that share it. What
 * follows is a sequence's own (its *suffix*). A token sees what stands before it in its sequence, so
 * that results depend neither on batch-mates nor on what is shared.
 *
 * Shapes: U distinct tokens, F distinct prefixes of up to P tokens, B sequences of up to T tokens,
 * S of them in the suffix, R text rows, I image columns, M rows of features of all distinct images, A
 * axes of positions.
 */
import type { HostTensor } from '../engine/engine.ts'
import { NEWLINE, type SequenceImage } from '../ingest/image/picture.ts'
import type { Sequence } from '../ingest/prepare.ts'
import { familyOf } from '../proxy/checkpoint/config.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import type { Family } from '../proxy/model.ts'
import { MASKED } from '../proxy/ops.ts'
import { type Rope, rotaryTables } from '../proxy/rope.ts'
import type { ScoreInputs } from './attention.ts'

export type { Sequence }

export type PackedBatch = {
  /** The distinct images; the rows of their features stand in the same order. */
  images: Image[]
  /** [B][T]: each sequence's tokens among the U. */
  tokens: number[][]
  /** [A, U]: where each token stands, on each axis. */
  positions: Int32Array
  /** Everything the score reads but the features. */
  inputs: Record<Exclude<keyof ScoreInputs<never>, 'features'>, HostTensor>
}

/** Tokens up to and including the last image's; without one, all but the last. */
export function prefixLength({ ids, columns }: Sequence): number {
  const last = columns.length === 0 ? ids.length - 2 : columns[columns.length - 1]!
  return Math.max(0, last + 1)
}

/** Equal for sequences whose prefixes hold the same tokens and the same images. */
export function prefixKey(sequence: Sequence): string {
  const ids = sequence.ids.slice(0, prefixLength(sequence))
  for (const column of sequence.columns) ids[column] = -1
  return `${sequence.images.map(({ hash }) => hash)} ${ids.join()}`
}

/** Equal for sequences that the proxy computes the same of: equal tokens, pixels, answers and questions. */
export function sequenceKey(sequence: Sequence): string {
  const { ids, images, columns, answers, questions = [], bare } = sequence
  const without = bare === undefined ? '' : ` ${bare.ids.join()}`
  const places = [columns, answers, questions].map(positions => positions.join()).join(' ')
  return `${images.map(({ hash }) => hash)} ${places} ${ids.join()}${without}`
}

/** The conversation without its pictures, as a sequence of its own; see `BareSequence`. */
export function withoutImages({ bare }: Sequence): Sequence | undefined {
  if (bare === undefined || bare.answers.length === 0) return undefined
  return { ...bare, columns: new Int32Array(0), rows: new Int32Array(0), images: [] }
}

/** What of a proxy decides how sequences are packed. */
export type Packing = Pick<ProxyConfig, 'imageTokens' | 'newline'> &
  Pick<Family, 'positions'> & { text: Rope }

export function packingOf(config: ProxyConfig): Packing {
  const { positions } = familyOf(config)
  return { ...config, ...(positions === undefined ? {} : { positions }) }
}

export function packBatch(sequences: readonly Sequence[], packing: Packing): PackedBatch {
  const images = distinctImages(sequences)
  const table = new ImageTable(images, packing)
  const tokens = new DistinctTokens()
  const heads = new Map<string, number[]>()
  const prefixes = new Map<string, { index: number; tokens: number[] }>()
  const packed = sequences.map(sequence => {
    const where = { imageRows: table.rowsOf(sequence), positions: packing.positions?.(sequence) }
    const add = (from: number, to: number): number[] => tokens.add(sequence, from, to, where)
    const [first = 0] = sequence.columns
    const end = prefixLength(sequence)
    const head = once(heads, sequence.ids.subarray(0, first).join(), () => add(0, first))
    const prefix = once(prefixes, prefixKey(sequence), () => ({
      index: prefixes.size,
      tokens: [...head, ...add(first, end)],
    }))
    return { sequence, prefix, suffix: add(end, sequence.ids.length) }
  })
  const whole = packed.map(({ prefix, suffix }) => [...prefix.tokens, ...suffix])
  const where = places([...prefixes.values()], packed, whole)
  const positions = tokens.positions()
  const turned = turnedTables(packing.text, positions, tokens.count)
  const inputs = { ...tokens.inputs(), ...turned, ...table.blends(), ...where }
  return { images, tokens: whole, positions, inputs }
}

function turnedTables(
  rope: Rope,
  positions: Int32Array,
  tokens: number,
): { cos: HostTensor; sin: HostTensor } {
  const { cos, sin } = rotaryTables(rope, positions, tokens)
  const shape = [1, tokens, cos.length / tokens]
  return { cos: { data: cos, shape }, sin: { data: sin, shape } }
}

/** Where a sequence's images stand in the table, and its positions [A, T] where there are several axes. */
type Where = { imageRows: readonly number[]; positions: Int32Array | undefined }

/** Tokens in the order they are computed in. */
class DistinctTokens {
  readonly #ids: number[] = []
  /** By axis. */
  readonly #positions: number[][] = []
  /** Row of the table of images; -1 where no image stands. */
  readonly #imageRows: number[] = []

  /** Positions [from, to) of a sequence; returns their indices. */
  add({ ids, columns }: Sequence, from: number, to: number, where: Where): number[] {
    const { imageRows, positions } = where
    const axes = positions === undefined ? 1 : positions.length / ids.length
    const added: number[] = []
    let column = columns.findIndex(at => at >= from)
    for (let at = from; at < to; at++) {
      const isImage = column >= 0 && columns[column] === at
      added.push(this.#ids.length)
      this.#ids.push(isImage ? 0 : ids[at]!)
      for (let axis = 0; axis < axes; axis++) {
        this.#positions[axis] ??= []
        this.#positions[axis]!.push(positions?.[axis * ids.length + at] ?? at)
      }
      this.#imageRows.push(isImage ? imageRows[column]! : -1)
      if (isImage) column++
    }
    return added
  }

  get count(): number {
    return this.#ids.length
  }

  positions(): Int32Array {
    return Int32Array.from(this.#positions.flat())
  }

  inputs(): Pick<PackedBatch['inputs'], 'ids' | 'imageRows' | 'isImage'> {
    const shape = [1, this.#ids.length]
    const rows = this.#imageRows
    return {
      ids: { data: Int32Array.from(this.#ids), shape },
      imageRows: { data: Int32Array.from(rows, row => Math.max(0, row)), shape },
      isImage: { data: Float32Array.from(rows, row => (row < 0 ? 0 : 1)), shape: [...shape, 1] },
    }
  }
}

type Packed = {
  sequence: Sequence
  prefix: { index: number; tokens: number[] }
  suffix: number[]
}

/** Where sequences stand among the tokens, and what they see. */
function places(
  prefixes: readonly { tokens: number[] }[],
  packed: readonly Packed[],
  whole: readonly number[][],
): Pick<
  PackedBatch['inputs'],
  'prefixes' | 'suffixes' | 'origin' | 'sequences' | 'seen' | 'padding' | 'rows' | 'columns'
> {
  const prefixTable = table(prefixes.map(({ tokens }) => tokens))
  const suffixTable = table(packed.map(({ suffix }) => suffix))
  const sequences = table(whole)
  return {
    prefixes: prefixTable,
    suffixes: suffixTable,
    origin: originOf(prefixTable, prefixes, suffixTable, packed),
    sequences,
    seen: seenBy(packed, suffixTable.shape[1]!, sequences.shape[1]!),
    padding: paddingOf(whole, sequences.shape[1]!),
    rows: table(packed.map(({ sequence }, b) => Array.from(sequence.rows, row => whole[b]![row]!))),
    columns: table(packed.map(({ sequence }) => sequence.columns)),
  }
}

/** Lists as rows of one array, which is not empty; 0 in the padding. */
function table(lists: readonly ArrayLike<number>[]): HostTensor {
  const width = Math.max(1, ...lists.map(list => list.length))
  const data = new Int32Array(lists.length * width)
  for (const [i, list] of lists.entries()) data.set(list, i * width)
  return { data, shape: [lists.length, width] }
}

/** [1, U]: the row of each token among the prefixes' [F*P] and then the suffixes' [B*S]. */
function originOf(
  prefixTable: HostTensor,
  prefixes: readonly { tokens: number[] }[],
  suffixTable: HostTensor,
  packed: readonly Packed[],
): HostTensor {
  const origin: number[] = []
  const [, width] = prefixTable.shape as [number, number]
  for (const [f, { tokens }] of prefixes.entries()) {
    for (const [p, token] of tokens.entries()) origin[token] = f * width + p
  }
  const start = prefixTable.data.length
  const [, suffixWidth] = suffixTable.shape as [number, number]
  for (const [b, { suffix }] of packed.entries()) {
    for (const [s, token] of suffix.entries()) origin[token] = start + b * suffixWidth + s
  }
  return { data: Int32Array.from(origin), shape: [1, origin.length] }
}

/** [B, 1, S, T]: 0 where a token of the suffix sees a token of its sequence, else `MASKED`. */
function seenBy(packed: readonly Packed[], suffixMax: number, tokensMax: number): HostTensor {
  const data = new Float32Array(packed.length * suffixMax * tokensMax)
  for (const [b, { prefix }] of packed.entries()) {
    for (let s = 0; s < suffixMax; s++) {
      const start = (b * suffixMax + s) * tokensMax
      data.fill(MASKED, start + prefix.tokens.length + s + 1, start + tokensMax)
    }
  }
  return { data, shape: [packed.length, 1, suffixMax, tokensMax] }
}

/** [B, 1, T]: 0 at the tokens of each sequence, `MASKED` behind them. */
function paddingOf(whole: readonly number[][], tokensMax: number): HostTensor {
  const data = new Float32Array(whole.length * tokensMax)
  for (const [b, { length }] of whole.entries()) {
    data.fill(MASKED, b * tokensMax + length, (b + 1) * tokensMax)
  }
  return { data, shape: [whole.length, 1, tokensMax] }
}

/** The part of a batch's result [B, I, R] that is example `index`'s own: [its columns, its rows]. */
export function ownPart(
  result: { data: Float32Array; shape: readonly number[] },
  index: number,
  sequence: Sequence,
): Float32Array {
  const [, columns, rows] = result.shape as [number, number, number]
  const own = new Float32Array(sequence.columns.length * sequence.rows.length)
  for (let column = 0; column < sequence.columns.length; column++) {
    const start = (index * columns + column) * rows
    const row = result.data.subarray(start, start + sequence.rows.length)
    own.set(row, column * sequence.rows.length)
  }
  return own
}

function once<Value>(known: Map<string, Value>, key: string, make: () => Value): Value {
  const found = known.get(key) ?? make()
  known.set(key, found)
  return found
}

/* The distinct images of a batch. */

export type Image = SequenceImage

/** By hash, in the order they come. */
export function distinctImages(sequences: readonly { images: readonly Image[] }[]): Image[] {
  const images = sequences.flatMap(({ images }) => images)
  return [...new Map(images.map(image => [image.hash, image])).values()]
}

/**
 * The rows that image positions are taken from: the features of all images, the row that ends a line where
 * the proxy has one, then the images' blended rows.
 */
export class ImageTable {
  readonly #packing: Packing
  readonly #starts = new Map<string, { features: number; blends: number }>()
  readonly #rows: number[] = []
  readonly #weights: number[] = []
  #features = 0

  constructor(images: readonly Image[], packing: Packing) {
    this.#packing = packing
    for (const { hash, cut } of images) {
      this.#starts.set(hash, { features: this.#features, blends: this.#rows.length / 4 })
      for (const row of cut?.blends?.rows ?? []) this.#rows.push(this.#features + row)
      for (const weight of cut?.blends?.weights ?? []) this.#weights.push(weight)
      this.#features += cut?.features ?? packing.imageTokens
    }
  }

  /** The row at each image position of a sequence [I]. */
  rowsOf({ images, columns }: { images: readonly Image[]; columns: ArrayLike<number> }): number[] {
    const rows: number[] = []
    for (const { hash, cut } of images) {
      const start = this.#starts.get(hash)!
      const count = cut?.features ?? this.#packing.imageTokens
      const positions = cut?.positions ?? count
      for (let i = 0; i < positions && rows.length < columns.length; i++) {
        const place = cut?.places?.[i] ?? i
        if (place === NEWLINE) rows.push(this.#features)
        else if (place < count) rows.push(start.features + place)
        else rows.push(this.#blendsFrom() + start.blends + place - count)
      }
    }
    return rows
  }

  #blendsFrom(): number {
    return this.#features + (this.#packing.newline ? 1 : 0)
  }

  /** Blended rows, P of 4 rows each; one that nobody reads where there is none. */
  blends(): { blendRows: HostTensor; blendWeights: HostTensor } {
    const isEmpty = this.#rows.length === 0
    const [rows, weights] = isEmpty
      ? [Array(4).fill(0), Array(4).fill(0)]
      : [this.#rows, this.#weights]
    return {
      blendRows: { data: Int32Array.from(rows), shape: [1, rows.length] },
      blendWeights: { data: Float32Array.from(weights), shape: [1, weights.length, 1] },
    }
  }
}

/** Tiles of one grid, each of `patchCount` patches: [M, N, X] */
export function stackPatches(
  tiles: readonly Pick<Image, 'patches'>[],
  patchCount: number,
): HostTensor {
  const size = tiles[0]!.patches.length
  const data = new Float32Array(tiles.length * size)
  for (const [m, { patches }] of tiles.entries()) {
    if (patches.length !== size) throw new RangeError('tiles of one grid have one size')
    data.set(patches, m * size)
  }
  return { data, shape: [tiles.length, patchCount, size / patchCount] }
}

/* Which sequences run together. */

export type BatchLimits = {
  /** Distinct tokens of a batch. A sequence that has more runs alone. */
  tokensMax: number
  examplesMax: number
}

export const LIMITS: BatchLimits = { tokensMax: 2048, examplesMax: 64 }

/**
 * Index lists that together hold every sequence once. Sequences of one prefix run together, so that
 * it is computed once, and are parted only where they do not fit one batch; neighbours in length come
 * next to each other.
 */
export function planBatches(sequences: readonly Sequence[], limits: BatchLimits): number[][] {
  const { tokensMax, examplesMax } = limits
  if (!(tokensMax >= 1 && examplesMax >= 1)) throw new RangeError('limits are at least 1')
  const batches: number[][] = []
  let batch: number[] = []
  let tokens = 0
  const flush = (): void => {
    if (batch.length > 0) batches.push(batch)
    batch = []
    tokens = 0
  }
  const fits = (more: number, examples: number): boolean =>
    tokens + more <= tokensMax && batch.length + examples <= examplesMax
  for (const { prefix, members } of prefixGroups(sequences)) {
    const own = (i: number): number => sequences[i]!.ids.length - prefix
    const whole = members.reduce((sum, i) => sum + own(i), prefix)
    if (!fits(whole, members.length)) flush()
    let isNew = true
    for (const i of members) {
      if (!fits(own(i) + (isNew ? prefix : 0), 1)) {
        flush()
        isNew = true
      }
      tokens += own(i) + (isNew ? prefix : 0)
      batch.push(i)
      isNew = false
    }
  }
  flush()
  return batches
}

type PrefixGroup = { prefix: number; members: number[] }

/** Sequences by prefix, shortest first, in and among the groups. */
function prefixGroups(sequences: readonly Sequence[]): PrefixGroup[] {
  const groups = new Map<string, PrefixGroup>()
  for (const [i, sequence] of sequences.entries()) {
    const key = prefixKey(sequence)
    const group = groups.get(key) ?? { prefix: prefixLength(sequence), members: [] }
    group.members.push(i)
    groups.set(key, group)
  }
  const length = (i: number): number => sequences[i]!.ids.length
  for (const { members } of groups.values()) members.sort((a, b) => length(a) - length(b) || a - b)
  const longest = ({ members }: PrefixGroup): number => length(members.at(-1)!)
  return [...groups.values()].sort(
    (a, b) => longest(a) - longest(b) || a.members[0]! - b.members[0]!,
  )
}
