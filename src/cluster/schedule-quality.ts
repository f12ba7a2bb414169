/**
 * Is a schedule of use: does the loss fall over its checkpoints, do the scores move, and do clusters hang
 * on a single checkpoint. Thresholds are rules of thumb; docs/proxy.md says where they come from.
 *
 * Legend: N examples, T checkpoints.
 */
import type { Points } from '../math/vectors.ts'
import { adjustedRand } from './agreement.ts'
import { fitClusters } from './fit.ts'

export type ScheduleScores = {
  /** [T] */
  steps: readonly number[]
  /** [N][T] */
  trajectories: readonly (readonly number[])[]
  /** [N][T]; undefined where the losses are not known. */
  losses: readonly (readonly number[])[] | undefined
}

export type ScheduleQuality = {
  examples: number
  /** Means over the examples; `moved` is the mean change of the score since the checkpoint before. */
  checkpoints: { step: number; loss: number | null; score: number; moved: number | null }[]
  /** Mean instability, divided by the mean score. */
  movement: number
  /** Adjusted Rand index of the clusters without one checkpoint, and those with all. */
  agreement: { without: number; adjustedRand: number }[]
  /** The same between clusterings of all checkpoints with two seeds: what k-means alone makes of it. */
  stability: number
  verdict: 'good' | 'weak' | 'useless'
  /** What speaks against it, a sentence each. */
  reasons: string[]
}

const EXAMPLES_MIN = 50
const CHECKPOINTS_MIN = 4
/** The loss falls by at least so much of its first value. */
const LOSS_FALL_MIN = 0.01
/** The last loss is above the lowest one by at most so much of it. */
const LOSS_RISE_MAX = 0.02
const MOVEMENT_MIN = 0.005
/** Of all movement, what may lie between two neighbouring checkpoints. */
const STEP_SHARE_MAX = 0.7
/** Of the stability: the clusters without any one checkpoint agree by so much with those of all. */
const AGREEMENT_MIN = 0.5
const SEEDS = 3

/** The same scores give the same result. `trajectories` holds at least two examples. */
export function judgeSchedule(scores: ScheduleScores): ScheduleQuality {
  const { steps, trajectories, losses } = scores
  const score = meansOf(trajectories)
  const loss = losses === undefined ? undefined : meansOf(losses)
  const moved = steps.map((_, t) =>
    t === 0 ? null : meanOf(trajectories.map(one => Math.abs(one[t]! - one[t - 1]!))),
  )
  const quality = {
    examples: trajectories.length,
    checkpoints: steps.map((step, t) => {
      return { step, loss: loss?.[t] ?? null, score: score[t]!, moved: moved[t]! }
    }),
    movement: sumOf(moved) / meanOf(score),
    ...leaveOneOut(scores),
  }
  const found = complaintsOf(quality)
  const isUseless = found.some(({ isFatal }) => isFatal)
  return {
    ...quality,
    verdict: isUseless ? 'useless' : found.length > 0 ? 'weak' : 'good',
    reasons: found.map(({ reason }) => reason),
  }
}

/** Empty below three checkpoints: what is left would be one number. */
function leaveOneOut({
  steps,
  trajectories,
}: ScheduleScores): Pick<ScheduleQuality, 'agreement' | 'stability'> {
  const clusters = Math.max(2, Math.min(20, Math.floor(trajectories.length / 10)))
  const assign = (rows: readonly (readonly number[])[], seed = 0): Int32Array =>
    fitClusters(pointsOf(rows), { signature: 'sum', clusters, seed }).assignment
  const [whole, ...others] = Array.from({ length: SEEDS }, (_, i) => assign(trajectories, i))
  const stability = meanOf(others.map(other => adjustedRand(whole!, other)))
  if (steps.length < 3) return { agreement: [], stability }
  const agreement = steps.map((without, t) => {
    const rest = trajectories.map(one => one.filter((_, i) => i !== t))
    return { without, adjustedRand: adjustedRand(whole!, assign(rest)) }
  })
  return { agreement, stability }
}

function pointsOf(rows: readonly (readonly number[])[]): Points {
  return { data: Float64Array.from(rows.flat()), count: rows.length, dimensions: rows[0]!.length }
}

type Complaint = { reason: string; isFatal?: boolean }
type Figures = Omit<ScheduleQuality, 'verdict' | 'reasons'>

function complaintsOf(figures: Figures): Complaint[] {
  const { examples, checkpoints } = figures
  const found: Complaint[] = []
  if (examples < EXAMPLES_MIN) {
    found.push({ reason: `${examples} examples say little: give ${EXAMPLES_MIN} or more` })
  }
  if (checkpoints.length < CHECKPOINTS_MIN) {
    const reason = `${checkpoints.length} checkpoints say little of how a score moves: keep ${CHECKPOINTS_MIN} or more`
    found.push({ reason })
  }
  return [...found, ...lossComplaints(figures), ...movementComplaints(figures)]
}

function lossComplaints({ checkpoints }: Figures): Complaint[] {
  const losses = checkpoints.map(({ loss }) => loss)
  const [first, last] = [losses[0], losses.at(-1)]
  if (first == null || last == null) return []
  const lowest = Math.min(...losses.map(loss => loss ?? Number.POSITIVE_INFINITY))
  if (first - lowest < LOSS_FALL_MIN * first) {
    const reason = `the loss does not fall: ${first.toFixed(3)} at the first checkpoint, ${last.toFixed(3)} at the last; check the training, and that the prompts are those of the training`
    return [{ reason, isFatal: true }]
  }
  if (last - lowest <= LOSS_RISE_MAX * lowest) return []
  const { step } = checkpoints[losses.indexOf(lowest)]!
  return [{ reason: `the loss rises after step ${step}: end the schedule there` }]
}

function movementComplaints({ checkpoints, movement, agreement, stability }: Figures): Complaint[] {
  if (movement < MOVEMENT_MIN) {
    const reason = `scores move by ${percent(movement)} of their size: the checkpoints are nearly one model; train longer, or with a larger learning rate`
    return [{ reason, isFatal: true }]
  }
  const found: Complaint[] = []
  const moved = checkpoints.map(({ moved }) => moved)
  const most = Math.max(...moved.map(one => one ?? 0))
  const share = most / sumOf(moved)
  if (checkpoints.length > 2 && share > STEP_SHARE_MAX) {
    const at = moved.indexOf(most)
    const between = `${checkpoints[at - 1]!.step} and ${checkpoints[at]!.step}`
    const reason = `${percent(share)} of the movement lies between steps ${between}: save more often there`
    found.push({ reason })
  }
  for (const { without, adjustedRand } of agreement) {
    if (adjustedRand >= AGREEMENT_MIN * stability) continue
    const figures = `agreement ${adjustedRand.toFixed(2)} without it, ${stability.toFixed(2)} between seeds`
    found.push({
      reason: `clusters hang on checkpoint ${without} alone (${figures}): look at it, or leave it out`,
    })
  }
  return found
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`
}

function meansOf(rows: readonly (readonly number[])[]): number[] {
  return rows[0]!.map((_, t) => meanOf(rows.map(row => row[t]!)))
}

function sumOf(values: readonly (number | null)[]): number {
  return values.reduce<number>((sum, value) => sum + (value ?? 0), 0)
}

function meanOf(values: readonly number[]): number {
  return sumOf(values) / values.length
}
