import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { acquireEnvironment, releaseEnvironment } from '../../../src/log/local/environment.ts'
import { settled, write } from '../../../src/log/local/transaction.ts'
import { temporaryFolder } from '../../support.ts'

test('a write that throws, at once or later, leaves nothing and the next one is whole', async t => {
  const environment = await acquireEnvironment(temporaryFolder(t), false)
  t.after(() => releaseEnvironment(environment))
  const { records } = environment
  const put = (from: number, count: number) => {
    for (let i = from; i < from + count; i++) records.put([1, 0, i], Buffer.alloc(500, 'x'))
  }
  const count = async () => {
    await settled(environment)
    return [...records.getKeys({ start: [1, 0, 0], end: [1, 1, 0] })].length
  }
  const thrown = write(environment, () => {
    put(0, 5000)
    throw new RangeError('at once')
  })
  await assert.rejects(thrown, /at once/)
  assert.equal(await count(), 0)
  const rejected = write(environment, async () => {
    put(0, 5000)
    await setTimeout(5)
    put(5000, 5000)
    throw new RangeError('later')
  })
  const good = write(environment, () => put(0, 10))
  await assert.rejects(rejected, /later/)
  await good
  assert.equal(await count(), 10)
  const [first, second, third] = await Promise.allSettled([
    write(environment, () => put(10, 1)),
    write(environment, () => {
      put(11, 1)
      throw new TypeError('between')
    }),
    write(environment, () => put(12, 1)),
  ])
  assert.deepEqual(
    [first, second, third].map(result => result.status),
    ['fulfilled', 'rejected', 'fulfilled'],
  )
  assert.equal(await count(), 12)
  const failed = write(environment, () => {
    put(20, 1)
    environment.state.put(['x'.repeat(5000)], Buffer.alloc(1))
  })
  await assert.rejects(failed, { code: 'LOG_UNAVAILABLE' })
  assert.equal(await count(), 12)
})

test('reads wait for the end of a write that gives way', async t => {
  const environment = await acquireEnvironment(temporaryFolder(t), false)
  t.after(() => releaseEnvironment(environment))
  const { records } = environment
  let isStarted = () => {}
  const started = new Promise<void>(resolve => {
    isStarted = resolve
  })
  const writing = write(environment, async () => {
    records.put([1, 0, 0], Buffer.from('half'))
    isStarted()
    await setTimeout(30)
    throw new RangeError('undone')
  })
  await started
  await settled(environment)
  assert.equal(records.get([1, 0, 0]), undefined)
  await assert.rejects(writing, /undone/)
})
