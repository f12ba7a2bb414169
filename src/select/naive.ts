/**
 * The `naive` policy, the control arm: keep an example with probability quota / size, the batch rule's of its
 * cluster now. Balanced on average, it picks nothing.
 */
import { hashedDraw } from '../random.ts'
import type { Content } from './duplicates.ts'
import type { History, Judge, Verdict } from './irrevocable.ts'
import { Levels } from './level.ts'
import { type Budget, budgetSoFar } from './quotas.ts'

const LOTS = 2

export class NaiveJudge implements Judge {
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

  judge(slot: number, _instability: number, content: Content): Verdict {
    const { total, arrived, keptTotal } = this.#history.ledger
    this.#levels.grow(slot, () => {})
    this.#levels.settle(budgetSoFar(this.#budget, total + 1, arrived + 1), () => {})
    const probability = this.#levels.taken(slot) / this.#levels.sizes[slot]!
    const isKept = keptTotal < this.#budgetMax && hashedDraw(content, LOTS) < probability
    return { isKept, reason: isKept ? 'drawn' : 'not_drawn' }
  }

  save(): null {
    return null
  }

  /** Levels follow from the counts. */
  restore(): void {
    const { total, arrived, sizes } = this.#history.ledger
    this.#levels.restore([...sizes], budgetSoFar(this.#budget, total, arrived))
  }
}
