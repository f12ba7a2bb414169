/**
 * Decisions at random, for comparison: the `naive` policy and the random holdout.
 */
import { hashedDraw } from '../../math/random.ts'
import type { Content } from '../columns/hash-table.ts'
import { Levels } from '../rule/level.ts'
import { type Budget, budgetSoFar } from '../rule/quotas.ts'
import type { Admission, AdmissionRule, History } from './online-policy.ts'

const NAIVE_DRAW = 2

/**
 * The `naive` policy keeps an example with probability quota / size, the batch rule's for its cluster now:
 * balanced on average, blind to instability.
 */
export class NaiveRule implements AdmissionRule {
  readonly #budget: Budget
  readonly #budgetMax: number
  readonly #history: History
  readonly #levels = new Levels(1024)

  constructor(budget: Budget, history: History) {
    this.#budget = budget
    this.#budgetMax = budget.budgetExamples ?? Infinity
    this.#history = history
  }

  reserve(slots: number): void {
    this.#levels.reserve(slots)
  }

  begin(): void {
    this.restore()
  }

  admit(slot: number, _instability: number, content: Content): Admission {
    const { total, arrived, keptTotal } = this.#history.ledger
    this.#levels.grow(slot, () => {})
    this.#levels.settle(budgetSoFar(this.#budget, total + 1, arrived + 1), () => {})
    const probability = this.#levels.taken(slot) / this.#levels.sizes[slot]!
    const isKept = keptTotal < this.#budgetMax && hashedDraw(content, NAIVE_DRAW) < probability
    return { isKept, reason: isKept ? 'drawn' : 'not_drawn' }
  }

  save(): null {
    return null
  }

  /** Quotas follow from the counts. */
  restore(): void {
    const { total, arrived, sizes } = this.#history.ledger
    this.#levels.restore([...sizes], budgetSoFar(this.#budget, total, arrived))
  }
}

const MEMBERSHIP = 3
const HOLDOUT_DRAW = 4

/**
 * The random holdout: a part of the stream, chosen by a hash of the content, that is kept or dropped at
 * random at the budget's rate and takes no part in quotas. Training on it shows what selection gains.
 */
export class RandomHoldout {
  readonly #share: number
  readonly #rate: number
  /** Sequence numbers of its kept examples. */
  readonly kept: number[] = []
  examples = 0

  /** Percents, 0..100: of the stream that is held out, and of the holdout that is kept. */
  constructor(percent: number, keepPercent: number) {
    this.#share = percent / 100
    this.#rate = keepPercent / 100
  }

  has(content: Content): boolean {
    return this.#share > 0 && hashedDraw(content, MEMBERSHIP) < this.#share
  }

  /** Decides a member. Returns whether it is kept. */
  take(content: Content, sequence: number): boolean {
    const isKept = hashedDraw(content, HOLDOUT_DRAW) < this.#rate
    this.examples++
    if (isKept) this.kept.push(sequence)
    return isKept
  }
}
