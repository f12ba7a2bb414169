/**
 * One LMDB environment: the folder that holds a local log. LMDB allows a process to open a folder
 * once, so the logs of a process share it. Other processes may have it open too.
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
import { messageOf, XmasdError } from '../../errors.ts'
import { Waiters } from '../log.ts'

const FORMAT = { magic: 'xmasd-log', version: 1 }
const FORMAT_KEY = 'format'
const LMDB_MAGIC = 0xbeefc0de
const LMDB_VERSION = 2
const FOREIGN = 'not a database'
const FILES = ['data.mdb', 'lock.mdb'] as const

/** [topic number, partition, offset] */
export type RecordKey = [number, number, number]
/** Above every offset. */
export const OFFSET_MAX = Number.MAX_SAFE_INTEGER

/** The key of a topic's description, an end, a position or the sequence: see `topics.ts`. */
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
  /** Settles when the last requested write has ended. */
  writing: Promise<unknown>
  /** Why a commit failed: LMDB may block for ever after that, so later writes fail with it too. */
  failed: XmasdError | undefined
  /** Present while a write that yields to other code is half done: reads would see its half. */
  halfDone: Promise<unknown> | undefined
  /** Woken after every write of this process. */
  polls: Waiters
  users: number
  closing: Promise<void> | undefined
}

/** The environments that this process has open, by real path. */
const environments = new Map<string, Environment>()

/** Opens the folder, or joins the environment that this process already has open there. */
export async function acquireEnvironment(path: string, readonly: boolean): Promise<Environment> {
  const folder = prepareFolder(path, readonly)
  let known = environments.get(folder)
  while (known?.closing !== undefined) {
    await known.closing
    known = environments.get(folder)
  }
  if (known === undefined) {
    const opened = openEnvironment(folder, readonly)
    environments.set(folder, opened)
    return opened
  }
  if (known.readonly && !readonly)
    throw new Error(`${path} is open for reading only in this process`)
  known.users++
  return known
}

/** Leaves the environment; the last user closes it after the writes in progress. */
export async function releaseEnvironment(environment: Environment): Promise<void> {
  if (--environment.users > 0) return
  environment.closing = environment.writing
    .then(() => environment.root.close())
    .finally(() => environments.delete(environment.path))
  await environment.closing
}

/**
 * Refuses further writes of this process and resolves once those in progress have ended. A process that
 * exits within a write never ends: it waits for LMDB's thread, which waits for the write's callback.
 */
async function endWrites(): Promise<void> {
  const open = [...environments.values()]
  for (const environment of open) {
    environment.failed ??= unusable(environment.path, 'the process is ending', 'start it again')
  }
  await Promise.all(open.map(({ writing }) => writing))
}

/**
 * Exits once the writes in progress and `ending` have ended. What has not ended after `msMax` is within
 * native code: only a kill ends the process.
 */
export function exitAfterWrites(code: number, msMax: number, ending = Promise.resolve()): void {
  setTimeout(() => process.kill(process.pid, 'SIGKILL'), msMax).unref()
  void Promise.all([ending, endWrites()]).finally(() => process.exit(code))
}

/** Throws LOG_UNAVAILABLE where no log could be written in the folder; creates nothing. */
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

/** The path, or the nearest folder above it that exists. */
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
      polls: new Waiters(),
      users: 1,
      closing: undefined,
    }
  } catch (error) {
    void root?.close()
    if (error instanceof XmasdError) throw error
    throw unopened(path, error)
  }
}

/** Whether `path` holds no log yet: a folder without one, or nothing. */
export function isUnwritten(path: string): boolean {
  const found = statSync(path, { throwIfNoEntry: false })
  return found === undefined || (found.isDirectory() && !existsSync(join(path, FILES[0])))
}

/** LMDB ends the process where its files can't be opened or are not its own: check first. */
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

/** LMDB's first page: 24 bytes, then the magic number and the version of the format. */
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
    // Otherwise lmdb takes a path with an extension for a file.
    noSubdir: false,
    // A commit is on the disk before its promise resolves.
    overlappingSync: false,
    // With batching, a failed commit also rejects a promise inside lmdb, which ends the process.
    eventTurnBatching: false,
  })
}

/** Record keys: 2 bytes topic, 2 bytes partition, 8 bytes offset, big-endian, so that they sort. */
const recordKeys = {
  keyEncoder: {
    writeKey([topic, partition, offset]: RecordKey, target: Uint8Array, at: number): number {
      const words = [topic * 0x10000 + partition, Math.floor(offset / 2 ** 32), offset]
      for (let i = 0; i < 12; i++) target[at + i] = words[i >> 2]! >>> (24 - 8 * (i & 3))
      return at + 12
    },
    readKey(source: Uint8Array, at: number): RecordKey {
      const high = readU16(source, at + 4) * 0x10000 + readU16(source, at + 6)
      const low = readU16(source, at + 8) * 0x10000 + readU16(source, at + 10)
      return [readU16(source, at), readU16(source, at + 2), high * 2 ** 32 + low]
    },
  },
}

function readU16(source: Uint8Array, at: number): number {
  return source[at]! * 0x100 + source[at + 1]!
}

function checkFormat(root: RootDatabase<unknown, string>, path: string, readonly: boolean): void {
  const isEmpty = (): boolean => root.getKeysCount({ limit: 1 }) === 0
  if (!readonly && isEmpty()) {
    root.transactionSync(() => {
      if (isEmpty()) root.put(FORMAT_KEY, FORMAT)
    })
  }
  if (isEmpty()) throw new Error('nothing was written there yet')
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
