/** What an operator types to look: tail, doctor, explain, and how commands end where nothing came of them. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { cpSync, mkdirSync, readdirSync, readFileSync, watch, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test from 'node:test'
import { openLocalLog } from '../../src/log/local/log.ts'
import type { Decision } from '../../src/record.ts'
import {
  DEMO_PROXY,
  distinct,
  example,
  jsonOf,
  makeSite,
  proxyOf,
  readTopic,
  run,
  type Site,
  start,
  succeed,
  writeLines,
} from './command.ts'

async function produceAndRun(site: Site, lines: unknown[]): Promise<void> {
  const data = writeLines(site, 'data.jsonl', lines)
  await succeed(['produce', '--config', site.config, '--data', data])
  await succeed(['run', '--config', site.config, '--until-idle'])
}

test('tail shows the last records of a topic, as lines or as JSON, and follows', async t => {
  const site = makeSite(t)
  await produceAndRun(site, [...(await distinct(6)), { id: 'red\u001b[31m', conversations: [] }])
  const tail = (...args: string[]) => ['tail', ...args, '--config', site.config]
  const lines = (text: string): string[] => text.trimEnd().split('\n')
  const decisions = (await readTopic(site.log, 'decisions')).map(record => jsonOf<Decision>(record))
  const { stdout } = await succeed(tail('decisions', '--json', '-n', '4'))
  const shown = lines(stdout).map(line => JSON.parse(line))
  assert.deepEqual(
    shown.map(({ value }) => value),
    decisions.slice(-4),
  )
  assert.equal(shown[0].offset, decisions.length - 4)
  const all = await succeed(tail('examples', '--all'))
  assert.equal(lines(all.stdout).length, 7)
  const dead = await succeed(tail('dead-letters'))
  assert.match(dead.stdout, /^\S+Z 0@0 red\\x1b\[31m CONVERSATIONS_INVALID: .*"offset":6/)
  assert.equal((await run(tail('nothing'))).code, 2)

  const nested = `{"id":"deep","conversations":${'['.repeat(100_000)}${']'.repeat(100_000)}}`
  const deep = join(site.folder, 'deep.jsonl')
  writeFileSync(deep, `${nested}\n${JSON.stringify(example('after', undefined, 'and then?'))}\n`)
  await succeed(['produce', '--config', site.config, '--data', deep])
  await succeed(['run', '--config', site.config, '--until-idle'])
  const letters = lines((await succeed(tail('dead-letters', '--json'))).stdout)
  const letter = JSON.parse(letters[1]!)
  assert.deepEqual([letter.headers.code, letter.value], ['CONVERSATIONS_INVALID', nested])
  const last = lines((await succeed(tail('examples', '--json', '-n', '2'))).stdout)
  assert.equal(JSON.parse(last[0]!).value, nested)
  assert.equal(JSON.parse(last[1]!).value.id, 'after')

  const { child, ended } = start(tail('assignments', '-n', '1', '--follow', '--json'))
  const seen = new Promise<void>(resolve => {
    child.stdout!.on('data', (text: string) => text.includes('later@') && resolve())
  })
  await once(child.stdout!, 'data')
  await produceAndRun(site, [example('later', undefined, 'and this?')])
  await seen
  child.kill('SIGTERM')
  assert.equal(lines((await ended).stdout).length, 2)
})

test('doctor foretells what run refuses: another mode, other settings, another bundle', async t => {
  const site = makeSite(t)
  await produceAndRun(site, await distinct(8))
  const trajectories = Array.from({ length: 9 }, (_, i) => {
    return { id: String(i), trajectory: [1, 2 + i, 3, 4, 5, 6], instability: 2 }
  })
  const file = writeLines(site, 't.jsonl', trajectories)
  const other = join(site.folder, 'other')
  await succeed(['fit', '--trajectories', file, '--out', other, '--clusters', '2'])
  const refusals: [Record<string, string>, RegExp][] = [
    [{ XMASD_PROXY_MODE: 'paper' }, /✗ bundle .*mode reference, the proxy has mode paper/],
    [{ XMASD_SELECT_PERCENT: '50' }, /✗ log .*percent 20, the configuration says 50/],
    [{ XMASD_BUNDLE: other }, /✗ log .*holds assignments of bundle/],
    [
      { XMASD_SELECT_NEAR_DUPLICATES_ENABLED: 'true' },
      /✗ log .*nearDuplicates.enabled false, the configuration says true/,
    ],
  ]
  for (const [env, expected] of refusals) {
    const doctor = await run(['doctor', '--config', site.config], env)
    assert.match(doctor.stdout, expected)
    assert.equal(doctor.code, 1)
    assert.equal((await run(['run', '--config', site.config, '--until-idle'], env)).code, 1)
  }
  await succeed(['doctor', '--config', site.config])
  // What the other role would refuse is not this one's.
  const ofRole = (role: string) => ['doctor', '--config', site.config, '--roles', role]
  await succeed(ofRole('score'), refusals[1]![0])
  await succeed(ofRole('select'), refusals[0]![0])
  for (const role of ['score', 'select']) {
    assert.equal((await run(ofRole(role), refusals[2]![0])).code, 1)
  }
})

test('a folder that is there and empty, as a fresh volume, is ready for a log', async t => {
  const site = makeSite(t)
  mkdirSync(site.log)
  const { stdout } = await succeed(['doctor', '--config', site.config])
  assert.match(stdout, /✓ log .*the first run makes the log/)
})

test('doctor foretells what run refuses on a new machine, each finding blamed for its own', async t => {
  const site = makeSite(t)
  const file = writeLines(site, 'file', [])
  const none = join(site.folder, 'none')
  const refusals: [Record<string, string>, RegExp, number][] = [
    [{ XMASD_PROXY_PATH: none }, /✗ proxy .*none is not there\n +→ set proxy.path/, 1],
    [{ XMASD_BUNDLE: none }, /✗ bundle .*none is not there\n +→ set bundle/, 1],
    [{ XMASD_LOG_PATH: join(file, 'log') }, /✗ log .*file is a file\n +→ set log.path/, 1],
    [{ XMASD_IMAGES_ROOT: none }, /✗ images .*none.*ENOENT.*\n +→ set images.root/, 2],
    [{ XMASD_IMAGES_ROOT: file }, /✗ images .*file: it is no folder\n +→ set images.root/, 2],
  ]
  for (const [env, expected, code] of refusals) {
    const { stdout } = await run(['doctor', '--config', site.config], env)
    assert.match(stdout, expected)
    assert.equal(stdout.match(/^✗/gm)!.length, 1, stdout)
    const ended = await run(['run', '--config', site.config, '--until-idle'], env)
    assert.equal(ended.code, code, ended.stderr)
  }
  // The select role alone looks at no image and needs no proxy.
  const lone = ['--config', site.config, '--roles', 'select']
  const env = { XMASD_IMAGES_ROOT: none, XMASD_PROXY_PATH: none }
  const { stdout } = await succeed(['doctor', ...lone], env)
  assert.match(stdout, /^✓ bundle/m)
  assert.doesNotMatch(stdout, /images|engine|device/)
  await succeed(['run', ...lone, '--until-idle'], env)
})

test("another's record among the assignments ends run with RECORD_INVALID, which names its place", async t => {
  const site = makeSite(t)
  await produceAndRun(site, await distinct(2))
  const log = await openLocalLog({ path: site.log })
  const value = Buffer.from(JSON.stringify(example('foreign', undefined, 'what?')))
  await log.append([{ topic: 'assignments', key: null, value, partition: 0 }])
  await log.close()
  const { code, stderr } = await run(['run', '--config', site.config, '--until-idle'])
  assert.equal(code, 1)
  assert.match(stderr, /assignments\/0@2 is not an assignment.* \[RECORD_INVALID\]\n {2}\S/)
})

test('a schedule whose later checkpoint prepares pictures in another way is refused, and it is named', async t => {
  const site = makeSite(t)
  const proxy = join(site.folder, 'proxy')
  cpSync(DEMO_PROXY, proxy, { recursive: true })
  const file = join(proxy, 'checkpoint-500', 'preprocessor_config.json')
  const processor = JSON.parse(readFileSync(file, 'utf8'))
  writeFileSync(file, JSON.stringify({ ...processor, image_mean: [0.5, 0.5, 0.5] }))
  const data = writeLines(site, 'data.jsonl', await distinct(1))
  const out = join(site.folder, 'out.jsonl')
  const { code, stderr } = await run(['score', '--proxy', proxy, '--data', data, '--out', out])
  assert.equal(code, 1)
  assert.match(stderr, /checkpoint-500\/preprocessor_config\.json says another mean than .*-70\//)
  assert.match(stderr, /\[CHECKPOINT_INVALID\]/)
  const doctor = await run(['doctor', '--config', site.config], { XMASD_PROXY_PATH: proxy })
  assert.match(
    doctor.stdout,
    /✗ proxy .*checkpoint-500\/preprocessor_config\.json says another mean/,
  )
})

test('explain shows control characters of an id as escapes', async t => {
  const site = makeSite(t)
  await produceAndRun(site, [example('a\u001b[2Jb', undefined, 'what is a terminal?')])
  const { stdout } = await succeed(['explain', 'a\u001b[2Jb', '--config', site.config])
  assert.match(stdout, /^a\\x1b\[2Jb@[0-9a-f]{16} is (not )?kept: \S.*\n/)
  assert.ok(!stdout.includes('\u001b'))
})

test('where nothing came of it a command ends with exit code 1 and says why', async t => {
  const site = makeSite(t)
  const proxy = proxyOf(site)
  const empty = writeLines(site, 'empty.jsonl', [])
  const produced = await run(['produce', '--config', site.config, '--data', empty])
  assert.equal(produced.code, 1)
  assert.match(produced.stderr, /empty\.jsonl holds no examples \[DATA_INVALID\]/)
  const broken = writeLines(site, 'broken.jsonl', [{ id: 'x' }, { id: 'y' }])
  const out = join(site.folder, 'out.jsonl')
  const scored = await run(['score', '--proxy', proxy, '--data', broken, '--out', out])
  assert.equal(scored.code, 1)
  assert.match(scored.stdout, /0 scored .*2 failed/)
  assert.doesNotMatch(scored.stdout, /next:/)
  assert.equal(readFileSync(out, 'utf8').trimEnd().split('\n').length, 2)
  const folder = join(site.folder, 'taken')
  mkdirSync(folder)
  const good = writeLines(site, 'good.jsonl', [example('t', undefined, 'what?')])
  const onFolder = await run(['score', '--proxy', proxy, '--data', good, '--out', folder])
  assert.equal(onFolder.code, 1)
  assert.match(onFolder.stderr, /taken.* \[FILE_UNWRITABLE\]\n {2}\S/)
  const nowhere = join(site.folder, 'nowhere/out.jsonl')
  const onNothing = await run(['score', '--proxy', proxy, '--data', good, '--out', nowhere])
  assert.match(onNothing.stderr, /nowhere.* \[FILE_UNWRITABLE\]\n {2}\S/)
  assert.deepEqual(temporariesIn(site.folder), [])
})

const temporariesIn = (folder: string) => readdirSync(folder).filter(name => /\.tmp$/.test(name))

test('what stands at --out of score stays where the data hold no example, or are broken', async t => {
  const site = makeSite(t)
  const out = writeLines(site, 'out.jsonl', [{ id: 'before' }])
  const meta = writeLines(site, 'out.jsonl.meta.json', [{ v: 1 }])
  const broken = join(site.folder, 'broken.json')
  writeFileSync(broken, `[${JSON.stringify(example('t', undefined, 'what?'))},`)
  for (const data of [writeLines(site, 'empty.jsonl', []), broken]) {
    const scored = await run(['score', '--proxy', DEMO_PROXY, '--data', data, '--out', out])
    assert.equal(scored.code, 1)
    assert.match(
      scored.stderr,
      /^xmasd: .*(empty\.jsonl holds no examples|never ends) \[DATA_INVALID\]\n/m,
    )
    assert.deepEqual(
      [out, meta].map(file => readFileSync(file, 'utf8')),
      ['{"id":"before"}\n', '{"v":1}\n'],
    )
    assert.deepEqual(temporariesIn(site.folder), [])
  }
})

test('a signal ends score and export at once, and what they had begun to write goes', async t => {
  const site = makeSite(t)
  await produceAndRun(site, await distinct(40))
  const data = join(site.folder, 'data.jsonl')
  const out = writeLines(site, 'out.jsonl', [{ id: 'before' }])
  const commands = [
    ['score', '--proxy', DEMO_PROXY, '--data', data, '--out', out],
    ['export', '--config', site.config, '--data', data, '--out', out],
  ]
  for (const command of commands) {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      const { child, ended } = start(command)
      const watcher = watch(site.folder, (_, name) => {
        if (name?.endsWith('.tmp')) child.kill(signal)
      })
      const { signal: by, stderr } = await ended
      watcher.close()
      assert.equal(by, signal, `${command[0]}: ${stderr}`)
      assert.deepEqual(temporariesIn(site.folder), [])
      assert.equal(readFileSync(out, 'utf8'), '{"id":"before"}\n')
    }
  }
})
