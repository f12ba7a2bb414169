/**
 * Folds `assignments` again from the log, in memory, under other settings or other clusters. Nothing is
 * published. Memory: some 250 bytes an example.
 */
import type { Log } from '../log/log.ts'
import type { Parts } from '../observe/segments.ts'
import { type Control, type RecordedAssignment, readAssignment } from '../record.ts'
import type { NearDuplicates } from '../select/dedup/near-duplicates.ts'
import type { FindProtected } from '../select/dedup/protected.ts'
import { type ExampleStore, Fold, type KeyedRow, type SelectSettings } from '../select/fold.ts'
import type { Beginning, ClusterCount } from '../select/rule/policy.ts'

export type ReplayOptions = {
  topic: string
  settings: SelectSettings
  /** An assignment under the wanted clusters. */
  reassign: (value: RecordedAssignment) => RecordedAssignment | Promise<RecordedAssignment>
  /** What an online policy begins with. */
  beginning: (first: RecordedAssignment) => Beginning | Promise<Beginning>
  near?: NearDuplicates | undefined
  /** The protection of the wanted bundle. */
  findProtected?: FindProtected | undefined
  /** With the next offset, now and then. */
  onProgress?: (offset: number) => void
}

export type Replayed = {
  parts: Parts
  duplicates: number
  /** Key and instability (NaN: text-only) of the kept examples of the stream, in log order. */
  kept: { key: string; instability: number }[]
  clusters: ClusterCount[]
}

const PROGRESS_RECORDS = 4_096
const SETTLE: Control = { v: 1, control: 'settle' }

/** Folds the whole topic without its control records: the wanted settings hold throughout. */
export async function replay(log: Log, options: ReplayOptions): Promise<Replayed> {
  const { topic, settings, reassign, beginning, near, findProtected, onProgress } = options
  const lookups = { findNear: near?.identify, findProtected }
  const store = new MemoryStore()
  const fold = new Fold(settings, store)
  let [read, next] = [0, 0]
  for await (const record of log.read(topic)) {
    next = record.offset + 1
    if (++read % PROGRESS_RECORDS === 0) onProgress?.(next)
    const value = readAssignment(record)
    if ('control' in value) continue
    if (fold.policy.wantsBeginning) fold.policy.begin(await beginning(value))
    const reassigned = reassign(value)
    const assignment = reassigned instanceof Promise ? await reassigned : reassigned
    fold.fold(assignment, record.offset, lookups)
  }
  fold.fold(SETTLE, next)
  const kept = Int32Array.from(fold.subset()).sort()
  return {
    parts: fold.parts,
    duplicates: fold.duplicates,
    kept: Array.from(kept, sequence => {
      const { key, instability } = store.row(sequence)
      return { key, instability }
    }),
    clusters: [...fold.policy.clusters()],
  }
}

class MemoryStore implements ExampleStore {
  readonly #rows: KeyedRow[] = []
  readonly #duplicates = new Set<string>()

  row(sequence: number): KeyedRow {
    return this.#rows[sequence]!
  }

  append(row: KeyedRow): void {
    this.#rows.push(row)
  }

  hasDuplicate(key: string): boolean {
    return this.#duplicates.has(key)
  }

  addDuplicate(key: string): void {
    this.#duplicates.add(key)
  }
}
