import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { XmasdError } from '../../../src/errors.ts'
import { inTurn } from '../../../src/ingest/fetch/gate.ts'

const nothing = (): void => {}

test('at most so many requests are under way at one host, in order; another host does not wait', async () => {
  let [running, most] = [0, 0]
  const order: number[] = []
  const work = async (i: number): Promise<void> => {
    most = Math.max(most, ++running)
    order.push(i)
    await setTimeout(5)
    running--
  }
  const turns = Array.from({ length: 20 }, (_, i) =>
    inTurn('a', { requestsMax: 3 }, nothing, () => work(i)),
  )
  assert.equal(await inTurn('b', { requestsMax: 3 }, nothing, async () => 'at once'), 'at once')
  assert.ok(order.length < 20)
  await Promise.all(turns)
  assert.equal(most, 3)
  assert.deepEqual(
    order,
    [...order].sort((a, b) => a - b),
  )
})

test('requests begin no faster than the rate, and who waits says so', async () => {
  let told = 0
  const started = performance.now()
  const limits = { requestsMax: 100, requestsPerSecondMax: 10 }
  await Promise.all(
    Array.from({ length: 9 }, () =>
      inTurn(
        'c',
        limits,
        () => told++,
        async () => undefined,
      ),
    ),
  )
  assert.ok(performance.now() - started >= 790)
  assert.ok(told > 0)
})

test('a failure that names a pause holds the host back, others do not', async () => {
  const busy = new XmasdError('IMAGE_FETCH_FAILED', 'busy', 'wait', { retryAfterMs: 200 })
  const failing = (error: Error) =>
    inTurn('d', { requestsMax: 9 }, nothing, () => Promise.reject(error))
  await assert.rejects(failing(new Error('gone')))
  const started = performance.now()
  await assert.rejects(failing(busy))
  assert.ok(performance.now() - started < 190)
  await inTurn('d', { requestsMax: 9 }, nothing, async () => undefined)
  assert.ok(performance.now() - started >= 199)
})
