import assert from 'node:assert/strict'
import { test } from 'node:test'
import { judgeSchedule, type ScheduleScores } from '../../src/cluster/schedule-quality.ts'
import { seededRandom } from '../../src/math/random.ts'

const STEPS = [10, 20, 30, 40, 50]

/** Four kinds of examples, whose scores move in four ways; `noise` is each score's own. */
function scores(examples: number, noise: number, steps = STEPS): ScheduleScores {
  const random = seededRandom(1)
  const trajectories = Array.from({ length: examples }, (_, i) => {
    const [rise, start] = [i % 2 === 0 ? 1 : -1, i % 4 < 2 ? 10 : 20]
    return steps.map((_, t) => start + rise * t + noise * (random() - 0.5))
  })
  const losses = trajectories.map(() => steps.map((_, t) => 2 - 0.2 * t))
  return { steps, trajectories, losses }
}

test('a schedule whose loss falls, whose scores move evenly and whose clusters stay is good', () => {
  const { verdict, reasons, checkpoints, agreement, stability, movement } = judgeSchedule(
    scores(200, 0.1),
  )
  assert.deepEqual([verdict, reasons], ['good', []])
  assert.deepEqual(
    checkpoints.map(({ loss }) => loss?.toFixed(1)),
    ['2.0', '1.8', '1.6', '1.4', '1.2'],
  )
  assert.ok(movement > 0.2 && movement < 0.3, String(movement))
  assert.ok(agreement.every(({ adjustedRand }) => adjustedRand > 0.5 * stability))
})

test('scores that stand still, and a loss that does not fall, make a schedule useless', () => {
  const still = scores(200, 0)
  const trajectories = still.trajectories.map(one => one.map((_, t) => one[0]! + 1e-4 * t))
  const stuck = judgeSchedule({ ...still, trajectories })
  assert.equal(stuck.verdict, 'useless')
  assert.match(stuck.reasons.join(), /the checkpoints are nearly one model/)
  const flat = judgeSchedule({ ...still, losses: still.trajectories.map(() => STEPS.map(() => 2)) })
  assert.equal(flat.verdict, 'useless')
  assert.match(flat.reasons.join(), /the loss does not fall: 2\.000 .* 2\.000/)
})

test('a loss that rises again, one step that has all movement, one odd checkpoint, few checkpoints are weak', () => {
  const plain = scores(200, 0.1)
  const rising = plain.trajectories.map(() => [2, 1, 0.5, 0.8, 1])
  const late = judgeSchedule({ ...plain, losses: rising })
  assert.deepEqual(late.reasons, ['the loss rises after step 30: end the schedule there'])
  const jump = plain.trajectories.map((one, i) => {
    const by = i % 2 === 0 ? 5 : -5
    return one.map((_, t) => one[0]! + 0.1 * t + (t > 1 ? by : 0))
  })
  assert.match(
    judgeSchedule({ ...plain, trajectories: jump }).reasons[0]!,
    /between steps 20 and 30/,
  )
  const random = seededRandom(2)
  const alone = plain.trajectories.map(one => one.map((v, t) => (t === 3 ? 300 * random() : v)))
  const hanging = judgeSchedule({ ...plain, trajectories: alone })
  assert.match(hanging.reasons.join(), /clusters hang on checkpoint 40 alone/)
  assert.doesNotMatch(hanging.reasons.join(), /checkpoint 20 alone/)
  const few = judgeSchedule(scores(20, 0.1, [1, 2]))
  assert.equal(few.verdict, 'weak')
  assert.match(few.reasons.join(), /20 examples say little.*2 checkpoints say little/s)
  assert.deepEqual(few.agreement, [])
})

test('without losses the scores alone are judged', () => {
  const { verdict, checkpoints } = judgeSchedule({ ...scores(200, 0.1), losses: undefined })
  assert.equal(verdict, 'good')
  assert.equal(checkpoints[0]!.loss, null)
})
