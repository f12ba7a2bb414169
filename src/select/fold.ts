/**
 * The select role's fold: records of `assignments`, in log order, to decisions. Identity first
 * (DESIGN "Identity"), then the policy. Keys and ids of past examples stay in a store; the fold itself
 * holds numbers.
 *
 *   Assignment ─► content known? ─ no ──► near-duplicate? ─ no ───► pending ─┐
 *                      │                         │                           ├─ offset enters a new block of
 *                      │ yes                     │ yes                       │  settleEvery, or Control{settle}:
 *                      ├─ key known ─► redelivered ◄─ key known ─┤           │     pending ─► keep | drop
 *                      └─ else ─► drop, duplicate                │           ┘     others  ─► evict | restore
 *                                 drop, near_duplicate ◄─ else ──┘
 *
 * An example whose image gain is below `gainMin` is dropped as `misaligned` before near-duplicates are looked
 * for: it is nobody's exemplar. It counts in N, and joins no cluster. The random holdout asks for no gain.
 *
 * A copy of the bundle's protected set is dropped as `protected` in all of these cases but a redelivery.
 * What is new gets a number all the same, so that folds under other bundles number alike; the policy passes
 * over it.
 */
import { XmasdError } from '../errors.ts'
import type { Parts } from '../observe/segments.ts'
import {
  type Assignment,
  type ComparedFields,
  type Control,
  type Decision,
  keyOf,
} from '../record.ts'
import { type Content, contentOf } from './columns/hash-table.ts'
import { type Chunk, PASSED_OVER, type Row, TEXT } from './columns/stored.ts'
import { Owners } from './dedup/duplicates.ts'
import type { FindNear } from './dedup/near-duplicates.ts'
import type { FindProtected, Protector } from './dedup/protected.ts'
import { FinalRule } from './online/final.ts'
import { OnlinePolicy, type OnlineSettings } from './online/online-policy.ts'
import { NaiveRule, RandomHoldout } from './online/random.ts'
import type { Policy, PolicyName, SettledEvent } from './rule/policy.ts'
import { budgetOf } from './rule/quotas.ts'
import {
  asMember,
  type Gained,
  isMisaligned,
  orderOf,
  type Ranking,
  wantsGain,
} from './rule/rank.ts'
import { Revisable } from './rule/revisable.ts'

export type SelectSettings = OnlineSettings & {
  policy: PolicyName
  /** Log offsets a block; 1 settles after every record. Online policies settle at once. */
  settleEvery: number
  /** Percent of the stream in the random holdout; absent: none. */
  controlPercent?: number | undefined
}

/** The fields of an assignment that the fold reads. */
export type FoldedAssignment = Pick<
  Assignment,
  'key' | 'id' | 'cluster' | 'instability' | 'distance' | 'content' | 'bundle' | 'baseline'
> &
  Partial<Pick<Assignment, 'gain'>> &
  ComparedFields

export type FoldOutcome =
  | 'assigned'
  | 'duplicate'
  | 'near_duplicate'
  | 'protected'
  | 'misaligned'
  | 'redelivered'
  | 'settled'

/** How the fold knows copies that are not exact, and copies of evaluation data. */
export type Lookups = {
  findNear?: FindNear | undefined
  findProtected?: FindProtected | undefined
}

export type Folded = {
  outcome: FoldOutcome
  /**
   * In this order: the drop of a duplicate, or the holdout's decision; first decisions of pending examples,
   * in log order; evicts and restores of others, in log order.
   */
  decisions: Decision[]
}

export type KeyedRow = Row & { key: string }

/** What the fold reads and writes of single examples, by sequence number. */
export interface ExampleStore {
  row(sequence: number): KeyedRow
  append(row: KeyedRow): void
  hasDuplicate(key: string, content: Content): boolean
  addDuplicate(key: string, content: Content, duplicate: { owner: number; offset: number }): void
}

/** Limits the memory that one bad record can claim. */
export const CLUSTERS_MAX = 1 << 20

export class Fold {
  readonly policy: Policy
  readonly owners = new Owners()
  readonly #holdout: RandomHoldout
  readonly #isTagged: boolean
  readonly #store: ExampleStore
  readonly #settleEvery: number
  readonly #ranking: Ranking
  readonly #wantsGain: boolean
  #lastOffset = -1
  #duplicates = 0

  /** @throws RangeError where the percent is outside 0..100 or settleEvery is not a positive integer */
  constructor(settings: SelectSettings, store: ExampleStore) {
    const { policy, settleEvery, percent, controlPercent = 0 } = settings
    if (!Number.isSafeInteger(settleEvery) || settleEvery < 1) {
      throw new RangeError(`settleEvery ${settleEvery} is not a positive integer`)
    }
    this.policy = createPolicy(settings)
    this.#holdout = new RandomHoldout(controlPercent, percent)
    this.#isTagged = controlPercent > 0
    this.#settleEvery = policy === 'revisable' ? settleEvery : 1
    this.#store = store
    this.#ranking = settings
    this.#wantsGain = wantsGain(settings)
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
      control: { examples: this.#holdout.examples, kept: this.#holdout.kept.length },
    }
  }

  /** Sequence numbers of the kept examples of the stream, the holdout's too, in no particular order. */
  *subset(): Generator<number> {
    yield* this.policy.subset()
    yield* this.#holdout.kept
  }

  /**
   * Folds the record at `offset`, which lies after all folded before.
   *
   * @throws XmasdError RECORD_INVALID, having changed nothing, where the key is not id @ content hash, or
   * a numbered cluster has no finite instability
   */
  fold(record: FoldedAssignment | Control, offset: number, lookups: Lookups = {}): Folded {
    if (!(offset > this.#lastOffset)) {
      throw new RangeError(`offset ${offset} does not come after ${this.#lastOffset}`)
    }
    const isControl = 'control' in record
    const folded: Folded = isControl
      ? { outcome: 'settled', decisions: [] }
      : this.#take(record, offset, lookups)
    const isNewBlock =
      Math.floor(offset / this.#settleEvery) > Math.floor(this.#lastOffset / this.#settleEvery)
    this.#lastOffset = offset
    if (isControl || isNewBlock) {
      for (const event of this.policy.settle()) folded.decisions.push(this.#decision(event))
    }
    return folded
  }

  #take(record: FoldedAssignment, offset: number, { findNear, findProtected }: Lookups): Folded {
    const content = checkAssignment(record, this.#wantsGain)
    const protector = findProtected?.(record, content)
    const owner = this.owners.find(content)
    if (owner !== undefined) {
      const loss = protector && protectedLoss(protector)
      return this.#takeKnown(record, { content, owner, offset, loss })
    }
    const isBaseline = record.baseline === true && this.policy.claims === true
    const measured = isBaseline ? asMember(record) : record
    if (protector === undefined && isMisaligned(this.#ranking, measured)) {
      if (isBaseline || !this.#holdout.has(content)) {
        return this.#takeMisaligned(record, { content, offset, isBaseline })
      }
    }
    const sequence = this.owners.length
    const near = findNear?.(record, content, protector === undefined ? sequence : undefined)
    if (near !== undefined) {
      const { sequence: owner, distance, measure } = near
      const duplicateOf = this.#store.row(owner).key
      const nearLoss = { reason: 'near_duplicate', duplicateOf, distance, measure } as const
      const loss = protector === undefined ? nearLoss : protectedLoss(protector)
      return this.#takeKnown(record, { content, owner, offset, loss })
    }
    const { cluster, id } = record
    this.owners.add(content)
    const row = this.#rowOf(record, { content, offset, measured })
    if (protector !== undefined) {
      this.#store.append({ ...row, isProtected: true })
      this.policy.skip()
      return { outcome: 'protected', decisions: [this.#drop(record, protectedLoss(protector))] }
    }
    this.#store.append(isBaseline ? { ...row, isBaseline } : row)
    const decisions: Decision[] = []
    const value = cluster === 'text' ? null : (row.order ?? record.instability)
    if (isBaseline) this.policy.claim!(cluster, value)
    else if (this.#holdout.has(content)) decisions.push(this.#holdOut(record, content, sequence))
    else this.policy.add(cluster, value, id, content)
    return { outcome: 'assigned', decisions }
  }

  #rowOf(
    record: FoldedAssignment,
    { content, offset, measured }: { content: Content; offset: number; measured: Gained },
  ): KeyedRow {
    const { key, cluster, id, bundle } = record
    const isText = cluster === 'text'
    const instability = isText ? Number.NaN : record.instability!
    const row = { offset, instability, content, cluster, id, bundle, key }
    if ((this.#ranking.rank ?? 'instability') === 'instability') return row
    return { ...row, order: isText ? Number.NaN : orderOf(this.#ranking, measured) }
  }

  /** One of the baseline has been counted there. */
  #takeMisaligned(
    record: FoldedAssignment,
    { content, offset, isBaseline }: { content: Content; offset: number; isBaseline: boolean },
  ): Folded {
    this.owners.add(content)
    const row = this.#rowOf(record, { content, offset, measured: record })
    this.#store.append({ ...row, ...(isBaseline ? { isProtected: true } : { isMisaligned: true }) })
    if (isBaseline) {
      this.policy.skip()
      return { outcome: 'misaligned', decisions: [] }
    }
    this.policy.addMisaligned()
    const drop = this.#drop(record, { reason: 'misaligned', gain: record.gain! })
    const decision: Decision = this.#isTagged ? { ...drop, arm: 'policy' } : drop
    return { outcome: 'misaligned', decisions: [decision] }
  }

  #drop(record: FoldedAssignment, loss: Loss | Misaligned): Decision {
    const { key, id, cluster, instability, bundle } = record
    const { reason, ...lostTo } = loss
    const quota = this.policy.quota(cluster)
    const drop = { v: 1, key, id, action: 'drop', reason, cluster, instability } as const
    return { ...drop, quota, bundle, ...lostTo }
  }

  #holdOut(record: FoldedAssignment, content: Content, sequence: number): Decision {
    const { key, id, cluster, instability, bundle } = record
    this.policy.skip()
    const isKept = this.#holdout.take(content, sequence)
    const [action, reason] = isKept
      ? (['keep', 'drawn'] as const)
      : (['drop', 'not_drawn'] as const)
    const quota = this.policy.quota(cluster)
    return { v: 1, key, id, action, reason, cluster, instability, quota, bundle, arm: 'random' }
  }

  /** A copy of the example `owner`, or a redelivery. Without a `loss` it is an exact duplicate of it. */
  #takeKnown(
    record: FoldedAssignment,
    known: { content: Content; owner: number; offset: number; loss: Loss | undefined },
  ): Folded {
    const { content, owner, offset, loss } = known
    const ownerKey = this.#store.row(owner).key
    const { key } = record
    if (key === ownerKey || this.#store.hasDuplicate(key, content)) {
      return { outcome: 'redelivered', decisions: [] }
    }
    this.#store.addDuplicate(key, content, { owner, offset })
    const found: Loss = loss ?? { reason: 'duplicate', duplicateOf: ownerKey }
    if (found.reason !== 'protected') this.#duplicates++
    return { outcome: found.reason, decisions: [this.#drop(record, found)] }
  }

  #decision({ sequence, action, reason, cluster, quota }: SettledEvent): Decision {
    const { key, id, bundle, instability: value } = this.#store.row(sequence)
    const instability = cluster === 'text' ? null : value
    const decision = { v: 1, key, id, action, reason, cluster, instability, quota, bundle } as const
    return this.#isTagged ? { ...decision, arm: 'policy' } : decision
  }

  /** Fills an empty fold with the stored history; see `Policy.refill`. */
  restore(
    history: Iterable<Chunk>,
    at: { settled: number; lastOffset: number; duplicates: number },
    saved: Uint8Array | undefined,
  ): void {
    this.policy.resume(saved)
    this.policy.refill(this.#identified(history), at.settled)
    this.#lastOffset = at.lastOffset
    this.#duplicates = at.duplicates
  }

  /** Adds the owners of all contents; passes over the holdout's examples. */
  *#identified(history: Iterable<Chunk>): Generator<Chunk> {
    for (const chunk of history) {
      const first = this.owners.length
      this.owners.addAll(chunk)
      yield this.#isTagged ? this.#withoutHoldout(chunk, first) : chunk
    }
  }

  #withoutHoldout(chunk: Chunk, first: number): Chunk {
    const { count, high, low } = chunk
    const cluster = chunk.cluster.slice()
    const ids: string[] = []
    let text = 0
    for (let i = 0; i < count; i++) {
      const content = { high: high[i]!, low: low[i]! }
      if (cluster[i]! <= PASSED_OVER) continue
      const isHeldOut = this.#holdout.has(content)
      if (cluster[i] === TEXT && !isHeldOut) ids.push(chunk.ids[text]!)
      if (cluster[i] === TEXT) text++
      if (!isHeldOut) continue
      this.#holdout.take(content, first + i)
      cluster[i] = PASSED_OVER
    }
    return { ...chunk, cluster, ids }
  }
}

/** Why a copy is dropped, and what it loses to. */
type Misaligned = { reason: 'misaligned'; gain: number }
type Loss = Required<Pick<Decision, 'duplicateOf'>> &
  Pick<Decision, 'distance' | 'measure'> & {
    reason: 'duplicate' | 'near_duplicate' | 'protected'
  }

function protectedLoss({ key, ...how }: Protector): Loss {
  return { reason: 'protected', duplicateOf: key, ...how }
}

function createPolicy(settings: SelectSettings): Policy {
  const { policy, percent } = settings
  switch (policy) {
    case 'revisable':
      return new Revisable(percent, budgetOf(settings))
    case 'final':
      return new OnlinePolicy(settings, history => new FinalRule(settings, history))
    case 'naive':
      return new OnlinePolicy(settings, history => new NaiveRule(settings, history))
  }
}

/** Returns the content identity. */
function checkAssignment(record: FoldedAssignment, isGainWanted: boolean): Content {
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
  if (isGainWanted && record.gain === undefined) {
    throw invalid(`${key}: it has no image gain, which select.rank or select.gainMin reads`)
  }
  return found
}

function invalid(message: string): XmasdError {
  const hint =
    'An assignment must come from the score role: key, cluster and instability must agree.'
  return new XmasdError('RECORD_INVALID', message, hint)
}
