/** A log with assignments, for tests of the select role. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout } from 'node:timers/promises'
import { type Bundle, openBundle, writeBundle } from '../../src/bundle/bundle.ts'
import type { ProtectedExample } from '../../src/bundle/protected.ts'
import { publishBundle } from '../../src/bundle/publication.ts'
import { type Config, loadConfig } from '../../src/config.ts'
import { openLocalLog } from '../../src/log/local/log.ts'
import type { Log, OutRecord } from '../../src/log/log.ts'
import { createLogger } from '../../src/observe/logger.ts'
import { createMetrics, type Metrics } from '../../src/observe/metrics.ts'
import { type Assignment, keyOf } from '../../src/record.ts'
import { openSelectRole } from '../../src/role/select-role.ts'
import { newStatus } from '../../src/role/status.ts'
import { temporaryFolder } from '../support.ts'

export const EXAMPLES = 900
export const SWAP_AT = 400

/** `count` clusters of scores between 0 and 1, each with ten members of its own. */
async function bundleOf(
  t: TestContext,
  count: number,
  protectedSet: readonly ProtectedExample[] = [],
): Promise<Bundle> {
  const dir = join(temporaryFolder(t), 'bundle')
  await writeBundle(dir, {
    schedule: { fingerprint: 'abc', steps: null, T: 2 },
    mode: 'reference',
    signature: 'sum',
    radii: new Array<number>(count).fill(0.1 / count ** 2),
    protectedSet,
    baseline: { examples: 10 * count, textOnly: 0, sizes: new Array<number>(count).fill(10) },
    centroids: {
      data: Float32Array.from({ length: 2 * count }, (_, i) => ((i >> 1) + 0.5) / count),
      count,
      dimensions: 2,
    },
    members: {
      cluster: Int32Array.from({ length: 10 * count }, (_, i) => i % count),
      instability: Float32Array.from({ length: 10 * count }, (_, i) => ((i * 7) % 11) / 10),
    },
  })
  return openBundle(dir)
}

/** The `i`th example, scored with `bundle`. */
export function assignmentOf(i: number, bundle: Bundle): Assignment {
  const score = ((i * 0.618) % 1) ** 2
  const content = (i * 2654435761).toString(16).padStart(16, '0').padEnd(64, 'a')
  const { cluster, distance } = bundle.index.nearest([score, score])
  return {
    v: 1,
    key: keyOf(`id${i}`, content),
    id: `id${i}`,
    cluster,
    singularValues: null,
    trajectory: [score, score],
    instability: ((i * 31) % 97) / 97,
    distance,
    content,
    bundle: bundle.id,
    source: { topic: 'examples', partition: 0, offset: i },
  }
}

export type RoleSite = { log: Log; config: Config; bundles: [first: Bundle, second: Bundle] }

/** A log with two bundles, the second of which protects the examples `guarded`, and no assignment. */
export async function emptySite(
  t: TestContext,
  policy = 'final',
  guarded: readonly number[] = [],
): Promise<RoleSite> {
  const path = temporaryFolder(t)
  const log = await openLocalLog({ path })
  t.after(() => log.close())
  await log.ensureTopics([
    { name: 'assignments', partitions: 1 },
    { name: 'decisions', partitions: 1 },
    { name: 'dead-letters', partitions: 1 },
    { name: 'subset', partitions: 1, compacted: true },
    { name: 'bundles', partitions: 1, compacted: true },
  ])
  const first = await bundleOf(t, 7)
  const protectedSet = guarded.map(i => {
    const { key, trajectory } = assignmentOf(i, first)
    return { key, words: null, layout: null, trajectory, embedding: null }
  })
  const second = await bundleOf(t, 5, protectedSet)
  const bundles: RoleSite['bundles'] = [first, second]
  for (const bundle of bundles) await publishBundle(log, 'bundles', bundle)
  const config = loadConfig(undefined, {}, { 'log.path': path, 'select.policy': policy })
  return { log, config, bundles }
}

/** The same with assignments of the first bundle and a swap to the second on the way. */
export async function site(
  t: TestContext,
  policy?: string,
  guarded?: readonly number[],
): Promise<RoleSite> {
  const made = await emptySite(t, policy, guarded)
  const [first, second] = made.bundles
  const values: unknown[] = Array.from({ length: EXAMPLES }, (_, i) => assignmentOf(i, first))
  values.splice(SWAP_AT, 0, { v: 1, control: 'swap', bundle: second.id })
  await append(made.log, values)
  return made
}

/** `whole`, some of it in another way. */
export function logWith(whole: Log, other: Partial<Log>): Log {
  return new Proxy(whole, {
    get: (_, name: keyof Log) => {
      const value = other[name] ?? whole[name]
      return typeof value === 'function' ? value.bind(whole) : value
    },
  })
}

/** To `assignments`: controls, or assignments. */
export async function append(log: Log, values: readonly unknown[]): Promise<void> {
  const toRecord = (value: unknown): OutRecord => {
    return {
      topic: 'assignments',
      key: null,
      value: Buffer.from(JSON.stringify(value)),
      partition: 0,
    }
  }
  await log.append(values.map(toRecord))
}

/** Runs a select role that is configured with `bundle` until `isDone`. */
export async function runSelect(
  { log, config }: RoleSite,
  bundle: Bundle,
  isDone: (metrics: Metrics) => Promise<boolean>,
): Promise<void> {
  const metrics = createMetrics()
  const logger = createLogger({ level: 'silent' })
  const parts = { log, config, metrics, logger, status: newStatus('select') }
  const role = await openSelectRole({ ...parts, bundle: bundle.manifest })
  const controller = new AbortController()
  const running = role.run(controller.signal)
  try {
    for (let tries = 0; !(await isDone(metrics)); tries++) {
      assert.ok(tries < 500, 'it did not come')
      await setTimeout(10)
    }
  } finally {
    controller.abort()
    await running
    await role.close()
  }
}
