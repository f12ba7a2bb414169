/** What `fit` learns of near-duplicates, and says of it. */
import { learnNearness } from '../cluster/learn-nearness.ts'
import type { Nearness } from '../cluster/nearness.ts'
import type { Trajectories } from '../cluster/trajectories.ts'
import { rowsOf } from './fit-report.ts'

/** From the examples that count. Undefined where the data does not say what near-duplicates are found by. */
export function nearnessOf(
  { points, likeness }: Trajectories,
  rows: readonly number[],
  { nearPercent, seed }: { nearPercent: number; seed: number },
): Nearness | undefined {
  if (likeness === undefined) return undefined
  const history = {
    trajectories: rowsOf(points, rows),
    likeness: rows.map(row => likeness[row]!),
  }
  return learnNearness(history, { share: nearPercent / 100, seed })
}

export type NearReport = Pick<Nearness, 'layoutRadius' | 'stateRadius'>

export function nearReport(nearness: Nearness | undefined): NearReport | null {
  if (nearness === undefined) return null
  const { layoutRadius, stateRadius } = nearness
  return { layoutRadius, stateRadius }
}

export function describeNear(near: NearReport | null): string {
  if (near === null)
    return 'nothing learned of near-duplicates: the data does not say what to compare'
  const { layoutRadius, stateRadius } = near
  return `pictures within ${layoutRadius.toPrecision(3)}, states within ${stateRadius.toPrecision(3)}`
}
