import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { loadConfig } from '../../../src/config.ts'
import { topicSpecs } from '../../../src/log/open.ts'
import { run, succeed } from '../../e2e/command.ts'
import { ROOT } from '../../support.ts'
import { kafkaSite, readTopic } from '../scene.ts'
import { sharedBroker } from '../setup.ts'

const LETTERS = 40
const HOOK = pathToFileURL(join(ROOT, '.build/test/crash/kill-at-write.js')).href

test('redrive on Kafka under kill -9 within and after a commit sends every dead letter once', async t => {
  const site = kafkaSite(t, sharedBroker().plain, { partitions: 2 })
  const log = await site.open()
  t.after(() => log.close())
  await log.ensureTopics(topicSpecs(loadConfig(site.config, {}).log))
  const headers = { code: 'NOT_JSON', source: '{}' }
  await log.append(
    Array.from({ length: LETTERS }, (_, i) => {
      return { topic: site.topics.deadLetters, key: `k${i}`, value: Buffer.from(`{${i}`), headers }
    }),
  )
  const flags = ['redrive', '--config', site.config, '--json', '--rate', '10']
  for (const [moment, afterMs] of [
    ['during', 0],
    ['during', 4],
    ['after', 0],
  ] as const) {
    const env = {
      NODE_OPTIONS: `--import=${HOOK}`,
      KILL_AT: `${moment} 1`,
      KILL_AFTER_MS: String(afterMs),
    }
    const { signal, stderr } = await run(flags, env)
    assert.equal(signal, 'SIGKILL', stderr)
  }
  const { sent, left } = JSON.parse((await succeed(flags)).stdout)
  assert.ok(left.redriven >= 10, `${left.redriven} redriven before`)
  assert.equal(sent, LETTERS - left.redriven)
  const keys = (await readTopic(log, site.topics.examples)).map(({ key }) => key)
  assert.deepEqual(keys.sort(), Array.from({ length: LETTERS }, (_, i) => `k${i}`).sort())
})
