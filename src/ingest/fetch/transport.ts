/** One GET over http(s): reused connections, bounded bytes, failures that say whether to try again. */
import { Agent as HttpAgent, type IncomingMessage, request as requestHttp } from 'node:http'
import { Agent as HttpsAgent, request as requestHttps } from 'node:https'
import type { LookupFunction } from 'node:net'
import { XmasdError } from '../../errors.ts'
import { shown } from '../form/json.ts'
import { checkBytes, type ImageLimits } from '../image/pixels.ts'
import { RETRY_AFTER_MS_MAX } from './gate.ts'

export type Get = {
  url: URL
  headers: Readonly<Record<string, string>>
  agents: Agents
}

/** Connections that were opened with one lookup are reused with no other. */
export type Agents = { http: HttpAgent; https: HttpsAgent }

const KEEP_MS = 5_000

export function createAgents(lookup?: LookupFunction): Agents {
  const options = { keepAlive: true, maxFreeSockets: 16, timeout: KEEP_MS, lookup }
  return { http: new HttpAgent(options), https: new HttpsAgent(options) }
}

/** Resolves with the headers read and the body not. */
export function send(get: Get, signal: AbortSignal, isAgain = false): Promise<IncomingMessage> {
  const { url, headers, agents } = get
  const isHttps = url.protocol === 'https:'
  const request = isHttps ? requestHttps : requestHttp
  return new Promise((resolve, reject) => {
    const sent = request({
      protocol: url.protocol,
      hostname: url.hostname.replace(/^\[|\]$/g, ''),
      port: url.port,
      path: url.pathname + url.search,
      headers: { 'accept-encoding': 'identity', 'user-agent': 'xmasd', ...headers },
      agent: isHttps ? agents.https : agents.http,
      signal,
    })
    // Where the server switches protocols there is neither a response nor an error.
    sent.once('upgrade', (response, socket) => {
      socket.destroy()
      reject(fetchFailed(url.href, `status ${response.statusCode}`))
    })
    sent.once('response', resolve)
    sent.on('error', error => {
      // The server has closed a connection that was kept.
      if (sent.reusedSocket && !isAgain && !signal.aborted) resolve(send(get, signal, true))
      else reject(error)
    })
    sent.end()
  })
}

const RETRYABLE_STATUS: readonly number[] = [408, 425, 429, 500, 502, 503, 504]
const DRAINED_BYTES_MAX = 16_384
const BUSY_STATUS: readonly number[] = [429, 503]

/** The body of a response with status 200; `name` stands for it in messages. */
export async function readBody(
  response: IncomingMessage,
  name: string,
  limits: ImageLimits,
): Promise<Uint8Array> {
  try {
    const status = response.statusCode ?? 0
    if (status !== 200) {
      await drain(response)
      throw fetchFailed(name, `status ${status}`, {
        retryable: RETRYABLE_STATUS.includes(status),
        ...(BUSY_STATUS.includes(status) ? { retryAfterMs: retryAfterMs(response) } : {}),
      })
    }
    const encoding = response.headers['content-encoding'] ?? 'identity'
    if (encoding !== 'identity') throw fetchFailed(name, `content-encoding ${encoding}`)
    checkBytes(Number(response.headers['content-length'] ?? 0), limits)
    const parts: Uint8Array[] = []
    let bytes = 0
    for await (const part of response as AsyncIterable<Uint8Array>) {
      bytes += part.length
      checkBytes(bytes, limits)
      parts.push(part)
    }
    return Buffer.concat(parts)
  } finally {
    response.destroy()
  }
}

/** Reads a short answer to its end, so that its connection can be used again. */
async function drain(response: IncomingMessage): Promise<void> {
  let bytes = 0
  try {
    for await (const part of response as AsyncIterable<Uint8Array>) {
      bytes += part.length
      if (bytes > DRAINED_BYTES_MAX) return
    }
  } catch {
    // The status says why there is no image.
  }
}

/** Seconds, or a date. */
function retryAfterMs(response: IncomingMessage): number {
  const text = response.headers['retry-after'] ?? ''
  const ms = /^\d+$/.test(text) ? 1000 * Number(text) : Date.parse(text) - Date.now()
  return Number.isNaN(ms) ? 0 : Math.min(RETRY_AFTER_MS_MAX, Math.max(0, ms))
}

export function fetchFailed(
  name: string,
  why: string,
  options: { cause?: unknown; retryable?: boolean; retryAfterMs?: number } = {},
): XmasdError {
  return new XmasdError(
    'IMAGE_FETCH_FAILED',
    `cannot fetch ${shown(name)}: ${why}`,
    'make the URL answer with the image itself, or put the image below images.root',
    options,
  )
}
