/** Examples that were scored offline count in the subset of the stream that follows. */
import assert from 'node:assert/strict'
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { demoStream } from '../../src/demo/stream.ts'
import { seededRandom } from '../../src/math/random.ts'
import type { Assignment } from '../../src/record.ts'
import {
  DEMO_PROXY,
  jsonOf,
  makeSite,
  readTopic,
  run,
  type Site,
  start,
  succeed,
} from '../e2e/command.ts'

/** HISTORY_SCALE=1 for 400 and 500, for more kills, and for `final`. */
const SCALE = Number(process.env.HISTORY_SCALE ?? 0.1)
const IS_FULL = SCALE >= 1
const HISTORY = 400 * SCALE
const STREAM = 500 * SCALE
const PERCENT = '20'
const RUN = ['--until-idle', '--json'] as const
const HOOK = pathToFileURL(join(fileURLToPath(import.meta.url), '../kill-at-write.js')).href

type Scene = Site & Record<'history' | 'old' | 'stream' | 'all', string> & { flags: string[] }

/** Scored examples and the bundle fitted to them; more examples; the trajectories of all. */
async function scene(t: TestContext): Promise<Scene> {
  const site = makeSite(t, 'bundle: ./bundle')
  const lines: string[] = []
  for await (const { value } of demoStream({ seed: 5 })) {
    lines.push(Buffer.from(value).toString())
    if (lines.length === HISTORY + STREAM) break
  }
  const file = (name: string): string => join(site.folder, name)
  const write = (name: string, some: string[]): string => {
    writeFileSync(file(name), `${some.join('\n')}\n`)
    return file(name)
  }
  const all = file('all.jsonl')
  const data = write('both.jsonl', lines)
  await succeed(['score', '--proxy', DEMO_PROXY, '--data', data, '--out', all])
  const scored = readFileSync(all, 'utf8').split('\n')
  const history = write('history.jsonl', scored.slice(0, HISTORY))
  copyFileSync(`${all}.meta.json`, `${history}.meta.json`)
  const fit = ['--trajectories', history, '--out', file('bundle')]
  await succeed(['fit', ...fit, '--clusters', '10', '--force'])
  const [old, stream] = [
    write('old.jsonl', lines.slice(0, HISTORY)),
    write('new.jsonl', lines.slice(HISTORY)),
  ]
  return { ...site, history, old, stream, all, flags: ['--config', site.config] }
}

const jsonIn = <T>(file: string): T => JSON.parse(readFileSync(file, 'utf8')) as T

async function batchRule({ folder }: Site, trajectories: string): Promise<string[]> {
  const out = join(folder, 'selected.json')
  const bundle = ['--bundle', join(folder, 'bundle'), '--percent', PERCENT]
  await succeed(['select', '--trajectories', trajectories, ...bundle, '--out', out])
  return jsonIn<string[]>(out).sort()
}

async function exported({ folder, flags }: Scene, env: NodeJS.ProcessEnv = {}): Promise<string[]> {
  const out = join(folder, 'subset.json')
  await succeed(['export', ...flags, '--out', out], env)
  return jsonIn<string[]>(out).sort()
}

/** The first three writes of `produce --trajectories` publish the bundle, the last one appends the examples. */
const MOMENTS = IS_FULL ? ['before 2', 'before 3', 'during 4', 'after 4'] : []

test('scored examples and streamed ones, under kill -9, give the batch rule over all of them', async t => {
  const here = await scene(t)
  await t.test('killed during 3', () => streamContinues(here))
  for (const at of MOMENTS) await t.test(`killed ${at}`, () => historyIsWhole(here, at))
  if (!IS_FULL) return
  await t.test('final counts the examples of its baseline once and keeps those of its rule', () =>
    finalContinues(here),
  )
})

/** Kills `produce --trajectories` on a new log, then runs it to its end. With the bundle on it there are fewer writes. */
async function produceKilled(
  { history, flags }: Scene,
  at: string,
  env: NodeJS.ProcessEnv = {},
): Promise<void> {
  const produce = ['produce', ...flags, '--trajectories', history]
  const hook = { NODE_OPTIONS: `--import=${HOOK}`, KILL_AT: at }
  const { signal, stderr } = await run(produce, { ...env, ...hook })
  assert.equal(signal, 'SIGKILL', stderr)
  const again = JSON.parse((await succeed([...produce, '--json'], env)).stdout)
  assert.ok(again.produced + again.known > 0.8 * HISTORY)
}

/** The assignments of the history. */
async function ownIn(log: string): Promise<Assignment[]> {
  const assignments = await readTopic(log, 'assignments')
  const own = assignments.map(one => jsonOf<Assignment>(one)).filter(({ baseline }) => baseline)
  assert.equal(new Set(own.map(({ key }) => key)).size, own.length, 'none is appended twice')
  return own
}

async function streamContinues(here: Scene): Promise<void> {
  const { flags } = here
  await produceKilled(here, 'during 3')
  await succeed(['produce', ...flags, '--data', here.stream])
  const random = seededRandom(3)
  for (let kills = 0; IS_FULL && kills < 3; kills++) await killedOnce(flags, 400 * random())
  await succeed(['run', ...flags, ...RUN])
  const kept = await exported(here)
  assert.deepEqual(kept, await batchRule(here, here.all))
  const { key } = (await ownIn(here.log))[17]!
  const told = await succeed(['explain', key, ...flags])
  assert.match(told.stdout, /from {8}file:history\.jsonl\/0@\d+, bundle/)
  await exportsBoth(here, kept)
}

async function historyIsWhole(here: Scene, at: string): Promise<void> {
  const log = join(here.folder, `log killed ${at}`)
  const env = { XMASD_LOG_PATH: log }
  await produceKilled(here, at, env)
  await succeed(['run', ...here.flags, '--roles', 'select', ...RUN], env)
  assert.deepEqual(await exported(here, env), await batchRule(here, here.history))
  assert.ok((await ownIn(log)).length > 0.8 * HISTORY)
}

/** The history's examples are in their file, the stream's on the log. */
async function exportsBoth({ folder, flags, old }: Scene, kept: readonly string[]): Promise<void> {
  const out = join(folder, 'subset.jsonl')
  const form = ['--format', 'ms-swift', '--weights', '--data', old]
  const { stderr } = await succeed(['export', ...flags, ...form, '--out', out])
  assert.doesNotMatch(stderr, /are not in/)
  const lines = readFileSync(out, 'utf8').trim().split('\n')
  const found = lines.map(line => JSON.parse(line) as { id: string; weight: number })
  const idOf = (key: string): string => key.slice(0, key.lastIndexOf('@'))
  assert.deepEqual(found.map(({ id }) => id).sort(), kept.map(idOf).sort())
  assert.ok(found.every(({ weight }) => weight >= 1))
}

/** Some moments after its first batch; a run that ends before is as good. */
async function killedOnce(flags: readonly string[], delayMs: number): Promise<void> {
  const env = { XMASD_SCORE_BATCH_EXAMPLES_MAX: '16', XMASD_LOGGING_LEVEL: 'info' }
  const { child, ended } = start(['run', ...flags, ...RUN], env)
  child.stderr!.on('data', (text: string) => {
    if (text.includes('"batch"')) setTimeout(() => child.kill('SIGKILL'), delayMs)
  })
  await ended
}

async function finalContinues(here: Scene): Promise<void> {
  const { history, flags } = here
  const env = { XMASD_SELECT_POLICY: 'final', XMASD_LOG_PATH: join(here.folder, 'final') }
  await succeed(['produce', ...flags, '--trajectories', history], env)
  const first = JSON.parse((await succeed(['run', ...flags, ...RUN], env)).stdout)
  const rule = await batchRule(here, history)
  assert.deepEqual(await exported(here, env), rule)
  assert.equal(first.subset, rule.length)
  await succeed(['produce', ...flags, '--data', here.stream], env)
  const second = JSON.parse((await succeed(['run', ...flags, ...RUN], env)).stdout)
  const { assigned } = second.examples
  assert.equal(second.history, first.history + assigned)
  const kept = await exported(here, env)
  assert.equal(kept.length, second.subset)
  assert.deepEqual(
    rule.filter(key => !kept.includes(key)),
    [],
    'decisions are final',
  )
  const told = JSON.parse((await succeed(['explain', rule[0]!, ...flags, '--json'], env)).stdout)
  assert.equal(told.keptNow, true)
  assert.match(
    told.because,
    /^the batch rule over the examples that the bundle was fitted to keeps it/,
  )
  assert.ok(told.rank <= told.clusterSize)
  const { parts } = await reportOf(here, env)
  assert.equal(parts.baseline.examples, first.history)
  assert.equal(parts.stream.examples, assigned)
}

async function reportOf({ folder, flags }: Scene, env: NodeJS.ProcessEnv) {
  const out = join(folder, 'report.html')
  return JSON.parse((await succeed(['report', ...flags, '--out', out, '--json'], env)).stdout)
}
