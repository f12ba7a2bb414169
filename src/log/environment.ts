/**
 * One LMDB environment: the folder that holds a local log. A process opens a folder once (LMDB's
 * rule) and shares it between the logs it opens there; other processes may have it open too.
 */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readSync,
  realpathSync,
  statSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { type Database, open, type RootDatabase } from 'lmdb'
import { messageOf, XmasdError } from '../errors.ts'

const FORMAT = { magic: 'xmasd-log', version: 1 }
const FORMAT_KEY = 'format'
const LMDB_MAGIC = 0xbeefc0de
const LMDB_VERSION = 2
const FOREIGN = 'not a database'
const FILES = ['data.mdb', 'lock.mdb'] as const

/** [topic number, partition, offset] */
export type RecordKey = [number, number, number]
/** Past every offset. */
export const OFFSET_MAX = Number.MAX_SAFE_INTEGER

/** A meta entry: a topic's description, an end, a position, the sequence: see `local-topics.ts`. */
export type MetaKey = (string | number)[]

export type Environment = {
  path: string
  readonly: boolean
  root: RootDatabase<unknown, string>
  meta: Database<unknown, MetaKey>
  records: Database<Buffer, RecordKey>
  /** Of compacted topics: a key's bytes → the offset of its latest record. */
  latest: Database<Buffer, Buffer>
  state: Database<Buffer, (string | number)[]>
  /** Ends when the last write that was asked for has ended. */
  writing: Promise<unknown>
  /** Why a commit failed: after that lmdb may wait for ever, so no write is tried again. */
  failed: XmasdError | undefined
  /** Present while a write that gives way to other code is half done: reads would see its half. */
  halfDone: Promise<unknown> | undefined
  /** Called after every write of this process. */
  waiting: Set<() => void>
  users: number
  closing: Promise<void> | undefined
}

/** The environments that this process has open, by real path: LMDB forbids opening one twice. */
const environments = new Map<string, Environment>()

/** Opens the folder, or joins the environment that this process already has open there. */
export async function acquireEnvironment(path: string, readonly: boolean): Promise<Environment> {
  const folder = prepareFolder(path, readonly)
  for (;;) {
    const known = environments.get(folder)
    if (known === undefined) break
    if (known.closing !== undefined) {
      await known.closing
      continue
    }
    if (known.readonly && !readonly) {
      throw new Error(`${path} is open for reading only in this process`)
    }
    known.users++
    return known
  }
  const environment = openEnvironment(folder, readonly)
  environments.set(folder, environment)
  return environment
}

/** Leaves the environment; the last one closes it after the writes under way. */
export async function releaseEnvironment(environment: Environment): Promise<void> {
  if (--environment.users > 0) return
  environment.closing = environment.writing
    .then(() => environment.root.close())
    .finally(() => environments.delete(environment.path))
  await environment.closing
}

/**
 * Whether a log could be written in the folder, as far as that shows without making anything.
 * Throws LOG_UNAVAILABLE.
 */
export function checkWritable(path: string): void {
  const { R_OK, W_OK, X_OK } = constants
  try {
    const folder = nearestExisting(path)
    if (!statSync(folder).isDirectory()) throw new Error(`${folder} is a file`)
    for (const file of FILES.map(name => join(path, name))) {
      if (existsSync(file)) accessSync(file, R_OK | W_OK)
      else accessSync(folder, W_OK | X_OK)
    }
  } catch (error) {
    throw unusable(path, error, WRITABLE_HINT)
  }
}

/** The path, or the folder nearest above it that is there. */
export function nearestExisting(path: string): string {
  return existsSync(path) || dirname(path) === path ? path : nearestExisting(dirname(path))
}

const WRITABLE_HINT = 'set log.path to a folder that this user may create and write'

function unusable(path: string, error: unknown, hint: string): XmasdError {
  const message = `cannot open the log folder ${path}: ${messageOf(error)}`
  return new XmasdError('LOG_UNAVAILABLE', message, hint, { cause: error })
}

function prepareFolder(path: string, readonly: boolean): string {
  try {
    const found = statSync(path, { throwIfNoEntry: false })
    if (found !== undefined && !found.isDirectory()) throw new Error('it is a file')
    if (found === undefined && readonly) throw new Error('there is no such folder')
    if (found === undefined) mkdirSync(path, { recursive: true })
    return realpathSync(path)
  } catch (error) {
    const hint = readonly
      ? 'name the folder of a log that `xmasd run` or `xmasd produce` has written'
      : WRITABLE_HINT
    throw unusable(path, error, hint)
  }
}

function openEnvironment(path: string, readonly: boolean): Environment {
  let root: RootDatabase<unknown, string> | undefined
  try {
    checkFiles(path, readonly)
    root = openRoot(path, readonly)
    checkFormat(root, path, readonly)
    root.readerCheck()
    return {
      path,
      readonly,
      root,
      meta: root.openDB({ name: 'meta', encoding: 'json' }),
      records: root.openDB({ name: 'records', encoding: 'binary', ...recordKeys }),
      latest: root.openDB({ name: 'latest', encoding: 'binary', keyEncoding: 'binary' }),
      state: root.openDB({ name: 'state', encoding: 'binary' }),
      writing: Promise.resolve(),
      failed: undefined,
      halfDone: undefined,
      waiting: new Set(),
      users: 1,
      closing: undefined,
    }
  } catch (error) {
    void root?.close()
    if (error instanceof XmasdError) throw error
    throw unopened(path, error)
  }
}

/** Whether a log would begin at `path`: it is a folder without one, or is not there yet. */
export function isUnwritten(path: string): boolean {
  const found = statSync(path, { throwIfNoEntry: false })
  return found === undefined || (found.isDirectory() && !existsSync(join(path, FILES[0])))
}

/** lmdb ends the process where its files can't be opened or are not its own: look first. */
function checkFiles(path: string, readonly: boolean): void {
  for (const name of FILES) {
    const file = join(path, name)
    const found = statSync(file, { throwIfNoEntry: false })
    if (found === undefined) {
      if (readonly && name === 'data.mdb') throw new Error('nothing was written there yet')
      continue
    }
    const opened = openSync(file, readonly ? 'r' : 'r+')
    try {
      if (!found.isFile()) throw new Error(`${name} is not a file`)
      if (name === 'data.mdb' && found.size > 0) checkHeader(opened)
    } finally {
      closeSync(opened)
    }
  }
}

/** LMDB's first page: 24 bytes, then its magic number and the version of its format. */
function checkHeader(opened: number): void {
  const header = new Uint32Array(2)
  const size = readSync(opened, header, 0, 8, 24)
  if (size === 8 && header[0] === LMDB_MAGIC && header[1] === LMDB_VERSION) return
  throw new Error(`${FOREIGN}: data.mdb does not begin as one`)
}

function openRoot(path: string, readonly: boolean): RootDatabase<unknown, string> {
  return open<unknown, string>({
    path,
    readOnly: readonly,
    encoding: 'json',
    // A path that ends like a file's name would otherwise be taken for a file.
    noSubdir: false,
    // A commit is on the disk before its promise resolves.
    overlappingSync: false,
    // With batching a failed commit also rejects a promise of lmdb's own, which ends the process.
    eventTurnBatching: false,
  })
}

/** Record keys: 2 bytes topic, 2 bytes partition, 8 bytes offset, big-endian, so that they sort. */
const recordKeys = {
  keyEncoder: {
    writeKey(key: RecordKey, target: Uint8Array, at: number): number {
      const high = Math.floor(key[2] / 0x100000000)
      const low = key[2] >>> 0
      target[at] = key[0] >>> 8
      target[at + 1] = key[0]
      target[at + 2] = key[1] >>> 8
      target[at + 3] = key[1]
      for (let i = 0; i < 4; i++) {
        target[at + 4 + i] = high >>> (24 - 8 * i)
        target[at + 8 + i] = low >>> (24 - 8 * i)
      }
      return at + 12
    },
    readKey(source: Uint8Array, at: number): RecordKey {
      const u16 = (i: number) => source[at + i]! * 0x100 + source[at + i + 1]!
      return [
        u16(0),
        u16(2),
        (u16(4) * 0x10000 + u16(6)) * 0x100000000 + u16(8) * 0x10000 + u16(10),
      ]
    },
  },
}

function checkFormat(root: RootDatabase<unknown, string>, path: string, readonly: boolean): void {
  if (!readonly && isEmpty(root)) {
    root.transactionSync(() => {
      if (isEmpty(root)) root.put(FORMAT_KEY, FORMAT)
    })
  }
  if (isEmpty(root)) throw new Error('nothing was written there yet')
  const found = readFormat(root)
  if (found?.magic !== FORMAT.magic) {
    throw new XmasdError(
      'STATE_INVALID',
      `${path} holds a database that is not a log of xmasd`,
      'set log.path to an empty folder or to the folder of a log',
    )
  }
  if (found.version !== FORMAT.version) {
    throw new XmasdError(
      'STATE_INVALID',
      `the log at ${path} has format ${found.version}, this version reads format ${FORMAT.version}`,
      'use the version of xmasd that wrote it, or set log.path to a new folder',
    )
  }
}

function isEmpty(root: RootDatabase<unknown, string>): boolean {
  return root.getKeysCount({ limit: 1 }) === 0
}

function readFormat(root: RootDatabase<unknown, string>): Partial<typeof FORMAT> | undefined {
  try {
    const found = root.get(FORMAT_KEY)
    return typeof found === 'object' && found !== null ? found : undefined
  } catch {
    return undefined
  }
}

function unopened(path: string, error: unknown): XmasdError {
  const message = messageOf(error)
  const foreign =
    message.startsWith(FOREIGN) || /MDB_INVALID|MDB_VERSION_MISMATCH|MDB_CORRUPTED/.test(message)
  return new XmasdError(
    foreign ? 'STATE_INVALID' : 'LOG_UNAVAILABLE',
    `cannot open the log at ${path}: ${message}`,
    foreign
      ? 'data.mdb there is damaged or no log: restore it, or set log.path to a new folder'
      : 'check that the folder exists, that this user may write it, and that its disk has space',
    { cause: error },
  )
}
