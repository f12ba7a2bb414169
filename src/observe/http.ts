/**
 * HTTP: `/metrics`, `/healthz` (the roles make progress), `/readyz` (bundle, engine and log are there),
 * `/version`. Every other path goes to `pages`.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { type AddressInfo, isIP, type Socket } from 'node:net'
import type { Registry } from 'prom-client'
import { messageOf, XmasdError } from '../errors.ts'
import { version } from '../version.ts'
import { printable } from './text.ts'

/** One line of a report: what was checked, whether it passed, what was seen. */
export type Check = { name: string; ok: boolean; detail: string }

export type HttpOptions = {
  host: string
  port: number
  /** Names beside `localhost` that a Host header may hold. Addresses are always allowed. */
  hosts: () => readonly string[]
  registry: Registry
  /** Sets the gauges that are read at a scrape. */
  refresh: () => Promise<void>
  health: () => Check[]
  readiness: () => Promise<Check[]>
  /** Answers a path that is not the server's own. Returns false where it has nothing of that name. */
  pages?: (request: IncomingMessage, response: ServerResponse) => boolean
}

export type HttpServer = { url: string; close(): Promise<void> }

const LIMITS = {
  /** A browser holds up to six, one of them for events. */
  connections: 512,
  /** Requests of one connection that are answered at the same time; it is closed where there are more. */
  pipelined: 8,
  requestsAConnection: 1_000,
  headerBytes: 8 * 1024,
  headersMs: 5_000,
  requestMs: 10_000,
  idleMs: 60_000,
}
/** A scrape is shown again for this long: many scrapers cost what one does. */
const SCRAPE_MS = 1_000

export async function serveHttp(options: HttpOptions): Promise<HttpServer> {
  const answer = createAnswers(options)
  const open = new WeakMap<Socket, number>()
  const server = createServer(
    {
      maxHeaderSize: LIMITS.headerBytes,
      headersTimeout: LIMITS.headersMs,
      requestTimeout: LIMITS.requestMs,
      keepAliveTimeout: LIMITS.idleMs,
      connectionsCheckingInterval: 1_000,
    },
    (request, response) => {
      const { socket } = request
      if (socket.destroyed) return
      const pipelined = (open.get(socket) ?? 0) + 1
      if (pipelined > LIMITS.pipelined) return void socket.destroy()
      open.set(socket, pipelined)
      response.once('close', () => open.set(socket, open.get(socket)! - 1))
      answer(request, response).then(
        found => found && response.writeHead(found.status, headersOf(found)).end(found.body),
        error => response.writeHead(500, { 'content-type': 'text/plain' }).end(messageOf(error)),
      )
    },
  )
  server.maxConnections = LIMITS.connections
  server.maxRequestsPerSocket = LIMITS.requestsAConnection
  await listen(server, options)
  const { address, port, family } = server.address() as AddressInfo
  const url = `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
  return { url, close: () => close(server) }
}

type Answer = { status: number; type: string; body: string }

function headersOf({ type }: Answer): Record<string, string> {
  return { 'content-type': type, 'x-content-type-options': 'nosniff' }
}

/** Undefined: `pages` answers. */
type Answering = (request: IncomingMessage, response: ServerResponse) => Promise<Answer | undefined>

function createAnswers(options: HttpOptions): Answering {
  const { registry, refresh, health, readiness, hosts, pages } = options
  const metrics = shared(SCRAPE_MS, async () => {
    await refresh()
    return { status: 200, type: registry.contentType, body: await registry.metrics() }
  })
  // Requests that arrive while it is being found out share one answer.
  const ready = shared(0, async () => report(await readiness()))
  return async (request, response) => {
    const { url = '/', headers } = request
    const { host } = headers
    if (!isOurs(host, hosts())) {
      return text(
        421,
        `this server is not ${printable(String(host))}: list the name in http.hosts\n`,
      )
    }
    switch (url.split('?')[0]) {
      case '/metrics':
        return metrics()
      case '/healthz':
        return report(health())
      case '/readyz':
        return ready()
      case '/version':
        return json(200, { v: 1, version: version(), node: process.versions.node })
      default:
        if (pages?.(request, response) === true) return undefined
        return text(404, 'try /metrics, /healthz, /readyz or /version\n')
    }
  }
}

function text(status: number, body: string): Answer {
  return { status, type: 'text/plain; charset=utf-8', body }
}

/** The result of one `make` for all who ask while it runs and for `ms` after it. A failure is not kept. */
function shared<T>(ms: number, make: () => Promise<T>): () => Promise<T> {
  let current: Promise<T> | undefined
  return () => {
    if (current !== undefined) return current
    const made = make()
    current = made
    const forget = (): void => {
      current = undefined
    }
    made.then(() => setTimeout(forget, ms).unref(), forget)
    return made
  }
}

/**
 * Against DNS rebinding: a web page that points its own name at this address cannot read what is
 * served. Addresses and requests without a Host cannot come from such a page.
 */
function isOurs(host: string | undefined, hosts: readonly string[]): boolean {
  if (host === undefined) return true
  const name = host.replace(/:\d*$/, '').toLowerCase()
  if (isIP(name.replace(/^\[(.*)\]$/, '$1')) !== 0 || name === 'localhost') return true
  return hosts.some(allowed => allowed.toLowerCase() === name)
}

function report(checks: Check[]): Answer {
  const status = checks.every(check => check.ok) ? 200 : 503
  return json(status, { ok: status === 200, checks })
}

function json(status: number, document: object): Answer {
  return { status, type: 'application/json', body: `${JSON.stringify(document)}\n` }
}

function listen(server: Server, { host, port }: HttpOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', error =>
      reject(
        new XmasdError(
          'HTTP_UNAVAILABLE',
          `cannot listen on ${host}:${port}: ${error.message}`,
          'free that port, or set http.port (0 takes a free one), or http.enabled: false',
          { cause: error },
        ),
      ),
    )
    server.listen(port, host, resolve)
  })
}

function close(server: Server): Promise<void> {
  return new Promise(resolve => {
    server.close(() => resolve())
    server.closeAllConnections()
  })
}
