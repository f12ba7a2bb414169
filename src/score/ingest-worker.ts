/** An ingest worker: fetches, decodes, hashes, resizes and tokenises the examples it is sent. */
import type { Transferable } from 'node:worker_threads'
import { messageOf, XmasdError } from '../errors.ts'
import type { ImageSource } from '../ingest/fetch-image.ts'
import { createPreparer, identify, type Prepared, type PreparerOptions } from '../ingest/prepare.ts'
import type { Failure } from './failures.ts'
import { serve } from './serve.ts'

/** Without a preparer only identities can be asked for: no proxy is needed for those. */
export type IngestWorkerData = { source: ImageSource; preparer: PreparerOptions | undefined }

export type IngestJob = { want: 'prepared' | 'key'; values: readonly Uint8Array[] }

export type Ingested =
  | { kind: 'prepared'; prepared: Prepared }
  | { kind: 'key'; key: string }
  | { kind: 'failed'; error: Failure }

await serve<IngestWorkerData, IngestJob, Ingested[]>(async ({ source, preparer: options }) => {
  const preparer = options === undefined ? undefined : createPreparer(options)
  const one = async (value: Uint8Array, want: IngestJob['want']): Promise<Ingested> => {
    if (want === 'key') return { kind: 'key', key: (await identify(value, source)).key }
    if (preparer === undefined) throw new RangeError('this worker has no preparer')
    return { kind: 'prepared', prepared: await preparer.prepare(value) }
  }
  return async ({ want, values }) => {
    const result = await Promise.all(values.map(value => withRetries(() => one(value, want))))
    return { result, transfer: result.flatMap(buffersOf) }
  }
})

const ATTEMPTS = 3
const FIRST_WAIT_MS = 250

/** A server that is busy, a file being replaced: tried again before the example is given up. */
async function withRetries(attempt: () => Promise<Ingested>): Promise<Ingested> {
  for (let failures = 1; ; failures++) {
    try {
      return await attempt()
    } catch (error) {
      const isRetryable = error instanceof XmasdError && error.retryable
      if (!isRetryable || failures === ATTEMPTS) return { kind: 'failed', error: failureOf(error) }
      await new Promise(resolve => setTimeout(resolve, FIRST_WAIT_MS * 2 ** (failures - 1)))
    }
  }
}

function failureOf(error: unknown): Failure {
  if (error instanceof XmasdError) {
    return { code: error.code, message: error.message, hint: error.hint }
  }
  const hint = 'this is a defect of xmasd: please report it with the example'
  return { code: 'INTERNAL', message: messageOf(error), hint }
}

function buffersOf(ingested: Ingested): Transferable[] {
  if (ingested.kind !== 'prepared' || ingested.prepared.sequence === null) return []
  return ingested.prepared.sequence.images.map(({ patches }) => patches.buffer as ArrayBuffer)
}
