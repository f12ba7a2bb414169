/** The worker's side of the pool: loads once, then answers jobs one by one. */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { TICK_MS } from '../../ingest/deadline.ts'
import { type Failure, failureOf } from '../failure.ts'
import type { DeviceUse } from '../scorer.ts'
import { END } from './host.ts'

/** A job, or the answer to the worker's question number `granted`. */
export type ToWorker<Job> = { job: Job } | { granted: number }

export type FromWorker<Result> =
  | { type: 'ready' }
  | { type: 'loadFailed'; error: Failure }
  /** `isItem`: an item of the job is done, else a step of one. */
  | { type: 'progress'; isItem: boolean }
  | { type: 'reserve'; id: number; bytes: number }
  | { type: 'release'; bytes: number }
  | { type: 'done'; result: Result; use?: DeviceUse | undefined }
  | { type: 'failed'; error: Failure }

/** What a worker answers a job with, and what it cost. */
export type Answer<Result> = { result: Result; use?: DeviceUse }

/** What a job may tell and ask the pool while it runs. */
export type JobContext = {
  progress(isItem: boolean): void
  /** Resolves once the pool's budget has room for `bytes`; call what it gives when they are free. */
  reserve(bytes: number): Promise<() => void>
}

/**
 * Call it once at the top of a worker's script. `load` gets the pool's `workerData` and returns
 * what answers a job.
 */
export async function runWorkerLoop<Data, Job, Result>(
  load: (data: Data) => Promise<(job: Job, context: JobContext) => Promise<Answer<Result>>>,
): Promise<void> {
  const main = parentPort === null ? await mainProcess<Data>() : mainThread<Data>(parentPort)
  const send: (message: FromWorker<Result>) => void = main.send
  const grants = new Map<number, () => void>()
  const context = contextOver(send, grants)
  let answer: (job: Job, context: JobContext) => Promise<Answer<Result>>
  try {
    answer = await load(main.workerData)
  } catch (error) {
    send({ type: 'loadFailed', error: failureOf(error) })
    return
  }
  main.onMessage(async received => {
    const message = received as ToWorker<Job>
    if (typeof message !== 'object') return
    if ('granted' in message) {
      grants.get(message.granted)?.()
      grants.delete(message.granted)
      return
    }
    try {
      const { result, use } = await answer(message.job, context)
      send({ type: 'done', result, use })
    } catch (error) {
      send({ type: 'failed', error: failureOf(error) })
    }
  })
  send({ type: 'ready' })
}

/** Progress of a kind is told no more often than clocks are looked at: an item counts for more than its steps. */
const PROGRESS_MS = TICK_MS

function contextOver(
  send: (message: FromWorker<never>) => void,
  grants: Map<number, () => void>,
): JobContext {
  let questions = 0
  const toldAt = { item: performance.now(), step: performance.now() }
  return {
    progress: isItem => {
      const kind = isItem ? 'item' : 'step'
      if (performance.now() - toldAt[kind] < PROGRESS_MS) return
      toldAt[kind] = performance.now()
      send({ type: 'progress', isItem })
    },
    reserve: bytes =>
      new Promise(resolve => {
        const id = questions++
        grants.set(id, () => resolve(() => send({ type: 'release', bytes })))
        send({ type: 'reserve', id, bytes })
      }),
  }
}

type Main<Data> = {
  workerData: Data
  send: (message: object) => void
  onMessage(receive: (message: unknown) => void): void
}

/** A thread ends at once when it is told to, while it loads too, whatever it has in hand. */
function mainThread<Data>(port: MessagePort): Main<Data> {
  port.on('message', message => {
    if (message === END) process.exit(0)
  })
  return {
    workerData: workerData as Data,
    send: message => port.postMessage(message),
    onMessage: receive => port.on('message', receive),
  }
}

/** The first message brings the data. The main process ends this one: signals to the group are its own. */
async function mainProcess<Data>(): Promise<Main<Data>> {
  if (process.send === undefined) throw new Error('runWorkerLoop runs in a worker')
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {})
  process.on('disconnect', () => process.exit(0))
  const first = await new Promise<{ workerData: Data }>(resolve =>
    process.once('message', message => resolve(message as { workerData: Data })),
  )
  return {
    workerData: first.workerData,
    send: message => process.send!(message),
    onMessage: receive => process.on('message', receive),
  }
}
