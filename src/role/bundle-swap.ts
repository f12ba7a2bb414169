/**
 * The folds of the select role: the active one, whose decisions count, and while one is set a shadow,
 * whose decisions go to the topic `shadow`. Control records of `assignments` change them, so that every
 * decision is a function of the log alone:
 *
 *   {shadow: B} ─► B's fold catches up to here without outputs; from here on its decisions go to `shadow`
 *   {swap: B}   ─► B's fold catches up to here (a shadow is there already), the difference of the two
 *                  subsets is published as evicts and restores, B is active
 */
import { type Bundle, similarityModelOf } from '../bundle/bundle.ts'
import { PublishedBundles } from '../bundle/publication.ts'
import type { Config } from '../config.ts'
import type { Consumer, Log, LogRecord, OutRecord, StateWriter } from '../log/log.ts'
import type { Logger } from '../observe/logger.ts'
import { type Control, type Decision, type RecordedAssignment, readAssignment } from '../record.ts'
import {
  type FindNear,
  type NearDuplicates,
  openNearDuplicates,
} from '../select/dedup/near-duplicates.ts'
import { type FindProtected, protectionOf } from '../select/dedup/protected.ts'
import type { Folded } from '../select/fold.ts'
import {
  readActiveBundles,
  type ScopedBundle,
  SelectState,
  scopedReader,
  scopedWriter,
  writeActiveBundles,
} from '../select/state.ts'
import { decisionOutputs, decisionRecord, traceOf } from './outcome.ts'

/** One fold under one bundle, which is that of the first assignment where it was null. */
type Selection = ScopedBundle & {
  state: SelectState
  /** Of its bundle; undefined until an assignment needs it. */
  protection: { find: FindProtected | undefined } | undefined
}

export type SelectionsParts = {
  config: Config
  log: Log
  consumer: Consumer
  logger: Logger
}

export type FoldedRecord = {
  /** The assignment under the active bundle; undefined for a control record. */
  assignment: RecordedAssignment | undefined
  /** By the active fold. */
  folded: Folded
  outputs: OutRecord[]
}

type FoldedInto = Pick<FoldedRecord, 'assignment' | 'folded'>

/** Records between two commits of a fold that catches up. */
const CATCH_UP_COMMIT_RECORDS = 65_536
/** Records folded between two turns of the event loop: some 10 ms of work. */
export const FOLD_RECORDS = 256

export class Selections {
  readonly #parts: SelectionsParts
  readonly #bundles: PublishedBundles
  /** The bundle that the log began with. */
  #first: string | null
  #active: Selection
  #shadow: Selection | undefined
  /** Undefined where near-duplicates are not looked for. One for all folds, which number examples alike. */
  readonly #near: NearDuplicates | undefined
  /** For records that the active fold has read before. */
  readonly #recallNear: FindNear | undefined

  /** Opens what the group's state holds. Throws STATE_INVALID. */
  constructor(parts: SelectionsParts) {
    this.#parts = parts
    const { nearDuplicates } = parts.config.select
    this.#bundles = new PublishedBundles(parts.log, parts.config.log.topics.bundles)
    const { first, active, shadow } = readActiveBundles(parts.consumer.state)
    this.#first = first
    this.#active = this.#open(active)
    if (shadow !== null) this.#shadow = this.#open(shadow)
    const near = openNearDuplicates(parts.consumer.state, nearDuplicates, first !== null)
    this.#near = near
    this.#recallNear = near && ((_, content) => near.recall(content))
  }

  /** The active fold. */
  get state(): SelectState {
    return this.#active.state
  }

  /** Clusters of the active bundle; undefined where that bundle has not been needed yet. */
  get clusterCount(): number | undefined {
    return this.#bundles.clustersOf(this.#active.bundle)
  }

  /** The active bundle, null before the first assignment; and the shadow bundle. */
  get bundles(): { active: string | null; shadow: string | null } {
    return { active: this.#active.bundle, shadow: this.#shadow?.bundle ?? null }
  }

  /** A bundle that is or was active. Throws BUNDLE_INVALID, BUNDLE_ALTERED. */
  bundle(id: string): Promise<Bundle> {
    return this.#bundles.get(id)
  }

  /** The difference of the active and the shadow subset, 0..1; undefined without a shadow. */
  get shadowDifference(): number | undefined {
    return this.#shadow && differenceOf(this.#active.state, this.#shadow.state)
  }

  /**
   * Folds the record into all folds; a promise only where it has to wait, for a bundle or a swap. Throws
   * as `Fold.fold`, `fetchBundle`, and `Consumer.commit`.
   */
  fold(record: LogRecord): FoldedRecord | Promise<FoldedRecord> {
    const value = readAssignment(record)
    const isReady = this.#shadow === undefined && this.#near?.isLearned !== false
    if ('control' in value || !isReady) return this.#foldInTurn(record, value)
    this.#first ??= value.bundle
    const active = this.#foldInto(this.#active, record, value, this.#near?.identify)
    return active instanceof Promise
      ? active.then(one => this.#published(record, one))
      : this.#published(record, active)
  }

  async #foldInTurn(record: LogRecord, value: RecordedAssignment | Control): Promise<FoldedRecord> {
    const shadow = this.#shadow
    if (!('control' in value)) await this.#begin(value.bundle)
    const active = await this.#foldInto(this.#active, record, value, this.#near?.identify)
    const shadowed = shadow && (await this.#foldInto(shadow, record, value, this.#recallNear))
    if ('control' in value && value.control === 'swap') {
      // As arguments of one call, a hundred thousand of them would not fit on the stack.
      for (const one of await this.#swap(value.bundle, record)) active.folded.decisions.push(one)
    }
    if ('control' in value && value.control === 'shadow') {
      this.#shadow = value.bundle === null ? undefined : await this.#catchUp(value.bundle, record)
    }
    return this.#published(record, active, shadowed?.folded.decisions)
  }

  #published(
    record: LogRecord,
    { folded, assignment }: FoldedInto,
    shadowed: readonly Decision[] = [],
  ): FoldedRecord {
    const { topics } = this.#parts.config.log
    const trace = folded.decisions.length === 0 ? {} : traceOf(record)
    const outputs = folded.decisions.flatMap(one => decisionOutputs(one, topics, trace))
    for (const one of shadowed) outputs.push(decisionRecord(one, topics.shadow))
    return { assignment, folded, outputs }
  }

  /** The similarity model is that of the log's first bundle. */
  async #begin(bundle: string): Promise<void> {
    this.#first ??= bundle
    if (this.#near === undefined || this.#near.isLearned) return
    this.#near.learn(similarityModelOf((await this.#bundles.get(this.#first)).manifest))
  }

  #foldInto(
    selection: Selection,
    { offset }: LogRecord,
    value: RecordedAssignment | Control,
    findNear: FindNear | undefined,
  ): FoldedInto | Promise<FoldedInto> {
    const { state } = selection
    if ('control' in value) return { folded: state.fold(value, offset), assignment: undefined }
    selection.bundle ??= value.bundle
    const { bundle } = selection
    const fold = (assignment: RecordedAssignment): FoldedInto => {
      const findProtected = selection.protection?.find
      return { folded: state.fold(assignment, offset, { findNear, findProtected }), assignment }
    }
    const isOpen = selection.protection !== undefined && !state.wantsBeginning
    const assignment = isOpen
      ? this.#bundles.reassign(value, bundle)
      : this.#opened(selection, bundle).then(() => this.#bundles.reassign(value, bundle))
    return assignment instanceof Promise ? assignment.then(fold) : fold(assignment)
  }

  /** Reads what the first assignment of a fold needs of its bundle. */
  async #opened(selection: Selection, bundle: string): Promise<void> {
    const { state, scope } = selection
    if (state.wantsBeginning) {
      state.begin(await this.#bundles.beginning(bundle, { isFirst: scope === null }))
    }
    selection.protection ??= { find: protectionOf(await this.#bundles.get(bundle)) }
  }

  async #swap(bundle: string, control: LogRecord): Promise<Decision[]> {
    const from = this.#active
    if (from.bundle === bundle) return []
    const isShadow = this.#isRevisable && this.#shadow?.bundle === bundle
    const to = isShadow ? this.#shadow! : await this.#catchUp(bundle, control)
    this.#active = to
    this.#shadow = undefined
    const { offset } = control
    this.#parts.logger.info({ role: 'select', offset, from: from.bundle, to: bundle }, 'swap')
    return revisions(from.state, to.state)
  }

  /**
   * The fold of `bundle` with all records up to `control`, that one included. It goes on from where it was
   * left, and commits on the way: its outputs are discarded until it is active or a shadow. Decisions of an
   * online policy stay as they are: its new fold follows the active one, under a scope of its own.
   */
  async #catchUp(bundle: string, control: LogRecord): Promise<Selection> {
    const { log, config, consumer, logger } = this.#parts
    const ownScope = bundle === this.#first ? null : bundle
    const scope = this.#isRevisable ? ownScope : `${bundle}@${control.offset}`
    const selection = this.#open({ bundle, scope })
    selection.state.follow(this.#active.state)
    const [from, to] = [selection.state.appliedOffset, control.offset]
    let folded = 0
    for await (const record of log.read(config.log.topics.assignments, { from, to })) {
      await this.#foldInto(selection, record, readAssignment(record), this.#recallNear)
      folded++
      if (folded % FOLD_RECORDS === 0) await new Promise(setImmediate)
      if (folded % CATCH_UP_COMMIT_RECORDS !== 0) continue
      logger.info({ role: 'select', bundle, offset: record.offset, to }, 'folding for swap')
      const state = (writer: StateWriter): void => writeSelection(selection, writer)
      await consumer.commit({ positions: [], outputs: [], state })
    }
    if (selection.state.appliedOffset <= to) {
      await this.#foldInto(selection, control, readAssignment(control), undefined)
    }
    selection.state.follow(undefined)
    return selection
  }

  /** Writes what was folded since the last commit. Call it inside `commit`, once. */
  write(writer: StateWriter): void {
    const [active, shadow] = [this.#active, this.#shadow]
    writeSelection(active, writer)
    this.#near?.write(writer)
    if (shadow !== undefined) writeSelection(shadow, writer)
    writeActiveBundles(writer, {
      v: 1,
      first: this.#first,
      active: { bundle: active.bundle, scope: active.scope },
      shadow: shadow === undefined ? null : { bundle: shadow.bundle, scope: shadow.scope },
    })
  }

  get #isRevisable(): boolean {
    return this.#parts.config.select.policy === 'revisable'
  }

  #open({ bundle, scope }: ScopedBundle): Selection {
    const { consumer, config } = this.#parts
    const state = new SelectState(scopedReader(consumer.state, scope), config.select)
    return { bundle, scope, state, protection: undefined }
  }
}

function writeSelection({ state, scope }: Selection, writer: StateWriter): void {
  state.write(scopedWriter(writer, scope))
}

/**
 * The evicts and restores that turn `from`'s subset into `to`'s, in log order. Both folds have read the
 * same records.
 */
export function revisions(from: SelectState, to: SelectState): Decision[] {
  const [before, after] = [from.keptSequences(), to.keptSequences()]
  const decisions: Decision[] = []
  let [a, b] = [0, 0]
  while (a < before.length || b < after.length) {
    const [left, right] = [before[a] ?? Infinity, after[b] ?? Infinity]
    if (left < right) decisions.push(to.revision(left, 'evict'))
    if (right < left) decisions.push(to.revision(right, 'restore'))
    if (left <= right) a++
    if (right <= left) b++
  }
  return decisions
}

/** Examples kept by one of two folds alone, relative to those kept by either; 0 where none is kept. */
export function differenceOf(one: SelectState, other: SelectState): number {
  const [a, b] = [one.keptSequences(), other.keptSequences()]
  const kept = new Set(a)
  const both = b.reduce((sum, sequence) => sum + (kept.has(sequence) ? 1 : 0), 0)
  const either = a.length + b.length - both
  return either === 0 ? 0 : (either - both) / either
}
