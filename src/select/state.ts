/**
 * The fold's durable state, beside the log: enough to go on without reading the log again.
 *
 *     ['meta']                        JSON: format, settings, counts, the last offset applied
 *     ['example', first sequence]     a block of 128 examples (`columns/stored.ts`)
 *     ['numbers', first sequence]     a chunk of 16,384 of them, for opening; whole ones only
 *     ['duplicate', high, low, hash]  JSON: the key of a duplicate, its owner and its offset
 *     ['policy']                      the policy's last snapshot, where it takes any
 *     ['inForce']                     JSON: the active bundle and the shadow bundle
 *
 * The kept examples follow from the history: by the batch rule over the settled ones, or by repeating the
 * admissions after the snapshot. A fold that is not the log's first has its keys under ['bundle', scope].
 *
 * After `open`, `appliedOffset` may lie behind the committed position (an engine that commits state
 * second): fold the records between them and discard their decisions, which were published.
 */
import { z } from 'zod'
import type { StateKey, StateReader, StateWriter } from '../log/log.ts'
import type { Parts } from '../observe/segments.ts'
import type { Control, Decision, SubsetEntry } from '../record.ts'
import { otherSetting, readEntry } from './columns/stored.ts'
import {
  Fold,
  type Folded,
  type FoldedAssignment,
  type Lookups,
  type SelectSettings,
} from './fold.ts'
import type { Beginning, ClusterCount, Regret } from './rule/policy.ts'
import { Store } from './store.ts'

const META = 'meta'
const POLICY = 'policy'

const Meta = z.strictObject({
  format: z.literal('xmasd-select'),
  v: z.literal(1),
  policy: z.string(),
  percent: z.number(),
  settleEvery: z.int(),
  budgetExamples: z.int().optional(),
  horizonExamples: z.int().optional(),
  baseline: z.string().optional(),
  controlPercent: z.number().optional(),
  rank: z.string().optional(),
  gainMin: z.number().optional(),
  examples: z.int().min(0),
  settled: z.int().min(0),
  duplicates: z.int().min(0),
  lastOffset: z.int().min(-1),
})
type Meta = z.infer<typeof Meta>

/** The settings that decisions depend on. */
function decisiveSettings(settings: SelectSettings) {
  const { policy, percent, settleEvery, budgetExamples, controlPercent, rank, gainMin } = settings
  const isOnline = policy !== 'revisable'
  return {
    ...{ policy, percent, settleEvery, budgetExamples },
    controlPercent: controlPercent === 0 ? undefined : controlPercent,
    rank: rank === 'instability' ? undefined : rank,
    gainMin,
    horizonExamples: isOnline ? settings.horizonExamples : undefined,
    baseline: isOnline ? settings.baseline : undefined,
  }
}

export class SelectState {
  readonly #fold: Fold
  readonly #store: Store
  readonly #settings: SelectSettings

  /**
   * Opens what `reader` holds, or an empty state. Throws STATE_INVALID where it is damaged, of
   * another version or of other settings.
   */
  constructor(reader: StateReader, settings: SelectSettings) {
    const meta = readMeta(reader, settings)
    this.#settings = settings
    this.#store = new Store(reader, meta?.examples ?? 0)
    this.#fold = new Fold(settings, this.#store)
    if (meta === undefined) return
    this.#fold.restore(this.#store.history(), meta, reader.get([POLICY]))
  }

  /** The next offset of `assignments` to fold. */
  get appliedOffset(): number {
    return this.#fold.lastOffset + 1
  }

  /** N: examples that count, pending ones and those of a baseline included. */
  get examples(): number {
    return this.#fold.policy.examples
  }

  /** Examples that wait for the next settlement. */
  get pending(): number {
    return this.#fold.owners.length - this.#fold.policy.settled
  }

  get duplicates(): number {
    return this.#fold.duplicates
  }

  get kept(): number {
    return this.#fold.policy.kept
  }

  get parts(): Parts {
    return this.#fold.parts
  }

  /** Size and kept count of every cluster that has examples. A pass over the clusters. */
  clusters(): Iterable<ClusterCount> {
    return this.#fold.policy.clusters()
  }

  /** A pass over the clusters; see `Policy.regret`. */
  regret(): Regret | undefined {
    return this.#fold.policy.regret()
  }

  get wantsBeginning(): boolean {
    return this.#fold.policy.wantsBeginning
  }

  begin(beginning: Beginning): void {
    this.#fold.policy.begin(beginning)
  }

  /** Folds one record of `assignments`; see `Fold.fold`. */
  fold(record: FoldedAssignment | Control, offset: number, lookups: Lookups = {}): Folded {
    return this.#fold.fold(record, offset, lookups)
  }

  /** From here on an online policy keeps what `other` keeps, until it is undefined; see `Policy.follow`. */
  follow(other: SelectState | undefined): void {
    const kept = other === undefined ? undefined : new Set(other.#fold.policy.subset())
    this.#fold.policy.follow?.(kept && (sequence => kept.has(sequence)))
  }

  /** Sequence numbers of the examples kept now, ascending: folds of the same records number alike. */
  keptSequences(): Int32Array {
    return Int32Array.from(this.#fold.subset()).sort()
  }

  /** The decision that a bundle swap makes about one example. */
  revision(sequence: number, action: 'evict' | 'restore'): Decision {
    const row = this.#store.row(sequence)
    const { key, id, cluster, instability: value, bundle } = row
    const instability = cluster === 'text' ? null : value
    const quota = this.#fold.policy.quota(cluster)
    const reason = row.isProtected === true ? 'protected' : 'bundle_swapped'
    return { v: 1, key, id, action, reason, cluster, instability, quota, bundle }
  }

  /** The examples kept now, in log order. Reads every one of them from the state. */
  *subset(): Generator<SubsetEntry> {
    for (const sequence of this.keptSequences()) {
      const { key, id, cluster, instability: value, bundle } = this.#store.row(sequence)
      const instability = cluster === 'text' ? null : value
      yield { v: 1, key, id, cluster, instability, bundle }
    }
  }

  /** Writes what was folded since the last commit. Call it inside `commit`, once. */
  write(writer: StateWriter): void {
    const meta: Meta = {
      format: 'xmasd-select',
      v: 1,
      ...decisiveSettings(this.#settings),
      examples: this.#fold.owners.length,
      settled: this.#fold.policy.settled,
      duplicates: this.duplicates,
      lastOffset: this.#fold.lastOffset,
    }
    this.#store.write(writer)
    const saved = this.#fold.policy.save()
    if (saved !== undefined) writer.put([POLICY], saved)
    writer.put([META], Buffer.from(JSON.stringify(meta)))
  }
}

/** Throws STATE_INVALID where these settings can't go on with the state that `reader` holds. */
export function checkSettings(reader: StateReader, settings: SelectSettings): void {
  readMeta(reader, settings)
}

function readMeta(reader: StateReader, settings: SelectSettings): Meta | undefined {
  const meta = readEntry(reader, META, Meta)
  if (meta === undefined) return undefined
  const wanted = decisiveSettings(settings)
  for (const name of Object.keys(wanted) as (keyof typeof wanted)[]) {
    if (meta[name] !== wanted[name]) throw otherSetting(name, meta[name], wanted[name])
  }
  return meta
}

/* Several folds in one group's state, each under a scope. The log's first fold has none. */

/** A fold's bundle, null before the first assignment, and the scope of its state. */
const ScopedBundle = z.strictObject({ bundle: z.string().nullable(), scope: z.string().nullable() })
export type ScopedBundle = z.infer<typeof ScopedBundle>

const ActiveBundles = z.strictObject({
  v: z.literal(1),
  /** The bundle that the log began with; null before the first assignment. */
  first: z.string().nullable(),
  active: ScopedBundle,
  shadow: ScopedBundle.nullable(),
})
export type ActiveBundles = z.infer<typeof ActiveBundles>

const ACTIVE_BUNDLES = 'inForce'
const SCOPES = 'bundle'
const NOTHING_ACTIVE: ActiveBundles = {
  v: 1,
  first: null,
  active: { bundle: null, scope: null },
  shadow: null,
}

/** Throws STATE_INVALID. */
export function readActiveBundles(reader: StateReader): ActiveBundles {
  return readEntry(reader, ACTIVE_BUNDLES, ActiveBundles) ?? NOTHING_ACTIVE
}

export function writeActiveBundles(writer: StateWriter, bundles: ActiveBundles): void {
  writer.put([ACTIVE_BUNDLES], Buffer.from(JSON.stringify(bundles)))
}

/** A reader of the keys of `scope` alone. */
export function scopedReader(reader: StateReader, scope: string | null): StateReader {
  if (scope === null) return reader
  const within = (key: StateKey): StateKey => [SCOPES, scope, ...segmentsOf(key)]
  return {
    get: key => reader.get(within(key)),
    *range(from, to) {
      for (const { key, value } of reader.range(within(from), within(to))) {
        yield { key: segmentsOf(key).slice(2), value }
      }
    },
  }
}

/** A writer of the keys of `scope` alone. */
export function scopedWriter(writer: StateWriter, scope: string | null): StateWriter {
  if (scope === null) return writer
  const within = (key: StateKey): StateKey => [SCOPES, scope, ...segmentsOf(key)]
  return {
    put: (key, value) => writer.put(within(key), value),
    remove: key => writer.remove(within(key)),
  }
}

function segmentsOf(key: StateKey): readonly (string | number)[] {
  return typeof key === 'object' ? key : [key]
}
