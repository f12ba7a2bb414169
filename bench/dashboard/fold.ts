/** The rate of the select role with open pages against without, by turns. */
import { once } from 'node:events'
import { Agent, get } from 'node:http'
import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { cpuOf } from '../child.ts'
import { type BenchSite, startSelect } from './site.ts'

const LOOK_MS = 20
const SETTLE_MS = 1_000

/** CPU seconds of the daemon, of its reader, and of this process with its open pages. */
type Cpu = { daemon: number; reader: number; bench: number }
type Fold = { perSecond: number; cpu: Cpu; framesPerPage: number; answersPerPage: number }
type OpenPage = { socket: Socket; frames: number; answers: number }

/** As `POLL_MS` of the page. */
const PAGE_WAIT_MS = 500
const agent = new Agent({ keepAlive: true, maxSockets: 256 })

/**
 * What a browser with the first view asks for: events, the newest decisions, and the clusters again after
 * each frame. It drops what it reads: a real one draws on a machine of its own.
 */
async function openPage(url: string): Promise<OpenPage> {
  const { hostname, port, host } = new URL(url)
  const ask = (path: string, done: () => void): void => {
    const headers = { 'accept-encoding': 'gzip' }
    get(`${url}/api/v1/${path}`, { agent, headers }, answer => {
      if (answer.statusCode === 200) page.answers++
      answer.resume().once('end', done)
    }).once('error', done)
  }
  let isAsking = false
  const askClusters = (): void => {
    if (isAsking) return
    isAsking = true
    ask('clusters', () => setTimeout(() => (isAsking = false), PAGE_WAIT_MS))
  }
  const socket = connect(Number(port), hostname)
  const page = { socket, frames: 0, answers: 0 }
  socket.on('data', bytes => {
    if (!bytes.includes('event: frame')) return
    page.frames++
    askClusters()
  })
  await once(socket, 'connect')
  socket.write(`GET /api/v1/events HTTP/1.1\r\nHost: ${host}\r\n\r\n`)
  ask('decisions?count=40', () => {})
  return page
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)
}

/**
 * One fold of the whole log with so many open pages, to its last commit; from when each page has its first
 * frame, and at least `SETTLE_MS` after the start.
 */
async function foldWith(site: BenchSite, group: string, open: number): Promise<Fold> {
  const look = async () => {
    const [offset = 0] = await site.log.committed(group, 'assignments')
    return { atMs: performance.now(), offset, cpu: cpuNow(child.pid!) }
  }
  const begun = performance.now()
  const { child, url } = startSelect(site, group)
  const at = await url
  const opened = await Promise.all(Array.from({ length: open }, () => openPage(at)))
  do await sleep(SETTLE_MS)
  while (opened.some(({ frames }) => frames === 0))
  let first = await look()
  // A short log is folded by then.
  if (first.offset >= site.size.examples) first = { ...first, atMs: begun, offset: 0 }
  let last = first
  while (last.offset < site.size.examples) {
    await sleep(LOOK_MS)
    last = await look()
  }
  child.kill('SIGKILL')
  for (const { socket } of opened) socket.destroy()
  const seconds = (last.atMs - first.atMs) / 1000
  const spent = (name: keyof Cpu): number => last.cpu[name] - first.cpu[name]
  return {
    perSecond: (last.offset - first.offset) / seconds,
    cpu: { daemon: spent('daemon'), reader: spent('reader'), bench: spent('bench') },
    framesPerPage: mean(opened.map(({ frames }) => frames)),
    answersPerPage: mean(opened.map(({ answers }) => answers)),
  }
}

function cpuNow(pid: number): Cpu {
  const { own: daemon, children: reader } = cpuOf(pid)
  const { user, system } = process.cpuUsage()
  return { daemon, reader, bench: (user + system) / 1e6 }
}

/** Medians over rounds of both by turns; `share` is the median of each round's ratio. */
export async function measureFold(site: BenchSite, pages: number, rounds: number) {
  const without: Fold[] = []
  const withPages: Fold[] = []
  for (let round = 0; round < rounds; round++) {
    // Who is first changes: the log's file grows, and the machine warms up.
    const one = async (): Promise<void> =>
      void without.push(await foldWith(site, `without-${round}`, 0))
    const other = async (): Promise<void> =>
      void withPages.push(await foldWith(site, `with-${round}`, pages))
    for (const turn of round % 2 === 0 ? [one, other] : [other, one]) await turn()
    process.stderr.write(`${JSON.stringify([without.at(-1), withPages.at(-1)])}\n`)
  }
  const of = (folds: readonly Fold[], what: (fold: Fold) => number): number =>
    median(folds.map(what))
  return {
    perSecondWithout: of(without, ({ perSecond }) => perSecond),
    perSecondWith: of(withPages, ({ perSecond }) => perSecond),
    share: median(withPages.map((fold, i) => fold.perSecond / without[i]!.perSecond)),
    cpuSecondsWithout: of(without, ({ cpu }) => cpu.daemon),
    cpuSecondsWith: of(withPages, ({ cpu }) => cpu.daemon),
    readerCpuSeconds: of(withPages, ({ cpu }) => cpu.reader),
    pagesCpuSeconds: median(withPages.map(({ cpu }, i) => cpu.bench - without[i]!.cpu.bench)),
    framesPerPage: of(withPages, ({ framesPerPage }) => framesPerPage),
    answersPerPage: of(withPages, ({ answersPerPage }) => answersPerPage),
  }
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}
