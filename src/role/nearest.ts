/** Cluster assignment through the HNSW index, checked against the exact scan now and then. */
import type { Bundle } from '../cluster/bundle.ts'
import { signatureOf } from '../cluster/signature.ts'
import type { Metrics } from '../observe/metrics.ts'
import type { Nearest } from './outcome.ts'

/** One answer in this many is compared with the exact scan. */
const CHECK_EVERY = 16

export function checkedNearest(bundle: Bundle, metrics: Pick<Metrics, 'indexChecks'>): Nearest {
  const read = signatureOf(bundle.manifest)
  let asked = 0
  return example => {
    const signature = read(example)
    const found = bundle.index.nearest(signature)
    if (asked++ % CHECK_EVERY === 0) {
      const agreed = bundle.index.nearestExact(signature).cluster === found.cluster
      metrics.indexChecks.inc({ agreed: String(agreed) })
    }
    return found
  }
}
