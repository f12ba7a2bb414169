/** One daemon on a local log, in a folder that stays there. */
import assert from 'node:assert/strict'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { makeSite, run, servedAt, start, succeed } from './command.ts'

const HTTP = 'http: { port: 0 }'

/** A daemon without a score role: it starts fast. */
async function startDaemon(t: TestContext, config: string) {
  const daemon = start(['run', '--config', config, '--roles', 'select'])
  t.after(() => daemon.child.kill('SIGKILL'))
  await servedAt(daemon.child)
  return daemon
}

test('a second daemon on a local log is refused and names the first, unless the log is shared', async t => {
  const site = makeSite(t, HTTP)
  const { child, ended } = await startDaemon(t, site.config)
  const second = ['run', '--config', site.config, '--roles', 'select', '--until-idle']
  const refused = await run(second)
  assert.equal(refused.code, 1)
  assert.match(refused.stderr, new RegExp(`process ${child.pid} .*\\[LOG_IN_USE\\]`))
  await succeed(second, { XMASD_LOG_SHARED: 'true' })
  child.kill('SIGKILL')
  await ended
  await succeed(second)
  writeFileSync(join(site.log, 'daemon.pid'), 'torn')
  await succeed(second)
})

test('a daemon whose log folder is deleted notices and ends with a code', async t => {
  const site = makeSite(t, HTTP)
  const { ended } = await startDaemon(t, site.config)
  rmSync(site.log, { recursive: true })
  const deleted = performance.now()
  const { code, stderr } = await ended
  assert.equal(code, 1, stderr)
  assert.match(stderr, /data\.mdb was deleted or replaced .*\[LOG_UNAVAILABLE\]/)
  assert.ok(performance.now() - deleted < 5_000)
})
