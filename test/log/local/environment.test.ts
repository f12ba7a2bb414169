import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { checkWritable } from '../../../src/log/local/environment.ts'
import { openLocalLog } from '../../../src/log/local/log.ts'
import { temporaryFolder } from '../../support.ts'

const NOBODY = 65_534
const isRoot = process.getuid?.() === 0
const MODULE = JSON.stringify(
  new URL('../../../src/log/local/environment.js', import.meta.url).href,
)
/** Root may write anywhere: it looks as somebody else. */
const LOOK = `
  const { checkWritable } = await import(${MODULE})
  const isRoot = process.getuid() === 0
  if (isRoot) { process.setgroups([]); process.setgid(${NOBODY}); process.setuid(${NOBODY}) }
  try { checkWritable(process.argv[1]) } catch (error) { console.log(error.code + ': ' + error.message) }
`

function lookUnprivileged(path: string): string {
  const args = ['--input-type=module', '-e', LOOK, path]
  const { stdout, stderr, status } = spawnSync(process.execPath, args, { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  return stdout
}

function folderOf(t: TestContext, isMine: boolean): string {
  const folder = temporaryFolder(t)
  chmodSync(folder, isMine || isRoot ? 0o755 : 0o555)
  if (isMine && isRoot) chownSync(folder, NOBODY, NOBODY)
  return folder
}

test('a folder that this user may not write, or make below another, is told before anything is made', async t => {
  const [mine, foreign] = [folderOf(t, true), folderOf(t, false)]
  assert.equal(lookUnprivileged(mine), '')
  assert.equal(lookUnprivileged(join(mine, 'new/log')), '')
  for (const path of [foreign, join(foreign, 'new/log')]) {
    assert.match(lookUnprivileged(path), /^LOG_UNAVAILABLE: .*EACCES/)
  }
  const written = join(mine, 'log')
  mkdirSync(written)
  await (await openLocalLog({ path: written })).close()
  checkWritable(written)
  for (const name of ['data.mdb', 'lock.mdb']) chmodSync(join(written, name), 0o444)
  assert.match(lookUnprivileged(written), /^LOG_UNAVAILABLE: .*EACCES/)
})

test('a file is no folder of a log', t => {
  const file = join(temporaryFolder(t), 'file')
  writeFileSync(file, '')
  for (const path of [file, join(file, 'log')]) {
    assert.throws(() => checkWritable(path), { code: 'LOG_UNAVAILABLE', message: /is a file/ })
  }
})
