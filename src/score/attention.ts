/**
 * The cross-modal attention matrix of DESIGN's "The score, exactly" (arXiv 2510.01454; the
 * published code's `attention_scores`). Shapes as in `batch.ts`, and d projection width (k's may be
 * narrower: GQA), C channels.
 */
import { familyOf } from '../proxy/checkpoint/config.ts'
import type { ProxyConfig } from '../proxy/config.ts'
import { type Attend, decoder, embedSequence } from '../proxy/language.ts'
import type { Ops } from '../proxy/ops.ts'
import { blended } from '../proxy/vision.ts'

/** `reference`: softmax(K Q^T / sqrt(d)), as the published code runs; `paper`: softmax(Q K^T / sqrt(d)). */
export const MODES = ['reference', 'paper'] as const
export type Mode = (typeof MODES)[number]

/** A batch's tokens. Indices are int32; in the padding of an array of indices stands any. */
export type TokenInputs<V> = {
  /** [1, U] int32 token ids; any where an image stands. */
  ids: V
  /** [1, U, F]: what each token is turned by. */
  cos: V
  sin: V
  /** What the vision tower gave of all images: [1, M, Cv]. */
  features: V
  /** [1, P*4] and [1, P*4, 1]: rows of the images that are mixed, four each, and their weights. */
  blendRows: V
  blendWeights: V
  /** [1, U]: rows of the table of images (`ImageTable`); any where no image stands. */
  imageRows: V
  /** [1, U, 1]: 1 where an image stands, else 0. */
  isImage: V
  /** [F, P]: the tokens of each prefix. */
  prefixes: V
  /** [B, S]: the tokens of each suffix. */
  suffixes: V
  /** [1, U]: where each token stands among the F*P of `prefixes` and then the B*S of `suffixes`. */
  origin: V
  /** [B, T]: the tokens of each whole sequence. */
  sequences: V
  /** [B, 1, S, T]: 0 where a token of the suffix sees one of its sequence, else -1e30. */
  seen: V
}

export type ScoreInputs<V> = TokenInputs<V> & {
  /** [B, 1, T]: 0 at the tokens of each sequence, -1e30 in the padding. */
  padding: V
  /** [B, R]: the tokens that are text rows. */
  rows: V
  /** [B, I]: where the image columns stand in the sequence. */
  columns: V
}

/**
 * `attention`: A transposed, summed over layers, [B, I, R]; singular values do not mind the
 * transposition. `states`: what the last layer's projections read, [1, U, C]. `hidden`: where `goesOn`, the
 * decoder's output before the final norm, [1, U, C].
 */
export function crossModalAttention<V>(
  ops: Ops<V>,
  config: ProxyConfig,
  mode: Mode,
  inputs: ScoreInputs<V>,
  { goesOn = false } = {},
): { attention: V; states: V; hidden: V | undefined } {
  let total: V | undefined // [B, R, T]
  let states: V | undefined
  const visit = (q: V, k: V, h: V): void => {
    const layer = layerAttention(ops, config, mode, { q, k }, inputs)
    total = total === undefined ? layer : ops.add(total, layer)
    states = h
  }
  const end = runDecoder(ops, config, inputs, visit, !goesOn)
  if (total === undefined || states === undefined) {
    throw new RangeError('a language model has at least one layer')
  }
  const attention = ops.gatherRows(ops.transpose(total), inputs.columns)
  return { attention, states, hidden: goesOn ? end : undefined }
}

/** The decoder over a batch's distinct tokens: its arguments and result as `decoder`'s. */
export function runDecoder<V>(
  ops: Ops<V>,
  config: ProxyConfig,
  inputs: TokenInputs<V>,
  visit: (q: V, k: V, h: V) => void,
  projectionsOnly: boolean,
): V {
  const { images: rows, deep = [] } = familyOf(config).connector.run(ops, config, inputs.features)
  const images = imageTable(ops, config, rows, inputs)
  const x = embedSequence(ops, { ...inputs, images }) // [1, U, C]
  const attend = sharedAttention(ops, inputs)
  const { cos, sin, imageRows, isImage } = inputs
  const addAfter = (layer: number, x: V): V => {
    const added = deep[layer]
    if (added === undefined) return x
    return ops.add(x, ops.mul(isImage, ops.gatherFlatRows(added, imageRows)))
  }
  return decoder(ops, config.text, { x, cos, sin, attend, addAfter }, visit, projectionsOnly)
}

/** The rows that `ImageTable` counts: [1, M (+1) (+P), C] */
function imageTable<V>(
  ops: Ops<V>,
  { newline, blends, text }: ProxyConfig,
  rows: V,
  { blendRows, blendWeights }: TokenInputs<V>,
): V {
  if (!newline) return rows
  const ended = ops.stackRows(rows, ops.weight('connector.newline', [1, 1, text.width]))
  if (!blends) return ended
  return ops.stackRows(ended, blended(ops, rows, blendRows, blendWeights))
}

/** Prefixes by themselves, then each suffix over its whole sequence; every token once. */
function sharedAttention<V>(
  ops: Ops<V>,
  inputs: Pick<ScoreInputs<V>, 'prefixes' | 'suffixes' | 'origin' | 'sequences' | 'seen'>,
): Attend<V> {
  const { prefixes, suffixes, origin, sequences, seen } = inputs
  const of = (x: V, tokens: V): V => ops.gatherFlatRows(x, tokens)
  return (q, k, v, shape) => {
    const [ownQ, ownK, ownV] = [of(q, prefixes), of(k, prefixes), of(v, prefixes)]
    const before = ops.attention(ownQ, ownK, ownV, { ...shape, causal: true }) // [F, P, H*D]
    const [lateQ, allK, allV] = [of(q, suffixes), of(k, sequences), of(v, sequences)]
    const after = ops.attention(lateQ, allK, allV, { ...shape, causal: false }, seen) // [B, S, H*D]
    return ops.gatherFlatRows(ops.stackRows(before, after), origin) // [1, U, H*D]
  }
}

/**
 * The text rows of one layer's map, over the whole sequence: [B, R, T]. Where k is narrower each
 * of its features is repeated to q's width (a b -> a a b b); the product is the same when q is
 * summed over the repeated features instead.
 */
function layerAttention<V>(
  ops: Ops<V>,
  config: ProxyConfig,
  mode: Mode,
  { q, k }: { q: V; k: V },
  inputs: Pick<ScoreInputs<V>, 'rows' | 'sequences' | 'padding'>,
): V {
  const { heads, kvHeads, headDim } = config.text
  const narrow = heads === kvHeads ? q : ops.sumNeighbours(q, heads / kvHeads)
  const [from, to] = mode === 'reference' ? [k, narrow] : [narrow, k]
  const products = ops.matmulTransposed(
    ops.gatherFlatRows(from, inputs.rows),
    ops.gatherFlatRows(to, inputs.sequences),
  ) // [B, R, T]
  const scaled = ops.scale(products, 1 / Math.sqrt(heads * headDim))
  return ops.softmax(ops.add(scaled, inputs.padding))
}
