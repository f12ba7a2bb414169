/**
 * Which addresses images may be fetched from. Every address a connection could use is checked: the
 * literal in the URL, and each answer of the name service, in the very lookup that the socket uses.
 */
import { lookup } from 'node:dns'
import type { LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
import { XmasdError } from '../../errors.ts'

/** A name, `*.suffix`, or `*`; `*.` alone would be every host. */
export const HOST =
  /^(?:\*|(?:\*\.)?[^\s*./:@]+(?:\.[^\s*./:@]+)*\.?|\[?[0-9a-f:.]*:[0-9a-f:.]*\]?)$/i
export const HOST_RULE =
  'write a host name, "*.example.org" for its subdomains, or "*" for every public host'

export const BUCKET = /^(?:s3|gs):\/\/[a-z0-9][a-z0-9._-]{1,220}(?:\/.*)?$/
export const BUCKET_RULE = 'write s3://BUCKET or gs://BUCKET, or with a prefix, s3://BUCKET/FOLDER'

type Address = ReturnType<typeof ipaddr.process>
export type AddressRange = [Address, number]

/** Platform services on addresses that look public: Azure's metadata and agent endpoint. */
const METADATA_ADDRESSES: readonly string[] = ['168.63.129.16']
/** All of IPv6 that is assigned for global unicast, 2000::/3; the rest is not reached through it. */
const GLOBAL_UNICAST_V6 = ipaddr.IPv6.parseCIDR('2000::/3')

/** Parses CIDRs or single addresses. Throws CONFIG_INVALID naming the one that is neither. */
export function parseAddressRanges(texts: readonly string[]): AddressRange[] {
  return texts.map(text => {
    try {
      if (text.includes('/')) return ipaddr.parseCIDR(text)
      const address = ipaddr.process(text)
      return [address, address.kind() === 'ipv4' ? 32 : 128]
    } catch (error) {
      throw new XmasdError(
        'CONFIG_INVALID',
        `images.addressesAllowed has ${JSON.stringify(text)}, no address range`,
        'write CIDRs such as 10.1.0.0/16 or fd00::/8',
        { cause: error },
      )
    }
  })
}

/**
 * May an image come from this address: public unicast, or in `allowed`. Loopback, private, link-local,
 * metadata, multicast, reserved and every tunnelled or mapped form are not public.
 */
export function isAddressAllowed(text: string, allowed: readonly AddressRange[]): boolean {
  if (!ipaddr.isValid(text)) return false
  const address = ipaddr.process(text)
  const listed = allowed.some(
    ([range, bits]) => range.kind() === address.kind() && address.match(range, bits),
  )
  return listed || isPublic(address)
}

function isPublic(address: Address): boolean {
  if (address.range() !== 'unicast' || METADATA_ADDRESSES.includes(address.toString())) return false
  return address.kind() === 'ipv4' || address.match(GLOBAL_UNICAST_V6)
}

/** The error for a host with an address that images may not come from. */
export function forbidden(host: string, address: string): XmasdError {
  return new XmasdError(
    'IMAGE_ADDRESS_FORBIDDEN',
    `the image's host ${host} is at ${address}, which is not a public address`,
    'serve images from a public address, or list its range under images.addressesAllowed',
  )
}

/**
 * A `lookup` for node:http(s) that fails with IMAGE_ADDRESS_FORBIDDEN where any address of the name is
 * forbidden. Sockets connect to what it returns, so no second answer can slip in.
 */
export function checkedLookup(allowed: readonly AddressRange[]): LookupFunction {
  return (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, addresses) => {
      const bad = error ? undefined : addresses.find(a => !isAddressAllowed(a.address, allowed))
      const failure = error ?? (bad && forbidden(hostname, bad.address))
      if (failure) callback(failure, '')
      else if (options.all) callback(null, addresses)
      else callback(null, addresses[0]!.address, addresses[0]!.family)
    })
  }
}
