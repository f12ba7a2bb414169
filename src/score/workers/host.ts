/**
 * Where a worker's script runs: in a thread, or in a process of its own. A process costs about 70 MB and
 * copies of its jobs, but it can be ended whatever it does, a library that aborts ends it alone, the
 * system's memory killer is seen, and what it releases goes back to the system.
 */
import { fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { Starvation } from '../../ingest/deadline.ts'

export const ISOLATIONS = ['thread', 'process'] as const
export type Isolation = (typeof ISOLATIONS)[number]

export interface Host {
  /** Throws where the message can't be sent. */
  post(message: unknown): void
  /** How long it had no core since the last call; 0 where that is not known: of a thread, and off Linux. */
  starvedMs(): number
  /** Resolves once it has ended. A process ends at once. */
  end(): Promise<void>
}

export type HostEvents = {
  onMessage(message: unknown): void
  onError(error: unknown): void
  /** `killed`: by the system, or aborted; most likely for want of memory. */
  onExit(why: string, killed: boolean): void
}

export function startHost(
  isolation: Isolation,
  script: URL,
  workerData: unknown,
  events: HostEvents,
): Host {
  return isolation === 'thread'
    ? startThread(script, workerData, events)
    : startProcess(script, workerData, events)
}

/** The last message of a thread. */
export const END = 'end'
/** After that it is stopped wherever it is. */
const END_MS_MAX = 15_000

const threads = new Set<Host>()
let areEnding = false

/**
 * Ends all threads, and tells nobody. The process may only exit after that: an exit within native code of a
 * thread aborts it.
 */
export async function endThreads(): Promise<void> {
  areEnding = true
  while (threads.size > 0) await Promise.all([...threads].map(host => host.end()))
}

/** A thread ends itself, between two calls into native code: stopped within one it aborts the process. */
function startThread(script: URL, workerData: unknown, events: HostEvents): Host {
  const worker = new Worker(script, { workerData })
  const exited = new Promise<void>(resolve => worker.once('exit', () => resolve()))
  worker.on('message', message => events.onMessage(message))
  worker.on('error', error => events.onError(error))
  worker.on('exit', code => {
    if (!areEnding) events.onExit(`exit code ${code}`, false)
  })
  const host: Host = {
    post: message => worker.postMessage(message),
    starvedMs: () => 0,
    end: async () => {
      worker.postMessage(END)
      const timer = setTimeout(() => void worker.terminate(), END_MS_MAX)
      await exited
      clearTimeout(timer)
    },
  }
  threads.add(host)
  worker.once('exit', () => threads.delete(host))
  return host
}

/**
 * glibc keeps what is released in pieces below 32 MB, splits it and grows: a schedule that is streamed
 * would take several times its size. Pieces of 1 MB and more go back at once.
 */
export const MALLOC = { MALLOC_MMAP_THRESHOLD_: String(2 ** 20) }

function startProcess(script: URL, workerData: unknown, events: HostEvents): Host {
  const child = fork(fileURLToPath(script), [], {
    serialization: 'advanced',
    env: { ...process.env, ...MALLOC },
    stdio: ['ignore', 2, 2, 'ipc'], // stdout is our data
  })
  const starvation = new Starvation(child.pid ?? 0)
  let isEnding = false
  let isOver = false
  const exited = new Promise<void>(resolve => {
    const over = (why: string, killed: boolean): void => {
      if (isOver) return
      isOver = true
      resolve()
      events.onExit(why, killed)
    }
    child.on('exit', (code, signal) => {
      const killed = (signal === 'SIGKILL' || signal === 'SIGABRT') && !isEnding
      over(signal === null ? `exit code ${code}` : `signal ${signal}`, killed)
    })
    child.on('error', error => {
      events.onError(error)
      if (child.pid === undefined) over('it could not be started', false)
    })
  })
  child.on('message', message => events.onMessage(message))
  child.send({ workerData }, () => {}) // where it can't be sent the process is gone: told by `exit`
  return {
    post: message => {
      child.send(message as object, () => {})
    },
    starvedMs: () => {
      const before = starvation.totalMs()
      return starvation.look() - before
    },
    end: async () => {
      isEnding = true
      if (child.kill('SIGKILL')) await exited
    },
  }
}
