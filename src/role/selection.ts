/** One fold of the select role under one bundle: the fold that decides, or one that decides beside it. */
import type { LogRecord, StateReader, StateWriter } from '../log/log.ts'
import type { Control, Decision } from '../record.ts'
import type { Folded, NearOf, SelectSettings } from '../select/fold.ts'
import type { FoldedAssignment } from '../select/parse.ts'
import { type Named, scopedReader, scopedWriter } from '../select/scope.ts'
import { openSelectState, type SelectState } from '../select/state.ts'
import type { ClustersInForce } from './clusters-in-force.ts'

/** Its `bundle` is null before the first assignment, whose bundle it takes. */
export type Selection = Named & { state: SelectState }

/** @throws XmasdError STATE_INVALID */
export function openSelection(
  reader: StateReader,
  settings: SelectSettings,
  { bundle, scope }: Named,
): Selection {
  return { bundle, scope, state: openSelectState(scopedReader(reader, scope), settings) }
}

export function writeSelection({ state, scope }: Selection, writer: StateWriter): void {
  state.write(scopedWriter(writer, scope))
}

/**
 * Folds `value`, read from `record`, as the selection's bundle sees it: `seen`, of an assignment. Throws as
 * `Fold.fold` and `fetchBundle`.
 */
export async function foldInto(
  selection: Selection,
  clusters: ClustersInForce,
  record: LogRecord,
  value: FoldedAssignment | Control,
  nearOf: NearOf | undefined,
): Promise<{ folded: Folded; seen?: FoldedAssignment }> {
  const { state } = selection
  if ('control' in value) return { folded: state.fold(value, record.offset) }
  selection.bundle ??= value.bundle
  if (state.wantsBeginning) {
    const isFirst = selection.scope === null
    state.begin(await clusters.beginning(selection.bundle, { isFirst }))
  }
  const own = clusters.of(record, value, selection.bundle)
  const seen = own instanceof Promise ? await own : own
  return { folded: state.fold(seen, record.offset, nearOf), seen }
}

/**
 * What a consumer of `from`'s decisions must be told to hold `to`'s subset: evicts and restores, in log
 * order. Both have folded the same records.
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
