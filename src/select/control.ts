/**
 * The control arm: a part of the stream, drawn by a hash of the content, that is kept or dropped by lot at the
 * budget's rate and takes no part in quotas. What is trained on it, against the rest, says what selection buys.
 */
import { hashedDraw } from '../random.ts'
import type { Content } from './duplicates.ts'

const MEMBERSHIP = 3
const LOTS = 4

export class ControlArm {
  readonly #share: number
  readonly #rate: number
  /** Sequence numbers of those that it keeps. */
  readonly kept: number[] = []
  /** How many it has. */
  examples = 0

  /** Percents, 0..100: of the stream that is drawn into it, and of those that it keeps. */
  constructor(percent: number, keepPercent: number) {
    this.#share = percent / 100
    this.#rate = keepPercent / 100
  }

  has(content: Content): boolean {
    return this.#share > 0 && hashedDraw(content, MEMBERSHIP) < this.#share
  }

  /** Decides a member. Returns whether it is kept. */
  take(content: Content, sequence: number): boolean {
    const isKept = hashedDraw(content, LOTS) < this.#rate
    this.examples++
    if (isKept) this.kept.push(sequence)
    return isKept
  }
}
