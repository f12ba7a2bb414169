/** The worker's side of the pool: loads once, then answers jobs one by one. */
import { once } from 'node:events'
import { type MessagePort, parentPort, type Transferable, workerData } from 'node:worker_threads'
import { isOutOfMemory, MEMORY_HINT } from '../engine/failure.ts'
import { type ErrorCode, messageOf, XmasdError } from '../errors.ts'
import { END } from './host.ts'
import type { DeviceUse } from './scorer.ts'

export type ToWorker<Job> = { job: Job }

/** An error as it crosses threads. A code only where it was an operating error. */
export type WireError = {
  message: string
  code?: ErrorCode
  hint?: string
  retryable?: boolean
  stack?: string | undefined
}

export type FromWorker<Result> =
  | { type: 'ready' }
  | { type: 'loadFailed'; error: WireError }
  | { type: 'done'; result: Result; use?: DeviceUse | undefined }
  | { type: 'failed'; error: WireError }

/** What a worker answers a job with, and what it cost; `transfer` is moved, not copied. */
export type Answer<Result> = {
  result: Result
  use?: DeviceUse
  transfer?: readonly Transferable[]
}

/**
 * Call it once at the top of a worker's script. `load` gets the pool's `workerData` and returns
 * what answers a job. Errors keep their code and hint on the way to the main thread.
 */
export async function serve<Data, Job, Result>(
  load: (data: Data) => Promise<(job: Job) => Promise<Answer<Result>>>,
): Promise<void> {
  const main = parentPort === null ? await mainProcess<Data>() : mainThread<Data>(parentPort)
  const send = (message: FromWorker<Result>, transfer: readonly Transferable[] = []): void =>
    main.send(message, transfer)
  let answer: (job: Job) => Promise<Answer<Result>>
  try {
    answer = await load(main.workerData)
  } catch (error) {
    send({ type: 'loadFailed', error: toWire(error) })
    return
  }
  main.onMessage(async message => {
    try {
      const { result, use, transfer } = await answer((message as ToWorker<Job>).job)
      send({ type: 'done', result, use }, transfer)
    } catch (error) {
      send({ type: 'failed', error: toWire(error) })
    }
  })
  send({ type: 'ready' })
}

type Main<Data> = {
  workerData: Data
  send(message: object, transfer: readonly Transferable[]): void
  onMessage(receive: (message: unknown) => void): void
}

/** Told to end, a thread does so at once, while it loads too: whatever it has in hand is not waited for. */
function mainThread<Data>(port: MessagePort): Main<Data> {
  port.on('message', message => {
    if (message === END) process.exit(0)
  })
  return {
    workerData: workerData as Data,
    send: (message, transfer) => port.postMessage(message, [...transfer]),
    onMessage: receive => port.on('message', receive),
  }
}

/** The first message brings the data. The main process ends this one: signals to the group are its own. */
async function mainProcess<Data>(): Promise<Main<Data>> {
  if (process.send === undefined) throw new Error('serve runs in a worker')
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => {})
  process.on('disconnect', () => process.exit(0))
  const [first] = (await once(process, 'message')) as [{ workerData: Data }]
  return {
    workerData: first.workerData,
    send: message => process.send!(message),
    onMessage: receive => process.on('message', receive),
  }
}

function toWire(error: unknown): WireError {
  const message = messageOf(error)
  if (error instanceof XmasdError) {
    const { code, hint, retryable } = error
    return { message, code, hint, retryable }
  }
  if (isOutOfMemory(error)) return { message, code: 'OUT_OF_MEMORY', hint: MEMORY_HINT }
  return { message, stack: error instanceof Error ? error.stack : undefined }
}

/** The error that crossed threads. */
export function toError({ message, code, hint, retryable, stack }: WireError): Error {
  if (code !== undefined) {
    return new XmasdError(code, message, hint ?? '', { retryable: retryable ?? false })
  }
  return new XmasdError('INTERNAL', message, 'This is a defect of xmasd; please report it.', {
    cause: stack,
  })
}
