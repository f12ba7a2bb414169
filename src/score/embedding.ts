/**
 * The embedding of an example: the mean over its text rows of the states that the last layer's projections
 * read at the last checkpoint, which the score's forward pass has anyway. Large ones are projected to 64
 * components with random signs, which keeps distances between examples (Johnson and Lindenstrauss; Achlioptas
 * 2003), and kept as a direction.
 */
import { encodeDirection } from '../direction.ts'
import type { Output } from '../engine/engine.ts'
import { seededRandom } from '../random.ts'

export const EMBEDDING_VALUES = 64
/** Part of the format: embeddings of another projection are not comparable. */
const PROJECTION_SEED = 64

/** `states` [B, R, C], of which the first `rows` of example `index` are its own; base64. */
export function embeddingOf({ data, shape }: Output, index: number, rows: number): string {
  const [, rowsMax, width] = shape as [number, number, number]
  const pooled = new Float64Array(width)
  for (let row = 0; row < rows; row++) {
    const from = (index * rowsMax + row) * width
    for (let c = 0; c < width; c++) pooled[c]! += data[from + c]! / rows
  }
  return encodeDirection(projected(pooled))
}

/** [C] -> [min(C, 64)] */
export function projected(values: Float64Array): Float64Array {
  const width = values.length
  if (width <= EMBEDDING_VALUES) return values
  const signs = signsOf(width)
  const found = new Float64Array(EMBEDDING_VALUES)
  for (let c = 0, at = 0; c < width; c++) {
    for (let d = 0; d < EMBEDDING_VALUES; d++) found[d]! += signs[at++]! * values[c]!
  }
  return found
}

const known = new Map<number, Int8Array>()

/** [C, 64] of ±1, the same everywhere. */
function signsOf(width: number): Int8Array {
  const found = known.get(width)
  if (found !== undefined) return found
  const random = seededRandom(PROJECTION_SEED)
  const signs = Int8Array.from({ length: width * EMBEDDING_VALUES }, () =>
    random() < 0.5 ? -1 : 1,
  )
  known.set(width, signs)
  return signs
}
