/** What goes wrong under a running daemon: its scoring worker is killed, a checkpoint is cut off. */
import assert from 'node:assert/strict'
import { cpSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import {
  DEMO_PROXY,
  distinct,
  makeSite,
  readTopic,
  run,
  type Site,
  servedAt,
  start,
  succeed,
  writeLines,
} from '../e2e/command.ts'
import { temporaryFolder } from '../support.ts'

/** A site with a proxy of its own whose checkpoints are streamed by one worker process, and 60 examples. */
async function streamingSite(t: TestContext): Promise<{ site: Site; proxy: string }> {
  const proxy = join(temporaryFolder(t), 'proxy')
  cpSync(DEMO_PROXY, proxy, { recursive: true })
  const settings = (bytes: number) =>
    `proxy: { path: ${proxy}, workers: 1, memoryMax: ${bytes} }\nscore: { batchExamplesMax: 4 }\nhttp: { port: 0 }`
  const refused = await run(['run', '--config', makeSite(t, settings(1)).config])
  const bytes = Math.ceil(1.2 * Number(/set it to (\d+)/.exec(refused.stderr)![1]))
  const site = makeSite(t, settings(bytes))
  const data = writeLines(site, 'data.jsonl', await distinct(60))
  await succeed(['produce', '--config', site.config, '--data', data])
  return { site, proxy }
}

async function assertAllAssignedOnce(site: Site): Promise<void> {
  const keys = (await readTopic(site.log, 'assignments')).map(({ key }) => key)
  assert.equal(keys.length, 60)
  assert.equal(new Set(keys).size, 60)
  assert.deepEqual(await readTopic(site.log, 'dead-letters').catch(() => []), [])
}

/** Resolves when the daemon has committed its first batch. */
function firstBatch({ child }: ReturnType<typeof start>): Promise<void> {
  return new Promise(resolve => {
    child.stderr!.on('data', (text: string) => text.includes('"msg":"batch"') && resolve())
  })
}

test('a worker killed in the middle of a batch is replaced, passes are halved and counted, nothing is lost', async t => {
  if (process.platform !== 'linux') return t.skip('reads /proc')
  const { site } = await streamingSite(t)
  const daemon = start(['run', '--config', site.config])
  const url = await servedAt(daemon.child)
  await firstBatch(daemon)
  const children = readFileSync(
    `/proc/${daemon.child.pid}/task/${daemon.child.pid}/children`,
    'utf8',
  )
  const [worker] = children.trim().split(' ').map(Number)
  const metrics = async (sign: string): Promise<string> => {
    for (;;) {
      const text = await (await fetch(`${url}/metrics`)).text()
      if (text.includes(sign)) return text
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }
  // Standing still it can't have ended what it was given, once what it said before was heard.
  process.kill(worker!, 'SIGSTOP')
  await new Promise(resolve => setTimeout(resolve, 300))
  await metrics('xmasd_busy_workers{stage="score"} 1')
  process.kill(worker!, 'SIGKILL')
  const text = await metrics('xmasd_examples_total{outcome="assigned"} 60')
  daemon.child.kill('SIGTERM')
  const { code, stderr } = await daemon.ended
  assert.equal(code, 0, stderr)
  assert.match(text, /^xmasd_memory_shortages_total 1$/m)
  assert.match(text, /^xmasd_pass_tokens 1024$/m)
  assert.match(text, /^xmasd_workers_replaced_total 1$/m)
  assert.match(stderr, /"tokensMax":1024.*SIGKILL.*out of memory: passes get fewer tokens/)
  await assertAllAssignedOnce(site)
})

test('a checkpoint that is cut off under the daemon stops it by name, without a dead letter; restored, it goes on', async t => {
  const { site, proxy } = await streamingSite(t)
  const daemon = start(['run', '--config', site.config])
  await firstBatch(daemon)
  const file = join(proxy, 'checkpoint-500', 'model.safetensors')
  const bytes = readFileSync(file)
  truncateSync(file, 4096)
  const { code, stderr } = await daemon.ended
  assert.equal(code, 1)
  assert.match(stderr, /checkpoint-500\/model\.safetensors.*\[CHECKPOINT_INVALID\]/)
  assert.deepEqual(await readTopic(site.log, 'dead-letters').catch(() => []), [])
  const before = (await readTopic(site.log, 'assignments')).length
  assert.ok(before > 0 && before < 60, `${before} assigned before it stopped`)
  writeFileSync(file, bytes)
  await succeed(['run', '--config', site.config, '--until-idle'])
  await assertAllAssignedOnce(site)
})
