/** Images over http(s): allowed hosts and addresses only, few redirects, bounded bytes. */
import type { IncomingMessage } from 'node:http'
import ipaddr from 'ipaddr.js'
import { messageOf, XmasdError } from '../../errors.ts'
import { shown } from '../form/json.ts'
import type { ImageLimits } from '../image/pixels.ts'
import {
  type AddressRange,
  checkedLookup,
  forbidden,
  isAddressAllowed,
  parseAddressRanges,
} from './address.ts'
import { HOST_LIMITS, type HostLimits, inTurn } from './gate.ts'
import { type HostHeaders, headersFor } from './headers.ts'
import type { Timed } from './store.ts'
import { type Agents, createAgents, fetchFailed, readBody, send } from './transport.ts'

export type HttpSource = {
  limits: ImageLimits
  /** Hosts that http(s) images may come from: names, `*.suffix`, or `*` for all. Empty: none. */
  hosts: readonly string[]
  /** CIDRs of addresses that are fetched from although they are not public. */
  addressesAllowed: readonly string[]
  hostLimits?: HostLimits | undefined
  /** YAML or JSON: what is sent to which host; see `headers.ts`. */
  headersFile?: string | undefined
}

export const REDIRECTS_MAX = 3

const REDIRECTS: readonly number[] = [301, 302, 303, 307, 308]

/** Longest URL in characters: longer ones cost the parser more than linear time. */
const URL_CHARACTERS_MAX = 8192

/**
 * The body at `url`, after at most 3 redirects, each checked like the first URL; `timed` bounds it from the
 * first look-up on. Throws as fetchImage.
 */
export async function fetchHttp(
  url: string,
  source: HttpSource,
  timed: Timed,
  onWait: () => void,
): Promise<Uint8Array> {
  const allowed = parseAddressRanges(source.addressesAllowed)
  const headers = headersFor(source.headersFile)
  const first = parseUrl(url)
  checkHost(first, source.hosts, allowed)
  const { hostLimits = HOST_LIMITS } = source
  return await inTurn(first.host, hostLimits, onWait, () =>
    timed(signal => follow(first, source, { allowed, headers, signal })),
  )
}

type Following = { allowed: AddressRange[]; headers: HostHeaders; signal: AbortSignal }

async function follow(
  first: URL,
  { limits, hosts, addressesAllowed }: HttpSource,
  { allowed, headers, signal }: Following,
): Promise<Uint8Array> {
  const agents = agentsFor(addressesAllowed, allowed)
  let at = first
  try {
    for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
      checkHost(at, hosts, allowed)
      const own = { accept: 'image/*', ...headers(at) }
      const response = await send({ url: at, headers: own, agents }, signal)
      const next = redirectOf(response, at)
      if (next === null) return await readBody(response, at.href, limits)
      response.destroy()
      at = next
    }
  } catch (error) {
    if (error instanceof XmasdError) throw error
    throw fetchFailed(at.href, messageOf(error), { cause: error, retryable: true })
  }
  throw fetchFailed(first.href, `more than ${REDIRECTS_MAX} redirects`)
}

const agentsByRanges = new Map<string, Agents>()

/** A connection is checked when it is opened: those of other ranges are not reused. */
function agentsFor(texts: readonly string[], allowed: readonly AddressRange[]): Agents {
  const name = texts.join(' ')
  const agents = agentsByRanges.get(name) ?? createAgents(checkedLookup(allowed))
  agentsByRanges.set(name, agents)
  return agents
}

function parseUrl(text: string, base?: URL): URL {
  const url =
    text.length <= URL_CHARACTERS_MAX && URL.canParse(text, base?.href)
      ? new URL(text, base?.href)
      : null
  if (url !== null && (url.protocol === 'http:' || url.protocol === 'https:')) return url
  throw new XmasdError(
    'IMAGE_FIELD_INVALID',
    `image leads to ${shown(text)}, no http(s) URL of at most ${URL_CHARACTERS_MAX} characters`,
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

function redirectOf(response: IncomingMessage, at: URL): URL | null {
  const { location } = response.headers
  if (!REDIRECTS.includes(response.statusCode ?? 0) || location === undefined) return null
  return parseUrl(location, at)
}
