/**
 * What the select role folds into: the selection whose bundle is in force and, while one is set, a shadow
 * that decides beside it. Control records of `assignments` change them, so that every decision is a
 * function of the log alone:
 *
 *   {shadow: B} ─► B's fold is brought up to here, silently; from here on its decisions go to `shadow`
 *   {swap: B}   ─► B's fold is brought up to here (a shadow is there already), the difference of the two
 *                  subsets is published as evicts and restores, B is in force
 */
import type { Manifest } from '../cluster/bundle.ts'
import type { Config } from '../config.ts'
import type { Consumer, Log, LogRecord, OutRecord, StateWriter } from '../log/log.ts'
import type { Logger } from '../observe/logger.ts'
import type { Decision } from '../record.ts'
import type { Folded, NearOf } from '../select/fold.ts'
import { type NearDuplicates, openNearDuplicates } from '../select/near-duplicates.ts'
import type { FoldedAssignment } from '../select/parse.ts'
import { type Named, readInForce, writeInForce } from '../select/scope.ts'
import type { SelectState } from '../select/state.ts'
import { ClustersInForce, fetchNearness } from './clusters-in-force.ts'
import { decisionOutputs, parseAssignment, shadowOutput } from './decision-outputs.ts'
import { traceOf } from './outcome.ts'
import {
  differenceOf,
  foldInto,
  openSelection,
  revisions,
  type Selection,
  writeSelection,
} from './selection.ts'

export type SelectionsParts = {
  config: Config
  log: Log
  consumer: Consumer
  logger: Logger
}

/** Records folded between two commits of a fold that is brought up to the others. */
const RAISE_COMMIT_RECORDS = 65_536
/** Records folded between two looks at the event loop: some 10 ms of work. */
export const FOLD_RECORDS = 256

export type FoldedRecord = {
  /** An assignment as the bundle in force sees it. */
  seen: FoldedAssignment | undefined
  /** By the selection in force. */
  folded: Folded
  outputs: OutRecord[]
}

export class Selections {
  readonly #parts: SelectionsParts
  readonly #clusters: ClustersInForce
  /** The bundle that the log began with. */
  #first: string | null
  #active: Selection
  #shadow: Selection | undefined
  /** Undefined where near-duplicates are not looked for. One for all folds, so that they number alike. */
  readonly #near: NearDuplicates | undefined
  /** Of records that the fold in force has folded already. */
  readonly #nearOfBefore: NearOf | undefined

  /** Opens what the group's state holds. Throws STATE_INVALID. */
  constructor(parts: SelectionsParts) {
    this.#parts = parts
    this.#clusters = new ClustersInForce(parts.log, parts.config.log.topics.bundles)
    const { first, active, shadow } = readInForce(parts.consumer.state)
    this.#first = first
    this.#active = this.#open(active)
    if (shadow !== null) this.#shadow = this.#open(shadow)
    const { nearDuplicates } = parts.config.select
    const near = openNearDuplicates(parts.consumer.state, nearDuplicates, first !== null)
    this.#near = near
    this.#nearOfBefore = near && ((_, content) => near.recall(content))
  }

  /** The fold whose decisions count. */
  get state(): SelectState {
    return this.#active.state
  }

  /** Clusters of the bundle in force; undefined where nothing had to be looked up in it yet. */
  get clusterCount(): number | undefined {
    return this.#clusters.countOf(this.#active.bundle)
  }

  /** The bundle in force, null before the first assignment; and the one that decides beside it. */
  get bundles(): { inForce: string | null; shadow: string | null } {
    return { inForce: this.#active.bundle, shadow: this.#shadow?.bundle ?? null }
  }

  /** Of a bundle that is or was in force. Throws BUNDLE_INVALID, BUNDLE_ALTERED. */
  manifest(bundle: string): Promise<Manifest> {
    return this.#clusters.manifest(bundle)
  }

  /** How far the shadow's subset is from the one in force; undefined without a shadow. */
  get shadowDifference(): number | undefined {
    return this.#shadow && differenceOf(this.#active.state, this.#shadow.state)
  }

  /** Folds the record into all selections. Throws as `Fold.fold`, `fetchBundle`, and `Consumer.commit`. */
  async fold(record: LogRecord): Promise<FoldedRecord> {
    const { topics } = this.#parts.config.log
    const value = parseAssignment(record, { withTrajectory: this.#near !== undefined })
    const beside = this.#shadow
    if (!('control' in value)) await this.#begin(value.bundle)
    const { folded, seen } = await foldInto(
      this.#active,
      this.#clusters,
      record,
      value,
      this.#near?.identify,
    )
    const besides =
      beside && (await foldInto(beside, this.#clusters, record, value, this.#nearOfBefore))
    if ('control' in value && value.control === 'swap') {
      folded.decisions.push(...(await this.#swap(value.bundle, record)))
    }
    if ('control' in value && value.control === 'shadow') {
      this.#shadow = value.bundle === null ? undefined : await this.#raise(value.bundle, record)
    }
    const trace = folded.decisions.length === 0 ? {} : traceOf(record)
    const outputs = folded.decisions.flatMap(one => decisionOutputs(one, topics, trace))
    outputs.push(
      ...(besides?.folded.decisions ?? []).map(decision => shadowOutput(decision, topics)),
    )
    return { seen, folded, outputs }
  }

  /** What is near is learned once, from the bundle that the log begins with. */
  async #begin(bundle: string): Promise<void> {
    this.#first ??= bundle
    if (this.#near === undefined || this.#near.isLearned) return
    const { log, config } = this.#parts
    this.#near.learn(await fetchNearness(log, config.log.topics.bundles, this.#first))
  }

  async #swap(bundle: string, control: LogRecord): Promise<Decision[]> {
    const from = this.#active
    if (from.bundle === bundle) return []
    const isThere = this.#revises && this.#shadow?.bundle === bundle
    const to = isThere ? this.#shadow! : await this.#raise(bundle, control)
    this.#active = to
    this.#shadow = undefined
    this.#parts.logger.info(
      { role: 'select', offset: control.offset, from: from.bundle, to: bundle },
      'swap',
    )
    return revisions(from.state, to.state)
  }

  /**
   * The fold of `bundle` with all records up to `control`, that one too. It goes on from where it was left,
   * and commits what it has on the way: nobody looks at it before it is in force or a shadow. What was decided
   * for good stays so: such a fold follows the one in force, under a name of its own.
   */
  async #raise(bundle: string, control: LogRecord): Promise<Selection> {
    const { log, config, consumer, logger } = this.#parts
    const name = bundle === this.#first ? null : bundle
    const scope = this.#revises ? name : `${bundle}@${control.offset}`
    const selection = this.#open({ bundle, scope })
    selection.state.follow(this.#active.state)
    const from = selection.state.appliedOffset
    const to = control.offset
    let folded = 0
    for await (const record of log.read(config.log.topics.assignments, { from, to })) {
      const value = parseAssignment(record, { withTrajectory: false })
      await foldInto(selection, this.#clusters, record, value, this.#nearOfBefore)
      folded++
      if (folded % FOLD_RECORDS === 0) await new Promise(setImmediate)
      if (folded % RAISE_COMMIT_RECORDS !== 0) continue
      logger.info({ role: 'select', bundle, offset: record.offset, to }, 'folding for swap')
      await consumer.commit({
        positions: [],
        outputs: [],
        state: writer => writeSelection(selection, writer),
      })
    }
    if (selection.state.appliedOffset <= to) {
      const value = parseAssignment(control, { withTrajectory: false })
      await foldInto(selection, this.#clusters, control, value, undefined)
    }
    selection.state.follow(undefined)
    return selection
  }

  /** Writes what was folded since the last commit. Only inside `commit`, once a commit. */
  write(writer: StateWriter): void {
    const [active, shadow] = [this.#active, this.#shadow]
    writeSelection(active, writer)
    this.#near?.write(writer)
    if (shadow !== undefined) writeSelection(shadow, writer)
    writeInForce(writer, {
      v: 1,
      first: this.#first,
      active: namedOf(active),
      shadow: shadow === undefined ? null : namedOf(shadow),
    })
  }

  get #revises(): boolean {
    return this.#parts.config.select.policy === 'revisable'
  }

  #open(named: Named): Selection {
    const { consumer, config } = this.#parts
    return openSelection(consumer.state, config.select, named)
  }
}

function namedOf({ bundle, scope }: Selection): Named {
  return { bundle, scope }
}
