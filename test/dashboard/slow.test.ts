/** Server-sent events to a page that stops reading: what it costs, and whom. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import test, { type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Frame } from '../../src/dashboard/schemas.ts'
import { type DashboardSite, demoSite } from './site.ts'

/** As `WAITING_BYTES_MAX` of src/dashboard/serve.ts. */
const WAITING_BYTES_MAX = 256 * 1024
/** A frame of such ids has half a megabyte: the kernel may hold ten. */
const LONG = '→'.repeat(2_000)
const BATCH = 24
const STALL_MS_MAX = 120_000

type Listener = {
  socket: Socket
  /** Whole events, oldest first. */
  events: string[]
  bytes: number
}

/** A raw socket on the events of the site; HTTP/1.0 has no chunks between them. */
async function listen(t: TestContext, { url }: DashboardSite): Promise<Listener> {
  const { hostname, port, host } = new URL(url)
  const socket = connect(Number(port), hostname)
  t.after(() => socket.destroy())
  const listener: Listener = { socket, events: [], bytes: 0 }
  let rest = ''
  socket.setEncoding('utf8').on('data', (text: string) => {
    listener.bytes += Buffer.byteLength(text)
    const parts = (rest + text).split('\n\n')
    rest = parts.pop()!
    listener.events.push(...parts.filter(part => part.startsWith('event: ')))
  })
  await once(socket, 'connect')
  socket.write(`GET /api/v1/events HTTP/1.0\r\nHost: ${host}\r\n\r\n`)
  await until(() => listener.events.length > 0, 30_000)
  return listener
}

async function until(isSo: () => boolean, ms: number): Promise<void> {
  for (const started = performance.now(); !isSo(); await sleep(10)) {
    assert.ok(performance.now() - started < ms, `not so after ${ms} ms: ${isSo}`)
  }
}

async function dropped({ url }: DashboardSite): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  return Number(/^xmasd_dashboard_frames_dropped_total (\d+)$/m.exec(text)![1])
}

function frameOf(event: string): Frame | undefined {
  const data = /^event: frame\ndata: (.*)$/.exec(event)?.[1]
  return data === undefined ? undefined : JSON.parse(data)
}

/** Lets a batch of examples arrive; milliseconds until `listener` has the decision on the last one. */
async function arriveAt(listener: Listener, site: DashboardSite, name: string): Promise<number> {
  const seen = listener.events.length
  const ids = Array.from({ length: BATCH }, (_, i) => `${name}-${i}-${LONG}`)
  const key = (await site.arriveAll(ids, 'is it slow?')).at(-1)!
  const started = performance.now()
  const isShown = (event: string): boolean =>
    frameOf(event)?.decisions.some(decision => decision.key === key) === true
  await until(() => listener.events.slice(seen).some(isShown), 30_000)
  return performance.now() - started
}

test('a page that stops reading misses events, which are counted; nobody else waits for it', async t => {
  const site = await demoSite(t)
  const fast = await listen(t, site)
  await arriveAt(fast, site, 'warm')
  const slow = await listen(t, site)
  slow.socket.pause()

  // It fills its buffers, then events are dropped for as long again.
  const times: number[] = []
  const started = performance.now()
  const before = fast.bytes
  let atFirstDrop = Number.POSITIVE_INFINITY
  while (fast.bytes - before < 2 * atFirstDrop) {
    times.push(await arriveAt(fast, site, `stalled-${times.length}`))
    if (atFirstDrop === Number.POSITIVE_INFINITY && (await dropped(site)) > 0) {
      atFirstDrop = fast.bytes - before
    }
    assert.ok(performance.now() - started < STALL_MS_MAX, `${fast.bytes - before} bytes, no drop`)
  }
  times.sort((a, b) => a - b)
  const median = times[times.length >> 1]!
  t.diagnostic(`dropped after ${atFirstDrop} bytes; a decision is shown after ${median} ms`)
  assert.ok(median < 1_000, `a decision reaches the other page after ${median} ms`)

  // What it gets when it reads again was waiting since the first drop: no more was held for it.
  const [largest] = fast.events.map(event => Buffer.byteLength(event)).sort((a, b) => b - a)
  const sent = fast.bytes - before
  slow.socket.resume()
  await arriveAt(slow, site, 'again')
  await until(() => fast.events.includes(slow.events.at(-1)!), 10_000)
  assert.ok(slow.bytes < atFirstDrop + WAITING_BYTES_MAX + 8 * largest!, `${slow.bytes} of ${sent}`)

  // Each event has come whole and in order, or is counted as dropped. The first is the frame of before.
  const missed = await dropped(site)
  const last = slow.events.at(-1)!
  const own = slow.events.slice(1, slow.events.indexOf(last) + 1)
  const all = fast.events.slice(fast.events.indexOf(own[0]!), fast.events.indexOf(last) + 1)
  const places = own.map(event => all.indexOf(event))
  assert.ok(places.every((place, i) => place > (places[i - 1] ?? -1)))
  assert.equal(all.length - own.length, missed)
})
