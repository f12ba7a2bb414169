/** Nothing in ingest waits for ever. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import test from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { XmasdError } from '../../src/errors.ts'
import { Starvation, withDeadline } from '../../src/ingest/deadline.ts'
import { ROOT } from '../support.ts'
import { hasCode } from './fixtures.ts'

const late = () => new XmasdError('IMAGE_TIMEOUT', 'late', 'wait for less')

test('work that never settles is given up, and its signal aborted', async () => {
  let signal: AbortSignal | undefined
  const waiting = withDeadline(50, late, given => {
    signal = given
    return new Promise<never>(() => {})
  })
  await assert.rejects(waiting, hasCode('IMAGE_TIMEOUT'))
  assert.equal(signal?.aborted, true)
})

test('work that ends in time gives its result or its error', async () => {
  assert.equal(await withDeadline(10_000, late, async () => 7), 7)
  await assert.rejects(
    withDeadline(10_000, late, async () => {
      throw new RangeError('of its own')
    }),
    /of its own/,
  )
})

test('of a time in which the thread was blocked only a second counts', async () => {
  const result = withDeadline(1500, late, async () => {
    await setTimeout(20)
    const until = performance.now() + 3000
    while (performance.now() < until);
    await setTimeout(20)
    return 'done'
  })
  assert.equal(await result, 'done')
})

test('a wait that wakes the process all the time ends at its limit', async () => {
  const starvation = new Starvation('self')
  const started = performance.now()
  const beating = setInterval(() => {
    const until = performance.now() + 1
    while (performance.now() < until);
  }, 5)
  await assert.rejects(withDeadline(1000, late, () => new Promise<never>(() => {})))
  clearInterval(beating)
  const tookMs = performance.now() - started - starvation.look()
  assert.ok(tookMs < 2000, `${tookMs} ms`)
})

test('of the time in which there is no core for the process nothing counts', {
  skip: !existsSync('/proc/self/schedstat'),
}, () => {
  const crowd = Array.from({ length: 4 * availableParallelism() }, () =>
    spawn(process.execPath, ['-e', 'for (;;);']),
  )
  const starvation = new Starvation('self')
  const started = performance.now()
  const before = process.cpuUsage()
  while (performance.now() - started < 2000);
  const { user, system } = process.cpuUsage(before)
  for (const one of crowd) one.kill('SIGKILL')
  const starved = starvation.look()
  assert.ok(starved > 200, `${starved} ms`)
  assert.ok(Math.abs(2000 - (user + system) / 1000 - starved) < 300, `${starved} ms`)
})

/**
 * Every wait of ingest on something foreign: where it stands, and what ends it. A new `await` or promise
 * fails this test until it is listed.
 */
const WAITS: Record<string, string> = {
  'data/files.ts': 'files of the command line: the user waits, and can interrupt',
  'data/parquet.ts': 'files of the command line',
  'data/read.ts': 'files of the command line',
  'data/stream.ts': 'files of the command line',
  'data/tar.ts': 'files of the command line',
  'deadline.ts': 'the deadline itself',
  'fetch/file.ts': 'all within the deadline of fetchImage',
  'fetch/gate.ts': 'a turn: whoever holds one is within the deadline of fetchImage',
  'fetch/http.ts': 'a turn, then all within the deadline of fetchImage',
  'fetch/image.ts': 'fetchImage: withDeadline around files, http and object stores',
  'fetch/store.ts': 'files of the credentials, a turn, then all within the deadline of fetchImage',
  'fetch/transport.ts': 'all within the deadline of fetchImage',
  'form/framing.ts': 'withDeadline around the registry; its answer is kept for `decode`',
  'image/decode.ts': 'decodeImage and thumbnail: withDeadline around sharp and zlib',
  'image/format.ts': 'isShortPng: within the deadline of decodeImage',
  'prepare.ts': 'only unframed, fetchImage and decodeImage',
}
const FOREIGN = /\bawait\b|new Promise\b|\.once\(|\.on\(/

test('every wait in ingest is listed with what ends it', () => {
  const folder = join(ROOT, 'src/ingest')
  const waiting = readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.ts'))
    .filter(name => FOREIGN.test(readFileSync(join(folder, name), 'utf8')))
  assert.deepEqual(waiting.sort(), Object.keys(WAITS).sort())
})

test('only the two entries of ingest reach servers, files and decoders, both under a deadline', () => {
  const read = (name: string) => readFileSync(join(ROOT, 'src/ingest', name), 'utf8')
  const bodies = (text: string, name: string) => {
    const from = text.indexOf(`export async function ${name}`)
    return text.slice(from, text.indexOf('\n}', from))
  }
  const fetching = bodies(read('fetch/image.ts'), 'fetchImage')
  assert.match(fetching, /const timed: Timed = work => withDeadline\(/)
  for (const returned of fetching.match(/return await .*/g)!) assert.match(returned, /\btimed\b/)
  for (const name of ['fetch/http.ts', 'fetch/store.ts']) {
    assert.match(read(name), /return await inTurn\([^;]*timed\(signal => /)
  }
  assert.match(
    read('form/framing.ts'),
    /await withDeadline\(ANSWER_MS_MAX, silent, \(\) => registry\.getSchema/,
  )
  for (const name of ['decodeImage', 'thumbnail']) {
    assert.match(bodies(read('image/decode.ts'), name), /withDeadline\(/)
  }
  const awaited = [...read('prepare.ts').matchAll(/await (\w+)/g)].map(([, name]) => name)
  assert.deepEqual([...new Set(awaited)].sort(), [
    'decodeImage',
    'fetchImage',
    'identify',
    'unframed',
  ])
})
