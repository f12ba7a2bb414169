/**
 * What the dashboard shows, read from the log alone: the newest examples with their decisions, dead
 * letters by code, and what the shadow bundle decides otherwise. It follows the log in steps, so that
 * requests are answered between them.
 */
import { PublishedBundles } from '../bundle/publication.ts'
import { rawSignature, type Signature, signatureOf } from '../bundle/signature.ts'
import type { Config } from '../config.ts'
import { type Baseline, readBaseline, readSelectPosition } from '../history/bundle-epochs.ts'
import type { Log } from '../log/log.ts'
import {
  ACTIONS,
  type Cluster,
  type Decision,
  isRedriveMark,
  REASONS,
  type RecordedAssignment,
  readAssignment,
} from '../record.ts'
import { POLL_RECORDS_MAX } from '../role/select-role.ts'
import { batchQuotas, budgetOf, type ClusterSize } from '../select/rule/quotas.ts'
import { orderOf } from '../select/rule/rank.ts'
import { Columns } from './columns.ts'
import type { Clusters } from './schemas.ts'

/** Examples that are held; a longer log is shown from the newest so many on. */
export const EXAMPLES_MAX = 1_000_000
/** Where they are exceeded by so many, the model starts anew with the newest. */
const EXAMPLES_ROOM = 250_000
const LETTERS_MAX = 10_000
const RECENT_MAX = 500
/** Records that one step reads of a topic, unless less is asked for. */
const STEP_RECORDS = 20_000
/** The select role is behind when it has not read so many: it polls half of them at once. */
const BEHIND_RECORDS = 2 * POLL_RECORDS_MAX

/** A decision as the ticker shows it. */
export type Recent = { offset: number; at: number; decision: Decision }
export type Letter = { offset: number; at: number; code: string }
export type Group = { rows: number[]; kept: number; size: number; duplicates: number }

export class Model {
  readonly #log: Log
  readonly #config: Config
  columns = new Columns()
  groups = new Map<Cluster, Group>()
  /** Rows of the duplicates of an example, by its row; and of what it duplicates. */
  duplicates = new Map<number, number[]>()
  originals = new Map<number, string>()
  /** The newest decisions, oldest first. */
  recent: Recent[] = []
  letters: Letter[] = []
  letterCounts = new Map<string, number>()
  /** The last action of the shadow bundle for an example. */
  shadow = new Map<number, Decision>()
  baseline: Baseline = { clusters: [], members: undefined, misaligned: 0 }
  readonly bundles: PublishedBundles
  /** What the active bundle clusters. */
  signature: Signature = 'sum'
  active: string | undefined
  shadowBundle: string | null = null
  /** Next offsets to read. */
  #next = { assignments: 0, decisions: 0, deadLetters: 0, shadow: 0 }
  #ends = { assignments: Number.POSITIVE_INFINITY, decisions: 1 }
  /** The select role's position: assignments before it are counted. */
  #committed = 0
  #isBegun = false
  /** Examples of the stream that count in N and join no cluster. */
  misaligned = 0
  /** Rows that were read and not counted yet. */
  #waiting: number[] = []
  isCaughtUp = false
  /** Grows with every change. */
  version = 0
  readonly #examplesMax: number

  constructor(log: Log, config: Config, examplesMax = EXAMPLES_MAX) {
    this.#log = log
    this.#config = config
    this.#examplesMax = examplesMax
    this.bundles = new PublishedBundles(log, config.log.topics.bundles)
  }

  /** The share of the log that is read, 0..1. */
  get progress(): number {
    const { assignments, decisions } = this.#next
    const all = this.#ends.assignments + this.#ends.decisions
    return this.isCaughtUp || all === 0 ? 1 : Math.min(1, (assignments + decisions) / all)
  }

  get committed(): number {
    return this.#committed
  }

  /** Whether the select role has a backlog to work off, as of the last step; true before the first. */
  get isFoldBehind(): boolean {
    return this.#ends.assignments - this.#committed > BEHIND_RECORDS
  }

  /** Examples that the select role has not read yet. */
  get waiting(): number {
    return this.#waiting.length
  }

  /** The offset after the last decision that was read. */
  get decisionsEnd(): number {
    return this.#next.decisions
  }

  /** Reads what is new, at most `most` records of each topic. Returns whether there was more. */
  async step(most = STEP_RECORDS): Promise<boolean> {
    const { topics } = this.#config.log
    const [committed = 0] = await this.#log.committed(this.#config.select.group, topics.assignments)
    const [decisions = 0] = await this.#log.ends(topics.decisions)
    const [assignments = 0] = await this.#log.ends(topics.assignments)
    this.#committed = committed
    this.#ends = { assignments, decisions }
    if (!this.#isBegun) await this.#begin()
    let isMore = await this.#readAssignments(most)
    // A decision follows its assignment: those up to the end seen first are all known then.
    if (!isMore) isMore = await this.#readDecisions(decisions, most)
    // All that was decided of a folded example is read by now: what duplicates another does not count.
    if (!isMore) this.#countWaiting()
    isMore = (await this.#readLetters(most)) || isMore
    if (this.shadowBundle !== null) await this.#readShadow()
    if (!isMore) this.isCaughtUp = true
    if (this.columns.count > this.#examplesMax + EXAMPLES_ROOM) this.#reset()
    return isMore
  }

  async #begin(): Promise<void> {
    const position = await readSelectPosition(this.#log, this.#config)
    this.active = position.epochs.at(-1)?.bundle
    if (this.active === undefined && this.#ends.assignments > 0) return
    this.baseline = await readBaseline(this.#log, this.#config, position)
    this.#next.assignments = Math.max(0, this.#ends.assignments - this.#examplesMax)
    this.#isBegun = true
    this.version++
  }

  /** Forgets all: the next step reads anew. */
  #reset(): void {
    this.columns = new Columns()
    this.groups = new Map()
    this.duplicates = new Map()
    this.originals = new Map()
    this.shadow = new Map()
    this.recent = []
    this.letters = []
    this.letterCounts = new Map()
    this.#waiting = []
    this.misaligned = 0
    this.#sign = undefined
    this.#next = { assignments: 0, decisions: 0, deadLetters: 0, shadow: 0 }
    this.#isBegun = false
    this.isCaughtUp = false
    this.version++
  }

  async #readAssignments(most: number): Promise<boolean> {
    const topic = this.#config.log.topics.assignments
    let read = 0
    for await (const record of this.#log.read(topic, { from: this.#next.assignments })) {
      this.#next.assignments = record.offset + 1
      if (record.value === null || record.error !== undefined) continue
      const value = readAssignment(record)
      this.version++
      if ('control' in value) {
        if (value.control === 'shadow') this.#setShadow(value.bundle, record.offset)
        const isSwap = value.control === 'swap' && record.offset < this.#committed
        if (isSwap && value.bundle !== this.active && this.isCaughtUp) {
          this.#reset()
          return true
        }
        continue
      }
      this.active ??= value.bundle
      if (this.columns.rowOf(value.key) < 0) {
        const { key, instability, source, trajectory, gain = null } = value
        const order = instability === null ? null : orderOf(this.#config.select, value)
        const { cluster, distance } = await this.bundles.reassign(value, this.active)
        const place = { offset: record.offset, at: record.timestamp }
        const signature = await this.#signatureOf(value)
        const row = this.columns.add({
          ...{ key, cluster, instability, order, gain, distance, source, trajectory },
          ...place,
          ...(signature === undefined ? {} : { signature }),
        })
        if (value.baseline === true && this.baseline.members !== undefined) {
          this.columns.setInBaseline(row)
        }
        this.#waiting.push(row)
      }
      if (++read >= most) return true
    }
    return false
  }

  /** Standardised [D]; undefined where it is the trajectory, null where the example has none. */
  #signatureOf(value: RecordedAssignment) {
    if (this.#sign !== undefined) return this.#sign(value)
    return this.#openSignature().then(sign => sign(value))
  }

  #sign: ((value: RecordedAssignment) => ArrayLike<number> | null | undefined) | undefined

  async #openSignature() {
    // Where the bundle is not on the log yet, the map is that of trajectories.
    const bundle = await this.bundles.get(this.active!).catch(() => undefined)
    this.signature = bundle?.manifest.signature ?? 'sum'
    const of = bundle === undefined ? undefined : signatureOf(bundle.manifest)
    const isThere = (value: RecordedAssignment): boolean =>
      value.cluster !== 'text' && rawSignature(this.signature, value) !== undefined
    this.#sign =
      this.signature === 'sum' || of === undefined
        ? () => undefined
        : value => (isThere(value) ? of(value) : null)
    return this.#sign
  }

  #setShadow(bundle: string | null, offset: number): void {
    this.shadowBundle = offset < this.#committed ? bundle : this.shadowBundle
    this.shadow = new Map()
  }

  async #readDecisions(to: number, most: number): Promise<boolean> {
    const topic = this.#config.log.topics.decisions
    const from = this.#next.decisions
    if (from >= to) return false
    let read = 0
    for await (const { value, offset, timestamp } of this.#log.read(topic, { from, to })) {
      this.#next.decisions = offset + 1
      if (value === null) continue
      this.#decide(JSON.parse(Buffer.from(value).toString()) as Decision, offset, timestamp)
      if (++read >= most) return true
    }
    return false
  }

  #decide(decision: Decision, offset: number, at: number): void {
    this.version++
    this.recent.push({ offset, at, decision })
    if (this.recent.length > 2 * RECENT_MAX) this.recent = this.recent.slice(-RECENT_MAX)
    const row = this.columns.rowOf(decision.key)
    if (row < 0) return
    const { columns } = this
    const [wasKept, wasCopy] = [columns.isKept(row), columns.isCopy(row)]
    const wasOutside = columns.isOutside(row)
    columns.decide(row, {
      offset,
      action: ACTIONS.indexOf(decision.action),
      reason: REASONS.indexOf(decision.reason),
      isRandom: decision.arm === 'random',
    })
    const group = this.#group(columns.cluster(row))
    group.duplicates += Number(columns.isCopy(row)) - Number(wasCopy)
    if (decision.reason === 'misaligned') this.misaligned++
    if (columns.isCounted(row)) {
      group.size += Number(wasOutside) - Number(columns.isOutside(row))
    }
    if (decision.duplicateOf !== undefined) this.#addDuplicate(row, decision.duplicateOf)
    if (columns.isRandom(row) || columns.isInBaseline(row)) return
    group.kept += Number(columns.isKept(row)) - Number(wasKept)
  }

  #addDuplicate(row: number, original: string): void {
    if (this.originals.has(row)) return
    this.originals.set(row, original)
    const other = this.columns.rowOf(original)
    if (other < 0) return
    this.duplicates.set(other, [...(this.duplicates.get(other) ?? []), row])
  }

  #countWaiting(): void {
    const { columns } = this
    const later: number[] = []
    for (const row of this.#waiting) {
      const isFolded =
        columns.action(row) !== undefined || columns.offset.get(row) < this.#committed
      if (!isFolded) later.push(row)
      else {
        const group = this.#group(columns.cluster(row))
        group.rows.push(row)
        columns.setCounted(row)
        this.version++
        if (!columns.isOutside(row)) group.size++
      }
    }
    this.#waiting = later
  }

  #group(cluster: Cluster): Group {
    const known = this.groups.get(cluster)
    if (known !== undefined) return known
    const group = { rows: [], kept: 0, size: 0, duplicates: 0 }
    this.groups.set(cluster, group)
    return group
  }

  async #readLetters(most: number): Promise<boolean> {
    const topic = this.#config.log.topics.deadLetters
    let read = 0
    for await (const record of this.#log.read(topic, { from: this.#next.deadLetters })) {
      this.#next.deadLetters = record.offset + 1
      if (isRedriveMark(record)) continue
      const code = record.headers.code ?? 'unknown'
      this.letterCounts.set(code, (this.letterCounts.get(code) ?? 0) + 1)
      this.letters.push({ offset: record.offset, at: record.timestamp, code })
      this.version++
      if (++read >= most) return true
    }
    if (this.letters.length > 2 * LETTERS_MAX) this.letters = this.letters.slice(-LETTERS_MAX)
    return false
  }

  async #readShadow(): Promise<void> {
    const topic = this.#config.log.topics.shadow
    for await (const { value, offset } of this.#log.read(topic, { from: this.#next.shadow })) {
      this.#next.shadow = offset + 1
      if (value === null) continue
      const decision = JSON.parse(Buffer.from(value).toString()) as Decision
      const row = this.columns.rowOf(decision.key)
      if (row >= 0 && decision.bundle === this.shadowBundle) this.shadow.set(row, decision)
      this.version++
    }
  }

  /**
   * Every cluster with examples, largest first, baseline included. `quota` is the batch rule's over all of
   * them, as in `report --json`.
   */
  clusters(): readonly Readonly<ClusterSummary>[] {
    if (this.#summaries?.version !== this.version) {
      this.#summaries = { version: this.version, rows: this.#summarise() }
    }
    return this.#summaries.rows
  }

  #summaries: { version: number; rows: ClusterSummary[] } | undefined

  #summarise(): ClusterSummary[] {
    const sums = new Map<Cluster, ClusterSummary>()
    const add = (cluster: Cluster, size: number, kept: number, duplicates: number): void => {
      const sum = sums.get(cluster) ?? { cluster, size: 0, kept: 0, quota: 0, duplicates: 0 }
      sum.size += size
      sum.kept += kept
      sum.duplicates += duplicates
      sums.set(cluster, sum)
    }
    for (const [cluster, { size, kept, duplicates }] of this.groups) {
      if (size + duplicates > 0) add(cluster, size, kept, duplicates)
    }
    for (const { cluster, size, kept } of this.baseline.clusters) add(cluster, size, kept, 0)
    const rows = [...sums.values()].sort((a, b) => b.size - a.size)
    const misaligned = this.misaligned + this.baseline.misaligned
    const examples = rows.reduce((sum, { size }) => sum + size, misaligned)
    const budget = budgetOf(this.#config.select)(examples)
    const sizes: ClusterSize[] = rows.filter(({ size }) => size > 0)
    const quotas = new Map(batchQuotas(sizes, budget).map(one => [one.cluster, one.taken]))
    for (const row of rows) row.quota = quotas.get(row.cluster) ?? 0
    return rows
  }

  /**
   * The rows of a cluster: the counted ones in the order of the batch rule (`select.rank`; text by id),
   * then duplicates, misaligned ones and the random holdout in log order.
   */
  ranked(cluster: Cluster): { rows: Int32Array; counted: number } {
    const known = this.#ranked.get(cluster)
    if (known?.version === this.version) return known
    const rows = this.groups.get(cluster)?.rows ?? []
    const counts = (row: number) => !this.columns.isOutside(row)
    const counted = rows.filter(counts)
    if (cluster === 'text')
      counted.sort((a, b) => compareIds(this.columns.keys[a]!, this.columns.keys[b]!))
    else {
      const of = (row: number): number => this.columns.order(row) ?? Number.POSITIVE_INFINITY
      counted.sort((a, b) => of(a) - of(b) || a - b)
    }
    const others = rows.filter(row => !counts(row))
    const ranked = {
      rows: Int32Array.from([...counted, ...others]),
      counted: counted.length,
      version: this.version,
    }
    if (this.#ranked.size >= RANKED_MAX) this.#ranked.clear()
    this.#ranked.set(cluster, ranked)
    return ranked
  }

  readonly #ranked = new Map<Cluster, { rows: Int32Array; counted: number; version: number }>()
}

/** Clusters whose order is held. */
const RANKED_MAX = 64

export type ClusterSummary = Omit<Clusters['clusters'][number], 'cover'>

/** By the bytes of their ids, as the batch rule does. */
function compareIds(a: string, b: string): number {
  return Buffer.compare(Buffer.from(idOf(a)), Buffer.from(idOf(b)))
}

/** `@` and 16 hex digits. */
const KEY_SUFFIX = 17

export function idOf(key: string): string {
  return key.slice(0, -KEY_SUFFIX)
}
