/**
 * The dashboard on the daemon's port: the page, its API and its events. The log is read by a process of
 * its own; the daemon passes questions and answers on.
 */
import { createHash, timingSafeEqual } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { isIPv4, isIPv6 } from 'node:net'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import type { Config } from '../config.ts'
import { messageOf, XmasdError } from '../errors.ts'
import type { Logger } from '../observe/logger.ts'
import { packageRoot } from '../version.ts'
import { createFigures, type FigureParts } from './figures.ts'
import { Reader, WhatIfs } from './processes.ts'
import { type ApiAnswer, failure, jsonAnswer, WhatIfQuery } from './schemas.ts'
import type { FromWhatIf } from './what-if.ts'

export type DashboardParts = FigureParts & { logger: Logger }

export type Dashboard = {
  /** Answers the page and the API. Returns false for other paths. */
  handle(request: IncomingMessage, response: ServerResponse): boolean
  close(): void
}

const API = '/api/v1/'
/** Pages that receive events; a further one asks again now and then. */
const PAGES_MAX = 256
const FIGURES_MS = 500
/** What may wait in the socket of a slow page: the next frames are dropped for it. */
const WAITING_BYTES_MAX = 256 * 1024

/** Nothing from elsewhere, and no script or style within the page. */
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
const HEADERS = {
  'content-security-policy': POLICY,
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cross-origin-opener-policy': 'same-origin',
}

/** Undefined where it is switched off, or where `http.host` is not loopback and nothing guards it. */
export function createDashboard(parts: DashboardParts): Dashboard | undefined {
  const { http } = parts.config()
  if (!http.dashboard) return undefined
  const token = tokenOf(http)
  const isGuarded = token !== undefined || http.trustedProxyHeader !== undefined
  if (!isGuarded && !isLoopback(http.host)) {
    const why = `the dashboard is off: http.host is ${http.host}, set http.tokenFile or http.trustedProxyHeader`
    parts.logger.info(why)
    return undefined
  }
  const guard = createGuard(token, http.trustedProxyHeader)
  const files = readFiles()
  const events = createEvents(parts)
  const whatIfs = new WhatIfs()
  const api = createApi(parts, events, whatIfs)
  return {
    handle: (request, response) => {
      const url = new URL(request.url ?? '/', 'http://localhost')
      const file = files.get(url.pathname)
      if (file === undefined && !url.pathname.startsWith(API)) return false
      for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value)
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        response.writeHead(405, { allow: 'GET, HEAD' }).end()
      } else if (guard(request, response, url)) {
        if (file !== undefined) sendFile(request, response, file)
        else api(request, response, url)
      }
      return true
    },
    close: () => {
      events.close()
      whatIfs.close()
    },
  }
}

function isLoopback(host: string): boolean {
  return (
    host === 'localhost' ||
    (isIPv4(host) && host.startsWith('127.')) ||
    (isIPv6(host) && host === '::1')
  )
}

/** Throws CONFIG_INVALID where the file cannot be read. */
function tokenOf({ token, tokenFile }: Config['http']): string | undefined {
  if (token !== undefined || tokenFile === undefined) return token
  try {
    const text = readFileSync(tokenFile, 'utf8').trim()
    if (text.length < 16) throw new Error('it holds less than 16 characters')
    return text
  } catch (error) {
    throw new XmasdError(
      'CONFIG_INVALID',
      `http.tokenFile names ${tokenFile}: ${messageOf(error)}`,
      'write a random token there, as `openssl rand -hex 16 > FILE` does',
      { cause: error },
    )
  }
}

type Guard = (request: IncomingMessage, response: ServerResponse, url: URL) => boolean

/** Answers who may not read, and who has just shown the token. */
function createGuard(token: string | undefined, header: string | undefined): Guard {
  if (token === undefined && header === undefined) return () => true
  const isToken = (given: string): boolean => token !== undefined && isEqual(given, token)
  return ({ headers }, response, url) => {
    const given = url.searchParams.get('token')
    if (given !== null && isToken(given)) {
      const cookie = `xmasd_token=${encodeURIComponent(given)}; HttpOnly; SameSite=Strict; Path=/`
      response.writeHead(303, { location: '/', 'set-cookie': cookie }).end()
      return false
    }
    const bearer = /^Bearer (.+)$/.exec(headers.authorization ?? '')?.[1]
    const cookie = /(?:^|;\s*)xmasd_token=([^;]+)/.exec(headers.cookie ?? '')?.[1]
    if (bearer !== undefined && isToken(bearer)) return true
    if (cookie !== undefined && isToken(decoded(cookie))) return true
    if (header !== undefined && (headers[header.toLowerCase()] ?? '') !== '') return true
    const text = 'open /?token=TOKEN with the token of http.tokenFile, or come through the proxy\n'
    response.writeHead(401, { 'content-type': 'text/plain; charset=utf-8' }).end(text)
    return false
  }
}

function isEqual(one: string, other: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(one), digest(other))
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return ''
  }
}

type PageFile = { type: string; body: Buffer; gzip: Buffer; etag: string }

const FILES: [path: string, name: string, type: string][] = [
  ['/', 'index.html', 'text/html; charset=utf-8'],
  ['/page.js', 'page.js', 'text/javascript; charset=utf-8'],
  ['/page.css', 'page.css', 'text/css; charset=utf-8'],
  ['/icon.svg', 'icon.svg', 'image/svg+xml'],
]

/** What `npm run build` made; none where it has not run. */
function readFiles(): Map<string, PageFile> {
  const folder = join(packageRoot(), 'dist/dashboard/page')
  const files = new Map<string, PageFile>()
  for (const [path, name, type] of FILES) {
    if (!existsSync(join(folder, name))) continue
    const body = readFileSync(join(folder, name))
    const etag = `"${createHash('sha256').update(body).digest('hex').slice(0, 20)}"`
    files.set(path, { type, body, gzip: gzipSync(body), etag })
  }
  return files
}

function sendFile(request: IncomingMessage, response: ServerResponse, file: PageFile): void {
  const { type, etag } = file
  response
    .setHeader('etag', etag)
    .setHeader('cache-control', 'no-cache')
    .setHeader('vary', 'accept-encoding')
  if (request.headers['if-none-match'] === etag) return void response.writeHead(304).end()
  const isGzip = mayGzip(request)
  if (isGzip) response.setHeader('content-encoding', 'gzip')
  const body = isGzip ? file.gzip : file.body
  response.writeHead(200, { 'content-type': type, 'content-length': body.length })
  response.end(request.method === 'HEAD' ? undefined : body)
}

function mayGzip({ headers }: IncomingMessage): boolean {
  return /\bgzip\b/.test(String(headers['accept-encoding'] ?? ''))
}

type Events = {
  reader: Reader
  figures: () => Promise<object>
  open(response: ServerResponse): void
  close(): void
}

/** Server-sent events: `figures` twice a second, `frame` as decisions come; encoded once for all pages. */
function createEvents(parts: DashboardParts): Events {
  const { metrics, logger, config } = parts
  const pages = new Set<ServerResponse>()
  const figures = createFigures(parts)
  const sendAll = (event: string, data: string): void => {
    const bytes = Buffer.from(`event: ${event}\ndata: ${data}\n\n`)
    for (const page of pages) {
      if (page.writableLength > WAITING_BYTES_MAX) metrics.framesDropped.inc()
      else page.write(bytes)
    }
  }
  // A page that opens while nothing changes gets the last frame, without what older pages were not shown;
  // it asks for the decisions themselves.
  let lastFrame: string | undefined
  const onFrame = (data: string): void => {
    lastFrame = data
    sendAll('frame', data)
  }
  const reader = new Reader({ config, logger, onFrame })
  let isBusy = false
  const timer = setInterval(() => {
    if (pages.size === 0 || isBusy) return
    isBusy = true
    const done = (): void => {
      isBusy = false
    }
    figures()
      .then(now => sendAll('figures', JSON.stringify(now)))
      .then(done, done)
  }, FIGURES_MS)
  timer.unref()
  const count = (): void => {
    metrics.dashboards.set(pages.size)
    reader.watched(pages.size)
  }
  return {
    reader,
    figures,
    open: response => {
      if (pages.size >= PAGES_MAX) return void response.writeHead(503, { 'retry-after': '5' }).end()
      const headers = { 'content-type': 'text/event-stream', 'cache-control': 'no-store' }
      response.writeHead(200, headers).write('retry: 500\n\n')
      if (lastFrame !== undefined) {
        const frame = JSON.stringify({ ...JSON.parse(lastFrame), left: 0 })
        response.write(`event: frame\ndata: ${frame}\n\n`)
      }
      pages.add(response)
      count()
      response.once('close', () => {
        pages.delete(response)
        count()
      })
    },
    close: () => {
      clearInterval(timer)
      for (const page of pages) page.end()
      reader.close()
    },
  }
}

type Respond = (request: IncomingMessage, response: ServerResponse, url: URL) => void

function createApi(parts: DashboardParts, events: Events, whatIfs: WhatIfs): Respond {
  return (request, response, url) => {
    const name = url.pathname.slice(API.length)
    if (name === 'events') return events.open(response)
    if (name === 'what-if') return answerWhatIf(parts.config(), whatIfs, response, url)
    const answering: Promise<ApiAnswer> =
      name === 'figures'
        ? events.figures().then(figures => jsonAnswer(200, figures))
        : events.reader.ask(`/${name}`, url.search, mayGzip(request))
    answering.then(
      answer => send(request, response, answer),
      error => send(request, response, failure(500, 'INTERNAL', messageOf(error))),
    )
  }
}

function send(request: IncomingMessage, response: ServerResponse, answer: ApiAnswer): void {
  const { status, type, body, isGzip, maxAge } = answer
  if (isGzip === true) response.setHeader('content-encoding', 'gzip')
  const cache = maxAge === undefined ? 'no-store' : `private, max-age=${maxAge}`
  const headers = { 'content-type': type, 'cache-control': cache, 'content-length': body.length }
  response.writeHead(status, headers)
  response.end(request.method === 'HEAD' ? undefined : body)
}

/** Events `progress` (`{share}`), then `done` or `failed`. To close the connection cancels the replay. */
function answerWhatIf(config: Config, whatIfs: WhatIfs, response: ServerResponse, url: URL): void {
  // What is left empty in the page's form is as configured.
  const given = [...url.searchParams].filter(([, value]) => value !== '')
  const { data: options } = WhatIfQuery.safeParse(Object.fromEntries(given))
  const refuse = (status: number, code: string, message: string): void =>
    send(response.req, response, failure(status, code, message))
  if (options === undefined) {
    refuse(400, 'USAGE', 'percent is 0..100, clusters a number, policy one of the policies')
    return
  }
  const running = whatIfs.start(config, options, (message: FromWhatIf) => {
    const { kind, ...rest } = message
    const data = message.kind === 'done' ? message.result : rest
    response.write(`event: ${kind}\ndata: ${JSON.stringify(data)}\n\n`)
    if (kind !== 'progress') response.end()
  })
  if (running === undefined) {
    refuse(429, 'BUSY', 'another replay runs: try again when it is done')
    return
  }
  const headers = { 'content-type': 'text/event-stream', 'cache-control': 'no-store' }
  response.writeHead(200, headers).write('\n')
  response.once('close', () => running.stop())
}
