/**
 * Batches: which sequences run together, and their arrays. Padding stands at the end and is masked
 * out, so that results do not depend on batch-mates. Shapes: B batch, T tokens, R text rows, I image
 * columns, M distinct images, N image tokens, X features of a patch.
 */
import type { HostTensor } from '../engine/engine.ts'
import type { Sequence } from '../ingest/prepare.ts'
import type { ScoreInputs } from './attention.ts'

export type { Sequence }

export type BatchLimits = {
  /** Positions of a batch, padding included. A longer sequence runs alone. */
  tokensMax: number
  examplesMax: number
}

/**
 * Index lists that together hold every sequence once: neighbours in length (then in text rows) run
 * together, so that little is padded.
 */
export function planBatches(sequences: readonly Sequence[], limits: BatchLimits): number[][] {
  const { tokensMax, examplesMax } = limits
  if (!(tokensMax >= 1 && examplesMax >= 1)) throw new RangeError('limits are at least 1')
  const length = (i: number): number => sequences[i]!.ids.length
  const rows = (i: number): number => sequences[i]!.rows.length
  const order = sequences.map((_, i) => i)
  order.sort((a, b) => length(a) - length(b) || rows(a) - rows(b) || a - b)
  const batches: number[][] = []
  let batch: number[] = []
  for (const i of order) {
    const isFull = batch.length >= examplesMax || (batch.length + 1) * length(i) > tokensMax
    if (isFull && batch.length > 0) {
      batches.push(batch)
      batch = []
    }
    batch.push(i)
  }
  if (batch.length > 0) batches.push(batch)
  return batches
}

export type PackedBatch = {
  /** [M, N', X] of the distinct images. */
  patches: HostTensor
  /** Everything the score reads but the features. */
  inputs: Record<Exclude<keyof ScoreInputs<never>, 'features'>, HostTensor>
}

/** Far below any product, yet finite: exp() of it is exactly 0. */
const MASKED = -1e30

/** `imageTokens` is N; `patchCount` the patches an image is cut into. */
export function packBatch(
  sequences: readonly Sequence[],
  { imageTokens, patchCount }: { imageTokens: number; patchCount: number },
): PackedBatch {
  const images = distinctImages(sequences)
  const sizes = {
    batch: sequences.length,
    tokens: longest(sequences, 'ids'),
    rows: longest(sequences, 'rows'),
    columns: longest(sequences, 'columns'),
  }
  const { batch, tokens } = sizes
  const ids = new Int32Array(batch * tokens)
  const imageRows = new Int32Array(batch * tokens)
  const isImage = new Float32Array(batch * tokens)
  const padding = new Float32Array(batch * tokens)
  for (const [b, sequence] of sequences.entries()) {
    const start = b * tokens
    ids.set(sequence.ids, start)
    padding.fill(MASKED, start + sequence.ids.length, start + tokens)
    const firstRow = images.indexOf.get(sequence.image.hash)! * imageTokens
    for (const [i, column] of sequence.columns.entries()) {
      ids[start + column] = 0
      isImage[start + column] = 1
      imageRows[start + column] = firstRow + (i % imageTokens)
    }
  }
  return {
    patches: stackPatches(images.patches, patchCount),
    inputs: {
      ids: { data: ids, shape: [batch, tokens] },
      imageRows: { data: imageRows, shape: [batch, tokens] },
      isImage: { data: isImage, shape: [batch, tokens, 1] },
      padding: { data: padding, shape: [batch, 1, tokens] },
      rows: stackIndices(sequences, 'rows', sizes.rows),
      columns: stackIndices(sequences, 'columns', sizes.columns),
    },
  }
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

function distinctImages(sequences: readonly Sequence[]): {
  indexOf: Map<string, number>
  patches: Float32Array[]
} {
  const indexOf = new Map<string, number>()
  const patches: Float32Array[] = []
  for (const { image } of sequences) {
    if (indexOf.has(image.hash)) continue
    indexOf.set(image.hash, patches.length)
    patches.push(image.patches)
  }
  return { indexOf, patches }
}

function stackPatches(images: readonly Float32Array[], patchCount: number): HostTensor {
  const size = images[0]!.length
  const data = new Float32Array(images.length * size)
  for (const [m, patches] of images.entries()) {
    if (patches.length !== size) throw new RangeError('images of one proxy have one size')
    data.set(patches, m * size)
  }
  return { data, shape: [images.length, patchCount, size / patchCount] }
}

function stackIndices(
  sequences: readonly Sequence[],
  key: 'rows' | 'columns',
  width: number,
): HostTensor {
  const data = new Int32Array(sequences.length * width)
  for (const [b, sequence] of sequences.entries()) data.set(sequence[key], b * width)
  return { data, shape: [sequences.length, width] }
}

function longest(sequences: readonly Sequence[], key: 'ids' | 'rows' | 'columns'): number {
  return Math.max(...sequences.map(sequence => sequence[key].length))
}
