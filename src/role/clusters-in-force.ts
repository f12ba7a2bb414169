/**
 * Assignments under the bundle in force: a record that was scored with another one has its cluster found
 * again, from its trajectory, so that what the score roles run with never changes what is decided.
 */
import type { Bundle, Manifest } from '../cluster/bundle.ts'
import type { Found } from '../cluster/hnsw.ts'
import type { Nearness } from '../cluster/nearness.ts'
import { fetchBundle } from '../cluster/published.ts'
import { type SignatureSource, signatureOf } from '../cluster/signature.ts'
import { XmasdError } from '../errors.ts'
import type { Log, LogRecord } from '../log/log.ts'
import type { Assignment } from '../record.ts'
import type { FoldedAssignment } from '../select/parse.ts'
import type { Beginning } from '../select/policy.ts'

type Known = {
  manifest: Manifest
  beginning: Beginning
  nearest: (example: SignatureSource) => Found
}

export class ClustersInForce {
  readonly #log: Log
  readonly #topic: string
  readonly #known = new Map<string, Known>()

  /** `topic` is the one of published bundles. */
  constructor(log: Log, topic: string) {
    this.#log = log
    this.#topic = topic
  }

  /**
   * `value`, the assignment in `record`, as if it had been scored with `bundle`. Throws BUNDLE_INVALID,
   * BUNDLE_ALTERED.
   */
  of<T extends FoldedAssignment>(record: LogRecord, value: T, bundle: string): T | Promise<T> {
    if (value.bundle === bundle) return value
    const known = this.#known.get(bundle)
    if (known === undefined) return this.#load(bundle).then(() => this.of(record, value, bundle))
    if (value.cluster === 'text') return { ...value, bundle }
    const whole = JSON.parse(Buffer.from(record.value!).toString()) as Assignment
    return { ...value, ...known.nearest(whole), bundle }
  }

  /**
   * What `bundle` knows before the first example. A later bundle may be fitted to the stream itself, whose
   * examples would count twice: only the first one has members. Throws BUNDLE_INVALID, BUNDLE_ALTERED.
   */
  async beginning(bundle: string, { isFirst }: { isFirst: boolean }): Promise<Beginning> {
    const { beginning } = this.#known.get(bundle) ?? (await this.#load(bundle))
    return isFirst ? beginning : { ...beginning, members: undefined }
  }

  /** Throws BUNDLE_INVALID, BUNDLE_ALTERED. */
  async manifest(bundle: string): Promise<Manifest> {
    return (this.#known.get(bundle) ?? (await this.#load(bundle))).manifest
  }

  /** How many clusters `bundle` has, where it has been needed already. */
  countOf(bundle: string | null): number | undefined {
    return bundle === null ? undefined : this.#known.get(bundle)?.manifest.clusters
  }

  /** A bundle that need not lie on the log. */
  add({ id, manifest, index, members }: Bundle): Known {
    const read = signatureOf(manifest)
    const { clusters, baseline } = manifest
    const known: Known = {
      manifest,
      beginning: { clusters, textOnly: baseline.textOnly, members },
      nearest: example => index.nearest(read(example)),
    }
    this.#known.set(id, known)
    return known
  }

  async #load(id: string): Promise<Known> {
    return this.add(await fetchBundle(this.#log, this.#topic, id))
  }
}

/** What a published bundle learned of near-duplicates. Throws BUNDLE_MISMATCH where it did not, BUNDLE_INVALID. */
export async function fetchNearness(log: Log, topic: string, id: string): Promise<Nearness> {
  return nearnessOf((await fetchBundle(log, topic, id)).manifest)
}

/** @throws XmasdError BUNDLE_MISMATCH where it has learned nothing of near-duplicates */
export function nearnessOf({ id, nearness }: Pick<Manifest, 'id' | 'nearness'>): Nearness {
  if (nearness !== undefined) return nearness
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `near-duplicates are to be left out, but bundle ${id} has learned nothing of them`,
    'Score again and fit a new bundle; a log keeps what its first one learned, so for a new log. Or do without: select.nearDuplicates.enabled, --near-duplicates.',
  )
}
