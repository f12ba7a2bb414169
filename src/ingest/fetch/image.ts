/** The bytes of an image: from a file below the root, a data: URL, or http(s) under limits. */
import { accessSync, constants, statSync } from 'node:fs'
import { messageOf, XmasdError } from '../../errors.ts'
import { withDeadline } from '../deadline.ts'
import { dataUrl, isBareBase64 } from '../form/images.ts'
import { shown } from '../form/json.ts'
import { checkBytes, type ImageLimits } from '../image/pixels.ts'
import { type FileSource, readFileBelow } from './file.ts'
import { fetchHttp, type HttpSource } from './http.ts'
import { fetchObject, OBJECT_SCHEMES, type StoreSource, type Timed } from './store.ts'

export type ImageSource = FileSource & HttpSource & StoreSource

/** Throws CONFIG_INVALID where the image root is no folder that this user may look into. */
export function checkImageRoot(root: string): void {
  try {
    if (!statSync(root).isDirectory()) throw new Error('it is no folder')
    accessSync(root, constants.X_OK)
  } catch (cause) {
    throw new XmasdError(
      'CONFIG_INVALID',
      `images.root is ${root}: ${messageOf(cause)}`,
      'set images.root, or XMASD_IMAGES_ROOT, to the folder of the images; an empty one where none is named by path',
      { cause },
    )
  }
}

/**
 * Reads the bytes that an example's `image` refers to, within `timeMsMax` from the first look-up to the
 * last byte; `onWait` is called now and then while it waits for its turn at a host before that. Throws IMAGE_FIELD_INVALID, IMAGE_OUTSIDE_ROOT, IMAGE_NOT_FOUND, IMAGE_UNREADABLE,
 * IMAGE_ADDRESS_FORBIDDEN, IMAGE_FETCH_FAILED, IMAGE_TOO_MANY_BYTES or IMAGE_TIMEOUT.
 */
export async function fetchImage(
  reference: string,
  source: ImageSource,
  onWait: () => void = () => {},
): Promise<Uint8Array> {
  const scheme = SCHEME.exec(reference)?.[1]?.toLowerCase()
  if (scheme === 'data') return readDataUrl(reference, source.limits)
  const isHttp = scheme === 'http' || scheme === 'https'
  const isObject = OBJECT_SCHEMES.includes(scheme ?? '')
  const isRemote = isHttp || isObject
  if (!isRemote && (reference.includes('\0') || /^[a-z][a-z0-9+.-]+:\/\//i.test(reference))) {
    throw new XmasdError(
      'IMAGE_FIELD_INVALID',
      `image is ${shown(reference)}`,
      'image must be a path below the image root, a data: URL, an http(s), s3 or gs URL',
    )
  }
  const late = () => timedOut(reference, source.limits)
  const timed: Timed = work => withDeadline(source.limits.timeMsMax, late, work)
  if (isHttp) return await fetchHttp(reference, source, timed, onWait)
  if (isObject) return await fetchObject(reference, source, timed, onWait)
  try {
    return await timed(() => readFileBelow(reference, source))
  } catch (error) {
    throw isBareBase64(reference) ? bareBase64(reference) : error
  }
}

function bareBase64(reference: string): XmasdError {
  return new XmasdError(
    'IMAGE_FIELD_INVALID',
    `image is ${shown(reference)}: bytes in base64, read as a path`,
    `write ${dataUrl(reference.slice(0, 6))}…, or give them as {"bytes"}`,
  )
}

const SCHEME = /^([a-z][a-z0-9+.-]+):/i

function timedOut(reference: string, { timeMsMax }: ImageLimits): XmasdError {
  return new XmasdError(
    'IMAGE_TIMEOUT',
    `${shown(reference)} did not come whole within ${timeMsMax} ms`,
    'use a faster server or disk, or raise images.timeMsMax',
    { retryable: true },
  )
}

const DATA_HEADER_CHARACTERS_MAX = 1024

/** `data:[type][;base64],content`, RFC 2397. */
function readDataUrl(url: string, limits: ImageLimits): Uint8Array {
  const comma = url.slice(0, DATA_HEADER_CHARACTERS_MAX).indexOf(',')
  if (comma < 0) throw badDataUrl(url)
  const content = url.slice(comma + 1)
  if (!/;\s*base64\s*$/i.test(url.slice(0, comma))) {
    const bytes = percentDecoded(content, url)
    checkBytes(bytes.length, limits)
    return bytes
  }
  const plain = content.includes('%') ? percentDecoded(content, url).toString('latin1') : content
  const padded = plain.replace(/\s+/g, '')
  // Not a regex for what stands at the end: it starts anew at every "=".
  let end = padded.length
  while (end > 0 && padded[end - 1] === '=') end--
  const base64 = padded.slice(0, end)
  checkBytes(Math.floor((end * 3) / 4), limits)
  if (/[^A-Za-z0-9+/_-]/.test(base64)) throw badDataUrl(url)
  return Buffer.from(base64, 'base64')
}

function percentDecoded(text: string, url: string): Buffer {
  if (/[^\x20-\x7e\s]/.test(text)) throw badDataUrl(url)
  const bytes = text.replace(/%([0-9a-f]{2})/gi, (_, hex: string) =>
    String.fromCharCode(Number.parseInt(hex, 16)),
  )
  return Buffer.from(bytes, 'latin1')
}

function badDataUrl(url: string): XmasdError {
  return new XmasdError(
    'IMAGE_FIELD_INVALID',
    `image is no data: URL: ${shown(url)}`,
    'write data:image/png;base64,… with the bytes of the image in base64',
  )
}
