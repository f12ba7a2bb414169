import assert from 'node:assert/strict'
import test from 'node:test'
import { createBacklogMeter } from '../../src/daemon/gauges.ts'

/** Looks every 15 s at a group that is given (committed, behind, age) by time. */
function watch(sights: [committed: number, behind: number, ageSeconds: number][]): number[] {
  const meter = createBacklogMeter()
  return sights.map(([committed, behind, ageSeconds], i) =>
    meter({ atMs: i * 15_000, committed, behind, ageSeconds }),
  )
}

test('a backlog takes the records behind by the rate of the group', () => {
  assert.deepEqual(
    watch([
      [0, 900, 60],
      [150, 750, 70],
      [300, 600, 80],
    ]),
    [60, 75, 60],
  )
})

test('nothing behind is 0 seconds, whatever the rate', () => {
  assert.deepEqual(watch([[0, 0, 0]]), [0])
  assert.equal(watch([[0, 10, 1], [5, 5, 1], [10, 0, 0]]).at(-1), 0) // biome-ignore format: a table
})

test('while nothing moves it is the age of the oldest record', () => {
  assert.deepEqual(
    watch([
      [40, 100, 5],
      [40, 100, 20],
      [40, 100, 35],
    ]),
    [5, 20, 35],
  )
})

test('a burst after a quiet hour is measured by the rate since it came, not over the hour', () => {
  const quiet = Array.from({ length: 240 }, (): [number, number, number] => [500, 0, 0])
  const seconds = watch([...quiet, [500, 3_000, 1], [800, 2_700, 16]])
  assert.equal(seconds.at(-2), 1)
  assert.equal(seconds.at(-1), 135) // 300 records in 15 s
})

test('a group that stands still after it worked seems ever slower, then shows its age', () => {
  const working: [number, number, number][] = [
    [0, 400, 10],
    [200, 200, 20],
  ]
  const still = Array.from({ length: 30 }, (_, i): [number, number, number] => [200, 200, 30 + i])
  const seconds = watch([...working, ...still])
  assert.equal(seconds[1], 15)
  for (let i = 2; i <= 20; i++) assert.ok(seconds[i]! > seconds[i - 1]!, `${i}`)
  assert.equal(seconds.at(-1), 59)
})
