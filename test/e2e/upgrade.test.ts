/**
 * A log, its state and a bundle of version 0.1.0 (commit 41849c1) open and go on with this code.
 *
 * `half.tar.gz` holds that log after the first half of a stream, decided by three select groups, one
 * for each policy, with a control arm, near-duplicates and a shadow; `rest.jsonl.gz` the records of
 * `assignments` that followed, a swap among them; `expected.jsonl.gz` every record that 0.1.0 wrote
 * to the topics of all three over the whole stream.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { gunzipSync } from 'node:zlib'
import { openLocalLog } from '../../src/log/local/log.ts'
import { ROOT, temporaryFolder } from '../support.ts'
import { DEMO_PROXY, REPLAY, readTopic, succeed } from './command.ts'

const FIXTURE = join(ROOT, 'test/fixtures/upgrade')
const COMMON =
  'percent: 20, controlPercent: 10, nearDuplicates: { enabled: true, exemplarsMax: 1000 }'
const POLICIES = {
  revisable: 'settleEvery: 4',
  final: 'horizonExamples: 150',
  naive: 'settleEvery: 1',
}
type Policy = keyof typeof POLICIES
const NAMES = Object.keys(POLICIES) as Policy[]

type Headers = Record<string, string>
type Output = [
  topic: string,
  offset: number,
  key: string | null,
  value: string | null,
  headers: Headers,
]

function linesOf<T>(name: string): T[] {
  const text = gunzipSync(readFileSync(join(FIXTURE, name))).toString()
  return text
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as T)
}

function topicsOf(policy: Policy): string[] {
  const kinds = ['decisions', 'subset', 'shadow']
  return policy === 'revisable' ? kinds : kinds.map(kind => `${kind}-${policy}`)
}

/** Each group but the first has a name and topics of its own. */
function environmentOf(policy: Policy): NodeJS.ProcessEnv {
  if (policy === 'revisable') return {}
  const [decisions, subset, shadow] = topicsOf(policy)
  return {
    XMASD_SELECT_GROUP: policy,
    XMASD_LOG_TOPICS_DECISIONS: decisions,
    XMASD_LOG_TOPICS_SUBSET: subset,
    XMASD_LOG_TOPICS_SHADOW: shadow,
  }
}

async function decide(folder: string, policy: Policy, env: NodeJS.ProcessEnv): Promise<void> {
  const config = join(folder, `${policy}.yaml`)
  const lines = [
    `log: { path: ${join(folder, 'log')} }`,
    `proxy: { path: ${DEMO_PROXY} }`,
    `bundle: ${join(folder, 'bundle')}`,
    'http: { enabled: false }',
    `select: { policy: ${policy}, ${POLICIES[policy]}, ${COMMON} }`,
  ]
  writeFileSync(config, lines.join('\n'))
  await succeed(['run', '--config', config, '--roles', 'select', '--until-idle'], env)
}

async function outputs(path: string, topic: string): Promise<Output[]> {
  const records = await readTopic(path, topic)
  return records.map(({ key, value, headers, offset }) => [
    topic,
    offset,
    key,
    value && Buffer.from(value).toString(),
    headers,
  ])
}

test('a log, state and bundle of 0.1.0 go on with byte-identical decisions under every policy', async t => {
  const folder = temporaryFolder(t)
  execFileSync('tar', ['-xzf', join(FIXTURE, 'half.tar.gz'), '-C', folder])
  const path = join(folder, 'log')
  const before = (await outputs(path, 'decisions')).length
  const log = await openLocalLog({ path })
  await log.append(
    linesOf<[string | null, string, Headers]>('rest.jsonl.gz').map(([key, value, headers]) => ({
      topic: 'assignments',
      key,
      value: Buffer.from(value),
      headers,
      partition: 0,
    })),
  )
  await log.close()
  const expected = linesOf<Output>('expected.jsonl.gz')
  for (const policy of NAMES) {
    await decide(folder, policy, environmentOf(policy))
    for (const topic of topicsOf(policy)) {
      const wanted = expected.filter(([name]) => name === topic)
      assert.deepEqual(await outputs(path, topic), wanted, topic)
    }
  }
  const wanted = expected.filter(([name]) => name === 'decisions').map(([, ...rest]) => rest)
  assert.ok(before > 100 && wanted.length > before + 100, `${before} of ${wanted.length}`)
  await decide(folder, 'revisable', REPLAY)
  const replayed = await outputs(path, 'replayed-decisions')
  assert.deepEqual(
    replayed.map(([, ...rest]) => rest),
    wanted,
  )
})
