/**
 * The select role's fold: one record of `assignments` after the other, in log order, to decisions.
 * Identity first (DESIGN "Identity"), then the policy. Ids and bundles of past examples come
 * from a store; what is held here is numbers.
 *
 *   Assignment ─► content known? ─ no ──► near to another? ─ no ──► pending ─┐
 *                      │                         │                           ├─ offset enters a new block of
 *                      │ yes                     │ yes                       │  settleEvery, or Control{settle}:
 *                      ├─ key known ─► redelivered ◄─ key known ─┤           │     pending ─► keep | drop
 *                      └─ else ─► drop, duplicate                │           ┘     others  ─► evict | restore
 *                                 drop, near_duplicate ◄─ else ──┘
 */
import { XmasdError } from '../errors.ts'
import type { Parts } from '../observe/parts.ts'
import { type Control, type Decision, keyOf } from '../record.ts'
import type { Row } from './blocks.ts'
import { ControlArm } from './control.ts'
import { type Content, contentOf, Owners } from './duplicates.ts'
import type { Match } from './exemplars.ts'
import { FinalJudge } from './final.ts'
import { Irrevocable, type IrrevocableSettings } from './irrevocable.ts'
import { NaiveJudge } from './naive.ts'
import { type Numbers, PASSED_OVER, TEXT } from './numbers.ts'
import type { FoldedAssignment } from './parse.ts'
import type { Policy, PolicyName, SettledEvent } from './policy.ts'
import { budgetOf } from './quotas.ts'
import { Revisable } from './revisable.ts'

export type SelectSettings = IrrevocableSettings & {
  policy: PolicyName
  /** Log offsets a block; 1 settles after every record. What is decided for good is decided at once. */
  settleEvery: number
  /** Percent of the stream that is decided by lot, for comparison; absent: none. */
  controlPercent?: number | undefined
}

export type FoldOutcome = 'assigned' | 'duplicate' | 'near_duplicate' | 'redelivered' | 'settled'

/** What an example is a near-duplicate of, whose content is new; `sequence` is its own if it counts. */
export type NearOf = (
  record: FoldedAssignment,
  content: Content,
  sequence: number,
) => Match | undefined

export type Folded = {
  outcome: FoldOutcome
  /**
   * In this order: the drop of a duplicate, or what the control arm draws; first decisions of pending examples, in log order; evicts
   * and restores of others, in log order.
   */
  decisions: Decision[]
}

export type KeyedRow = Row & { key: string }

/** What the fold needs to read and write about single examples, by sequence number. */
export interface ExampleStore {
  row(sequence: number): KeyedRow
  append(row: KeyedRow): void
  hasDuplicate(key: string, content: Content): boolean
  addDuplicate(key: string, content: Content, duplicate: { owner: number; offset: number }): void
}

/** A cluster number has a limit, so that one bad record can't take all memory. */
export const CLUSTERS_MAX = 1 << 20

export class Fold {
  readonly policy: Policy
  readonly owners = new Owners()
  readonly #control: ControlArm
  readonly #isTagged: boolean
  readonly #store: ExampleStore
  readonly #settleEvery: number
  #lastOffset = -1
  #duplicates = 0

  /** @throws RangeError where the percent is outside 0..100 or settleEvery is no positive integer */
  constructor(settings: SelectSettings, store: ExampleStore) {
    const { policy, settleEvery, percent, controlPercent = 0 } = settings
    if (!Number.isSafeInteger(settleEvery) || settleEvery < 1) {
      throw new RangeError(`settleEvery ${settleEvery} is not a positive integer`)
    }
    this.policy = createPolicy(settings)
    this.#control = new ControlArm(controlPercent, percent)
    this.#isTagged = controlPercent > 0
    this.#settleEvery = policy === 'revisable' ? settleEvery : 1
    this.#store = store
  }

  /** The offset of the last record folded; -1 before any. */
  get lastOffset(): number {
    return this.#lastOffset
  }

  get duplicates(): number {
    return this.#duplicates
  }

  get parts(): Parts {
    const { examples, kept, baseline } = this.policy
    return {
      stream: { examples: examples - baseline.examples, kept: kept - baseline.kept },
      baseline,
      control: { examples: this.#control.examples, kept: this.#control.kept.length },
    }
  }

  /** Sequence numbers of what is kept of what came, the control arm's too, in no particular order. */
  *subset(): Generator<number> {
    yield* this.policy.subset()
    yield* this.#control.kept
  }

  /**
   * Folds the record at `offset`, which must lie behind all folded before.
   *
   * @throws XmasdError RECORD_INVALID, having changed nothing, where the key is not the id and the content
   * hash, or a numbered cluster has no finite instability
   */
  fold(record: FoldedAssignment | Control, offset: number, nearOf?: NearOf): Folded {
    if (!(offset > this.#lastOffset)) {
      throw new RangeError(`offset ${offset} does not come after ${this.#lastOffset}`)
    }
    const isControl = 'control' in record
    const identified = isControl ? settledOutcome() : this.#take(record, offset, nearOf)
    const isNewBlock =
      Math.floor(offset / this.#settleEvery) > Math.floor(this.#lastOffset / this.#settleEvery)
    this.#lastOffset = offset
    if (isControl || isNewBlock) {
      for (const event of this.policy.settle()) identified.decisions.push(this.#decision(event))
    }
    return identified
  }

  #take(record: FoldedAssignment, offset: number, nearOf: NearOf | undefined): Folded {
    const content = checkAssignment(record)
    const owner = this.owners.find(content)
    if (owner !== undefined) return this.#takeKnown(record, content, owner, offset)
    const near = nearOf?.(record, content, this.owners.length)
    if (near !== undefined) return this.#takeKnown(record, content, near.sequence, offset, near)
    const { key, cluster, instability, id, bundle } = record
    const sequence = this.owners.length
    this.owners.add(content)
    const value = cluster === 'text' ? Number.NaN : instability!
    this.#store.append({ offset, instability: value, content, cluster, id, bundle, key })
    const decisions: Decision[] = []
    if (this.#control.has(content)) decisions.push(this.#drawn(record, content, sequence))
    else this.policy.add(cluster, instability, id, content)
    return { outcome: 'assigned', decisions }
  }

  /** The decision of the control arm. */
  #drawn(record: FoldedAssignment, content: Content, sequence: number): Decision {
    const { key, id, cluster, instability, bundle } = record
    this.policy.skip()
    const isKept = this.#control.take(content, sequence)
    const [action, reason] = isKept
      ? (['keep', 'drawn'] as const)
      : (['drop', 'not_drawn'] as const)
    const quota = this.policy.quota(cluster)
    return { v: 1, key, id, action, reason, cluster, instability, quota, bundle, arm: 'random' }
  }

  /** An example that stands for another one: `owner`, whose content it has or to which it is near. */
  #takeKnown(
    record: FoldedAssignment,
    content: Content,
    owner: number,
    offset: number,
    near?: Match,
  ): Folded {
    const ownerKey = this.#store.row(owner).key
    const { key, id, cluster, instability, bundle } = record
    if (key === ownerKey || this.#store.hasDuplicate(key, content)) {
      return { outcome: 'redelivered', decisions: [] }
    }
    this.#store.addDuplicate(key, content, { owner, offset })
    this.#duplicates++
    const quota = this.policy.quota(cluster)
    const reason = near === undefined ? 'duplicate' : 'near_duplicate'
    const drop = { v: 1, key, id, action: 'drop', reason, cluster, instability } as const
    const how = near === undefined ? {} : { distance: near.distance, measure: near.measure }
    const decision = { ...drop, quota, bundle, duplicateOf: ownerKey, ...how }
    return { outcome: reason, decisions: [decision] }
  }

  #decision({ sequence, action, reason, cluster, quota }: SettledEvent): Decision {
    const { key, id, bundle, instability: value } = this.#store.row(sequence)
    const instability = cluster === 'text' ? null : value
    const arm = this.#isTagged ? ({ arm: 'policy' } as const) : {}
    return { v: 1, key, id, action, reason, cluster, instability, quota, bundle, ...arm }
  }

  /** Fills an empty fold with what was stored; see `Policy.refill`. */
  restore(
    history: Iterable<Numbers>,
    at: { settled: number; lastOffset: number; duplicates: number },
    saved: Uint8Array | undefined,
  ): void {
    this.policy.resume(saved)
    this.policy.refill(this.#recognised(history), at.settled)
    this.#lastOffset = at.lastOffset
    this.#duplicates = at.duplicates
  }

  /** Gives every content its owner again, and the control arm its own. */
  *#recognised(history: Iterable<Numbers>): Generator<Numbers> {
    for (const numbers of history) {
      const first = this.owners.length
      this.owners.addAll(numbers)
      yield this.#isTagged ? this.#withoutControl(numbers, first) : numbers
    }
  }

  #withoutControl(numbers: Numbers, first: number): Numbers {
    const { count, high, low } = numbers
    const cluster = numbers.cluster.slice()
    const ids: string[] = []
    let text = 0
    for (let i = 0; i < count; i++) {
      const content = { high: high[i]!, low: low[i]! }
      const isControl = this.#control.has(content)
      if (cluster[i] === TEXT && !isControl) ids.push(numbers.ids[text]!)
      if (cluster[i] === TEXT) text++
      if (!isControl) continue
      this.#control.take(content, first + i)
      cluster[i] = PASSED_OVER
    }
    return { ...numbers, cluster, ids }
  }
}

function createPolicy(settings: SelectSettings): Policy {
  const { policy, percent } = settings
  switch (policy) {
    case 'revisable':
      return new Revisable(percent, budgetOf(settings))
    case 'final':
      return new Irrevocable(settings, history => new FinalJudge(settings, history))
    case 'naive':
      return new Irrevocable(settings, history => new NaiveJudge(settings, history))
  }
}

function settledOutcome(): Folded {
  return { outcome: 'settled', decisions: [] }
}

/** Returns the content identity. */
function checkAssignment(record: FoldedAssignment): Content {
  const { key, id, content, cluster, instability } = record
  const found = typeof content === 'string' ? contentOf(content) : undefined
  if (found === undefined || key !== keyOf(id, content)) {
    throw invalid(`the key "${key}" is not the id "${id}" + @ + 16 hex digits of "${content}"`)
  }
  if (cluster === 'text') return found
  if (!(Number.isSafeInteger(cluster) && cluster >= 0 && cluster < CLUSTERS_MAX)) {
    throw invalid(`${key}: cluster ${cluster} is not a number in 0..${CLUSTERS_MAX - 1}`)
  }
  if (!Number.isFinite(instability)) {
    throw invalid(`${key}: cluster ${cluster} but instability ${instability}`)
  }
  return found
}

function invalid(message: string): XmasdError {
  const hint =
    'An assignment must come from the score role: key, cluster and instability must agree.'
  return new XmasdError('RECORD_INVALID', message, hint)
}
