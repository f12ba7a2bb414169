import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AssignedPartition } from '../../../src/kafka/read/partitions.ts'
import type { LogRecord } from '../../../src/log/log.ts'

function records(from: number, to: number): LogRecord[] {
  const value = Buffer.alloc(100)
  return Array.from({ length: to - from }, (_, i) => {
    const offset = from + i
    return { topic: 'examples', partition: 0, offset, key: null, value, headers: {}, timestamp: 0 }
  })
}

function put(partition: AssignedPartition, from: number, to: number): void {
  partition.put({ records: records(from, to), next: to, bytes: 100 * (to - from) })
}

/** Ours from the position 0 on, with ten records in hand. */
function busy(): AssignedPartition {
  const partition = new AssignedPartition('examples', 0)
  partition.onClaimed(partition.assign(false)!, undefined)
  put(partition, 0, 50)
  partition.take(10, 1 << 20, [])
  return partition
}

const numbers = ({ waiting, bytes, delivered, fetchFrom }: AssignedPartition): number[] => [
  waiting,
  bytes,
  delivered,
  fetchFrom,
]

test('a partition that is released holds nothing, and goes on behind what it has given out', () => {
  const partition = busy()
  const { version } = partition
  partition.release()
  assert.deepEqual(numbers(partition), [0, 0, 10, 10])
  assert.notEqual(partition.version, version)
  assert.equal(partition.canCommit(10), false)
  assert.equal(partition.onClaimed(partition.assign(false)!, 0), false)
  put(partition, 10, 20)
  const given: LogRecord[] = []
  partition.take(100, 1 << 20, given)
  assert.deepEqual(
    given.map(({ offset }) => offset),
    records(10, 20).map(({ offset }) => offset),
  )
  assert.ok(partition.canCommit(20))
})

test('a position that was moved while records were in hand makes them worthless until a restart', () => {
  const partition = busy()
  partition.release()
  assert.equal(partition.onClaimed(partition.assign(false)!, 30), true)
  assert.deepEqual([partition.isStale, partition.isDelivering], [true, false])
  assert.equal(partition.canCommit(30), false)
  partition.release()
  assert.equal(partition.onClaimed(partition.assign(false)!, 30), false)
  assert.equal(partition.isStale, true)
  partition.restart()
  assert.deepEqual(numbers(partition), [0, 0, 30, 30])
  assert.ok(partition.isDelivering)
})

test('a position that was read for an earlier assignment is not taken', async () => {
  const partition = new AssignedPartition('examples', 0)
  const first = partition.assign(false)!
  partition.release()
  const second = partition.assign(false)!
  assert.equal(partition.onClaimed(first, 5), false)
  assert.equal(partition.state, 'opening')
  const { opened } = partition
  assert.equal(partition.onClaimed(second, 8), true)
  await opened
  assert.deepEqual([partition.state, partition.committed], ['ready', 8])
})

test('a partition that is wanted elsewhere is held for the records in hand, but not for ever', async () => {
  const partition = busy()
  let late = 0
  partition.takeAway(20, () => void late++)
  assert.deepEqual([partition.state, partition.waiting], ['leaving', 0])
  assert.ok(partition.canCommit(10))
  assert.equal(partition.assign(true), undefined)
  assert.ok(partition.isDelivering)
  await new Promise(resolve => setTimeout(resolve, 60))
  assert.equal(late, 0)
  partition.takeAway(20, () => void late++)
  await new Promise(resolve => setTimeout(resolve, 60))
  assert.equal(late, 1)
  partition.onCommitted(10)
  assert.equal(partition.isBusy, false)
})

test('numbers that are out of order are a defect', () => {
  const partition = busy()
  assert.throws(() => partition.onCommitted(11), /examples\/0/)
})
