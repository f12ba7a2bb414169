/**
 * The folder of a local log while a daemon runs on it: one daemon at a time, unless `log.shared`, and
 * only as long as the folder is there.
 */
import { readFileSync, statSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { XmasdError } from '../errors.ts'
import type { LogConfig } from '../log/config.ts'

const PID_FILE = 'daemon.pid'
const DATA_FILE = 'data.mdb'
const WATCH_EVERY_MS = 500
/** A claim that another process is just writing is read again. */
const READ_TRIES = 20
const READ_WAIT_MS = 50

/** `started` tells a process from a later one with its id; null where the system does not say. */
type Claim = { pid: number; started: string | null }

export type HeldFolder = {
  /** Rejects when the folder is deleted or replaced; never resolves. */
  lost: Promise<never>
  release(): void
}

/**
 * Claims the folder of an open log for this process, and watches it. Throws LOG_IN_USE where
 * another daemon has it.
 */
export async function holdFolder({
  path,
  shared,
}: LogConfig & { kind: 'local' }): Promise<HeldFolder> {
  const file = join(path, PID_FILE)
  const claim: Claim = { pid: process.pid, started: startOf(process.pid) }
  if (!shared) await putClaim(file, claim, path)
  const opened = idOf(join(path, DATA_FILE))
  let timer: NodeJS.Timeout | undefined
  const lost = new Promise<never>((_, reject) => {
    timer = setInterval(() => {
      if (idOf(join(path, DATA_FILE)) === opened) return
      clearInterval(timer)
      reject(folderLost(path))
    }, WATCH_EVERY_MS)
    timer.unref()
  })
  lost.catch(() => {})
  const release = (): void => {
    clearInterval(timer)
    if (!shared && readClaim(file)?.pid === process.pid) unlinkSync(file)
  }
  return { lost, release }
}

/** The process id of the daemon on the log in `path`; undefined for none, or with `log.shared`. */
export function daemonOn(path: string): number | undefined {
  const claim = readClaim(join(path, PID_FILE))
  return claim !== undefined && isRunning(claim) ? claim.pid : undefined
}

async function putClaim(file: string, claim: Claim, path: string): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      writeFileSync(file, JSON.stringify(claim), { flag: 'wx' })
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const other = readClaim(file)
    if (other === undefined && tries < READ_TRIES) await setTimeout(READ_WAIT_MS)
    else if (other !== undefined && isRunning(other)) throw inUse(path, other.pid)
    else unlinkSync(file)
  }
}

/** Undefined where there is none, or it is not whole. */
function readClaim(file: string): Claim | undefined {
  try {
    const { pid, started } = JSON.parse(readFileSync(file, 'utf8'))
    return Number.isSafeInteger(pid) && pid > 0 ? { pid, started } : undefined
  } catch {
    return undefined
  }
}

/** A claim of this process's own id is an earlier process's, in an earlier container. */
function isRunning({ pid, started }: Claim): boolean {
  if (pid === process.pid) return false
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return false
  }
  const now = startOf(pid)
  return started === null || now === null || started === now
}

/** When a process started, in ticks since the machine did; null where there is no /proc. */
function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null
  } catch {
    return null
  }
}

/** Which file stands under the path. */
function idOf(file: string): string | undefined {
  const found = statSync(file, { throwIfNoEntry: false })
  return found && `${found.dev}/${found.ino}`
}

function inUse(path: string, pid: number): XmasdError {
  return new XmasdError(
    'LOG_IN_USE',
    `process ${pid} is a daemon on the log in ${path}`,
    `stop process ${pid} first; or set log.shared: true, so that several daemons on this machine share the work`,
  )
}

function folderLost(path: string): XmasdError {
  return new XmasdError(
    'LOG_UNAVAILABLE',
    `${join(path, DATA_FILE)} was deleted or replaced while this process had it open`,
    'restore the folder and start again; without it a new log begins there, and commits since the deletion are lost',
  )
}
