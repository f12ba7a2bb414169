/**
 * A batch's arrays. Every distinct token runs once: what stands before the first image, once for all
 * sequences that begin alike; up to the last image (the *prefix*), once for all that share it. What
 * follows is a sequence's own (its *suffix*). A token sees what stands before it in its sequence, so
 * that results depend neither on batch-mates nor on what is shared.
 *
 * Shapes: U distinct tokens, F distinct prefixes of up to P tokens, B sequences of up to T tokens,
 * S of them in the suffix, R text rows, I image columns, M distinct images, N image tokens.
 */
import type { HostTensor } from '../engine/engine.ts'
import type { Sequence } from '../ingest/prepare.ts'
import type { ScoreInputs } from './attention.ts'
import { distinctImages, type Image, imageRowsOf } from './images.ts'

export type { Sequence }

export type PackedBatch = {
  /** The M distinct images; `features` stand in the same order. */
  images: Image[]
  /** [B][T]: each sequence's tokens among the U. */
  tokens: number[][]
  /** Everything the score reads but the features. */
  inputs: Record<Exclude<keyof ScoreInputs<never>, 'features'>, HostTensor>
}

/** Far below any product, yet finite: exp() of it is exactly 0. */
const MASKED = -1e30

/** Tokens up to and including the last image's. */
export function prefixLength({ columns }: Sequence): number {
  return columns.length === 0 ? 0 : columns[columns.length - 1]! + 1
}

/** Equal for sequences whose prefixes hold the same tokens and the same images. */
export function prefixKey(sequence: Sequence): string {
  const ids = sequence.ids.slice(0, prefixLength(sequence))
  for (const column of sequence.columns) ids[column] = -1
  return `${sequence.images.map(({ hash }) => hash)} ${ids.join()}`
}

/** `imageTokens` is N. */
export function packBatch(
  sequences: readonly Sequence[],
  { imageTokens }: { imageTokens: number },
): PackedBatch {
  const images = distinctImages(sequences)
  const tokens = new DistinctTokens()
  const heads = new Map<string, number[]>()
  const prefixes = new Map<string, { index: number; tokens: number[] }>()
  const packed = sequences.map(sequence => {
    const imageRows = imageRowsOf(sequence, images, imageTokens)
    const add = (from: number, to: number): number[] => tokens.add(sequence, from, to, imageRows)
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
  return { images, tokens: whole, inputs: { ...tokens.inputs(), ...where } }
}

/** Tokens in the order they are computed in. */
class DistinctTokens {
  readonly #ids: number[] = []
  readonly #positions: number[] = []
  /** Row of the features seen as [M*N, C]; -1 where no image stands. */
  readonly #imageRows: number[] = []

  /** Positions [from, to) of a sequence, whose images stand in `imageRows` [I]; returns their indices. */
  add(
    { ids, columns }: Sequence,
    from: number,
    to: number,
    imageRows: readonly number[],
  ): number[] {
    const added: number[] = []
    let column = columns.findIndex(at => at >= from)
    for (let at = from; at < to; at++) {
      const isImage = column >= 0 && columns[column] === at
      added.push(this.#ids.length)
      this.#ids.push(isImage ? 0 : ids[at]!)
      this.#positions.push(at)
      this.#imageRows.push(isImage ? imageRows[column]! : -1)
      if (isImage) column++
    }
    return added
  }

  inputs(): Pick<PackedBatch['inputs'], 'ids' | 'positions' | 'imageRows' | 'isImage'> {
    const shape = [1, this.#ids.length]
    const rows = this.#imageRows
    return {
      ids: { data: Int32Array.from(this.#ids), shape },
      positions: { data: Int32Array.from(this.#positions), shape },
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

/** Lists as rows of one array; 0 in the padding. */
function table(lists: readonly ArrayLike<number>[]): HostTensor {
  const width = Math.max(...lists.map(list => list.length))
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
