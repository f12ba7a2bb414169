/** An ingest worker: fetches, decodes, hashes, resizes and tokenises the examples it is sent. */
import type { PixelBudget } from '../../ingest/image/picture.ts'
import type { PixelRoom } from '../../ingest/image/pixels.ts'
import {
  createPreparer,
  type ExampleSource,
  identify,
  type Prepared,
  type Preparer,
  type PreparerOptions,
} from '../../ingest/prepare.ts'
import { processorFolder } from '../../ingest/same-preparation.ts'
import { familyOf } from '../../proxy/checkpoint/config.ts'
import type { ProxyConfig } from '../../proxy/config.ts'
import { type Failure, failureOf } from '../failure.ts'
import { type JobContext, runWorkerLoop } from './loop.ts'

/** Without a preparer only identities can be asked for: no proxy is needed for those. */
export type IngestWorkerData = { source: ExampleSource; preparer: ModelPreparer | undefined }

/** A preparer for `model`, whose pictures are given `imagePixels`. */
export type ModelPreparer = PreparerOptions & { model: ProxyConfig; imagePixels: PixelBudget }

function preparerOf({ model, imagePixels, ...options }: ModelPreparer): Preparer {
  const folder = processorFolder({ dir: options.checkpointDir, base: options.baseDir })
  const pictures = familyOf(model).pictures(model, folder, imagePixels)
  return createPreparer(options, pictures)
}

/** The bytes of an example, and the key of its record on the log. */
export type KeyedValue = { value: Uint8Array; key?: string | null | undefined }

/** Answered by the first of its records, or all of them: see ANSWER_BYTES. */
export type IngestJob = { want: 'prepared' | 'key'; records: readonly KeyedValue[] }

export type Ingested =
  | { kind: 'prepared'; prepared: Prepared }
  | { kind: 'key'; key: string }
  | { kind: 'failed'; error: Failure }

/** Examples of a job under way at once: more where they are small, as waits cost more than work there. */
const [TOGETHER_MIN, TOGETHER_MAX] = [8, 16]
/** Once what is ready has so many bytes, no other example is begun: a message holds all of it twice. */
const ANSWER_BYTES = 32 * 2 ** 20
/** Smaller images are decoded without asking: those of 16 take less than what a process has anyway. */
const RESERVED_BYTES_MIN = 2 * 2 ** 20
/** While an image is decoded and resized its pixels exist twice, and its file beside them. */
const HELD_TIMES = 2.5

/** The room of one example, out of the budget of all workers. */
function roomOver({ progress, reserve }: JobContext): PixelRoom {
  let releases: (() => void)[] = []
  return {
    enter: async bytes => {
      if (bytes >= RESERVED_BYTES_MIN) releases.push(await reserve(HELD_TIMES * bytes))
    },
    leave: () => {
      for (const release of releases) release()
      releases = []
      progress(false)
    },
    // No fault of the example: its time begins anew.
    onWait: () => progress(true),
  }
}

await runWorkerLoop<IngestWorkerData, IngestJob, Ingested[]>(
  async ({ source, preparer: options }) => {
    const preparer = options === undefined ? undefined : preparerOf(options)
    const ingest = async (
      { value, key }: KeyedValue,
      want: IngestJob['want'],
      room: PixelRoom,
    ): Promise<Ingested> => {
      if (want === 'key') {
        return {
          kind: 'key',
          key: (await identify(value, source, () => undefined, { key, room })).key,
        }
      }
      if (preparer === undefined) throw new RangeError('this worker has no preparer')
      return { kind: 'prepared', prepared: await preparer.prepare(value, { key, room }) }
    }
    /** Of the examples with pictures so far. */
    let bytesLargest: number | undefined
    return async ({ want, records }, context) => {
      const one = async (record: KeyedValue): Promise<Ingested> => {
        const room = roomOver(context)
        try {
          return await ingest(record, want, room)
        } catch (error) {
          return { kind: 'failed', error: failureOf(error) }
        } finally {
          room.leave()
          context.progress(true)
        }
      }
      const result: Ingested[] = []
      let begun = 0
      let bytes = 0
      const inTurn = async (): Promise<void> => {
        while (begun < records.length && bytes < ANSWER_BYTES) {
          const i = begun++
          const ingested = await one(records[i]!)
          result[i] = ingested
          const size = bytesOf(ingested)
          bytes += size
          if (size > 0) bytesLargest = Math.max(bytesLargest ?? 0, size)
        }
      }
      const areSmall = bytesLargest !== undefined && TOGETHER_MAX * bytesLargest <= ANSWER_BYTES
      const length = areSmall ? TOGETHER_MAX : TOGETHER_MIN
      await Promise.all(Array.from({ length }, inTurn))
      return { result }
    }
  },
)

function bytesOf(ingested: Ingested): number {
  if (ingested.kind !== 'prepared' || ingested.prepared.sequence === null) return 0
  return ingested.prepared.sequence.images.reduce((sum, { patches }) => sum + patches.byteLength, 0)
}
