/** Which cluster of a bundle every example of a file of trajectories falls in. */
import type { Bundle } from './bundle.ts'
import { standardised } from './signature.ts'
import type { Trajectories } from './trajectories.ts'

/**
 * The nearest cluster of each example [read.ids.length]; null for text-only ones. `read` must hold the
 * bundle's signature.
 */
export function nearestClusters(
  read: Trajectories,
  { manifest, index }: Pick<Bundle, 'manifest' | 'index'>,
): (number | null)[] {
  const { data, dimensions } = read.signatures.get(manifest.signature)!
  return read.rows.map(row => {
    if (row < 0) return null
    const raw = data.subarray(row * dimensions, (row + 1) * dimensions)
    return index.nearest(standardised(raw, manifest.standardisation)).cluster
  })
}
