import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Lane } from '../../src/log/kafka-lane.ts'
import type { LogRecord } from '../../src/log/log.ts'

function records(from: number, to: number): LogRecord[] {
  const value = Buffer.alloc(100)
  return Array.from({ length: to - from }, (_, i) => {
    const offset = from + i
    return { topic: 'examples', partition: 0, offset, key: null, value, headers: {}, timestamp: 0 }
  })
}

test('a lane that is let go holds nothing, and goes on behind what it has given out', () => {
  const lane = new Lane('examples', 0)
  lane.put({ records: records(0, 50), next: 50, bytes: 5_000 })
  lane.take(10, 1 << 20, [])
  const { version } = lane
  lane.letGo()
  assert.deepEqual([lane.waiting, lane.bytes, lane.delivered, lane.fetchFrom], [0, 0, 10, 10])
  assert.notEqual(lane.version, version)
  lane.put({ records: records(10, 20), next: 20, bytes: 1_000 })
  const given: LogRecord[] = []
  lane.take(100, 1 << 20, given)
  assert.deepEqual(
    given.map(({ offset }) => offset),
    records(10, 20).map(({ offset }) => offset),
  )
})
