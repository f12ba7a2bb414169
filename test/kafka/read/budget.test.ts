import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FetchBudget, type Waiting } from '../../../src/kafka/read/fetcher.ts'
import type { LogRecord } from '../../../src/log/log.ts'

const MEBIBYTE = 1 << 20
const BYTES_MAX = 64 * MEBIBYTE
/** As it is counted beside the value. */
const RECORD_BYTES = 200

function records(count: number, bytes: number): LogRecord[] {
  const value = Buffer.alloc(bytes)
  return Array.from({ length: count }, (_, offset) => {
    return { topic: 'examples', partition: 0, offset, key: null, value, headers: {}, timestamp: 0 }
  })
}

function waiting(count: number, bytes: number): Waiting {
  return { waiting: count, bytes: count * bytes }
}

test('before the first poll, and where polls take little, a mebibyte is fetched', () => {
  const ahead = new FetchBudget(BYTES_MAX)
  assert.equal(ahead.room([]), MEBIBYTE)
  ahead.took(records(3, 100))
  assert.equal(ahead.room([]), MEBIBYTE)
})

test('as much is fetched as four polls take', () => {
  const ahead = new FetchBudget(BYTES_MAX)
  ahead.took(records(512, 4000))
  assert.equal(ahead.room([]), 4 * 512 * (4000 + RECORD_BYTES))
  ahead.took(records(512, 1000))
  assert.equal(ahead.room([]), 4 * 512 * (1000 + RECORD_BYTES))
})

test('large records wait up to the bound and not above it', () => {
  const ahead = new FetchBudget(BYTES_MAX)
  ahead.took(records(512, 100_000))
  assert.equal(ahead.room([]), BYTES_MAX)
})

test('nothing is fetched while half of it waits, in whatever lanes; then what is missing is', () => {
  const ahead = new FetchBudget(BYTES_MAX)
  ahead.took(records(1000, 800))
  const all = 4 * 1000 * (800 + RECORD_BYTES)
  assert.equal(ahead.room([waiting(1500, 800), waiting(500, 800)]), 0)
  const left = ahead.room([waiting(1500, 800), waiting(499, 800)])
  assert.equal(left, all - 1999 * (800 + RECORD_BYTES))
})

test('a record that is larger than all that may wait is fetched for all that, alone', () => {
  const ahead = new FetchBudget(BYTES_MAX)
  ahead.took(records(1, 2 * BYTES_MAX))
  assert.equal(ahead.room([]), BYTES_MAX)
  assert.equal(ahead.room([waiting(1, 2 * BYTES_MAX)]), 0)
})
