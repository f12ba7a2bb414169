/**
 * The memory of the page over an hour of 500 decisions a second, in minutes. A relay between daemon and
 * browser sends every frame and every set of figures `SPEED` times, each time with decisions that the page
 * has not seen.
 */
import { createServer, request, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Browser, CDPSession } from 'playwright-core'
import type { Figures, Frame } from '../../src/dashboard/schemas.ts'
import { demoExamples } from '../../src/demo/stream.ts'
import { assignments } from '../assignments.ts'
import { type BenchSite, startSelect } from './site.ts'

/** An hour is then four minutes. */
const SPEED = 15
const PER_SECOND = 500
const BATCH_MS = 250
const SIGHTS = 16
/** Of the sights, those before the page is full. */
const WARM_UP = 4
/** Examples with pictures and questions, which all assignments share. */
const RECORDS = 200

type Sight = { heapMiB: number; nodes: number; listeners: number }

/** Of the page after a forced collection; medians of the first and the last third of the sights. */
export async function measureMemory(site: BenchSite, browser: Browser, seconds: number) {
  const examples = await demoExamples(1, RECORDS)
  const toRecord = (value: object) => ({ key: null, value: Buffer.from(JSON.stringify(value)) })
  const to = { topic: 'examples', partition: 0 }
  await site.log.append(examples.map(one => ({ ...to, ...toRecord(one) })))
  const { child, url } = startSelect(site, 'memory')
  const relay = await startRelay(await url)
  const stopping = new AbortController()
  const arriving = arrive(site, stopping.signal)
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 } })
  await page.goto(relay.url)
  await page.locator('.ticker li').first().waitFor({ timeout: 60_000 })
  const session = await page.context().newCDPSession(page)
  const sights: Sight[] = []
  for (let i = 0; i < SIGHTS; i++) {
    await sleep((1000 * seconds) / SIGHTS)
    sights.push(await look(session))
    process.stderr.write(`${JSON.stringify({ ...sights.at(-1), ...relay.sent })}\n`)
  }
  const decisions = await page.locator('.ticker li').count()
  await browser.close()
  stopping.abort()
  await arriving
  relay.close()
  child.kill('SIGKILL')
  const warm = sights.slice(WARM_UP)
  const third = Math.floor(warm.length / 3)
  const [first, last] = [middleOf(warm.slice(0, third)), middleOf(warm.slice(-third))]
  const driftPercent = (100 * (last.heapMiB - first.heapMiB)) / first.heapMiB
  return { seconds, ...relay.sent, decisions, first, last, driftPercent }
}

async function look(session: CDPSession): Promise<Sight> {
  await session.send('HeapProfiler.collectGarbage')
  const { usedSize } = await session.send('Runtime.getHeapUsage')
  const { nodes, jsEventListeners } = await session.send('Memory.getDOMCounters')
  return { heapMiB: usedSize / 2 ** 20, nodes, listeners: jsEventListeners }
}

function middleOf(sights: readonly Sight[]): Sight {
  const of = (name: keyof Sight): number =>
    sights.map(sight => sight[name]).sort((a, b) => a - b)[sights.length >> 1]!
  return { heapMiB: of('heapMiB'), nodes: of('nodes'), listeners: of('listeners') }
}

/** Appends assignments at the rate of `PER_SECOND` until `signal` aborts. */
async function arrive({ log, size }: BenchSite, signal: AbortSignal): Promise<void> {
  const endless = assignments({ ...size, examples: Number.POSITIVE_INFINITY })
  // Those that the log holds would be redelivered.
  for (let i = 0; i < size.examples; i++) endless.next()
  const started = performance.now()
  for (let sent = 0; !signal.aborted; ) {
    const due = Math.floor(((performance.now() - started) * PER_SECOND) / 1000) - sent
    const batch = Array.from({ length: due }, (_, i) => {
      const source = { topic: 'examples', partition: 0, offset: (sent + i) % RECORDS }
      const value = { ...endless.next().value, source }
      return { topic: 'assignments', key: value.key, partition: 0, value: bytesOf(value) }
    })
    if (batch.length > 0) await log.append(batch)
    sent += due
    await sleep(BATCH_MS)
  }
}

function bytesOf(value: object): Buffer {
  return Buffer.from(JSON.stringify(value))
}

type Sent = { frames: number; figures: number }
type Relay = { url: string; sent: Sent; close: () => void }

/** Passes everything on but events, which it multiplies. */
async function startRelay(daemon: string): Promise<Relay> {
  const sent: Sent = { frames: 0, figures: 0 }
  const server: Server = createServer((asked, response) => {
    const headers = { ...asked.headers, host: new URL(daemon).host }
    const passed = request(`${daemon}${asked.url}`, { headers }, answer => {
      response.writeHead(answer.statusCode!, answer.headers)
      if (asked.url === '/api/v1/events') {
        multiply(answer, response, sent).catch(() => response.destroy())
      } else answer.pipe(response)
    })
    passed.once('error', () => response.destroy())
    response.once('close', () => passed.destroy())
    passed.end()
  })
  await new Promise<void>(done => server.listen(0, '127.0.0.1', done))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const close = (): void => {
    server.close()
    server.closeAllConnections()
  }
  return { url, sent, close }
}

/** Milliseconds between events of a kind, as the daemon sends them. */
const EVERY_MS = { frame: 250, figures: 500 }

async function multiply(
  events: AsyncIterable<Buffer>,
  response: ServerResponse,
  sent: Sent,
): Promise<void> {
  let text = ''
  for await (const bytes of events) {
    text += bytes
    const parts = text.split('\n\n')
    text = parts.pop()!
    for (const part of parts) {
      const found = /^event: (frame|figures)\ndata: (.*)$/s.exec(part)
      if (found === null) response.write(`${part}\n\n`)
      else void repeat(response, found[1] as 'frame' | 'figures', found[2]!, sent)
    }
  }
}

async function repeat(
  response: ServerResponse,
  kind: 'frame' | 'figures',
  data: string,
  sent: Sent,
): Promise<void> {
  const document = JSON.parse(data) as Frame & Figures
  for (let i = 0; i < SPEED && !response.destroyed; i++) {
    const other = kind === 'frame' ? laterFrame(document, i) : { ...document, at: document.at + i }
    response.write(`event: ${kind}\ndata: ${JSON.stringify(other)}\n\n`)
    sent[kind === 'frame' ? 'frames' : 'figures']++
    await sleep(EVERY_MS[kind] / SPEED)
  }
}

/** The same with offsets that no other frame has. */
function laterFrame(frame: Frame, i: number): Frame {
  const decisions = frame.decisions.map(one => ({ ...one, offset: one.offset * SPEED + i }))
  return { ...frame, decisions, version: frame.version * SPEED + i }
}
