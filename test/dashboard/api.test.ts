/** The API against what explain, report and replay say of the same log; its guards and its headers. */
import assert from 'node:assert/strict'
import { request } from 'node:http'
import test from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { ClusterSummary } from '../../src/dashboard/model.ts'
import {
  API_SCHEMAS,
  type ExampleDocument,
  type Gallery,
  type Said,
  WhatIfResult,
} from '../../src/dashboard/schemas.ts'
import type { Decision } from '../../src/record.ts'
import { jsonOf, makeSite, readTopic, run, servedAt, start, succeed } from '../e2e/command.ts'
import { ask, demoSite, EXAMPLES } from './site.ts'

const ARRIVALS = 60

type Decided = { decisions: Said[] }

const isGain = ({ action }: Said): boolean => action === 'keep' || action === 'restore'

const isNot =
  (wanted: string) =>
  ({ key }: Said): boolean =>
    key !== wanted

/** Those that the dashboard holds, newest first. */
async function recentDecisions(url: string): Promise<Said[]> {
  const all: Said[] = []
  for (let before = Number.MAX_SAFE_INTEGER; ; before = all.at(-1)!.offset) {
    const { decisions } = await ask<Decided>(url, `decisions?count=120&before=${before}`)
    if (decisions.length === 0) return all
    all.push(...decisions)
  }
}

async function firstMatch(body: AsyncIterable<Uint8Array>, wanted: RegExp) {
  let text = ''
  for await (const bytes of body) {
    text += Buffer.from(bytes).toString()
    const found = wanted.exec(text)
    if (found !== null) return found
  }
  throw new Error(`no ${wanted} in ${text}`)
}

test('the API says what explain, report and replay say', async t => {
  const site = await demoSite(t)
  const json = async (...args: string[]) =>
    JSON.parse((await succeed([...args, '--config', site.config, '--json'])).stdout)

  await t.test('clusters are those of the report', async () => {
    const { clusters } = await ask<{ clusters: ClusterSummary[] }>(site.url, 'clusters')
    const report = await json('report', '--out', `${site.folder}/report.html`)
    const byName = (rows: Omit<ClusterSummary, 'duplicates'>[]) =>
      rows
        .map(({ cluster, size, kept, quota }) => ({ cluster, size, kept, quota }))
        .sort((a, b) => String(a.cluster).localeCompare(String(b.cluster)))
    assert.deepEqual(byName(clusters.filter(({ size }) => size > 0)), byName(report.clusters))
    const duplicates = clusters.reduce((sum, one) => sum + one.duplicates, 0)
    assert.equal(duplicates, report.duplicates)
    const letters = await ask<{ codes: object[] }>(site.url, 'dead-letters')
    assert.deepEqual(letters.codes, report.deadLetters)
  })

  await t.test('an explanation is that of explain', async () => {
    const decisions = (await readTopic(site.log, 'decisions')).map(jsonOf<Decision>)
    const one = (is: (decision: Decision) => boolean): string => decisions.find(is)!.key
    const keys = [
      one(({ action }) => action === 'keep'),
      one(({ reason }) => reason === 'over_quota'),
      one(({ reason }) => reason === 'duplicate'),
      one(({ cluster }) => cluster === 'text'),
    ]
    for (const key of keys) {
      const path = `examples/${encodeURIComponent(key)}`
      const { explanation } = await ask<ExampleDocument>(site.url, path)
      assert.deepEqual(explanation, await json('explain', key))
    }
  })

  await t.test(
    'a gallery holds a cluster in rank order, and pictures come by key alone',
    async () => {
      const { clusters } = await ask<{ clusters: ClusterSummary[] }>(site.url, 'clusters')
      const { cluster, size, quota } = clusters.find(one => one.cluster !== 'text')!
      const gallery = await ask<Gallery>(site.url, `clusters/${cluster}?count=100`)
      assert.equal(gallery.counted, size)
      const counted = gallery.rows.slice(0, size)
      const order = counted.map(({ instability }) => instability!)
      assert.deepEqual(
        order,
        [...order].sort((a, b) => a - b),
      )
      for (const [rank, { kept }] of counted.entries()) assert.equal(kept, rank < quota)
      const picture = `${site.url}/api/v1/pictures/${encodeURIComponent(counted[0]!.key)}?side=96`
      const answer = await fetch(picture)
      assert.equal(answer.headers.get('content-type'), 'image/webp')
      assert.equal(Buffer.from(await answer.arrayBuffer()).toString('latin1', 8, 12), 'WEBP')
      for (const path of [
        'pictures/..%2F..%2Fetc%2Fpasswd',
        'pictures/nobody',
        'examples/nobody',
      ]) {
        assert.equal((await fetch(`${site.url}/api/v1/${path}`)).status, 404, path)
      }
    },
  )

  await t.test('what-if gives the figures of replay, and one runs at a time', async () => {
    const url = `${site.url}/api/v1/what-if?percent=10`
    const first = fetch(url)
    assert.equal((await fetch(url)).status, 429)
    const text = await (await first).text()
    const result = WhatIfResult.parse(JSON.parse(/event: done\ndata: (.*)\n/.exec(text)![1]!))
    const { v, policy, percent, budgetExamples, ...said } = await json('replay', '--percent', '10')
    assert.deepEqual(result.comparison, said)
    assert.deepEqual([result.policy, result.percent], [policy, percent])
    assert.equal(result.leaving.length, said.today.onlyToday)
    assert.equal((await fetch(`${site.url}/api/v1/what-if?percent=200`)).status, 400)
  })

  await t.test('words of a question find examples', async () => {
    const text = 'appears most often'
    const path = `examples?q=${encodeURIComponent(text)}`
    const found = await ask<{ rows: { question: string }[]; searched: number }>(site.url, path)
    assert.ok(found.rows.length > 0)
    for (const { question } of found.rows) assert.match(question, /appears most often/)
    for (const q of ['demo-12%40', 'demo-1']) {
      const byId = await ask<{ rows: { id: string }[] }>(site.url, `examples?q=${q}`)
      assert.equal(`${byId.rows[0]!.id}`, q.replace('%40', ''))
    }
  })

  await t.test('every answer is as its schema says', async () => {
    const { clusters } = await ask<{ clusters: { cover: string }[] }>(site.url, 'clusters')
    const { cover } = clusters[0]!
    for (const [path, schema] of Object.entries(API_SCHEMAS)) {
      if (path.includes(':') || path === 'failure') continue
      const real = path.replace('KEY', encodeURIComponent(cover)).replace('CLUSTER', '0')
      schema.parse(await ask(site.url, real === 'examples' ? 'examples?q=demo' : real))
    }
    API_SCHEMAS.failure.parse(await (await fetch(`${site.url}/api/v1/nothing`)).json())
  })

  await t.test('watch shows a running daemon, and says where none is', async () => {
    const { child, ended } = start(['watch', '--url', site.url])
    const line = await new Promise<string>(done => child.stdout!.once('data', done))
    child.kill('SIGTERM')
    assert.equal((await ended).code, 0)
    assert.match(line, /\d+ of \d+ kept \(\d+\.\d%, want 20%\)/)
    const nobody = await run(['watch', '--url', 'http://127.0.0.1:9'])
    assert.equal(nobody.code, 1)
    assert.match(nobody.stderr, /127\.0\.0\.1:9 does not answer.*HTTP_UNAVAILABLE/)
  })

  await t.test('frames are at most four a second, and answers as new', async () => {
    const counted = async (): Promise<number> => {
      const { clusters } = await ask<{ clusters: ClusterSummary[] }>(site.url, 'clusters')
      return clusters.reduce((sum, { size, duplicates }) => sum + size + duplicates, 0)
    }
    const before = await counted()
    const stopping = new AbortController()
    const { body } = await fetch(`${site.url}/api/v1/events`, { signal: stopping.signal })
    const opened = performance.now()
    let [frames, known, isLast] = [0, before, false]
    const reading = (async () => {
      for await (const bytes of body!) {
        if (!Buffer.from(bytes).includes('event: frame')) continue
        frames++
        known = await counted()
        if (isLast && known === before + ARRIVALS) break
      }
    })()
    for (let i = 0; i < ARRIVALS; i++) {
      await site.arrive(`frame-${i}`, `does number ${i} get a frame?`)
      await sleep(25)
    }
    isLast = true
    const isInTime = await Promise.race([reading.then(() => true), sleep(5_000, false)])
    stopping.abort()
    assert.ok(isInTime, `${known} of ${before + ARRIVALS} after the last frame`)
    // A page that opens gets the last frame at once.
    const most = 2 + (performance.now() - opened) / 250
    assert.ok(frames > 1 && frames <= most, `${frames} frames where ${most} are due`)
  })

  await t.test('a page that opens is not told what older pages were not shown', async () => {
    const stopping = new AbortController()
    const { signal } = stopping
    await fetch(`${site.url}/api/v1/events`, { signal })
    const ids = Array.from({ length: 60 }, (_, i) => `burst-${i}`)
    const keys = await site.arriveAll(ids, 'how many come at once?')
    while ((await ask<Decided>(site.url, 'decisions?count=120')).decisions.every(isNot(keys[59]!)))
      await sleep(50)
    // Longer than between two frames.
    await sleep(1_000)
    const { body } = await fetch(`${site.url}/api/v1/events`, { signal })
    const [, frame] = await firstMatch(body!, /event: frame\ndata: (.*)\n/)
    assert.equal(JSON.parse(frame!).left, 0)
    stopping.abort()
  })

  await t.test('only what is dropped or evicted has lost its place to another', async () => {
    const decisions = await recentDecisions(site.url)
    const [gains, losses] = [decisions.filter(isGain), decisions.filter(one => !isGain(one))]
    assert.ok(losses.some(({ lostTo }) => lostTo !== null))
    const newest = new Map(decisions.toReversed().map(one => [one.key, one]))
    assert.ok(
      gains.some(({ key }) => !isGain(newest.get(key)!)),
      'some were kept and then lost',
    )
    assert.deepEqual(
      gains.filter(({ lostTo }) => lostTo !== null),
      [],
    )
  })

  await t.test('figures are those of the metrics', async () => {
    const figures = await ask<{ kept: number; history: number }>(site.url, 'figures')
    const metrics = await (await fetch(`${site.url}/metrics`)).text()
    const value = (name: string) => Number(new RegExp(`^${name} (.*)$`, 'm').exec(metrics)![1])
    assert.equal(figures.kept, value('xmasd_subset_examples'))
    assert.equal(figures.history, value('xmasd_history_examples'))
    assert.ok(figures.history > EXAMPLES / 2)
  })
})

function statusOf(url: string, method: string, headers: Record<string, string> = {}) {
  return new Promise<{ status: number; headers: NodeJS.Dict<string | string[]> }>((done, fail) => {
    request(url, { method, headers }, response => {
      response.resume()
      done({ status: response.statusCode!, headers: response.headers })
    })
      .on('error', fail)
      .end()
  })
}

test('the page has an ETag, gzip and a policy that allows no other host; it is read-only', async t => {
  const site = makeSite(t, 'http: { port: 0 }')
  const { child } = start(['run', '--config', site.config, '--roles', 'select'])
  t.after(() => child.kill('SIGKILL'))
  const url = await servedAt(child)
  const plain = await statusOf(`${url}/page.js`, 'GET', { 'accept-encoding': 'gzip' })
  assert.equal(plain.headers['content-encoding'], 'gzip')
  assert.ok(Number(plain.headers['content-length']) < 200_000)
  const etag = String(plain.headers.etag)
  assert.equal((await statusOf(`${url}/page.js`, 'GET', { 'if-none-match': etag })).status, 304)
  const page = await statusOf(url, 'GET')
  assert.match(
    String(page.headers['content-security-policy']),
    /^default-src 'none'; script-src 'self'/,
  )
  for (const method of ['POST', 'PUT', 'DELETE']) {
    assert.equal((await statusOf(`${url}/api/v1/clusters`, method)).status, 405)
  }
  assert.equal((await statusOf(`${url}/`, 'GET', { host: 'evil.example' })).status, 421)
  assert.equal((await statusOf(`${url}/../package.json`, 'GET')).status, 404)
  const { version } = (await (await fetch(`${url}/version`)).json()) as { version: string }
  assert.match(version, /^\d+\.\d+\.\d+$/)
})

test('beyond loopback there is no page without a guard, and with a token only for who knows it', async t => {
  const open = makeSite(t, 'http: { port: 0, host: 0.0.0.0 }')
  const unguarded = start(['run', '--config', open.config, '--roles', 'select'])
  t.after(() => unguarded.child.kill('SIGKILL'))
  const local = (url: string) => url.replace('0.0.0.0', '127.0.0.1')
  assert.equal((await fetch(local(await servedAt(unguarded.child)))).status, 404)

  const token = 'c2f1a07b9d3e4455'
  const more = `{ port: 0, host: 0.0.0.0, token: ${token}, trustedProxyHeader: x-user }`
  const guarded = makeSite(t, `http: ${more}`)
  const { child } = start(['run', '--config', guarded.config, '--roles', 'select'])
  t.after(() => child.kill('SIGKILL'))
  const url = local(await servedAt(child))
  assert.equal((await statusOf(url, 'GET')).status, 401)
  assert.equal((await statusOf(`${url}/api/v1/figures`, 'GET')).status, 401)
  assert.equal((await statusOf(`${url}/?token=wrong-wrong-wrong`, 'GET')).status, 401)
  const shown = await statusOf(`${url}/?token=${token}`, 'GET')
  assert.equal(shown.status, 303)
  const cookie = String(shown.headers['set-cookie']).split(';')[0]!
  assert.equal((await statusOf(url, 'GET', { cookie })).status, 200)
  assert.equal((await statusOf(url, 'GET', { authorization: `Bearer ${token}` })).status, 200)
  assert.equal((await statusOf(url, 'GET', { 'x-user': 'ada' })).status, 200)
  assert.equal((await statusOf(`${url}/metrics`, 'GET')).status, 200)
})
