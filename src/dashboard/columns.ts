/** The examples that the dashboard knows: one row an example, one typed array a field. */
import { grown, type Numbers } from '../math/vectors.ts'
import { ACTIONS, type Cluster, REASONS, type Reason } from '../record.ts'

const ROWS_AT_FIRST = 4_096
/** The number of the text-only cluster in `cluster`. */
const TEXT = -1
const NONE = 255
const COPIES: ReadonlySet<Reason> = new Set(['duplicate', 'near_duplicate', 'protected'])

/** An array of numbers that doubles when it is full. */
class Column {
  #values: Numbers

  constructor(values: Numbers) {
    this.#values = values
  }

  get(at: number): number {
    return this.#values[at]!
  }

  set(at: number, value: number): void {
    while (at >= this.#values.length) this.#values = grown(this.#values, 2 * this.#values.length)
    this.#values[at] = value
  }
}

/** A vector a row, or none; all have the length of the first. */
class Vectors {
  readonly #values = new Column(new Float32Array(ROWS_AT_FIRST))
  #length = 0

  set(row: number, vector: ArrayLike<number> | null): void {
    if (vector !== null) this.#length ||= vector.length
    for (let d = 0; d < this.#length; d++) {
      this.#values.set(row * this.#length + d, vector?.[d] ?? Number.NaN)
    }
  }

  has(row: number): boolean {
    return this.#length > 0 && !Number.isNaN(this.#values.get(row * this.#length))
  }

  get(row: number): number[] | null {
    if (!this.has(row)) return null
    const start = row * this.#length
    return Array.from({ length: this.#length }, (_, d) => this.#values.get(start + d))
  }
}

/** What an assignment says of an example. */
export type NewRow = {
  key: string
  cluster: Cluster
  instability: number | null
  /** What orders it within its cluster: see `orderOf`. */
  order: number | null
  /** Image gain, nats. */
  gain: number | null
  distance: number | null
  /** Of the assignment. */
  offset: number
  source: { partition: number; offset: number }
  /** When it was assigned, milliseconds since the epoch. */
  at: number
  trajectory: readonly number[] | null
  /** What is clustered, where that is not the trajectory. */
  signature?: ArrayLike<number> | null
}

/** A decision by the numbers that the model keeps of it. */
export type RowDecision = { offset: number; action: number; reason: number; isRandom: boolean }

export class Columns {
  readonly keys: string[] = []
  readonly #rowOf = new Map<string, number>()
  readonly #cluster = new Column(new Int32Array(ROWS_AT_FIRST))
  readonly #instability = new Column(new Float64Array(ROWS_AT_FIRST))
  readonly #order = new Column(new Float64Array(ROWS_AT_FIRST))
  readonly #gain = new Column(new Float32Array(ROWS_AT_FIRST))
  readonly #distance = new Column(new Float64Array(ROWS_AT_FIRST))
  readonly offset = new Column(new Float64Array(ROWS_AT_FIRST))
  readonly sourcePartition = new Column(new Int32Array(ROWS_AT_FIRST))
  readonly sourceOffset = new Column(new Float64Array(ROWS_AT_FIRST))
  readonly at = new Column(new Float64Array(ROWS_AT_FIRST))
  readonly #action = new Column(new Uint8Array(ROWS_AT_FIRST))
  readonly #reason = new Column(new Uint8Array(ROWS_AT_FIRST))
  readonly #random = new Column(new Uint8Array(ROWS_AT_FIRST))
  readonly #inBaseline = new Column(new Uint8Array(ROWS_AT_FIRST))
  readonly #counted = new Column(new Uint8Array(ROWS_AT_FIRST))
  readonly #last = new Column(new Int32Array(ROWS_AT_FIRST))
  /** Of each decision: its offset, and the decision of the same example before it, -1 for none. */
  readonly #decisionOffset = new Column(new Float64Array(ROWS_AT_FIRST))
  readonly #previous = new Column(new Int32Array(ROWS_AT_FIRST))
  #decisions = 0
  readonly #trajectories = new Vectors()
  readonly #signatures = new Vectors()
  #clustered = this.#trajectories

  get count(): number {
    return this.keys.length
  }

  /** -1 where the key is unknown. */
  rowOf(key: string): number {
    return this.#rowOf.get(key) ?? -1
  }

  /** The number of the new row. */
  add(row: NewRow): number {
    const at = this.keys.push(row.key) - 1
    this.#rowOf.set(row.key, at)
    this.#cluster.set(at, row.cluster === 'text' ? TEXT : row.cluster)
    this.#instability.set(at, row.instability ?? Number.NaN)
    this.#order.set(at, row.order ?? Number.NaN)
    this.#gain.set(at, row.gain ?? Number.NaN)
    this.#distance.set(at, row.distance ?? Number.NaN)
    this.offset.set(at, row.offset)
    this.sourcePartition.set(at, row.source.partition)
    this.sourceOffset.set(at, row.source.offset)
    this.at.set(at, row.at)
    this.#action.set(at, NONE)
    this.#last.set(at, -1)
    this.#trajectories.set(at, row.trajectory)
    if (row.signature !== undefined) {
      this.#clustered = this.#signatures
      this.#signatures.set(at, row.signature)
    }
    return at
  }

  decide(row: number, { offset, action, reason, isRandom }: RowDecision): void {
    const at = this.#decisions++
    this.#decisionOffset.set(at, offset)
    this.#previous.set(at, this.#last.get(row))
    this.#last.set(row, at)
    this.#action.set(row, action)
    this.#reason.set(row, reason)
    if (isRandom) this.#random.set(row, 1)
  }

  /** Offsets of the decisions about an example, oldest first. */
  decisionsOf(row: number): number[] {
    const offsets: number[] = []
    for (let at = this.#last.get(row); at >= 0; at = this.#previous.get(at)) {
      offsets.push(this.#decisionOffset.get(at))
    }
    return offsets.reverse()
  }

  cluster(row: number): Cluster {
    const number = this.#cluster.get(row)
    return number === TEXT ? 'text' : number
  }

  order(row: number): number | null {
    return orNull(this.#order.get(row))
  }

  gain(row: number): number | null {
    return orNull(this.#gain.get(row))
  }

  instability(row: number): number | null {
    return orNull(this.#instability.get(row))
  }

  /** Squared, as in assignments. */
  distance(row: number): number | null {
    return orNull(this.#distance.get(row))
  }

  /** T scores; null for text-only examples. */
  trajectory(row: number): number[] | null {
    return this.#trajectories.get(row)
  }

  /** What is clustered; null for text-only examples. */
  signature(row: number): number[] | null {
    return this.#clustered.get(row)
  }

  hasSignature(row: number): boolean {
    return this.#clustered.has(row)
  }

  /** The last action; undefined where nothing was decided. */
  action(row: number) {
    return ACTIONS[this.#action.get(row)]
  }

  reason(row: number) {
    return this.action(row) === undefined ? undefined : REASONS[this.#reason.get(row)]
  }

  isKept(row: number): boolean {
    const action = this.action(row)
    return action === 'keep' || action === 'restore'
  }

  /** Whether it counts in no cluster, as a copy of another example or of what is protected. */
  isCopy(row: number): boolean {
    const reason = this.reason(row)
    return reason !== undefined && COPIES.has(reason)
  }

  /** Whether it counts in no cluster: a copy, or misaligned. */
  isApart(row: number): boolean {
    return this.isCopy(row) || this.reason(row) === 'misaligned'
  }

  /** Whether the random holdout decides it. */
  isRandom(row: number): boolean {
    return this.#random.get(row) === 1
  }

  /** Whether the bundle's data, which count already, hold it. */
  isInBaseline(row: number): boolean {
    return this.#inBaseline.get(row) === 1
  }

  setInBaseline(row: number): void {
    this.#inBaseline.set(row, 1)
  }

  /** Whether it counts in no cluster's size. */
  isOutside(row: number): boolean {
    return this.isApart(row) || this.isRandom(row) || this.isInBaseline(row)
  }

  /** Whether the select role has read it. */
  isCounted(row: number): boolean {
    return this.#counted.get(row) === 1
  }

  setCounted(row: number): void {
    this.#counted.set(row, 1)
  }
}

function orNull(value: number): number | null {
  return Number.isNaN(value) ? null : value
}
