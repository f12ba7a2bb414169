import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { cpSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { openLocalLog } from '../../src/log/local/log.ts'
import type { OutRecord } from '../../src/log/log.ts'
import { type Assignment, type Control, type Decision, keyOf } from '../../src/record.ts'
import { FILE } from '../support.ts'
import {
  DEMO_BUNDLE,
  jsonOf,
  makeDemoSite,
  makeSite,
  readTopic,
  run,
  type Site,
  succeed,
  writeLines,
} from './command.ts'

let fitted: Promise<string> | undefined

/** A site whose log holds a run of the demo's stream, and a bundle fitted to what it assigned. */
async function siteWithOther(t: TestContext): Promise<{ site: Site; other: string }> {
  const site = await makeDemoSite(t, 500)
  const other = join(site.folder, 'other')
  fitted ??= fitOther()
  cpSync(await fitted, other, { recursive: true })
  return { site, other }
}

async function fitOther(): Promise<string> {
  const { folder, config } = await makeDemoSite(FILE, 500)
  const other = join(folder, 'other')
  const fit = ['fit', '--assignments', '--config', config, '--clusters', '12', '--json']
  const { stdout } = await succeed([...fit, '--out', other])
  assert.equal(JSON.parse(stdout).clusters, 12)
  return other
}

async function replayOf(site: Site, ...args: string[]): Promise<Record<string, unknown>> {
  return JSON.parse((await succeed(['replay', '--config', site.config, '--json', ...args])).stdout)
}

async function keptNow(site: Site): Promise<string[]> {
  const out = join(site.folder, 'keys.json')
  await succeed(['export', '--config', site.config, '--out', out])
  return JSON.parse(readFileSync(out, 'utf8')).sort()
}

test('a replay foretells what a swap does, to the key; a rollback takes it back', async t => {
  const { site, other } = await siteWithOther(t)
  const before = await keptNow(site)
  const same = await replayOf(site)
  assert.deepEqual(same.today, {
    kept: before.length,
    both: before.length,
    onlyToday: 0,
    onlyReplayed: 0,
    jaccard: 1,
  })
  const out = join(site.folder, 'foretold.json')
  const foretold = await replayOf(site, '--bundle', other, '--out', out)
  const { onlyToday, onlyReplayed } = foretold.today as Record<string, number>
  assert.ok(onlyToday! > 0 && onlyReplayed! > 0)

  const select = ['run', '--config', site.config, '--roles', 'select', '--until-idle']
  await succeed(['bundle', 'swap', '--bundle', other, '--config', site.config])
  await succeed(select)
  assert.deepEqual(await keptNow(site), JSON.parse(readFileSync(out, 'utf8')).sort())
  const swapped = (await readTopic(site.log, 'decisions'))
    .map(record => jsonOf<Decision>(record))
    .filter(({ reason }) => reason === 'bundle_swapped')
  const count = (action: string): number => swapped.filter(one => one.action === action).length
  assert.equal(count('evict'), onlyToday)
  assert.equal(count('restore'), onlyReplayed)

  await succeed(['bundle', 'rollback', '--config', site.config])
  await succeed(select)
  assert.deepEqual(await keptNow(site), before)
  const list = await succeed(['bundle', 'list', '--config', site.config, '--json'])
  const { reigns, published } = JSON.parse(list.stdout)
  assert.equal(reigns.length, 3)
  assert.equal(reigns[0].bundle, reigns[2].bundle)
  assert.equal(published.length, 2)
})

test('a replay at another percent, or with another signature, keeps that many', async t => {
  const { site } = await siteWithOther(t)
  const half = await replayOf(site, '--percent', '50')
  assert.equal(half.kept, Math.floor((half.examples as number) / 2))
  assert.deepEqual([half.percent, half.budgetExamples], [50, null])
  const counted = await replayOf(site, '--budget-examples', '70')
  assert.deepEqual([counted.kept, counted.percent, counted.budgetExamples], [70, null, 70])
  const number = { XMASD_SELECT_BUDGET_EXAMPLES: '60' }
  const replay = ['replay', '--config', site.config]
  const configured = await succeed(replay, number)
  assert.match(configured.stdout, /^60 of .*; policy revisable, budget 60\)/)
  const flagged = await succeed([...replay, '--policy', 'final', '--percent', '30'], number)
  const thirty = Math.floor((3 * (half.examples as number)) / 10)
  assert.match(flagged.stdout, new RegExp(`policy final, 30 %, budget ${thirty}\\)`))
  const clusters = await run([...replay, '--clusters', '5'])
  assert.equal(clusters.code, 2)
  assert.match(clusters.stderr, /--clusters <k>.*--signature <name>/)
  const spectrum = await replayOf(site, '--signature', 'spectrum', '--clusters', '9')
  assert.equal(spectrum.kept, spectrum.budget)
  const { used } = spectrum.clusters as { used: number }
  assert.ok(used <= 10)
})

test('a replay with a signature keeps what the bundle that fit makes of it would, in a log with duplicates', async t => {
  const { site } = await siteWithOther(t)
  await assignAgain(site, undefined)
  const keys = [join(site.folder, 'here.json'), join(site.folder, 'fitted.json')]
  for (const signature of ['sum', 'spectrum']) {
    const bundle = join(site.folder, signature)
    const asked = ['--signature', signature, '--clusters', '12']
    await replayOf(site, ...asked, '--out', keys[0]!)
    const fit = ['fit', '--assignments', '--config', site.config, '--out', bundle, ...asked]
    const { stdout } = await succeed([...fit, '--json'])
    const { duplicates, redelivered } = JSON.parse(stdout)
    assert.ok(duplicates > 0 && redelivered >= 150)
    await replayOf(site, '--bundle', bundle, '--out', keys[1]!)
    const [here, fitted] = keys.map(file => JSON.parse(readFileSync(file, 'utf8')))
    assert.deepEqual(here, fitted, signature)
  }
})

test('assignments of another bundle than the one in force are counted by the one in force', async t => {
  const { site, other } = await siteWithOther(t)
  await succeed(['bundle', 'swap', '--bundle', other, '--config', site.config])
  await succeed(['run', '--config', site.config, '--until-idle'])
  const bundles = new Set<string>()
  for (const record of await readTopic(site.log, 'assignments')) {
    const value = jsonOf<Assignment | Control>(record)
    if (!('control' in value)) bundles.add(value.bundle)
  }
  assert.equal(bundles.size, 1, 'the score role still runs with the first bundle')
  const replayed = await replayOf(site, '--bundle', other)
  assert.equal((replayed.today as { jaccard: number }).jaccard, 1)

  const out = join(site.folder, 'report.html')
  const report = await succeed(['report', '--config', site.config, '--out', out, '--json'])
  const { clusters } = JSON.parse(report.stdout) as {
    clusters: { cluster: number | 'text'; kept: number; quota: number }[]
  }
  assert.ok(clusters.length <= 13)
  for (const { kept, quota } of clusters) assert.equal(kept, quota)
  const key = (await keptNow(site))[0]!
  const why = await succeed(['explain', key, '--config', site.config, '--json'])
  const { assignment, rank, quota } = JSON.parse(why.stdout)
  assert.ok(assignment.cluster === 'text' || rank <= quota)
})

test('under the final policy a swap takes nothing back, and a replay from zero decides the same', async t => {
  const { site, other } = await siteWithOther(t)
  const final = {
    XMASD_SELECT_POLICY: 'final',
    XMASD_SELECT_GROUP: 'final',
    XMASD_LOG_TOPICS_DECISIONS: 'final-decisions',
    XMASD_LOG_TOPICS_SUBSET: 'final-subset',
    XMASD_LOG_TOPICS_SHADOW: 'final-shadow',
  }
  const select = ['run', '--config', site.config, '--roles', 'select', '--until-idle']
  await succeed(select, final)
  for (const command of ['shadow', 'swap']) {
    await succeed(['bundle', command, '--bundle', other, '--config', site.config])
    await assignAgain(site, command)
    await succeed(select, final)
  }
  await succeed(['bundle', 'rollback', '--config', site.config])
  await assignAgain(site, 'rollback')
  await succeed(select, final)
  const decisions = await readTopic(site.log, 'final-decisions')
  const actions = new Set(decisions.map(record => jsonOf<Decision>(record).action))
  assert.deepEqual([...actions].sort(), ['drop', 'keep'])
  const bundles = new Set(decisions.map(record => jsonOf<Decision>(record).bundle))
  assert.equal(bundles.size, 2)
  await succeed(select, {
    ...final,
    XMASD_SELECT_GROUP: 'again',
    XMASD_LOG_TOPICS_DECISIONS: 'again-decisions',
    XMASD_LOG_TOPICS_SUBSET: 'again-subset',
    XMASD_LOG_TOPICS_SHADOW: 'again-shadow',
  })
  for (const topic of ['decisions', 'subset', 'shadow']) {
    const bytes = async (name: string): Promise<unknown[]> =>
      (await readTopic(site.log, name)).map(({ key, value }) => [key, value && Buffer.from(value)])
    const first = await bytes(`final-${topic}`)
    assert.ok(first.length > 0, topic)
    assert.deepEqual(await bytes(`again-${topic}`), first, topic)
  }
})

/** Appends what is assigned already once more, with other content where there is a name to make it of. */
async function assignAgain(site: Site, name: string | undefined): Promise<void> {
  const log = await openLocalLog({ path: site.log })
  await log.ensureTopics([{ name: 'assignments', partitions: 1 }])
  const records: OutRecord[] = []
  for await (const { value } of log.read('assignments')) {
    const assignment = JSON.parse(Buffer.from(value!).toString()) as Assignment | Control
    if ('control' in assignment || records.length === 150) continue
    const content =
      name === undefined
        ? assignment.content
        : createHash('sha256').update(`${assignment.content}${name}`).digest('hex')
    const changed = { ...assignment, content, key: keyOf(assignment.id, content) }
    const bytes = Buffer.from(JSON.stringify(changed))
    records.push({ topic: 'assignments', key: changed.key, value: bytes, partition: 0 })
  }
  await log.append(records)
  await log.close()
}

test('a swap that can mean nothing is refused with what to do', async t => {
  const site = makeSite(t)
  await succeed(['run', '--config', site.config, '--until-idle'])
  const bundle = (...args: string[]) => run(['bundle', ...args, '--config', site.config])
  const empty = await bundle('rollback')
  assert.equal(empty.code, 1)
  assert.match(empty.stderr, /no bundle swap.*\[BUNDLE_MISMATCH\]\n.*bundle list/)
  const both = await bundle('swap')
  assert.equal(both.code, 2)
  assert.match(both.stderr, /--bundle DIR and --to ID/)
  const unknown = await bundle('swap', '--to', 'ffffffffffff')
  assert.match(
    unknown.stderr,
    /ffffffffffff is not in the topic bundles.*\n.*bundle list.*bundle swap/,
  )
})

test('a bundle whose scores are others is refused by swap, shadow and replay, and stays off the log', async t => {
  const { site } = await siteWithOther(t)
  const listed = async () =>
    JSON.parse((await succeed(['bundle', 'list', '--config', site.config, '--json'])).stdout)
  const before = await listed()
  const current = JSON.parse(readFileSync(join(DEMO_BUNDLE, 'bundle.json'), 'utf8'))
  const { fingerprint, steps } = current.schedule
  const others: [string, number[], { fingerprint: string | null; mode: string | null }, RegExp][] =
    [
      ['mode', steps, { fingerprint, mode: 'paper' }, /for mode paper, the active bundle/],
      [
        'schedule',
        steps,
        { fingerprint: 'f00', mode: 'reference' },
        /for schedule f00, the active bundle/,
      ],
      [
        'length',
        [1, 2],
        { fingerprint: null, mode: null },
        /for 2 checkpoints?, the active bundle/,
      ],
    ]
  for (const [name, steps, { fingerprint, mode }, message] of others) {
    const trajectories = Array.from({ length: 9 }, (_, i) => {
      return { id: `${i}`, trajectory: steps.map((_, t) => t + i * i) }
    })
    const file = writeLines(site, `${name}.jsonl`, trajectories)
    writeLines(site, `${name}.jsonl.meta.json`, [{ v: 1, schedule: { fingerprint, steps }, mode }])
    const dir = join(site.folder, name)
    await succeed(['fit', '--trajectories', file, '--clusters', '2', '--out', dir])
    for (const command of [['bundle', 'shadow'], ['bundle', 'swap'], ['replay']]) {
      const refused = await run([...command, '--bundle', dir, '--config', site.config])
      assert.equal(refused.code, 1, `${command.join(' ')}: ${refused.stderr}`)
      assert.match(refused.stderr, message)
      assert.match(refused.stderr, /\[BUNDLE_MISMATCH\]\n {2}\S.*\n$/)
    }
  }
  assert.deepEqual(await listed(), before)
})

test('ending a shadow takes no bundle with it', async t => {
  const site = makeSite(t)
  for (const flag of [
    ['--bundle', DEMO_BUNDLE],
    ['--to', 'abc'],
  ]) {
    const refused = await run(['bundle', 'shadow', '--off', ...flag, '--config', site.config])
    assert.equal(refused.code, 2)
    assert.match(refused.stderr, /'--off' cannot be used with option '--(bundle|to) </)
  }
})

test('a swap to what is in force is refused; a rollback passes over those that a log holds', async t => {
  const { site, other } = await siteWithOther(t)
  const bundle = (...args: string[]) => run(['bundle', ...args, '--config', site.config])
  const listed = async () => JSON.parse((await bundle('list', '--json')).stdout)
  const first = (await listed()).reigns[0].bundle
  const fit = ['fit', '--assignments', '--config', site.config, '--clusters', '9']
  const fitted = await succeed([...fit, '--out', join(site.folder, 'third')])
  assert.match(
    fitted.stdout,
    /replay --bundle \S+ --config \S+; .* shadow --bundle \S+ --config \S+\n/,
  )
  const swapped = await bundle('swap', '--bundle', other)
  assert.match(swapped.stdout, /to go back: xmasd bundle rollback --config \S+xmasd\.yaml\n/)
  const { reigns } = await listed()
  const second = reigns[1].bundle
  const again = await bundle('swap', '--bundle', other)
  assert.equal(again.code, 1)
  assert.match(
    again.stderr,
    new RegExp(`${second} is already active, since offset ${reigns[1].offset}`),
  )

  const log = await openLocalLog({ path: site.log })
  const value = Buffer.from(JSON.stringify({ v: 1, control: 'swap', bundle: second }))
  await log.append([{ topic: 'assignments', key: null, value, partition: 0 }])
  await log.close()
  assert.deepEqual((await listed()).reigns, reigns)
  const back = await bundle('rollback')
  assert.match(back.stdout, new RegExp(`^${first} is active from here on, in place of ${second}`))
  const to = await bundle('swap', '--to', second.slice(0, 6))
  assert.match(to.stdout, new RegExp(`^${second} is active from here on, in place of ${first}`))
  const any = await bundle('swap', '--to', '')
  assert.equal(any.code, 2)
  assert.match(any.stderr, /fits 2 bundles/)
})
