import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { openLocalLog } from '../../../src/log/local/log.ts'
import type { Log } from '../../../src/log/log.ts'
import { temporaryFolder } from '../../support.ts'
import { bytes, pollCount, readAll, text } from '../helpers.ts'

const CHILD = join(import.meta.dirname, 'child.js')

async function openTopics(t: TestContext, path: string): Promise<Log> {
  const log = await openLocalLog({ path })
  t.after(() => log.close())
  await log.ensureTopics([
    { name: 'in', partitions: 4 },
    { name: 'out', partitions: 1 },
  ])
  return log
}

/** Starts a child and waits until it has opened the log. */
async function start(...args: string[]): Promise<ChildProcess> {
  const child = spawn(process.execPath, [CHILD, ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout!, 'data')
  return child
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  assert.equal(child.exitCode, 0)
}

test('processes append at once while another reads; nothing is lost, split or reordered', async t => {
  const path = temporaryFolder(t)
  const log = await openTopics(t, path)
  const consumer = await log.consume({ group: 'g', topics: ['in'] })
  const writers = ['a', 'b', 'c']
  const [batches, size, valueBytes] = [30, 20, 20_000]
  const args = [batches, size, valueBytes].map(String)
  const children = await Promise.all(writers.map(w => start('append', path, w, ...args)))
  const total = writers.length * batches * size
  const records = await pollCount(consumer, total, { recordsMax: 200 })
  await Promise.all(children.map(ended))
  for (const writer of writers) {
    const serials = records
      .filter(r => r.key === writer)
      .map(r => Number.parseInt(text(r.value)!, 10))
    assert.deepEqual(
      serials,
      serials.map((_, i) => i),
    )
  }
  const runs = records.filter((record, i) => record.key !== records[i - 1]?.key).length
  assert.ok(runs <= writers.length * batches, 'a batch stands together in the order of appending')
  await consumer.close()
})

test('a process killed while it commits leaves outputs, positions and state in step', async t => {
  const path = temporaryFolder(t)
  const rounds = 12
  const first = await openLocalLog({ path })
  await first.ensureTopics([
    { name: 'in', partitions: 4 },
    { name: 'out', partitions: 1 },
  ])
  const inputs = Array.from({ length: 60_000 }, (_, i) => {
    return { topic: 'in', key: `k${i}`, value: bytes(String(i)) }
  })
  await first.append(inputs)
  await first.close()
  let before = 0
  for (let round = 0; round < rounds; round++) {
    const child = await start('commit', path)
    await setTimeout(20 + Math.random() * 80)
    child.kill('SIGKILL')
    await once(child, 'exit')
    const log = await openLocalLog({ path })
    const outputs = (await readAll(log, 'out')).map(record => text(record.value))
    const committed = await log.committed('g', 'in')
    const done = committed.reduce((sum, offset) => sum + offset, 0)
    const consumer = await log.consume({ group: 'g', topics: ['in'] })
    assert.equal(outputs.length, done)
    assert.equal(Number(text(consumer.state.get('count')) ?? 0), done)
    assert.deepEqual(
      outputs,
      outputs.map((_, i) => String(i)),
      'partitions merge in the order of appending, whatever was killed',
    )
    assert.ok(done >= before)
    before = done
    await log.close()
  }
  assert.ok(before > 0 && before < 60_000, `${before} records were committed`)
})

test('a process killed while it appends leaves whole batches', async t => {
  const path = temporaryFolder(t)
  let total = 0
  for (let round = 0; round < 5; round++) {
    const child = await start('append', path, `w${round}`, '100000', '97', '50')
    await setTimeout(30 + Math.random() * 60)
    child.kill('SIGKILL')
    await once(child, 'exit')
    const log = await openLocalLog({ path })
    const count = (await readAll(log, 'in')).filter(record => record.key === `w${round}`).length
    assert.equal(count % 97, 0)
    total += count
    await log.close()
  }
  assert.ok(total > 0)
})

test('members of a group in two processes process every record once', async t => {
  const path = temporaryFolder(t)
  const log = await openTopics(t, path)
  const children = await Promise.all([start('member', path), start('member', path)])
  const count = 3000
  for (let from = 0; from < count; from += 500) {
    const some = Array.from({ length: 500 }, (_, i) => {
      return { topic: 'in', key: `k${from + i}`, value: bytes('x') }
    })
    await log.append(some)
  }
  await Promise.all(children.map(ended))
  const keys = (await readAll(log, 'out')).map(record => record.key)
  assert.equal(keys.length, count)
  assert.equal(new Set(keys).size, count)
})

test('where nothing more can be written, appends fail with a hint and leave what was there', async t => {
  const path = temporaryFolder(t)
  // The limit on a file's size stands for a full disk; its signal is ignored, so that writes fail.
  const script = `trap '' XFSZ; ulimit -f 8192; exec "$0" "$@"`
  const args = ['-c', script, process.execPath, CHILD, 'fill', path]
  const child = spawn('bash', args, { stdio: ['ignore', 'pipe', 'ignore'] })
  let printed = ''
  child.stdout.on('data', chunk => {
    printed += chunk
  })
  await once(child, 'close')
  assert.equal(child.exitCode, 0)
  const { code, hint, appended } = JSON.parse(printed.split('\n')[1]!)
  assert.equal(code, 'LOG_UNAVAILABLE')
  assert.match(hint, /free space/)
  const log = await openTopics(t, path)
  assert.ok(appended > 0)
  assert.equal((await readAll(log, 'in')).length, appended)
  await log.append([{ topic: 'in', key: 'k', value: bytes('there is space again') }])
})
