/**
 * The pool of workers, threads or processes (`host.ts`): one job a worker at a time, first come first
 * served. Every job has a clock (`Clock`), and so has loading: a worker that is late is ended. A worker
 * that dies rejects its job and is replaced; one that dies before it was ready is not, so that a proxy that
 * can't be loaded ends in an error and not in a loop.
 *
 *   loading ──ready──► idle ◄──done── busy
 *      │                └────job──────►┘ │
 *      └─failed, late─► gone   died, late: replaced by a worker that is loading
 */
import { isOutOfMemory, MEMORY_HINT } from '../../engine/engine.ts'
import { messageOf, XmasdError } from '../../errors.ts'
import { Clock, TICK_MS } from '../../ingest/deadline.ts'
import { deviceFailed, errorOf, isSurvivable, Stopped } from '../failure.ts'
import type { DeviceUse } from '../scorer.ts'
import type { ByteBudget } from './budget.ts'
import { type Host, type Isolation, startHost } from './host.ts'
import type { FromWorker, ToWorker } from './loop.ts'

/** Jobs that wait for a worker, and workers that have one. */
export type Load = { waiting: number; busy: number }

/** `msMax`: what the job, or each of its items, may take. Default: 10 minutes. */
export type RunOptions = { msMax?: number }

export type PoolOptions = {
  /** A compiled module that calls `runWorkerLoop`. */
  script: URL
  /** Plain data. */
  workerData: unknown
  /** How many workers. */
  size: number
  /** Default: thread. */
  isolation?: Isolation | undefined
  /** The error of a job that took longer. Default: WORKER_DIED. */
  late?: ((msMax: number) => XmasdError) | undefined
  /** What jobs `reserve` from. Default: there is room for everything. */
  budget?: ByteBudget<object> | undefined
  /** Told of every worker that died and is about to be replaced. */
  onReplaced?: ((error: XmasdError) => void) | undefined
  /** Told what each job cost, where its worker says. */
  onUse?: ((use: DeviceUse) => void) | undefined
  /** Told whenever a job is done, or a step of one. */
  onProgress?: (() => void) | undefined
}

/** A driver may compile its kernels for minutes. */
const LOAD_MS_MAX = 600_000
const JOB_MS_MAX = 600_000

type Task<Job, Result> = {
  job: Job
  msMax: number
  resolve: (result: Result) => void
  reject: (error: Error) => void
}

/** `task` is what the worker is busy with. */
type Member<Job, Result> = {
  host: Host
  isReady: boolean
  task: Task<Job, Result> | undefined
  /** Of the task, or of loading. */
  clock: Clock | undefined
  /** Questions to the budget that it has not answered. */
  asking: number
  lastError: unknown
}

export class Pool<Job, Result> {
  readonly #options: PoolOptions
  readonly #members = new Set<Member<Job, Result>>()
  readonly #queue: Task<Job, Result>[] = []
  readonly #ticking: NodeJS.Timeout
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
    this.#ticking = setInterval(() => this.#tick(), TICK_MS).unref()
    for (let i = 0; i < options.size; i++) this.#start()
  }

  /** Resolves once every worker has loaded; rejects with the reason of the first that could not. */
  ready(): Promise<void> {
    return this.#loading
  }

  /**
   * One job, in turn. Rejects with what the job threw, with WORKER_DIED (retryable) or OUT_OF_MEMORY
   * where its worker died of it, or with what the pool's `late` gives where it took too long.
   */
  run(job: Job, { msMax = JOB_MS_MAX }: RunOptions = {}): Promise<Result> {
    if (this.#isClosed) return Promise.reject(new Stopped())
    return new Promise((resolve, reject) => {
      this.#queue.push({ job, msMax, resolve, reject })
      this.#dispatch()
    })
  }

  load(): Load {
    const busy = [...this.#members].filter(({ task }) => task !== undefined).length
    return { waiting: this.#queue.length, busy }
  }

  /** Ends all workers; jobs that are not done reject with `Stopped`. */
  async close(): Promise<void> {
    this.#isClosed = true
    clearInterval(this.#ticking)
    this.#rejectLoading(new Stopped())
    this.#dispatch()
    await Promise.all([...this.#members].map(member => member.host.end()))
  }

  #start(): void {
    const { script, workerData, isolation = 'thread' } = this.#options
    const member: Member<Job, Result> = {
      host: startHost(isolation, script, workerData, {
        onMessage: message => this.#receive(member, message as FromWorker<Result>),
        onError: error => {
          member.lastError = error
        },
        onExit: (why, killed) => this.#gone(member, why, killed),
      }),
      isReady: false,
      task: undefined,
      clock: new Clock(LOAD_MS_MAX, performance.now()),
      asking: 0,
      lastError: undefined,
    }
    this.#members.add(member)
  }

  #receive(member: Member<Job, Result>, message: FromWorker<Result>): void {
    switch (message.type) {
      case 'ready':
        member.isReady = true
        member.clock = undefined
        this.#notLoaded--
        if (this.#notLoaded === 0) this.#resolveLoading()
        break
      case 'loadFailed':
        member.lastError = errorOf(message.error)
        void member.host.end()
        break
      case 'progress':
        if (message.isItem) member.clock?.restart()
        this.#options.onProgress?.()
        return
      case 'reserve':
        this.#reserve(member, message)
        return
      case 'release':
        this.#options.budget?.release(member, message.bytes)
        return
      case 'done':
      case 'failed':
        this.#settle(member, message)
    }
    this.#dispatch()
  }

  #settle(
    member: Member<Job, Result>,
    message: Extract<FromWorker<Result>, { type: 'done' | 'failed' }>,
  ): void {
    const { task } = member
    member.task = undefined
    member.clock = undefined
    this.#options.onProgress?.()
    if (message.type === 'failed') {
      task?.reject(errorOf(message.error))
      return
    }
    if (message.use !== undefined) this.#options.onUse?.(message.use)
    task?.resolve(message.result)
  }

  #reserve(member: Member<Job, Result>, { id, bytes }: { id: number; bytes: number }): void {
    const grant = (): void => {
      member.asking--
      const granted: ToWorker<Job> = { granted: id }
      member.host.post(granted)
    }
    member.asking++
    if (this.#options.budget === undefined) grant()
    else this.#options.budget.ask(member, bytes, grant)
  }

  /** Ends workers whose time is up. */
  #tick(): void {
    const nowMs = performance.now()
    for (const member of this.#members) {
      const { clock, host, asking } = member
      const starvedMs = host.starvedMs() // of an idle one, too: what was before a job hardly counts for it
      if (clock === undefined) continue
      const isHeld = asking > 0 && this.#options.budget?.holds(member) !== true
      if (!clock.look({ nowMs, starvedMs, isHeld })) continue
      member.clock = undefined
      const { late = lateWorker } = this.#options
      member.lastError = late(member.task?.msMax ?? LOAD_MS_MAX)
      void host.end()
    }
  }

  #gone(member: Member<Job, Result>, exit: string, killed: boolean): void {
    this.#members.delete(member)
    this.#options.budget?.forget(member)
    const error = whyGone(member, exit, killed)
    member.task?.reject(this.#isClosed ? new Stopped() : error)
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
    const error = this.#isClosed ? new Stopped() : this.#loadError
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
      member.host.post(message)
      member.task = task
      member.clock = new Clock(task.msMax, performance.now())
    } catch (error) {
      task.reject(error instanceof Error ? error : new Error(messageOf(error)))
    }
  }
}

/** The error of the job that a worker had when it went; of none, why it is replaced. */
function whyGone(
  { isReady, lastError }: { isReady: boolean; lastError: unknown },
  exit: string,
  killed: boolean,
): XmasdError {
  if (isReady && lastError instanceof XmasdError) return lastError
  const cause = lastError === undefined ? exit : messageOf(lastError)
  const why = isReady ? cause : `while loading: ${cause}`
  return killed || isOutOfMemory(lastError) ? outOfMemory(why) : died(why)
}

function died(why: string): XmasdError {
  return new XmasdError(
    'WORKER_DIED',
    `a worker died: ${why}`,
    'Look for memory limits and for this example in the log; the daemon went on without it.',
    { retryable: true },
  )
}

function lateWorker(msMax: number): XmasdError {
  return died(`it did not answer within ${msMax / 1000} s and was ended`)
}

function outOfMemory(why: string): XmasdError {
  return new XmasdError(
    'OUT_OF_MEMORY',
    `a worker was ended, most likely for want of memory: ${why}`,
    MEMORY_HINT,
  )
}
