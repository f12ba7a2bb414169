/** Images over http(s): allowed hosts and addresses only, few redirects, bounded bytes and time. */
import type { IncomingMessage } from 'node:http'
import { request as requestHttp } from 'node:http'
import { request as requestHttps } from 'node:https'
import ipaddr from 'ipaddr.js'
import { messageOf, XmasdError } from '../errors.ts'
import {
  type AddressRange,
  checkedLookup,
  forbidden,
  isAddressAllowed,
  parseAddressRanges,
} from './address.ts'
import { shown } from './decode.ts'
import { checkBytes, type ImageLimits } from './image.ts'

export type HttpSource = {
  limits: ImageLimits
  hosts: readonly string[]
  addressesAllowed: readonly string[]
}

export const REDIRECTS_MAX = 3

const REDIRECTS: readonly number[] = [301, 302, 303, 307, 308]
const RETRYABLE_STATUS: readonly number[] = [408, 425, 429, 500, 502, 503, 504]

/**
 * The body at `url`, after at most 3 redirects, each checked like the first URL. One clock runs over
 * all of it. Throws as fetchImage.
 */
export async function fetchHttp(url: string, source: HttpSource): Promise<Uint8Array> {
  const allowed = parseAddressRanges(source.addressesAllowed)
  const signal = AbortSignal.timeout(source.limits.timeMsMax)
  try {
    let at = parseUrl(url)
    for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
      checkHost(at, source.hosts, allowed)
      const response = await send(at, allowed, signal)
      const next = redirectOf(response, at)
      if (next === null) return await readBody(response, at, source.limits)
      response.destroy()
      at = next
    }
  } catch (error) {
    throw asFetchError(error, url, signal, source.limits)
  }
  throw failed(url, `more than ${REDIRECTS_MAX} redirects`)
}

function parseUrl(text: string, base?: URL): URL {
  const url = URL.canParse(text, base?.href) ? new URL(text, base?.href) : null
  if (url !== null && (url.protocol === 'http:' || url.protocol === 'https:')) return url
  throw new XmasdError(
    'IMAGE_FIELD_INVALID',
    `image leads to ${shown(text)}, no http(s) URL`,
    'write a complete http(s) URL',
  )
}

/** The URL parser has made every spelling of an IPv4 address (hex, octal, one number) dotted decimal. */
function checkHost(url: URL, hosts: readonly string[], allowed: readonly AddressRange[]): void {
  const host = hostOf(url)
  if (!hosts.some(entry => hostMatches(host, entry))) {
    throw new XmasdError(
      'IMAGE_ADDRESS_FORBIDDEN',
      `images may not come from the host ${host}`,
      'list the host under images.hosts ("*" is every public host), or put the image below images.root',
    )
  }
  // Sockets do not look up literal addresses, so the lookup would not see them.
  if (ipaddr.isValid(host) && !isAddressAllowed(host, allowed)) throw forbidden(host, host)
}

function hostOf(url: URL): string {
  return url.hostname
    .replace(/^\[|\]$/g, '')
    .replace(/\.$/, '')
    .toLowerCase()
}

function hostMatches(host: string, entry: string): boolean {
  const wanted = entry.toLowerCase().replace(/\.$/, '')
  if (wanted === '*') return true
  return wanted.startsWith('*.') ? host.endsWith(wanted.slice(1)) : host === wanted
}

/** One GET on its own connection; resolves with the headers read and the body not. */
function send(
  url: URL,
  allowed: readonly AddressRange[],
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const request = url.protocol === 'https:' ? requestHttps : requestHttp
  return new Promise((resolve, reject) => {
    const sent = request({
      protocol: url.protocol,
      hostname: url.hostname.replace(/^\[|\]$/g, ''),
      port: url.port,
      path: url.pathname + url.search,
      headers: { accept: 'image/*', 'accept-encoding': 'identity', 'user-agent': 'xmasd' },
      lookup: checkedLookup(allowed),
      agent: false,
      signal,
    })
    sent.once('response', resolve).on('error', reject).end()
  })
}

function redirectOf(response: IncomingMessage, at: URL): URL | null {
  const { location } = response.headers
  if (!REDIRECTS.includes(response.statusCode ?? 0) || location === undefined) return null
  return parseUrl(location, at)
}

async function readBody(
  response: IncomingMessage,
  url: URL,
  limits: ImageLimits,
): Promise<Uint8Array> {
  try {
    const status = response.statusCode ?? 0
    if (status !== 200) {
      throw failed(url.href, `status ${status}`, { retryable: RETRYABLE_STATUS.includes(status) })
    }
    const encoding = response.headers['content-encoding'] ?? 'identity'
    if (encoding !== 'identity') throw failed(url.href, `content-encoding ${encoding}`)
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

function failed(
  url: string,
  why: string,
  options: { cause?: unknown; retryable?: boolean } = {},
): XmasdError {
  return new XmasdError(
    'IMAGE_FETCH_FAILED',
    `cannot fetch ${shown(url)}: ${why}`,
    'make the URL answer with the image itself, or put the image below images.root',
    options,
  )
}

function asFetchError(
  error: unknown,
  url: string,
  signal: AbortSignal,
  { timeMsMax }: ImageLimits,
): XmasdError {
  if (error instanceof XmasdError) return error
  if (!signal.aborted) return failed(url, messageOf(error), { cause: error, retryable: true })
  return new XmasdError(
    'IMAGE_TIMEOUT',
    `${shown(url)} did not come whole within ${timeMsMax} ms`,
    'use a faster server or raise images.timeMsMax',
    { cause: error, retryable: true },
  )
}
