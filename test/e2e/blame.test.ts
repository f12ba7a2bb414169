/** No sound record is blamed for the machine: pauses, load, slow servers, and what shares its batch. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import test from 'node:test'
import sharp from 'sharp'
import { shared } from '../support.ts'
import {
  DEMO_PROXY,
  example,
  makeSite,
  picture,
  readTopic,
  type Site,
  servedAt,
  start,
  succeed,
  writeLines,
} from './command.ts'

const seconds = (count: number) => new Promise(resolve => setTimeout(resolve, 1000 * count))

async function assertNoDeadLetter(site: Site, examples: number): Promise<void> {
  const dead = await readTopic(site.log, 'dead-letters')
  assert.deepEqual(
    dead.map(({ headers }) => headers.message),
    [],
  )
  assert.equal((await readTopic(site.log, 'assignments')).length, examples)
}

/** A JPEG of about `megapixels`, below the image root. */
async function writePicture(site: Site, megapixels: number): Promise<string> {
  const width = Math.round(Math.sqrt((megapixels * 1e6 * 4) / 3))
  const name = `${megapixels}.jpg`
  const small = await picture(megapixels, 64)
  const resized = sharp(small).resize(width, Math.round((width * 3) / 4), { kernel: 'cubic' })
  await resized.jpeg({ quality: 80 }).toFile(join(site.images, name))
  return name
}

/** `count` examples of pictures of all sizes in turns. */
async function largeExamples(site: Site, count: number, sizes: readonly number[]) {
  const names: string[] = []
  for (const size of sizes) names.push(await writePicture(site, size))
  return Array.from({ length: count }, (_, i) =>
    example(`p${i}`, names[i % names.length], `what is in picture ${i}?`),
  )
}

test('a daemon that is stopped for 12 s, alone or with its workers, blames no record when it goes on', async t => {
  const site = makeSite(t, 'http: { port: 0 }\nscore: { ingestWorkers: 2, batchExamplesMax: 16 }')
  const examples = await largeExamples(site, 24, [12, 24])
  await succeed([
    'produce',
    '--data',
    writeLines(site, 'data.jsonl', examples),
    '--config',
    site.config,
  ])
  const { child, ended } = start(['run', '--config', site.config, '--until-idle'])
  await servedAt(child)
  await seconds(1)
  child.kill('SIGSTOP')
  await seconds(12)
  child.kill('SIGCONT')
  await seconds(1)
  const all = [child.pid!, ...childrenOf(child.pid!)]
  for (const pid of all) signal(pid, 'SIGSTOP')
  await seconds(12)
  for (const pid of all) signal(pid, 'SIGCONT')
  const { code, stderr } = await ended
  assert.equal(code, 0, stderr)
  await assertNoDeadLetter(site, examples.length)
})

function childrenOf(pid: number): number[] {
  if (process.platform !== 'linux') return []
  const text = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1')
  return text.split(' ').filter(Boolean).map(Number)
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // it has ended
  }
}

/** Of 200 in a release run: XMASD_TEST_PICTURES. */
const PICTURES = Number(process.env.XMASD_TEST_PICTURES ?? 8)
const OVERSUBSCRIPTION = 8

test(`${PICTURES} sound pictures of 1 to 48 megapixels are all assigned at 8 times oversubscription`, async t => {
  const site = makeSite(t, 'score: { batchExamplesMax: 32 }')
  const examples = await largeExamples(site, PICTURES, [1, 12, 24, 48])
  await succeed([
    'produce',
    '--data',
    writeLines(site, 'data.jsonl', examples),
    '--config',
    site.config,
  ])
  const burners = Array.from({ length: OVERSUBSCRIPTION }, () => burn())
  t.after(() => {
    for (const burner of burners) burner.kill('SIGKILL')
  })
  const { child, ended } = start(['run', '--config', site.config, '--until-idle'])
  onOneCore(child)
  const { code, stderr } = await ended
  assert.equal(code, 0, stderr)
  await assertNoDeadLetter(site, examples.length)
})

/** A process that computes until it is killed. */
function burn(): ChildProcess {
  const burner = spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' })
  onOneCore(burner)
  return burner
}

/** With what it starts from now on: the load is as large as on all cores, and other tests go on. */
function onOneCore({ pid }: ChildProcess): void {
  const { status, stderr } = spawnSync('taskset', ['--all-tasks', '--pid', '1', String(pid)], {
    encoding: 'utf8',
  })
  assert.equal(status, 0, stderr)
}

const STALL_MS_MAX = 4_000

test('slow image servers leave /healthz green while images keep coming', async t => {
  const png = await picture(1)
  const server = createServer((_, response) => {
    setTimeout(() => response.end(png), 800)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const more = [
    `http: { port: 0, stallMsMax: ${STALL_MS_MAX} }`,
    'score: { ingestWorkers: 1 }',
    'images: { root: ./images, hosts: ["127.0.0.1"], addressesAllowed: [127.0.0.0/8] }',
  ]
  const site = makeSite(t, more.join('\n'))
  const images = Array.from({ length: 10 }, (_, i) => `${url}/${i}.png`)
  const one = { ...example('slow', images[0], 'what?'), image: images }
  one.conversations[0]!.value = `${'<image>\n'.repeat(images.length)}what?`
  await succeed([
    'produce',
    '--data',
    writeLines(site, 'data.jsonl', [one]),
    '--config',
    site.config,
  ])
  const { child, ended } = start(['run', '--config', site.config, '--until-idle'])
  const healthz = `${await servedAt(child)}/healthz`
  const answers: number[] = []
  const asking = setInterval(() => {
    fetch(healthz).then(
      ({ status }) => answers.push(status),
      () => {},
    )
  }, 200)
  const { code, stderr } = await ended
  clearInterval(asking)
  assert.equal(code, 0, stderr)
  assert.ok(answers.length >= 5)
  assert.ok(
    answers.every(status => status === 200),
    String(answers),
  )
  const dead = await readTopic(site.log, 'dead-letters')
  assert.ok(dead.every(({ headers }) => headers.code === 'NO_TEXT_ROWS'))
})

/** Trajectories by id, of `score` over the lines given. */
async function trajectories(site: Site, name: string, lines: readonly string[], images: string) {
  const [data, out] = [join(site.folder, `${name}.jsonl`), join(site.folder, `${name}.out.jsonl`)]
  writeFileSync(data, `${lines.join('\n')}\n`)
  await succeed(['score', '--proxy', DEMO_PROXY, '--data', data, '--images', images, '--out', out])
  const rows = readFileSync(out, 'utf8').trim().split('\n')
  return new Map(
    rows.map(row => {
      const { id, trajectory, error } = JSON.parse(row)
      assert.equal(error, undefined)
      return [id as string, trajectory as number[]]
    }),
  )
}

test('equal contents that are not equal tokens have their own scores, in any order, alone or together', async t => {
  const [file, images] = [shared(t, 'cases/equal-content/rev.jsonl'), shared(t, 'cases/images')]
  if (file === undefined || images === undefined) return
  const site = makeSite(t)
  const lines = readFileSync(file, 'utf8').trim().split('\n')
  const together = await trajectories(site, 'together', lines, images)
  assert.deepEqual(await trajectories(site, 'reversed', lines.toReversed(), images), together)
  for (const [i, line] of lines.slice(0, 2).entries()) {
    for (const [id, own] of await trajectories(site, `alone-${i}`, [line], images)) {
      assert.deepEqual(own, together.get(id))
    }
  }
  assert.notDeepEqual(together.get('nfc'), together.get('nfd'))
})
