/**
 * The cross-modal attention matrix of DESIGN's "The score, exactly" (arXiv 2510.01454; the
 * published code's `attention_scores`). Shapes: B batch, T tokens, R text rows, I image columns,
 * d projection width (k's may be narrower: GQA), C channels, M images, N image tokens.
 */
import type { ProxyConfig } from '../proxy/config.ts'
import { connector } from '../proxy/connector.ts'
import { decoder, embedSequence } from '../proxy/language.ts'
import type { Ops } from '../proxy/ops.ts'

/** `reference`: softmax(K Q^T / sqrt(d)), as the published code runs; `paper`: softmax(Q K^T / sqrt(d)). */
export const MODES = ['reference', 'paper'] as const
export type Mode = (typeof MODES)[number]

export type ScoreInputs<V> = {
  /** [B, T] int32; any id where an image stands and in the padding. */
  ids: V
  /** What the vision tower gave: [M, N, Cv]. */
  features: V
  /** [B, T] int32 rows of the features seen as [M*N, C]; 0 where no image stands. */
  imageRows: V
  /** [B, T, 1]: 1 where an image stands, else 0. */
  isImage: V
  /** [B, 1, T]: 0 at real positions, -1e30 in the padding. */
  padding: V
  /** [B, R] int32: the text rows; any index in the padding. */
  rows: V
  /** [B, I] int32: the image columns; any index in the padding. */
  columns: V
}

/** A transposed, summed over layers: [B, I, R]. Singular values do not mind the transposition. */
export function crossModalAttention<V>(
  ops: Ops<V>,
  config: ProxyConfig,
  mode: Mode,
  inputs: ScoreInputs<V>,
): V {
  const images = connector(ops, config.connector, inputs.features) // [M, N, C]
  const x = embedSequence(ops, { ...inputs, images }) // [B, T, C]
  let total: V | undefined // [B, R, T]
  const visit = (q: V, k: V): void => {
    const layer = layerAttention(ops, config, mode, { q, k }, inputs)
    total = total === undefined ? layer : ops.add(total, layer)
  }
  decoder(ops, config.text, x, visit, true)
  if (total === undefined) throw new RangeError('a language model has at least one layer')
  return ops.gatherRows(ops.transpose(total), inputs.columns)
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
  inputs: Pick<ScoreInputs<V>, 'rows' | 'padding'>,
): V {
  const { heads, kvHeads, headDim } = config.text
  const narrow = heads === kvHeads ? q : ops.sumNeighbours(q, heads / kvHeads)
  const [from, to] = mode === 'reference' ? [k, narrow] : [narrow, k]
  const products = ops.matmulTransposed(ops.gatherRows(from, inputs.rows), to) // [B, R, T]
  const scaled = ops.scale(products, 1 / Math.sqrt(heads * headDim))
  return ops.softmax(ops.add(scaled, inputs.padding))
}
