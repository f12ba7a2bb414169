/** What `fit` learns of near-duplicates, and says of it. */
import { learnNearness } from '../cluster/learn-nearness.ts'
import type { Nearness } from '../cluster/nearness.ts'
import type { Trajectories } from '../cluster/trajectories.ts'
import { rowsOf } from './fit-report.ts'

/** From `examples` that count and have a trajectory. Undefined where one lacks what near-duplicates are found by. */
export function nearnessOf(
  { points, rows, likeness }: Trajectories,
  examples: readonly number[],
  { nearPercent, seed }: { nearPercent: number; seed: number },
): Nearness | undefined {
  const known = examples.flatMap(index => likeness[index] ?? [])
  if (known.length < examples.length) return undefined
  const trajectories = rowsOf(
    points,
    examples.map(index => rows[index]!),
  )
  return learnNearness({ trajectories, likeness: known }, { share: nearPercent / 100, seed })
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
