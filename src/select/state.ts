/**
 * The fold's durable state, beside the log: enough to go on without reading the log again.
 *
 *     ['meta']                        JSON: format, settings, counts, the last offset applied
 *     ['example', first sequence]     a block of 128 examples (`blocks.ts`)
 *     ['numbers', first sequence]     a chunk of 16,384 of them, for opening (`numbers.ts`); whole ones only
 *     ['duplicate', high, low, hash]  JSON: the key of a duplicate, its owner and its offset
 *     ['policy']                      what the policy saved last, if it wants anything back
 *
 * Which examples are kept follows from the examples: by the batch rule over those settled, or by deciding
 * again those that came after what the policy saved.
 *
 *            ┌────────────── poll ◄───────────────┐
 *            ▼                                    │
 *   open ─► fold … fold ─► commit{state: write} ──┤ done
 *    ▲                                            │
 *    └──────────── open again ◄───────────────────┘ failed (what was folded since is void)
 *
 * After `open`, `appliedOffset` may lie behind the committed position (an engine that commits state
 * second): fold the records between them and throw their decisions away, they were published.
 */
import { z } from 'zod'
import { XmasdError } from '../errors.ts'
import type { StateReader, StateWriter } from '../log/log.ts'
import type { Parts } from '../observe/parts.ts'
import type { Control, Decision, SubsetEntry } from '../record.ts'
import { Fold, type Folded, type NearOf, type SelectSettings } from './fold.ts'
import type { FoldedAssignment } from './parse.ts'
import type { Beginning, Regret } from './policy.ts'
import { damaged, Store } from './store.ts'

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
  examples: z.int().min(0),
  settled: z.int().min(0),
  duplicates: z.int().min(0),
  lastOffset: z.int().min(-1),
})
type Meta = z.infer<typeof Meta>

const NO_SETTINGS = {
  budgetExamples: undefined,
  horizonExamples: undefined,
  baseline: undefined,
  controlPercent: undefined,
}

/** Those that its decisions depend on. */
function decisiveSettings(settings: SelectSettings) {
  const { policy, percent, settleEvery, budgetExamples } = settings
  const controlPercent = settings.controlPercent === 0 ? undefined : settings.controlPercent
  const common = { policy, percent, settleEvery, budgetExamples, controlPercent }
  if (policy === 'revisable') return common
  const { horizonExamples, baseline } = settings
  return { ...common, horizonExamples, baseline }
}

/**
 * Opens the select role's state: what `reader` holds, or an empty one.
 *
 * @throws XmasdError STATE_INVALID where it is damaged, of another version or of other settings
 */
export function openSelectState(reader: StateReader, settings: SelectSettings): SelectState {
  return new SelectState(reader, settings)
}

export class SelectState {
  readonly #fold: Fold
  readonly #store: Store
  readonly #settings: SelectSettings

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

  /** How many of them are kept. */
  get kept(): number {
    return this.#fold.policy.kept
  }

  /** Of which parts both are, and what the control arm has besides. */
  get parts(): Parts {
    return this.#fold.parts
  }

  /** Bytes of memory held for the examples, all together. */
  get bytes(): number {
    return this.#fold.policy.bytes + this.#fold.owners.bytes
  }

  /** Size and kept count of every cluster that has examples. A pass over the clusters. */
  clusters(): ReturnType<Fold['policy']['clusters']> {
    return this.#fold.policy.clusters()
  }

  /** How the subset compares with the batch rule's; undefined where it equals it. A pass over the clusters. */
  regret(): Regret | undefined {
    return this.#fold.policy.regret()
  }

  /** Whether `begin` is to come before the first assignment. */
  get wantsBeginning(): boolean {
    return this.#fold.policy.wantsBeginning
  }

  begin(beginning: Beginning): void {
    this.#fold.policy.begin(beginning)
  }

  /** Folds one record of `assignments`; see `Fold.fold`. */
  fold(record: FoldedAssignment | Control, offset: number, nearOf?: NearOf): Folded {
    return this.#fold.fold(record, offset, nearOf)
  }

  /**
   * Keeps what `other` keeps of the records folded from here on, until it is undefined, where the policy
   * decides for good. Does nothing to one that revises. See `Policy.follow`.
   */
  follow(other: SelectState | undefined): void {
    const kept = other === undefined ? undefined : new Set(other.#fold.policy.subset())
    this.#fold.policy.follow?.(kept && (sequence => kept.has(sequence)))
  }

  /** Sequence numbers of the examples kept now, ascending: folds of the same records number alike. */
  keptSequences(): Int32Array {
    return Int32Array.from(this.#fold.subset()).sort()
  }

  /** What a change of bundles does to one example. */
  revision(sequence: number, action: 'evict' | 'restore'): Decision {
    const { key, id, cluster, instability: value, bundle } = this.#store.row(sequence)
    const instability = cluster === 'text' ? null : value
    const quota = this.#fold.policy.quota(cluster)
    return { v: 1, key, id, action, reason: 'bundle_swapped', cluster, instability, quota, bundle }
  }

  /** The examples kept now, in log order. Reads every one of them from the state. */
  *subset(): Generator<SubsetEntry> {
    for (const sequence of this.keptSequences()) {
      const { key, id, cluster, instability: value, bundle } = this.#store.row(sequence)
      const instability = cluster === 'text' ? null : value
      yield { v: 1, key, id, cluster, instability, bundle }
    }
  }

  /** Writes what was folded since the last commit. Only inside `commit`, once a commit. */
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

/** Throws STATE_INVALID where `reader` holds a state that these settings can't go on with. */
export function checkSettings(reader: StateReader, settings: SelectSettings): void {
  readMeta(reader, settings)
}

function readMeta(reader: StateReader, settings: SelectSettings): Meta | undefined {
  const bytes = reader.get([META])
  if (bytes === undefined) return undefined
  const parsed = Meta.safeParse(parseJson(bytes))
  if (!parsed.success) throw damaged("its 'meta' entry is not of this version of the format")
  const meta = parsed.data
  const wanted = { ...NO_SETTINGS, ...decisiveSettings(settings) }
  for (const name of Object.keys(wanted) as (keyof typeof wanted)[]) {
    if (meta[name] === wanted[name]) continue
    throw new XmasdError(
      'STATE_INVALID',
      `the select state was made with ${name} ${meta[name]}, the configuration says ${wanted[name]}`,
      `Put select.${name} back; or replay the assignments, without scoring, under a new select.group and new names of log.topics.decisions and log.topics.subset.`,
    )
  }
  return meta
}

function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString())
  } catch {
    return undefined
  }
}
