import assert from 'node:assert/strict'
import test from 'node:test'
import type { Config } from '../../src/config.ts'
import type { Log, LogRecord } from '../../src/log/log.ts'
import { createLogger } from '../../src/observe/logger.ts'
import type { Decision } from '../../src/record.ts'
import { checkBundleContinues, checkHasSignature } from '../../src/role/bundle-checks.ts'
import { Selections } from '../../src/role/bundle-swap.ts'
import { POLICIES } from '../../src/select/rule/policy.ts'
import { assignmentOf, EXAMPLES, SWAP_AT, site } from './site.ts'

type Played = { decisions: Decision[]; kept: string[]; clusterCount: number | undefined }

/** Folds the topic; commits and opens the state again wherever `isBreak` says so. */
async function play(
  { log, config }: { log: Log; config: Config },
  group: string,
  isBreak: (offset: number) => boolean,
): Promise<Played> {
  const consumer = await log.consume({ group, topics: ['assignments'] })
  const parts = { config, log, consumer, logger: createLogger({ level: 'silent' }) }
  const decisions: Decision[] = []
  let selections = new Selections(parts)
  for await (const record of log.read('assignments')) {
    decisions.push(...(await foldOne(selections, record)))
    if (!isBreak(record.offset)) continue
    const written = selections
    await consumer.commit({ positions: [], outputs: [], state: w => written.write(w) })
    selections = new Selections(parts)
  }
  const kept = [...selections.state.subset()].map(({ key }) => key)
  const { clusterCount } = selections
  await consumer.close()
  return { decisions, kept, clusterCount }
}

async function foldOne(selections: Selections, record: LogRecord): Promise<Decision[]> {
  return (await selections.fold(record)).folded.decisions
}

test('decisions for good stand when bundles are swapped, and are the same whenever the state is opened again', async t => {
  const parts = await site(t)
  const straight = await play(parts, 'straight', () => false)
  assert.equal(straight.decisions.length, EXAMPLES)
  assert.ok(straight.decisions.every(({ action }) => action === 'keep' || action === 'drop'))
  const kept = straight.decisions.filter(({ action }) => action === 'keep').map(({ key }) => key)
  assert.deepEqual(straight.kept.sort(), kept.sort())
  const share = kept.length / EXAMPLES
  assert.ok(Math.abs(share - 0.2) < 0.05, `${share} kept`)
  assert.equal(straight.clusterCount, 5, 'of the bundle that was swapped in')
  const clusters = new Set(straight.decisions.slice(SWAP_AT).map(({ cluster }) => cluster))
  assert.deepEqual([...clusters].sort(), [0, 1, 2, 3, 4])
  for (const every of [1, 97]) {
    const broken = await play(parts, `every ${every}`, offset => offset % every === 0)
    assert.deepEqual(broken.decisions, straight.decisions)
    assert.deepEqual(broken.kept.sort(), kept.sort())
  }
})

test('a bundle is refused where the assignments of the log lack its signature', async t => {
  const { log, config, bundles } = await site(t)
  const [, bundle] = bundles
  await checkHasSignature(log, config, bundle)
  const other = { ...bundle, manifest: { ...bundle.manifest, signature: 'question' as const } }
  await assert.rejects(checkHasSignature(log, config, other), {
    code: 'BUNDLE_MISMATCH',
    message: /clusters by question, which assignments of this log lack, such as /,
  })
})

test('a random rank is refused at once where a baseline that counts has no draws', async t => {
  const { log, config, bundles } = await site(t)
  const [bundle] = bundles
  const check = (select: Partial<Config['select']>) =>
    checkBundleContinues(
      log,
      { ...config, select: { ...config.select, rank: 'random', ...select } },
      bundle,
      { readonly: true },
    )
  const refused = { code: 'BUNDLE_MISMATCH', message: /without the random numbers/ }
  await assert.rejects(check({ policy: 'final' }), refused)
  await assert.rejects(check({ policy: 'naive', baseline: 'learn' }), refused)
  await check({ policy: 'revisable' })
  await check({ policy: 'final', baseline: 'ignore' })
  await check({ policy: 'final', rank: 'instability' })
})

test('a swap to a bundle that protects more evicts the copies that are kept, and keeps none again', async t => {
  const guarded = Array.from({ length: 60 }, (_, i) => 10 * i)
  for (const policy of POLICIES) {
    const parts = await site(t, policy, guarded)
    const keys = new Set(guarded.map(i => assignmentOf(i, parts.bundles[0]).key))
    const { decisions, kept } = await play(parts, policy, offset => offset % 97 === 0)
    const revised = decisions.filter(({ reason, action }) => {
      return reason === 'protected' && action === 'evict'
    })
    const told = new Set<string>()
    const before = decisions.slice(0, decisions.indexOf(revised[0]!))
    for (const { key, action } of before) {
      if (action === 'keep' || action === 'restore') told.add(key)
      if (action === 'evict') told.delete(key)
    }
    const wanted = [...told].filter(key => keys.has(key))
    assert.ok(wanted.length > 0, policy)
    assert.deepEqual(revised.map(({ key }) => key).sort(), wanted.sort(), policy)
    const after = decisions.filter(
      ({ reason, action }) => reason === 'protected' && action === 'drop',
    )
    const late = guarded.filter(i => i >= SWAP_AT)
    assert.equal(after.length, late.length, policy)
    assert.deepEqual(
      kept.filter(key => keys.has(key)),
      [],
      policy,
    )
  }
})
