import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { XmasdError } from '../../../src/errors.ts'
import { Stopped } from '../../../src/score/failure.ts'
import { ISOLATIONS } from '../../../src/score/workers/host.ts'
import { Pool, type PoolOptions } from '../../../src/score/workers/pool.ts'
import type { ExitJob } from './worker-exits.ts'

const script = new URL('./worker-exits.js', import.meta.url)

function poolOf(
  t: TestContext,
  size: number,
  { isolation, onReplaced }: Pick<PoolOptions, 'isolation' | 'onReplaced'>,
): Pool<ExitJob, number> {
  const workerData = {}
  const options = { script, workerData, size, isolation, onReplaced }
  const pool = new Pool<ExitJob, number>(options)
  t.after(() => pool.close())
  return pool
}

function hasCode(code: string): (error: unknown) => boolean {
  return error => error instanceof XmasdError && error.code === code
}

for (const isolation of ISOLATIONS) {
  test(`${isolation}: every job gets its own result, however many workers there are`, async t => {
    const pool = poolOf(t, 2, { isolation })
    await pool.ready()
    const values = Array.from({ length: 50 }, (_, i) => i)
    const running = values.map(value => pool.run({ value }))
    assert.deepEqual(pool.load(), { waiting: 48, busy: 2 })
    const results = await Promise.all(running)
    assert.deepEqual(pool.load(), { waiting: 0, busy: 0 })
    assert.deepEqual(
      results,
      values.map(value => value * 2),
    )
  })

  test(`${isolation}: a worker that exits or throws takes only its own job along and is replaced`, async t => {
    let replaced = 0
    const pool = poolOf(t, 1, { isolation, onReplaced: () => replaced++ })
    for (const action of ['exit', 'throw'] as const) {
      const before = pool.run({ value: 1 })
      const dying = pool.run({ value: 2, action })
      const after = pool.run({ value: 3 })
      await assert.rejects(dying, (error: unknown) => {
        assert.ok(error instanceof XmasdError && error.code === 'WORKER_DIED' && error.retryable)
        return true
      })
      assert.deepEqual([await before, await after], [2, 6])
    }
    assert.equal(replaced, 2)
  })

  test(`${isolation}: errors keep their code and hint across threads; defects become INTERNAL`, async t => {
    const pool = poolOf(t, 1, { isolation })
    await assert.rejects(pool.run({ value: 1, action: 'operating' }), (error: unknown) => {
      assert.ok(error instanceof XmasdError)
      assert.deepEqual(
        [error.code, error.message, error.hint],
        ['ENGINE_FAILED', 'no memory', 'buy some'],
      )
      return true
    })
    await assert.rejects(pool.run({ value: 1, action: 'fail' }), hasCode('INTERNAL'))
    assert.equal(await pool.run({ value: 4 }), 8)
  })

  test(`${isolation}: workers that cannot load say why, to ready and to every job, and are not started again`, async t => {
    const pool = new Pool<ExitJob, number>({
      script,
      workerData: { refuses: true },
      size: 2,
    })
    t.after(() => pool.close())
    const job = assert.rejects(pool.run({ value: 1 }), hasCode('PROXY_INVALID'))
    await assert.rejects(pool.ready(), hasCode('PROXY_INVALID'))
    await job
    await assert.rejects(pool.run({ value: 1 }), hasCode('PROXY_INVALID'))
  })

  test(`${isolation}: closing rejects what is queued and what is asked later`, async t => {
    const pool = poolOf(t, 1, { isolation })
    await pool.ready()
    const queued = Array.from({ length: 4 }, (_, value) => pool.run({ value, action: 'throw' }))
    const rejected = queued.map(job => assert.rejects(job, Stopped))
    await pool.close()
    await Promise.all(rejected)
    await assert.rejects(pool.run({ value: 1 }), Stopped)
  })
}

for (const action of ['kill', 'abort'] as const) {
  test(`a process ended by the signal of ${action} is told from one that exits: OUT_OF_MEMORY`, async t => {
    const pool = poolOf(t, 1, { isolation: 'process' })
    await assert.rejects(pool.run({ value: 1, action }), hasCode('OUT_OF_MEMORY'))
    assert.equal(await pool.run({ value: 4 }), 8)
  })
}

test('a worker that dies while it loads is no fault of any job: DEVICE_FAILED, to all of them', async t => {
  const pool = new Pool<ExitJob, number>({
    script,
    workerData: { dies: true },
    size: 2,
    isolation: 'process',
  })
  t.after(() => pool.close())
  await assert.rejects(pool.run({ value: 1 }), hasCode('DEVICE_FAILED'))
  await assert.rejects(pool.run({ value: 1 }), hasCode('DEVICE_FAILED'))
})

for (const action of ['loop', 'native', 'wait'] as const) {
  test(`process: a job that hangs (${action}) is ended at its limit, the next one is done, and closing does not wait`, async t => {
    const pool = new Pool<ExitJob, number>({
      script,
      workerData: {},
      size: 1,
      isolation: 'process',
      late: msMax => new XmasdError('INGEST_TIMEOUT', `${msMax}`, 'shorten it'),
    })
    t.after(() => pool.close())
    await pool.ready()
    await assert.rejects(pool.run({ value: 1, action }, { msMax: 700 }), hasCode('INGEST_TIMEOUT'))
    assert.equal(await pool.run({ value: 4 }), 8)
    const hanging = assert.rejects(pool.run({ value: 1, action }), Stopped)
    const started = performance.now()
    await pool.close()
    await hanging
    assert.ok(performance.now() - started < 5_000)
  })
}

test('process: a job whose items are done one by one has its whole time for each of them', async t => {
  const pool = new Pool<ExitJob, number>({ script, workerData: {}, size: 1, isolation: 'process' })
  t.after(() => pool.close())
  await pool.ready()
  assert.equal(await pool.run({ value: 4, action: 'items' }, { msMax: 2_000 }), 8)
})
