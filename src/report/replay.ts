/**
 * What would have been kept: `assignments` folded again from the log, in memory, under other settings or
 * other clusters. Nothing is published. Memory: some 250 bytes an example.
 */
import type { Log, LogRecord } from '../log/log.ts'
import type { Parts } from '../observe/parts.ts'
import type { Cluster, Control } from '../record.ts'
import { parseAssignment } from '../role/decision-outputs.ts'
import { type ExampleStore, Fold, type KeyedRow, type SelectSettings } from '../select/fold.ts'
import type { NearDuplicates } from '../select/near-duplicates.ts'
import type { FoldedAssignment } from '../select/parse.ts'
import type { Beginning } from '../select/policy.ts'

export type ReplayOptions = {
  topic: string
  settings: SelectSettings
  /** `value`, read from `record`, as the clusters that are asked for see it. */
  seen: (record: LogRecord, value: FoldedAssignment) => FoldedAssignment | Promise<FoldedAssignment>
  /** What is known before the first example, for decisions for good. */
  beginning: (first: FoldedAssignment) => Beginning | Promise<Beginning>
  /** What near-duplicates are found with, where they are looked for. */
  near?: NearDuplicates | undefined
  /** With the next offset, now and then. */
  onProgress?: (offset: number) => void
}

export type Replayed = {
  parts: Parts
  duplicates: number
  /** Key and instability (NaN: text-only) of what is kept of what came, in log order. */
  kept: { key: string; instability: number }[]
  clusters: { cluster: Cluster; size: number; quota: number }[]
}

const PROGRESS_RECORDS = 4_096
const SETTLE: Control = { v: 1, control: 'settle' }

/** Folds the whole topic. Controls of the log are passed over: the settings asked for hold throughout. */
export async function replay(log: Log, options: ReplayOptions): Promise<Replayed> {
  const { topic, settings, seen, beginning, near, onProgress } = options
  const store = new MemoryStore()
  const fold = new Fold(settings, store)
  let [read, next] = [0, 0]
  for await (const record of log.read(topic)) {
    next = record.offset + 1
    if (++read % PROGRESS_RECORDS === 0) onProgress?.(next)
    const value = parseAssignment(record, { withTrajectory: near !== undefined })
    if ('control' in value) continue
    if (fold.policy.wantsBeginning) fold.policy.begin(await beginning(value))
    const asSeen = seen(record, value)
    fold.fold(asSeen instanceof Promise ? await asSeen : asSeen, record.offset, near?.identify)
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
