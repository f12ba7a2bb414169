import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Clock, STARVED_MAX, TICK_MS } from '../../src/ingest/deadline.ts'

const LIMIT_MS = 10_000

/** Looks every tick until the job is late; for `starvedShare` of each tick it has no core. Returns ms. */
function lateAfter(starvedShare: number, isHeld: (ms: number) => boolean = () => false) {
  const clock = new Clock(LIMIT_MS, 0)
  const starvedMs = starvedShare * TICK_MS
  for (let ms = TICK_MS; ms < 100 * LIMIT_MS; ms += TICK_MS) {
    if (clock.look({ nowMs: ms, starvedMs, isHeld: isHeld(ms) })) return ms
  }
  return Number.POSITIVE_INFINITY
}

test('a job that computes or waits without a pause is late after its limit', () => {
  assert.equal(lateAfter(0), LIMIT_MS)
})

test('time without a core does not count, but a job is not later than a multiple of the limit', () => {
  assert.equal(lateAfter(3 / 4), 4 * LIMIT_MS)
  assert.equal(lateAfter(29 / 30), STARVED_MAX * LIMIT_MS)
})

test('a wait for a core that is told late gives back what it took', () => {
  const clock = new Clock(LIMIT_MS, 0)
  const lateAt = (ms: number, starvedMs: number) =>
    clock.look({ nowMs: ms, starvedMs, isHeld: false })
  for (let ms = TICK_MS; ms < LIMIT_MS; ms += TICK_MS) assert.equal(lateAt(ms, 0), false)
  assert.equal(lateAt(LIMIT_MS, LIMIT_MS / 2), false)
  for (let ms = LIMIT_MS + TICK_MS; ms < 1.5 * LIMIT_MS; ms += TICK_MS) {
    assert.equal(lateAt(ms, 0), false)
  }
  assert.equal(lateAt(1.5 * LIMIT_MS, 0), true)
})

test('a process that was stopped adds no more than two ticks, however long it was', () => {
  const clock = new Clock(LIMIT_MS, 0)
  const look = (i: number) => clock.look({ nowMs: i * 60_000, starvedMs: 0, isHeld: false })
  for (let i = 1; i <= 9; i++) assert.equal(look(i), false)
  assert.equal(look(10), true)
})

test('time in which a job waits for memory does not count', () => {
  assert.equal(
    lateAfter(0, ms => ms <= 30_000),
    30_000 + LIMIT_MS,
  )
})

test('a job that goes on has its whole time again after each part', () => {
  const clock = new Clock(LIMIT_MS, 0)
  for (let ms = TICK_MS; ms <= 10 * LIMIT_MS; ms += TICK_MS) {
    assert.equal(clock.look({ nowMs: ms, starvedMs: 0, isHeld: false }), false)
    if (ms % (LIMIT_MS / 2) === 0) clock.restart()
  }
})
