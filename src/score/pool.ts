/**
 * The pool of workers, threads or processes (`host.ts`): one job a worker at a time, first come first served. A worker that
 * dies rejects its job with WORKER_DIED and is replaced; one that dies before it was ready is not,
 * so that a proxy that can't be loaded ends in an error and not in a loop.
 *
 *   loading ──ready──► idle ◄──done── busy
 *      │                └────job──────►┘ │
 *      └─failed─► gone      died: replaced by a worker that is loading
 */
import type { Transferable } from 'node:worker_threads'
import { isOutOfMemory, MEMORY_HINT } from '../engine/failure.ts'
import { messageOf, XmasdError } from '../errors.ts'
import { deviceFailed, isSurvivable } from './failures.ts'
import { type Host, type Isolation, startHost } from './host.ts'
import type { DeviceUse } from './scorer.ts'
import { type FromWorker, type ToWorker, toError } from './serve.ts'

/** Jobs that wait for a worker, and workers that have one. */
export type Load = { waiting: number; busy: number }

export interface Pool<Job, Result> {
  /**
   * One job, in turn. Rejects with what the job threw, or WORKER_DIED (retryable) where its worker
   * died of it. `transfer` is moved to the worker, not copied.
   */
  run(job: Job, transfer?: readonly Transferable[]): Promise<Result>
  /** Resolves once every worker has loaded; rejects with why the first failed one could not. */
  ready(): Promise<void>
  load(): Load
  /** Ends all workers; jobs that are not done reject with WORKER_DIED. */
  close(): Promise<void>
}

export type PoolOptions = {
  /** A compiled module that calls `serve`. */
  script: URL
  /** Gives the plain data for a worker that starts. */
  workerData: () => unknown
  /** How many workers. */
  size: number
  /** Default: thread. */
  isolation?: Isolation | undefined
  /** Told of every worker that died and is about to be replaced. */
  onReplaced?: ((error: XmasdError) => void) | undefined
  /** Told what each job cost, where its worker says. */
  onUse?: ((use: DeviceUse) => void) | undefined
}

type Task<Job, Result> = {
  job: Job
  transfer: readonly Transferable[]
  resolve: (result: Result) => void
  reject: (error: Error) => void
}

/** `task` is what the worker is busy with. */
type Member<Job, Result> = {
  host: Host
  isReady: boolean
  task: Task<Job, Result> | undefined
  lastError: unknown
}

export function createPool<Job, Result>(options: PoolOptions): Pool<Job, Result> {
  return new ThreadPool<Job, Result>(options)
}

class ThreadPool<Job, Result> implements Pool<Job, Result> {
  readonly #options: PoolOptions
  readonly #members = new Set<Member<Job, Result>>()
  readonly #queue: Task<Job, Result>[] = []
  readonly #loading: Promise<void>
  #resolveLoading: () => void = () => {}
  #rejectLoading: (error: Error) => void = () => {}
  #notLoaded: number
  /** Why a worker could not load; then no other is started, and no job is taken any more. */
  #loadError: Error | undefined
  #isClosed = false

  constructor(options: PoolOptions) {
    if (!(options.size >= 1)) throw new RangeError(`a pool of ${options.size} workers`)
    this.#options = options
    this.#notLoaded = options.size
    this.#loading = new Promise((resolve, reject) => {
      this.#resolveLoading = resolve
      this.#rejectLoading = reject
    })
    this.#loading.catch(() => {}) // whoever asks `ready` is told
    for (let i = 0; i < options.size; i++) this.#start()
  }

  ready(): Promise<void> {
    return this.#loading
  }

  run(job: Job, transfer: readonly Transferable[] = []): Promise<Result> {
    if (this.#isClosed) return Promise.reject(died('the pool is closed'))
    return new Promise((resolve, reject) => {
      this.#queue.push({ job, transfer, resolve, reject })
      this.#dispatch()
    })
  }

  load(): Load {
    const busy = [...this.#members].filter(({ task }) => task !== undefined).length
    return { waiting: this.#queue.length, busy }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    this.#rejectLoading(died('the pool was closed'))
    this.#dispatch()
    await Promise.all([...this.#members].map(member => member.host.end()))
  }

  #start(): void {
    const { script, workerData, isolation = 'thread' } = this.#options
    const member: Member<Job, Result> = {
      host: startHost(isolation, script, workerData(), {
        onMessage: message => this.#receive(member, message as FromWorker<Result>),
        onError: error => {
          member.lastError = error
        },
        onExit: (why, killed) => this.#gone(member, why, killed),
      }),
      isReady: false,
      task: undefined,
      lastError: undefined,
    }
    this.#members.add(member)
  }

  #receive(member: Member<Job, Result>, message: FromWorker<Result>): void {
    if (message.type === 'ready') {
      member.isReady = true
      this.#notLoaded--
      if (this.#notLoaded === 0) this.#resolveLoading()
    } else if (message.type === 'loadFailed') {
      member.lastError = toError(message.error)
      void member.host.end()
    } else {
      const { task } = member
      member.task = undefined
      if (message.type === 'done') {
        if (message.use !== undefined) this.#options.onUse?.(message.use)
        task?.resolve(message.result)
      } else task?.reject(toError(message.error))
    }
    this.#dispatch()
  }

  #gone(member: Member<Job, Result>, exit: string, killed: boolean): void {
    this.#members.delete(member)
    const cause = member.lastError === undefined ? exit : messageOf(member.lastError)
    const why = member.isReady ? cause : `while loading: ${cause}`
    const error = killed || isOutOfMemory(member.lastError) ? outOfMemory(why) : died(why)
    member.task?.reject(error)
    if (!this.#isClosed) {
      if (member.isReady) {
        this.#options.onReplaced?.(error)
        this.#start()
      } else {
        const reason = member.lastError instanceof XmasdError ? member.lastError : error
        this.#loadError ??= isSurvivable(reason) ? deviceFailed(reason.message) : reason
        this.#rejectLoading(this.#loadError)
      }
    }
    this.#dispatch()
  }

  /** Gives queued tasks to idle workers; rejects them once a worker could not load. */
  #dispatch(): void {
    const error = this.#isClosed ? died('the pool was closed') : this.#loadError
    if (error !== undefined) {
      for (const task of this.#queue.splice(0)) task.reject(error)
      return
    }
    for (const member of this.#members) {
      if (!member.isReady || member.task !== undefined) continue
      const task = this.#queue.shift()
      if (task === undefined) return
      this.#send(member, task)
    }
  }

  #send(member: Member<Job, Result>, task: Task<Job, Result>): void {
    const message: ToWorker<Job> = { job: task.job }
    try {
      member.host.post(message, task.transfer)
      member.task = task
    } catch (error) {
      task.reject(error instanceof Error ? error : new Error(messageOf(error)))
    }
  }
}

function died(why: string): XmasdError {
  return new XmasdError(
    'WORKER_DIED',
    `a worker thread died: ${why}`,
    'Look for memory limits and for this example in the log; the daemon went on without it.',
    { retryable: true },
  )
}

function outOfMemory(why: string): XmasdError {
  return new XmasdError(
    'OUT_OF_MEMORY',
    `a worker was ended, most likely for want of memory: ${why}`,
    MEMORY_HINT,
  )
}
