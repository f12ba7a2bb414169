/** The bytes of an image: from a file below the root, a data: URL, or http(s) under limits. */
import { accessSync, constants, statSync } from 'node:fs'
import { type FileHandle, lstat, open, realpath } from 'node:fs/promises'
import { isAbsolute, relative, resolve, sep } from 'node:path'
import { messageOf, XmasdError } from '../errors.ts'
import { shown } from './decode.ts'
import { fetchHttp } from './fetch-http.ts'
import { checkBytes, type ImageLimits } from './image.ts'

export type ImageSource = {
  /** Folder that image paths are relative to, and that none may leave. */
  root: string
  limits: ImageLimits
  /** Hosts that http(s) images may come from: names, `*.suffix`, or `*` for all. Empty: none. */
  hosts: readonly string[]
  /** CIDRs of addresses that are fetched from although they are not public. */
  addressesAllowed: readonly string[]
}

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
 * Reads the bytes that an example's `image` refers to. Throws IMAGE_FIELD_INVALID, IMAGE_OUTSIDE_ROOT,
 * IMAGE_NOT_FOUND, IMAGE_UNREADABLE, IMAGE_ADDRESS_FORBIDDEN, IMAGE_FETCH_FAILED, IMAGE_TOO_MANY_BYTES
 * or IMAGE_TIMEOUT.
 */
export async function fetchImage(reference: string, source: ImageSource): Promise<Uint8Array> {
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(reference)?.[1]?.toLowerCase()
  if (scheme === 'data') return readDataUrl(reference, source.limits)
  if (scheme === 'http' || scheme === 'https') return await fetchHttp(reference, source)
  if (reference.includes('\0') || /^[a-z][a-z0-9+.-]+:\/\//i.test(reference)) {
    throw new XmasdError(
      'IMAGE_FIELD_INVALID',
      `image is ${shown(reference)}`,
      'image must be a path below the image root, a data: URL or an http(s) URL',
    )
  }
  return await readFileBelow(reference, source)
}

async function readFileBelow(path: string, { root, limits }: ImageSource): Promise<Uint8Array> {
  const lexical = resolve(root, path)
  try {
    const rootReal = await realpath(root)
    if (!isBelow(resolve(root), lexical) && !isBelow(rootReal, lexical)) throw outside(path)
    const real = await realpath(lexical)
    if (!isBelow(rootReal, real)) throw outside(path)
    // A look before opening, because opening a device or a FIFO can already do something.
    if (!(await lstat(real)).isFile()) throw notRegular(path)
    const file = await openForReading(real)
    try {
      return await readRegular(file, path, limits)
    } finally {
      await file.close()
    }
  } catch (error) {
    if (error instanceof XmasdError) throw error
    throw unreadable(path, root, error)
  }
}

/** `O_NONBLOCK` and `O_NOFOLLOW`, so that a path swapped after the look neither hangs nor leads away. */
function openForReading(path: string): Promise<FileHandle> {
  return open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | (constants.O_NOFOLLOW ?? 0))
}

async function readRegular(
  file: FileHandle,
  path: string,
  limits: ImageLimits,
): Promise<Uint8Array> {
  const stat = await file.stat()
  if (!stat.isFile()) throw notRegular(path)
  checkBytes(stat.size, limits)
  // One byte more than announced shows a file that grows.
  const buffer = Buffer.allocUnsafe(Math.min(stat.size, limits.bytesMax) + 1)
  let length = 0
  while (length < buffer.length) {
    const { bytesRead } = await file.read(buffer, length, buffer.length - length, length)
    if (bytesRead === 0) return buffer.subarray(0, length)
    length += bytesRead
  }
  throw new XmasdError(
    'IMAGE_UNREADABLE',
    `${shown(path)} grew while it was read`,
    'write images whole before their example is produced',
    { retryable: true },
  )
}

function isBelow(folder: string, path: string): boolean {
  const steps = relative(folder, path)
  return steps !== '..' && !steps.startsWith(`..${sep}`) && !isAbsolute(steps)
}

function outside(path: string): XmasdError {
  return new XmasdError(
    'IMAGE_OUTSIDE_ROOT',
    `image ${shown(path)} leaves the image root`,
    'keep images below images.root; links must not lead out of it',
  )
}

function notRegular(path: string): XmasdError {
  return new XmasdError(
    'IMAGE_UNREADABLE',
    `image ${shown(path)} is no regular file`,
    'name an image file',
  )
}

function unreadable(path: string, root: string, cause: unknown): XmasdError {
  const code = (cause as NodeJS.ErrnoException).code ?? ''
  if (['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'].includes(code)) {
    return new XmasdError(
      'IMAGE_NOT_FOUND',
      `there is no image ${shown(path)} below ${root}`,
      'put the image there, or set images.root to the folder that paths are relative to',
      { cause },
    )
  }
  const retryable = ['EIO', 'EMFILE', 'ENFILE', 'EAGAIN', 'ESTALE'].includes(code)
  return new XmasdError(
    'IMAGE_UNREADABLE',
    `cannot read image ${shown(path)}: ${messageOf(cause)}`,
    'let the daemon read the file',
    { cause, retryable },
  )
}

/** `data:[type][;base64],content`, RFC 2397. */
function readDataUrl(url: string, limits: ImageLimits): Uint8Array {
  const comma = url.indexOf(',')
  if (comma < 0) throw badDataUrl(url)
  const content = url.slice(comma + 1)
  if (!/;\s*base64\s*$/i.test(url.slice(0, comma))) {
    const bytes = percentDecoded(content, url)
    checkBytes(bytes.length, limits)
    return bytes
  }
  const base64 = (content.includes('%') ? percentDecoded(content, url).toString('latin1') : content)
    .replace(/\s+/g, '')
    .replace(/=+$/, '')
  checkBytes(Math.floor((base64.length * 3) / 4), limits)
  if (!/^[A-Za-z0-9+/_-]*$/.test(base64)) throw badDataUrl(url)
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
