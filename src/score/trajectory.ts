/** What singular values become: scores over the schedule, and how steady they are. */

/** T rows of singular values -> T scores, each the sum of its row. */
export function trajectoryOf(singularValues: readonly (readonly number[])[]): number[] {
  return singularValues.map(row => row.reduce((sum, value) => sum + value, 0))
}

/** Sum of absolute differences of neighbouring scores; 0 for one score. Lower is steadier. */
export function instabilityOf(trajectory: readonly number[]): number {
  let sum = 0
  for (let i = 1; i < trajectory.length; i++) sum += Math.abs(trajectory[i]! - trajectory[i - 1]!)
  return sum
}
