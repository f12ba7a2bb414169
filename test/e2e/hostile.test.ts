/** Hostile records among good ones, through the built daemon with two ingest workers. */
import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { availableParallelism, loadavg } from 'node:os'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { openLocalLog } from '../../src/log/local/log.ts'
import type { Assignment } from '../../src/record.ts'
import { distinct, jsonOf, makeSite, readTopic, type Site, servedAt, start } from './command.ts'
import { hostileRecords, hostileServer } from './hostile.ts'

const GOOD = 200
/** SIGTERM, with its default `shutdownMsMax`. */
const ENDS_MS_MAX = 10_000

/** Good and hostile records in turns; their number of each. */
async function hostileSite(t: TestContext): Promise<{ site: Site; records: number }> {
  const server = await hostileServer(t)
  const more = [
    'score: { ingestWorkers: 2, batchExamplesMax: 32 }',
    'images: { root: ./images, hosts: ["127.0.0.1"], addressesAllowed: [127.0.0.0/8] }',
    'http: { port: 0 }',
  ]
  const site = makeSite(t, more.join('\n'))
  const hostile = hostileRecords(server).map(({ bytes }) => bytes)
  assert.ok(hostile.length >= 40)
  const good = (await distinct(GOOD)).map(one => Buffer.from(JSON.stringify(one)))
  const mixed = good.flatMap((value, i) => (hostile[i] ? [value, hostile[i]] : [value]))
  mixed.push(...hostile.slice(GOOD))
  const log = await openLocalLog({ path: site.log })
  await log.ensureTopics([{ name: 'examples', partitions: 1 }])
  await log.append(mixed.map(value => ({ topic: 'examples', key: null, value, headers: {} })))
  await log.close()
  return { site, records: mixed.length }
}

/** What the machine takes longer because others use it, too. */
function crowding(): number {
  return Math.max(1, loadavg()[0]! / availableParallelism())
}

/** Polls /healthz until the daemon ends; returns every answer that was not green. */
async function watchHealth(url: string, isOver: () => boolean): Promise<string[]> {
  const red: string[] = []
  while (!isOver()) {
    try {
      const response = await fetch(`${url}/healthz`)
      if (response.status !== 200) red.push(await response.text())
    } catch {
      // it ends
    }
    await new Promise(resolve => setTimeout(resolve, 250))
  }
  return red
}

async function assertAllEnded(t: TestContext, site: Site, records: number): Promise<void> {
  const assigned = await readTopic(site.log, 'assignments')
  const dead = await readTopic(site.log, 'dead-letters')
  const ids = new Set(assigned.map(record => jsonOf<Assignment>(record).id))
  const missing = Array.from({ length: GOOD }, (_, i) => `e${i}`).filter(id => !ids.has(id))
  assert.deepEqual(missing, [])
  const codes = new Map<string, number>()
  for (const { headers } of dead) codes.set(headers.code!, (codes.get(headers.code!) ?? 0) + 1)
  t.diagnostic(`${assigned.length} assigned; ${JSON.stringify([...codes])}`)
  assert.equal(assigned.length + dead.length, records)
  assert.equal(codes.get('INTERNAL'), undefined)
  const times = [...assigned, ...dead].map(({ timestamp }) => timestamp).sort((a, b) => a - b)
  const gaps = times.slice(1).map((time, i) => time - times[i]!)
  t.diagnostic(`longest time without an outcome: ${Math.max(...gaps)} ms`)
}

const GROUP_BYTES = 2 * 2 ** 30

/** A control group of 2 GB, of either version; undefined, loudly, where none can be made. */
function memoryGroup(t: TestContext): string | undefined {
  const roots = [
    { folder: '/sys/fs/cgroup/memory', limit: 'memory.limit_in_bytes' },
    { folder: '/sys/fs/cgroup', limit: 'memory.max' },
  ]
  for (const { folder, limit } of roots) {
    const group = join(folder, `xmasd-test-${process.pid}`)
    try {
      mkdirSync(group)
    } catch {
      continue
    }
    t.after(() => rmdirSync(group))
    try {
      writeFileSync(join(group, limit), String(GROUP_BYTES))
      return group
    } catch {
      // this version does not count memory here
    }
  }
  if (process.env.REQUIRE_CGROUP === '1') throw new Error('no control group can be made')
  process.stderr.write(`WITHOUT A CONTROL GROUP, as none can be made: ${t.name}\n`)
  return undefined
}

test('hostile records end, in 2 GB, as dead letters or assignments, all good ones are assigned, /healthz stays green', async t => {
  const group = memoryGroup(t)
  const { site, records } = await hostileSite(t)
  const started = performance.now()
  const { child, ended } = start(['run', '--config', site.config, '--until-idle'])
  if (group !== undefined) writeFileSync(join(group, 'cgroup.procs'), String(child.pid))
  let isOver = false
  void ended.then(() => {
    isOver = true
  })
  const red = await watchHealth(await servedAt(child), () => isOver)
  const { code, stderr } = await ended
  assert.equal(code, 0, stderr)
  assert.deepEqual(red, [])
  const seconds = (performance.now() - started) / 1000
  t.diagnostic(`${records} records in ${seconds.toFixed(0)} s, crowding ${crowding().toFixed(1)}`)
  await assertAllEnded(t, site, records)
  if (group !== undefined) assert.match(killsIn(group), /oom_kill 0/)
})

function killsIn(group: string): string {
  return ['memory.oom_control', 'memory.events']
    .map(name => readIfThere(join(group, name)))
    .join('\n')
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}

test('SIGTERM ends the daemon within 10 s with exit code 0, whatever hostile record it has in hand', async t => {
  const { site } = await hostileSite(t)
  for (const afterMs of [0, 1_500, 4_000]) {
    const { child, ended } = start(['run', '--config', site.config])
    await servedAt(child)
    await new Promise(resolve => setTimeout(resolve, afterMs))
    const asked = performance.now()
    child.kill('SIGTERM')
    const { code, signal, stderr } = await ended
    const tookMs = performance.now() - asked
    t.diagnostic(`asked after ${afterMs} ms: ended within ${tookMs.toFixed(0)} ms`)
    assert.ok(tookMs <= ENDS_MS_MAX + 500 * crowding(), `${tookMs} ms\n${stderr}`)
    assert.equal(code, 0, `${signal}\n${stderr}`)
  }
})
