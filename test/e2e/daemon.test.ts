import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import {
  type Assignment,
  Assignment as AssignmentSchema,
  type Decision,
  Decision as DecisionSchema,
} from '../../src/record.ts'
import {
  DEMO_PROXY,
  dataUrl,
  distinct,
  example,
  jsonOf,
  makeSite,
  proxyOf,
  readTopic,
  run,
  type Site,
  servedAt,
  start,
  succeed,
  writeLines,
} from './command.ts'

function writeData(site: Site, examples: readonly object[]): string {
  return writeLines(site, 'data.jsonl', examples)
}

test('a redelivery keeps its decision and a duplicate loses to the first, each counted once', async t => {
  const site = makeSite(t, 'select: { percent: 50 }')
  const examples = await distinct(12)
  const again = examples[3]!
  const copy = { ...examples[5]!, id: 'a copy' }
  const data = writeData(site, [...examples, again, copy, copy, again])
  await succeed(['produce', '--config', site.config, '--data', data])
  const ended = await succeed(['run', '--config', site.config, '--until-idle', '--json'])
  const summary = JSON.parse(ended.stdout)
  assert.deepEqual(summary.examples, {
    assigned: 12,
    duplicate: 1,
    near_duplicate: 0,
    protected: 0,
    misaligned: 0,
    redelivered: 3,
    dead_letter: 0,
  })
  assert.equal(summary.history, 12)
  const decisions = (await readTopic(site.log, 'decisions')).map(record => jsonOf<Decision>(record))
  const duplicates = decisions.filter(({ reason }) => reason === 'duplicate')
  assert.equal(duplicates.length, 1)
  assert.equal(duplicates[0]!.id, 'a copy')
  assert.match(duplicates[0]!.duplicateOf!, /^e5@[0-9a-f]{16}$/)
})

test('what flows through the log is what its schemas say', async t => {
  const site = makeSite(t)
  const textOnly = example('text', undefined, 'what is a singular value?')
  const data = writeData(site, [...(await distinct(5)), textOnly])
  await succeed(['produce', '--config', site.config, '--data', data])
  await succeed(['run', '--config', site.config, '--until-idle'])
  const assignments = await readTopic(site.log, 'assignments')
  assert.equal(assignments.length, 6)
  for (const record of assignments) {
    const assignment = AssignmentSchema.parse(jsonOf<Assignment>(record))
    assert.equal(record.key, assignment.key)
    assert.equal(assignment.cluster === 'text', assignment.id === 'text')
    assert.equal(assignment.trajectory === null, assignment.id === 'text')
  }
  for (const record of await readTopic(site.log, 'decisions')) {
    assert.equal(record.key, DecisionSchema.parse(jsonOf<Decision>(record)).key)
  }
})

test('the export equals the batch rule over the same trajectories, and explain and --data agree with it', async t => {
  const site = makeSite(t, 'select: { percent: 30 }')
  const text = Array.from({ length: 8 }, (_, i) => example(`t${i}`, undefined, `question ${i}?`))
  const examples = [...(await distinct(60)), ...text, { ...(await distinct(1))[0]!, id: 'copy' }]
  const data = writeData(site, examples)
  const at = (name: string): string => join(site.folder, name)
  await succeed(['produce', '--config', site.config, '--data', data])
  await succeed(['run', '--config', site.config, '--until-idle'])
  await succeed(['export', '--config', site.config, '--out', at('exported.json')])
  const env = { XMASD_IMAGES_ROOT: site.images }
  const proxy = proxyOf(site)
  const bundle = readFileSync(site.config, 'utf8').match(/bundle: (.*)/)![1]!
  await succeed(['score', '--proxy', proxy, '--data', data, '--out', at('t.jsonl')], env)
  const rule = ['--bundle', bundle, '--percent', '30', '--trajectories', at('t.jsonl')]
  await succeed(['select', ...rule, '--out', at('selected.json')])
  await succeed(['select', ...rule, '--data', data, '--out', at('selected-data.json')])
  await succeed([
    'export',
    '--config',
    site.config,
    '--data',
    data,
    '--out',
    at('exported-data.json'),
  ])

  const read = (name: string) => JSON.parse(readFileSync(at(name), 'utf8'))
  const keys = read('exported.json') as string[]
  assert.ok(keys.length >= 15)
  assert.deepEqual([...keys].sort(), read('selected.json').sort())
  const form = ['export', '--config', site.config, '--format', 'llava', '--out', at('llava.json')]
  assert.match((await succeed(form)).stderr, /pictures came as bytes and are data: URLs/)
  const inline = read('llava.json') as { id: string; image?: string }[]
  const { stderr } = await succeed([...form, '--pictures', at('pictures')])
  assert.doesNotMatch(stderr, /data: URLs/)
  const filed = read('llava.json') as typeof inline
  assert.equal(filed.length, keys.length)
  for (const [i, { id, image }] of filed.entries()) {
    assert.equal(id, inline[i]!.id)
    if (image === undefined) continue
    assert.match(image, /^[0-9a-f]{32}\.png$/)
    assert.equal(dataUrl(readFileSync(join(at('pictures'), image))), inline[i]!.image)
  }
  const ids = (list: { id: string }[]): string[] => list.map(({ id }) => id).sort()
  assert.deepEqual(ids(read('exported-data.json')), keys.map(key => key.split('@')[0]!).sort())
  assert.deepEqual(ids(read('selected-data.json')), ids(read('exported-data.json')))
  const explained = JSON.parse(
    (await succeed(['explain', keys[0]!, '--config', site.config, '--json'])).stdout,
  )
  assert.equal(explained.keptNow, true)
  const missing = await run(['explain', 'nobody', '--config', site.config])
  assert.equal(missing.code, 1)
  assert.match(missing.stderr, /nobody.*\[KEY_UNKNOWN\]/)
})

test('the roles run apart in two processes over one log as they do in one', async t => {
  const [one, two] = [makeSite(t), makeSite(t)]
  const examples = [...(await distinct(40)), { id: 'broken', conversations: [] }]
  for (const site of [one, two]) {
    await succeed(['produce', '--config', site.config, '--data', writeData(site, examples)])
  }
  await succeed(['run', '--config', one.config, '--until-idle'])
  const score = ['run', '--config', two.config, '--roles', 'score', '--until-idle']
  const { stdout } = await succeed([...score, '--json'])
  assert.deepEqual(JSON.parse(stdout), {
    v: 1,
    examples: { assigned: 40, dead_letter: 1 },
    deadLetters: { CONVERSATIONS_INVALID: 1 },
  })
  assert.equal((await succeed(score)).stdout, 'examples      none\ndead letters  none\n')
  assert.equal((await readTopic(two.log, 'decisions')).length, 0)
  await succeed(['run', '--config', two.config, '--roles', 'select', '--until-idle'])
  const values = async (site: Site): Promise<string[]> =>
    (await readTopic(site.log, 'decisions')).map(({ value }) => Buffer.from(value!).toString())
  assert.deepEqual(await values(two), await values(one))
})

test('two daemons on one log double nothing', async t => {
  const site = makeSite(t, 'log: { path: ./log, shared: true }')
  const data = writeData(site, await distinct(80))
  await succeed(['produce', '--config', site.config, '--data', data])
  const small = { XMASD_SCORE_BATCH_EXAMPLES_MAX: '4' }
  const ended = await Promise.all(
    [1, 2].map(() => run(['run', '--config', site.config, '--until-idle'], small)),
  )
  for (const { code, stderr } of ended) assert.equal(code, 0, stderr)
  const keys = (await readTopic(site.log, 'assignments')).map(({ key }) => key)
  assert.equal(keys.length, 80)
  assert.equal(new Set(keys).size, 80)
  const first = (await readTopic(site.log, 'decisions'))
    .map(record => jsonOf<Decision>(record))
    .filter(({ action }) => action === 'keep' || action === 'drop')
  assert.equal(new Set(first.map(({ key }) => key)).size, 80)
  assert.equal(first.length, 80)
})

test('with settleEvery above 1 an idle stream is settled by a record of the log', async t => {
  const site = makeSite(t, 'select: { percent: 50, settleEvery: 1000, idleSettleMs: 100 }')
  const data = writeData(site, await distinct(20))
  await succeed(['produce', '--config', site.config, '--data', data])
  const ended = await succeed(['run', '--config', site.config, '--until-idle', '--json'])
  assert.equal(
    JSON.parse(ended.stdout).decisions.keep + JSON.parse(ended.stdout).decisions.drop,
    20,
  )
  const last = (await readTopic(site.log, 'assignments')).at(-1)!
  assert.deepEqual(jsonOf(last), { v: 1, control: 'settle' })
})

test('a lost state is folded again without publishing anything twice', async t => {
  const site = makeSite(t)
  await succeed(['produce', '--config', site.config, '--data', writeData(site, await distinct(30))])
  await succeed(['run', '--config', site.config, '--until-idle'])
  const before = (await readTopic(site.log, 'decisions')).length
  await forgetState(site)
  await succeed([
    'produce',
    '--config',
    site.config,
    '--data',
    writeData(site, await distinct(30, 30)),
  ])
  const ended = await succeed(['run', '--config', site.config, '--until-idle', '--json'])
  assert.match(ended.stderr, /folding the gap/)
  assert.equal(JSON.parse(ended.stdout).history, 60)
  const decisions = (await readTopic(site.log, 'decisions')).map(record => jsonOf<Decision>(record))
  const firsts = decisions.filter(({ action }) => action === 'keep' || action === 'drop')
  assert.ok(decisions.length > before)
  assert.equal(firsts.length, 60)
  assert.equal(new Set(firsts.map(({ key }) => key)).size, 60)
})

/** Removes every entry of the select role's state, leaving its position. */
async function forgetState(site: Site): Promise<void> {
  const { openLocalLog } = await import('../../src/log/local/log.ts')
  const log = await openLocalLog({ path: site.log })
  const consumer = await log.consume({ group: 'xmasd-select', topics: ['assignments'] })
  const keys = ['duplicate', 'example', 'meta'].flatMap(name =>
    [...consumer.state.range([name], [name, '\uffff', '\uffff'])].map(({ key }) => key),
  )
  assert.ok(keys.length > 1)
  await consumer.commit({
    positions: [],
    outputs: [],
    state: writer => {
      for (const key of keys) writer.remove(key)
    },
  })
  await consumer.close()
  await log.close()
}

test('SIGTERM finishes the batch in hand, commits and exits 0; probes and metrics answer meanwhile', async t => {
  const site = makeSite(t, 'http: { port: 0 }')
  await succeed(['produce', '--config', site.config, '--data', writeData(site, await distinct(30))])
  const { child, ended } = start(['run', '--config', site.config, '--json'])
  const url = await servedAt(child)
  const get = async (path: string) => {
    const response = await fetch(`${url}${path}`)
    return { status: response.status, body: await response.text() }
  }
  while (!(await get('/metrics')).body.includes('xmasd_examples_total{outcome="assigned"} 30')) {
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  const [health, ready, metrics, other] = await Promise.all(
    ['/healthz', '/readyz', '/metrics', '/other'].map(get),
  )
  assert.equal(health!.status, 200, health!.body)
  assert.equal(ready!.status, 200, ready!.body)
  assert.match(ready!.body, /"name":"engine","ok":true/)
  assert.match(ready!.body, /"name":"state","ok":true/)
  assert.match(metrics!.body, /^xmasd_decisions_total\{action="drop",reason="over_quota"\} \d+$/m)
  assert.match(metrics!.body, /^xmasd_backlog_records\{role="score"\} 0$/m)
  assert.match(metrics!.body, /^xmasd_backlog_seconds\{role="select"\} \d/m)
  assert.match(metrics!.body, /^xmasd_device_seconds_total\{device="cpu"\} \d+\.\d+$/m)
  assert.match(metrics!.body, /^xmasd_balance_ratio 1$/m)
  assert.match(metrics!.body, /^xmasd_busy_workers\{stage="score"\} 0$/m)
  const committed = /^xmasd_last_commit_timestamp_seconds\{role="select"\} (.+)$/m
  const age = Date.now() / 1000 - Number(committed.exec(metrics!.body)![1])
  assert.ok(age >= 0 && age < 60, `${age} s`)
  assert.equal(other!.status, 404)
  child.kill('SIGTERM')
  const { code, stdout } = await ended
  assert.equal(code, 0)
  assert.equal(JSON.parse(stdout).examples.assigned, 30)
})

test('trace context goes from an example to its assignment, decision and dead letter', async t => {
  const site = makeSite(t, 'select: { percent: 100 }')
  const { openLocalLog } = await import('../../src/log/local/log.ts')
  const log = await openLocalLog({ path: site.log })
  await log.ensureTopics([{ name: 'examples', partitions: 1 }])
  const trace = (i: number) => ({ traceparent: `00-${i}-${i}-01`, tracestate: 'a=1', other: 'x' })
  const values = [...(await distinct(3)), { id: 'broken' }].map(one => JSON.stringify(one))
  await log.append(
    values.map((value, i) => {
      return { topic: 'examples', key: null, value: Buffer.from(value), headers: trace(i) }
    }),
  )
  await log.close()
  const ended = await succeed(['run', '--config', site.config, '--until-idle'], {
    XMASD_LOGGING_LEVEL: 'debug',
  })
  const headersOf = async (topic: string) =>
    (await readTopic(site.log, topic)).map(({ headers: { traceparent, tracestate, other } }) => [
      traceparent,
      tracestate,
      other,
    ])
  const passed = [0, 1, 2].map(i => [`00-${i}-${i}-01`, 'a=1', undefined])
  assert.deepEqual(await headersOf('assignments'), passed)
  assert.deepEqual(await headersOf('dead-letters'), [['00-3-3-01', 'a=1', 'x']])
  const decisions = await readTopic(site.log, 'decisions')
  // Two of three are too few for a cluster: the third's arrival restores the first two.
  for (const { key, headers } of decisions) {
    assert.match(headers.traceparent ?? '', /^00-[012]-[012]-01$/)
    assert.match(ended.stderr, new RegExp(`"key":"${key}".*"msg":"assigned"`))
    assert.match(ended.stderr, new RegExp(`"key":"${key}".*"msg":"decision"`))
  }
  assert.ok(decisions.length >= 3)
})

test('a bad configuration stops at once with exit code 2, naming key, value and fix', async t => {
  const site = makeSite(t, 'select: { percent: 300 }')
  const ended = await run(['run', '--config', site.config])
  assert.equal(ended.code, 2)
  assert.match(ended.stderr, /select\.percent is 300.*\[CONFIG_INVALID\]/)
  for (const args of [['run', '--nonsense'], ['nonsense'], ['fit'], ['run', '--roles', 'x']]) {
    assert.equal((await run(args)).code, 2, args.join(' '))
  }
})

test('a proxy that a bundle was not fitted with stops the daemon with a message that says so', async t => {
  const site = makeSite(t)
  const goldens = join(site.folder, 'trajectories.jsonl')
  const line = (i: number) => JSON.stringify({ id: i, trajectory: [1, 2 + i, 3], instability: 2 })
  writeFileSync(goldens, Array.from({ length: 9 }, (_, i) => `${line(i)}\n`).join(''))
  const bundle = join(site.folder, 'bundle')
  await succeed(['fit', '--trajectories', goldens, '--out', bundle, '--clusters', '2'])
  const ended = await run(['run', '--config', site.config], { XMASD_BUNDLE: bundle })
  assert.equal(ended.code, 1)
  assert.match(
    ended.stderr,
    /the bundle is for 3 checkpoints, the proxy has \d+.*\[BUNDLE_MISMATCH\]/,
  )
})

test('the loss is followed as attention is: scored, fitted, assigned; a bundle of the other is refused', async t => {
  const proxy = `proxy: { path: ${DEMO_PROXY}, metric: loss }`
  const site = makeSite(t, `${proxy}\nbundle: ./bundle`)
  const textOnly = example('text', undefined, 'what is a loss?')
  const data = writeData(site, [...(await distinct(9)), textOnly])
  const out = join(site.folder, 'trajectories.jsonl')
  const score = ['score', '--proxy', DEMO_PROXY, '--data', data, '--out', out]
  await succeed([...score, '--metric', 'loss'])
  const lines = readFileSync(out, 'utf8').trimEnd().split('\n')
  const scored = lines.map(line => JSON.parse(line))
  for (const { trajectory, singularValues, instability } of scored.slice(0, 9)) {
    assert.equal(singularValues, null)
    assert.equal(trajectory.length, 6)
    assert.ok(trajectory.every((loss: number) => loss > 0) && instability > 0)
  }
  assert.equal(scored[9].trajectory, null)
  const meta = JSON.parse(readFileSync(`${out}.meta.json`, 'utf8'))
  assert.deepEqual([meta.metric, meta.mode], ['loss', null])
  const bundle = join(site.folder, 'bundle')
  await succeed(['fit', '--trajectories', out, '--clusters', '3', '--out', bundle])
  await succeed(['produce', '--config', site.config, '--data', data])
  await succeed(['run', '--config', site.config, '--until-idle'])
  const assigned = (await readTopic(site.log, 'assignments')).map(r =>
    AssignmentSchema.parse(jsonOf(r)),
  )
  assert.deepEqual(
    assigned.map(({ trajectory }) => trajectory),
    scored.map(({ trajectory }) => trajectory),
  )
  assert.equal(assigned.at(-1)!.cluster, 'text')
  const other = makeSite(t, `bundle: ${bundle}`)
  const { code, stderr } = await run(['run', '--config', other.config, '--until-idle'])
  assert.equal(code, 1)
  assert.match(stderr, /for metric loss, the proxy has metric attention.*BUNDLE_MISMATCH/)
})

test('another percent on a log in use is refused, and a new group with new topics replays it without scoring', async t => {
  const site = makeSite(t)
  await succeed(['produce', '--config', site.config, '--data', writeData(site, await distinct(40))])
  await succeed(['run', '--config', site.config, '--until-idle'])
  const changed = { XMASD_SELECT_PERCENT: '50' }
  const refused = await run(['run', '--config', site.config, '--until-idle'], changed)
  assert.equal(refused.code, 1)
  assert.match(refused.stderr, /percent 20.*says 50.*\[STATE_INVALID\]\n.*select\.group/)
  const replay = {
    ...changed,
    XMASD_SELECT_GROUP: 'half',
    XMASD_LOG_TOPICS_DECISIONS: 'decisions-half',
    XMASD_LOG_TOPICS_SUBSET: 'subset-half',
  }
  await succeed(['run', '--config', site.config, '--roles', 'select', '--until-idle'], replay)
  const out = join(site.folder, 'half.json')
  await succeed(['export', '--config', site.config, '--out', out], replay)
  assert.equal(JSON.parse(readFileSync(out, 'utf8')).length, 20)
  assert.equal((await readTopic(site.log, 'assignments')).length, 40)
})

test('another bundle on a log in use is refused: its cluster numbers mean other clusters', async t => {
  const site = makeSite(t)
  const data = writeData(site, await distinct(10))
  await succeed(['produce', '--config', site.config, '--data', data])
  await succeed(['run', '--config', site.config, '--until-idle'])
  const at = (name: string): string => join(site.folder, name)
  const proxy = proxyOf(site)
  await succeed(['score', '--proxy', proxy, '--data', data, '--out', at('t.jsonl')])
  await succeed(['fit', '--trajectories', at('t.jsonl'), '--out', at('other'), '--clusters', '3'])
  const refused = await run(['run', '--config', site.config], { XMASD_BUNDLE: at('other') })
  assert.equal(refused.code, 1)
  assert.match(refused.stderr, /holds assignments of bundle .*\[BUNDLE_MISMATCH\]/)
})

test('score does not write over what it reads, and export ends where its data is not there', async t => {
  const site = makeSite(t)
  const data = writeData(site, await distinct(6))
  const proxy = proxyOf(site)
  await succeed(['produce', '--config', site.config, '--data', data])
  const before = readFileSync(data, 'utf8')
  const over = await run(['score', '--proxy', proxy, '--data', data, '--out', data])
  assert.equal(over.code, 1)
  assert.match(over.stderr, /is one of the files that are read \[FILE_EXISTS\]/)
  assert.equal(readFileSync(data, 'utf8'), before)
  const out = join(site.folder, 'out.json')
  const missing = ['export', '--config', site.config, '--data', '/none.jsonl', '--out', out]
  assert.equal((await run(missing)).code, 1)
})

test('SIGTERM at any moment of the start ends the daemon at once with exit code 0', async t => {
  const site = makeSite(t)
  for (let afterMs = 0; afterMs <= 600; afterMs += 75) {
    const { child, ended } = start(['run', '--config', site.config])
    let isTold = false
    child.stderr!.on('data', (text: string) => {
      if (isTold || !text.includes('"starting"')) return
      isTold = true
      setTimeout(() => child.kill('SIGTERM'), afterMs)
    })
    const { code, signal, stderr } = await ended
    assert.deepEqual([code, signal], [0, null], `after ${afterMs} ms: ${stderr}`)
  }
})
