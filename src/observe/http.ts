/** `/metrics`, `/healthz` (process alive, loops moving), `/readyz` (bundle, engine, log). */
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Registry } from 'prom-client'
import { messageOf, XmasdError } from '../errors.ts'

/** One line a check: what was looked at, whether it is well, and what was seen. */
export type Check = { name: string; ok: boolean; detail: string }

export type HttpOptions = {
  host: string
  port: number
  registry: Registry
  /** Called before each scrape to set gauges that are read, not counted. */
  refresh: () => Promise<void>
  health: () => Check[]
  readiness: () => Promise<Check[]>
}

export type HttpServer = { url: string; close(): Promise<void> }

export async function serveHttp(options: HttpOptions): Promise<HttpServer> {
  const server = createServer((request, response) => {
    answer(options, request.url ?? '/').then(
      ({ status, type, body }) => response.writeHead(status, { 'content-type': type }).end(body),
      error => response.writeHead(500, { 'content-type': 'text/plain' }).end(messageOf(error)),
    )
  })
  await listen(server, options)
  const { address, port, family } = server.address() as AddressInfo
  const url = `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`
  return { url, close: () => close(server) }
}

type Answer = { status: number; type: string; body: string }

async function answer(options: HttpOptions, url: string): Promise<Answer> {
  switch (url.split('?')[0]) {
    case '/metrics':
      await options.refresh()
      return {
        status: 200,
        type: options.registry.contentType,
        body: await options.registry.metrics(),
      }
    case '/healthz':
      return report(options.health())
    case '/readyz':
      return report(await options.readiness())
    default:
      return { status: 404, type: 'text/plain', body: 'try /metrics, /healthz or /readyz\n' }
  }
}

function report(checks: Check[]): Answer {
  const status = checks.every(check => check.ok) ? 200 : 503
  const body = `${JSON.stringify({ ok: status === 200, checks })}\n`
  return { status, type: 'application/json', body }
}

function listen(server: Server, { host, port }: HttpOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', error =>
      reject(
        new XmasdError(
          'HTTP_UNAVAILABLE',
          `cannot listen on ${host}:${port}: ${error.message}`,
          'free that port, or set http.port (0 takes any free one), or http.enabled: false',
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
