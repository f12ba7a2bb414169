/** The answers of the dashboard's API (docs/api.md): each a JSON document with `v: 1`, from the model. */
import type { Config } from '../config.ts'
import { because, type Explanation, earlierOf } from '../history/explanation.ts'
import type { Log } from '../log/log.ts'
import { redacted } from '../observe/text.ts'
import { type Cluster, type Decision, readAssignment } from '../record.ts'
import { idOf, type Model } from './model.ts'
import { type Records, readable } from './records.ts'
import type {
  Clusters,
  DeadLetters,
  ExampleDocument,
  ExampleRow,
  Gallery,
  Said,
} from './schemas.ts'

const ROWS_MAX = 120
const HITS_MAX = 60
const SEARCH_MS_MAX = 2_500
const DUPLICATES_MAX = 24
const BAND_EXAMPLES_MAX = 400
const LETTERS_MAX = 50
const LETTER_CHARACTERS_MAX = 4_000

export class Answers {
  readonly #log: Log
  readonly #config: Config
  readonly #model: Model
  readonly #records: Records

  constructor(log: Log, config: Config, model: Model, records: Records) {
    this.#log = log
    this.#config = config
    this.#model = model
    this.#records = records
  }

  async row(row: number): Promise<ExampleRow> {
    const { columns, originals } = this.#model
    const key = columns.keys[row]!
    return {
      key,
      id: readable(idOf(key)),
      cluster: columns.cluster(row),
      kept: columns.isKept(row),
      action: columns.action(row) ?? null,
      reason: columns.reason(row) ?? null,
      instability: columns.instability(row),
      distance: columns.distance(row),
      at: columns.at.get(row),
      ...(await this.#records.question(row)),
      duplicateOf: originals.get(row) ?? null,
    }
  }

  async rows(rows: Iterable<number>): Promise<ExampleRow[]> {
    const shown: ExampleRow[] = []
    for (const row of rows) if (row < this.#model.columns.count) shown.push(await this.row(row))
    return shown
  }

  /** Those of the keys that are known. */
  rowsOf(keys: readonly string[]): Promise<ExampleRow[]> {
    return this.rows(keys.map(key => this.#model.columns.rowOf(key)).filter(row => row >= 0))
  }

  clusters(): Clusters {
    const { isCaughtUp, progress, columns } = this.#model
    const clusters = this.#model.clusters().map(one => {
      const cover = this.#model.groups.get(one.cluster)?.rows.at(-1)
      return { ...one, cover: cover === undefined ? null : columns.keys[cover]! }
    })
    return { v: 1, isCaughtUp, progress, clusters }
  }

  async gallery(cluster: Cluster, from: number, count: number): Promise<Gallery> {
    const { rows, counted } = this.#model.ranked(cluster)
    const none = { cluster, size: 0, kept: 0, quota: 0, duplicates: 0 }
    const summary = this.#model.clusters().find(one => one.cluster === cluster) ?? none
    const slice = rows.subarray(from, from + Math.min(count, ROWS_MAX))
    const { policy, rank } = this.#config.select
    const cut = this.#cutOf(cluster, rows.subarray(0, counted), summary.quota)
    const found = { policy, rank, total: rows.length, counted, cut, from }
    return { v: 1, ...summary, ...found, rows: await this.rows(slice) }
  }

  /** How many of `ranked` the batch rule keeps, which ranks members of the baseline among them. */
  #cutOf(cluster: Cluster, ranked: Int32Array, quota: number): number {
    const { columns, baseline } = this.#model
    const members = baseline.members?.instability.filter(
      (_, i) => baseline.members!.cluster[i] === cluster,
    )
    const orders = [...(members ?? [])].sort((a, b) => a - b)
    let before = 0
    const beyond = ranked.findIndex((row, i) => {
      const order = Math.fround(columns.order(row) ?? Number.POSITIVE_INFINITY)
      while (before < orders.length && orders[before]! <= order) before++
      return i + 1 + before > quota
    })
    return beyond < 0 ? ranked.length : beyond
  }

  /** Undefined where the key, or an example with that id, is not known. */
  async example(wanted: string): Promise<ExampleDocument | undefined> {
    const { columns, duplicates } = this.#model
    const row = this.#find(wanted)
    if (row < 0) return undefined
    const explanation = await this.#explain(row)
    const conversation = await this.#records.conversation(row)
    const others = await this.rows((duplicates.get(row) ?? []).slice(0, DUPLICATES_MAX))
    const lost = this.lostTo(row)
    return {
      v: 1,
      explanation,
      conversation,
      lostTo: lost < 0 ? null : await this.row(lost),
      duplicates: others,
      steps: await this.#steps(),
      band: this.#bandOf(columns.cluster(row)),
    }
  }

  #find(wanted: string): number {
    const { columns } = this.#model
    const row = columns.rowOf(wanted)
    return row >= 0 ? row : columns.keys.findIndex(key => idOf(key) === wanted)
  }

  /** The row that a dropped or evicted example lost its place to, -1 for none. */
  lostTo(row: number): number {
    const { columns, originals, groups } = this.#model
    const original = originals.get(row)
    if (original !== undefined) return columns.rowOf(original)
    if (columns.isKept(row) || columns.isApart(row)) return -1
    if (columns.action(row) === undefined) return -1
    let [last, worst] = [-1, Number.NEGATIVE_INFINITY]
    for (const other of groups.get(columns.cluster(row))?.rows ?? []) {
      const order = columns.order(other)
      if (order === null || order < worst || !columns.isKept(other)) continue
      last = other
      worst = order
    }
    return last
  }

  async #explain(row: number): Promise<Explanation> {
    const { columns, bundles, active, committed } = this.#model
    const { assignments, decisions: topic } = this.#config.log.topics
    const record = (await this.#log.get(assignments, 0, columns.offset.get(row)))!
    const read = readAssignment(record)
    if ('control' in read) throw new RangeError('a control record has no example')
    const assignment = await bundles.reassign(read, active ?? read.bundle)
    const decisions: Decision[] = []
    for (const offset of columns.decisionsOf(row)) {
      const found = await this.#log.get(topic, 0, offset)
      if (found?.value != null) decisions.push(JSON.parse(Buffer.from(found.value).toString()))
    }
    const cluster = columns.cluster(row)
    const summary = this.#model.clusters().find(one => one.cluster === cluster)
    const found = {
      v: 1 as const,
      key: assignment.key,
      keptNow: columns.isKept(row),
      assignment: assignment.toJSON(),
      folded: columns.offset.get(row) < committed,
      rank: this.#rank(row),
      clusterSize: summary?.size ?? 0,
      quota: summary?.quota ?? 0,
      arm: decisions.find(({ arm }) => arm !== undefined)?.arm ?? null,
      decisions,
    }
    const isBaseline = columns.isInBaseline(row)
    return { ...found, because: because(found, this.#config.select, isBaseline) }
  }

  /** 1 is the first that the batch rule takes of its cluster; null for text and for what does not count. */
  #rank(row: number): number | null {
    const { columns, baseline } = this.#model
    const [cluster, order] = [columns.cluster(row), columns.order(row)]
    const isBaseline = columns.isInBaseline(row)
    if (order === null || columns.isApart(row) || columns.isRandom(row)) return null
    const { rows, counted } = this.#model.ranked(cluster)
    const ranked = rows.subarray(0, counted)
    const before = earlierOf(baseline.members, cluster, order, isBaseline)
    const place = isBaseline
      ? ranked.filter(other => columns.order(other)! < order).length
      : ranked.indexOf(row)
    return place < 0 ? null : place + 1 + before
  }

  async #steps(): Promise<number[] | null> {
    const { active, bundles } = this.#model
    return active === undefined ? null : (await bundles.get(active)).manifest.schedule.steps
  }

  #bandOf(cluster: Cluster): ExampleDocument['band'] {
    const { version } = this.#model
    if (this.#bands.version !== version) this.#bands = { version, of: new Map() }
    const known = this.#bands.of.get(cluster)
    if (known !== undefined) return known
    const band = this.#band(cluster)
    this.#bands.of.set(cluster, band)
    return band
  }

  #bands = { version: -1, of: new Map<Cluster, ExampleDocument['band']>() }

  #band(cluster: Cluster): ExampleDocument['band'] {
    const { columns, groups } = this.#model
    const rows = groups.get(cluster)?.rows ?? []
    const step = Math.max(1, Math.floor(rows.length / BAND_EXAMPLES_MAX))
    const sample = rows
      .filter((_, i) => i % step === 0)
      .flatMap(row => [columns.trajectory(row) ?? []])
    const scored = sample.filter(({ length }) => length > 0)
    const [first] = scored
    if (first === undefined) return null
    const at = (t: number, q: number): number => {
      const sorted = scored.map(scores => scores[t]!).sort((a, b) => a - b)
      return sorted[Math.round(q * (sorted.length - 1))]!
    }
    const line = (q: number): number[] => first.map((_, t) => at(t, q))
    return { low: line(0.1), middle: line(0.5), high: line(0.9), examples: scored.length }
  }

  /** Those with the key or id `text`, whose key begins with it, then whose question holds all its words. */
  async search(text: string) {
    const { columns } = this.#model
    const begins = columns.keys.flatMap((key, row) => (key.startsWith(text) ? [row] : []))
    const is = (row: number): boolean => idOf(columns.keys[row]!) === text
    const newest = [...begins.filter(is), ...begins.slice(-HITS_MAX).reverse()]
    const hits = new Set(newest.slice(0, HITS_MAX))
    const words = text.toLowerCase().split(/\s+/).filter(Boolean)
    const started = performance.now()
    let row = columns.count - 1
    for (; row >= 0 && hits.size < HITS_MAX; row--) {
      const { question } = await this.#records.question(row)
      const lower = question.toLowerCase()
      if (words.every(word => lower.includes(word))) hits.add(row)
      if (performance.now() - started > SEARCH_MS_MAX) break
    }
    const searched = columns.count - 1 - Math.max(-1, row)
    return { v: 1, rows: await this.rows(hits), searched, examples: columns.count }
  }

  /** The newest decisions below `before`, newest first. */
  async decisions(before: number, count: number) {
    const found = this.#model.recent.filter(({ offset }) => offset < before)
    const newest = found.slice(-Math.min(count, ROWS_MAX)).reverse()
    return { v: 1, decisions: await this.shown(newest) }
  }

  async shown(recent: Model['recent']): Promise<Said[]> {
    const shown: Said[] = []
    for (const { offset, at, decision } of recent) {
      const row = this.#model.columns.rowOf(decision.key)
      const isLoss = decision.action === 'drop' || decision.action === 'evict'
      const lost = row >= 0 && isLoss ? this.lostTo(row) : -1
      const { question, images } =
        row < 0 ? { question: '', images: 0 } : await this.#records.question(row)
      const { key, action, reason, cluster, instability, quota } = decision
      shown.push({
        ...{ offset, at, key, id: readable(decision.id) },
        ...{ action, reason, cluster, instability, quota, question, images },
        lostTo: decision.duplicateOf ?? (lost < 0 ? null : this.#model.columns.keys[lost]!),
      })
    }
    return shown
  }

  async deadLetters(code: string | null, before: number): Promise<DeadLetters> {
    const { letters, letterCounts } = this.#model
    const topic = this.#config.log.topics.deadLetters
    const counts = [...letterCounts].map(([name, count]) => ({ code: name, count }))
    const found = letters.filter(one => one.offset < before && (code === null || one.code === code))
    const shown = []
    for (const { offset, at } of found.slice(-LETTERS_MAX).reverse()) {
      const record = await this.#log.get(topic, 0, offset)
      if (record === undefined) continue
      const { code: name = 'unknown', hint = '', message = '', source = '' } = record.headers
      const bytes = Buffer.from(record.value ?? [])
      // A URL that the limit cuts is seen whole.
      const begin = redacted(bytes.subarray(0, 2 * LETTER_CHARACTERS_MAX).toString())
      const value = readable(begin.slice(0, LETTER_CHARACTERS_MAX))
      const said = { hint: readable(hint), message: readable(message), source: readable(source) }
      shown.push({ offset, at, code: name, ...said, value, bytes: bytes.length })
    }
    counts.sort((a, b) => b.count - a.count || (a.code < b.code ? -1 : 1))
    return { v: 1, topic, codes: counts, letters: shown }
  }
}
