import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { type ErrorCode, XmasdError } from '../../src/errors.ts'
import type { Sequence } from '../../src/score/batch.ts'
import { typicalProxy } from '../../src/score/device/choice.ts'
import { type Failure, withRetry } from '../../src/score/failure.ts'
import type { Scored, ScoreJob } from '../../src/score/scorer.ts'
import { BLAMED_IN_A_ROW_MAX, createBatchRetry, type OutOfMemory } from '../../src/score/scoring.ts'
import { TINY, writeTinyProxy } from '../fixtures-tiny-proxy.ts'
import { program, temporaryFolder } from '../support.ts'
import type { ShortageReport } from './shortage-child.ts'

/** The number of an example is its first id; -1 is what no example has: the built-in one. */
function sequenceOf(number: number, length = 10): Sequence {
  const none = new Int32Array(0)
  const ids = new Int32Array(length).fill(number)
  return { ids, columns: none, rows: none, answers: none, images: [] }
}

function numbersOf({ passes }: ScoreJob): number[] {
  return passes.flat().map(({ ids, images }) => (images.length > 0 ? -1 : ids[0]!))
}

/** Tokens of a job's longest pass: its sequences share no prefix. */
function tokensOf({ passes }: ScoreJob): number {
  return Math.max(...passes.map(pass => pass.reduce((sum, { ids }) => sum + ids.length, 0)))
}

/** Over a device that throws what `failureOf` says; results hold the numbers. */
function retrying(failureOf: (numbers: number[], job: ScoreJob) => ErrorCode | undefined) {
  const events: OutOfMemory[] = []
  const jobs: { numbers: number[]; tokens: number }[] = []
  const score = createBatchRetry({
    pool: {
      run: async (job): Promise<Scored[]> => {
        const numbers = numbersOf(job)
        jobs.push({ numbers, tokens: tokensOf(job) })
        const code = failureOf(numbers, job)
        if (code !== undefined) throw new XmasdError(code, `failed with ${numbers}`, 'look')
        return numbers.map(number => ({ losses: [number] }))
      },
    },
    config: typicalProxy(),
    limits: { tokensMax: 64, examplesMax: 64 },
    onOutOfMemory: event => events.push(event),
  })
  return { score, events, jobs }
}

function numbered(count: number): Sequence[] {
  return Array.from({ length: count }, (_, i) => sequenceOf(i))
}

function summaryOf(scored: readonly Scored[]): (number | string)[] {
  return scored.map(one =>
    'losses' in one ? one.losses[0]! : 'error' in one ? one.error.code : '',
  )
}

function isDeviceFailed(error: unknown): boolean {
  return error instanceof XmasdError && error.code === 'DEVICE_FAILED'
}

test('of items that fail together only the culprits are blamed, in few attempts', async () => {
  let attempts = 0
  const items = Array.from({ length: 200 }, (_, i) => i)
  const results = await withRetry(items, {
    attempt: async part => {
      attempts++
      if (part.includes(13)) throw new XmasdError('WORKER_DIED', 'died', 'look')
      return part.map(value => value * 2)
    },
    blame: () => -1,
  })
  assert.deepEqual(
    results,
    items.map(value => (value === 13 ? -1 : value * 2)),
  )
  assert.ok(attempts <= 1 + 8 + 7 + 8, `${attempts}`)
})

test('where memory runs out passes are halved, once for all jobs at a time, until they fit, and stay so', async () => {
  const { score, events, jobs } = retrying((_, job) =>
    tokensOf(job) > 16 ? 'OUT_OF_MEMORY' : undefined,
  )
  const [a, b] = await Promise.all([score(numbered(5)), score(numbered(5))])
  assert.deepEqual([...summaryOf(a), ...summaryOf(b)], [0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
  const lowered = events.filter(({ isLowered }) => isLowered)
  assert.deepEqual(
    lowered.map(({ tokensMax }) => tokensMax),
    [32, 16],
  )
  assert.equal(events.length, 4)
  await score(numbered(2))
  assert.equal(jobs.at(-1)!.tokens, 10)
})

test('an example that does not fit alone is blamed, and passes get no shorter than it is', async () => {
  const { score, events } = retrying(numbers => (numbers.includes(7) ? 'OUT_OF_MEMORY' : undefined))
  const scored = await score([sequenceOf(1), sequenceOf(7, 40), sequenceOf(2)])
  assert.deepEqual(summaryOf(scored), [1, 'OUT_OF_MEMORY', 2])
  assert.equal(events.at(-1)!.tokensMax, 32)
  assert.deepEqual(summaryOf(await score([sequenceOf(3)])), [3])
})

for (const code of ['ENGINE_FAILED', 'WORKER_DIED', 'OUT_OF_MEMORY', 'INTERNAL'] as const) {
  test(`a device that fails for everything blames no example: ${code}, before and after the first that was good`, async () => {
    let isLost = true
    const { score, jobs } = retrying(() => (isLost ? code : undefined))
    await assert.rejects(score(numbered(3)), isDeviceFailed)
    assert.ok(jobs.some(({ numbers }) => numbers.includes(-1)))
    isLost = false
    await score(numbered(2))
    isLost = true
    await assert.rejects(score([sequenceOf(5)]), isDeviceFailed)
    assert.deepEqual(jobs.at(-1)!.numbers, [1])
  })
}

test('too many in a row that only the engine rejects stop it; a good one between them starts the count again', async () => {
  const { score } = retrying(numbers =>
    numbers.some(number => number >= 100) ? 'ENGINE_FAILED' : undefined,
  )
  for (let i = 1; i < BLAMED_IN_A_ROW_MAX; i++) await score([sequenceOf(100 + i)])
  await score([sequenceOf(1)])
  for (let i = 1; i < BLAMED_IN_A_ROW_MAX; i++) await score([sequenceOf(100 + i)])
  await assert.rejects(score([sequenceOf(100)]), isDeviceFailed)
})

/** Over a device that gives no number for examples from 100 on; `isBroken`: for none. */
function numberless(isBroken = false) {
  return createBatchRetry({
    pool: {
      run: async job =>
        numbersOf(job).map((number): Scored => {
          if (number < 100 && !isBroken) return { losses: [number] }
          const error = { code: 'SCORE_NOT_FINITE', message: `no number with c${number}`, hint: '' }
          return { error: error as Failure }
        }),
    },
    config: typicalProxy(),
    limits: { tokensMax: 64, examplesMax: 64 },
  })
}

test('those in a row are counted in order: good ones within a batch start the count again', async () => {
  const score = numberless()
  const mixed = Array.from({ length: 200 }, (_, i) => sequenceOf(i % 4 === 0 ? 1 : 100 + i))
  assert.equal(summaryOf(await score(mixed)).filter(one => one === 'SCORE_NOT_FINITE').length, 150)
  const row = Array.from({ length: BLAMED_IN_A_ROW_MAX - 1 }, (_, i) => sequenceOf(100 + i))
  await score([sequenceOf(1), ...row, sequenceOf(1), ...row])
  await assert.rejects(score([sequenceOf(100)]), isDeviceFailed)
})

test('weights that give no number for anything are named, with what to look for', async () => {
  await assert.rejects(numberless(true)([sequenceOf(5)]), (error: XmasdError) => {
    assert.match(error.message, /no number with c5; and the simplest example fails alike/)
    assert.match(error.hint, /^Look for NaN and infinities in the weights of the checkpoint/)
    return isDeviceFailed(error)
  })
})

test('what no example is to blame for is thrown as it is', async () => {
  const { score } = retrying(() => 'CHECKPOINT_INVALID')
  await assert.rejects(
    score(numbered(3)),
    (error: unknown) => error instanceof XmasdError && error.code === 'CHECKPOINT_INVALID',
  )
})

test('a forward pass that really fails to allocate is done again in shorter ones, to the last bit the same', t => {
  if (program(t, 'prlimit', 'REQUIRE_PRLIMIT') === undefined) return
  const dir = temporaryFolder(t)
  const shape = { ...TINY, width: 512, heads: 8, kvHeads: 8, positions: 1024 }
  writeTinyProxy(dir, { shape })
  const child = fileURLToPath(new URL('./shortage-child.js', import.meta.url))
  const output = execFileSync(process.execPath, [child, dir], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  const { events, isEqual }: ShortageReport = JSON.parse(output)
  t.diagnostic(`passes of ${events.map(({ tokensMax }) => tokensMax).join(', then ')} tokens`)
  assert.ok(events.length > 0, 'memory was enough: this test shows nothing')
  for (const { message, isLowered } of events) {
    assert.match(message, /Failed to allocate memory|bad_alloc|allocation failed/)
    assert.ok(isLowered)
  }
  assert.ok(isEqual)
})
