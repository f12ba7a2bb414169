/**
 * An image from a file below the root: under the path as given, else under the one other spelling that is
 * there. Nothing outside of the root is opened.
 */
import { constants } from 'node:fs'
import { type FileHandle, lstat, open, opendir, realpath, stat } from 'node:fs/promises'
import { dirname, isAbsolute, join, relative, resolve, sep } from 'node:path'
import { LRUCache } from 'lru-cache'
import { messageOf, XmasdError } from '../../errors.ts'
import { shown } from '../form/json.ts'
import { checkBytes, type ImageLimits } from '../image/pixels.ts'

export type FileSource = {
  /** Folder that image paths are relative to, and that none may leave. */
  root: string
  limits: ImageLimits
  /** Told of an image that is there under another spelling of its path. */
  onOtherName?: ((note: string) => void) | undefined
}

/**
 * The bytes of the file `path` below the root. Throws IMAGE_OUTSIDE_ROOT, IMAGE_NOT_FOUND, IMAGE_UNREADABLE or
 * IMAGE_TOO_MANY_BYTES.
 */
export async function readFileBelow(path: string, source: FileSource): Promise<Uint8Array> {
  try {
    return await readBelow(path, source)
  } catch (error) {
    if (!(error instanceof XmasdError && error.code === 'IMAGE_NOT_FOUND')) throw error
    const other = await otherSpelling(path, source.root)
    if (other === undefined) throw error
    const bytes = await readBelow(other, source)
    source.onOtherName?.(`there is no image ${shown(path)}; ${shown(other)} was read instead`)
    return bytes
  }
}

async function readBelow(path: string, { root, limits }: FileSource): Promise<Uint8Array> {
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

/* Other spellings: backslashes, percent-encoding, and names that differ in case or Unicode form. */

/** Characters; no system has longer paths. */
const PATH_MAX = 4096

/** The path of the one file below `root` that `path` can mean; undefined where there is none, or several. */
async function otherSpelling(path: string, root: string): Promise<string | undefined> {
  if (path.length > PATH_MAX) return undefined
  const spellings = [path, path.replaceAll('\\', '/'), percentDecoded(path.replaceAll('\\', '/'))]
  for (const spelling of new Set(spellings)) {
    const found = await foldedPath(resolve(root, spelling), resolve(root)).catch(() => undefined)
    if (found !== undefined) return relative(resolve(root), found)
  }
  return undefined
}

function percentDecoded(path: string): string {
  try {
    return decodeURIComponent(path)
  } catch {
    return path
  }
}

/** `path` with the names that are there, from the root on; undefined where one is missing or ambiguous. */
async function foldedPath(path: string, root: string): Promise<string | undefined> {
  if (path === root) return root
  if (!isBelow(root, path)) return undefined
  const folder = await foldedPath(dirname(path), root)
  if (folder === undefined) return undefined
  const name = path.slice(dirname(path).length).replace(/^[\\/]/, '')
  if (await stat(join(folder, name)).then(Boolean, () => false)) return join(folder, name)
  const other = (await namesIn(folder)).get(folded(name))
  return other ? join(folder, other) : undefined
}

function folded(name: string): string {
  return name.normalize('NFC').toLowerCase()
}

/** The name of each folded one, null where several fold to it. */
type Names = ReadonlyMap<string, string | null>

/** In a larger folder only the exact name is found: a listing costs too much time and memory. */
const NAMES_MAX = 200_000
/** A folder that changes all the time is not listed for each image that it lacks. */
const LISTING_MS = 10_000
const listings = new LRUCache<string, Promise<Names>>({ max: 16, ttl: LISTING_MS })

function namesIn(folder: string): Promise<Names> {
  const known = listings.get(folder)
  if (known !== undefined) return known
  const listing = listNames(folder)
  listing.catch(() => listings.delete(folder))
  listings.set(folder, listing)
  return listing
}

async function listNames(folder: string): Promise<Names> {
  const names = new Map<string, string | null>()
  for await (const { name } of await opendir(folder)) {
    const key = folded(name)
    names.set(key, names.has(key) ? null : name)
    if (names.size > NAMES_MAX) return new Map()
  }
  return names
}
