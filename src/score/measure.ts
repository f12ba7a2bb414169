/**
 * From the bytes of records to trajectories, off the event loop: ingest workers prepare, scoring
 * workers run the proxy. What the score role and the offline commands share.
 */
import { availableParallelism } from 'node:os'
import type { Config } from '../config.ts'
import { XmasdError } from '../errors.ts'
import type { ImageSource } from '../ingest/fetch-image.ts'
import type { PreparerOptions } from '../ingest/prepare.ts'
import { checkSamePreparation } from '../ingest/same-preparation.ts'
import { resolveTemplate } from '../ingest/template.ts'
import type { Schedule } from '../proxy/schedule.ts'
import type { Sequence } from './batch.ts'
import type { ChosenDevice } from './device.ts'
import { type Failure, runSurviving } from './failures.ts'
import type { OutOfMemory } from './guard.ts'
import type { Ingested, IngestJob, IngestWorkerData } from './ingest-worker.ts'
import { createPool, type Load, type Pool } from './pool.ts'
import type { DeviceUse, Scored } from './scorer.ts'
import { type Scoring, startScoring, type WorkerPlan } from './scoring.ts'
import { instabilityOf, trajectoryOf } from './trajectory.ts'

/** What became of one record. Text-only examples have nulls. */
export type Measured =
  | {
      kind: 'measured'
      id: string
      key: string
      content: string
      truncated: boolean
      /** Positions of the sequence; 0 for text-only. */
      tokens: number
      /** Null under the loss, too, as is the embedding. */
      singularValues: number[][] | null
      trajectory: number[] | null
      instability: number | null
      /** What near-duplicates share; `layout` and `embedding` as directions in base64. */
      words: string
      layout: string | null
      embedding: string | null
    }
  | { kind: 'failed'; id: string | null; error: XmasdError }

export type Stage = 'ingest' | 'score'

export type MeasuringHooks = {
  onWorkerReplaced?: () => void
  onStage?: (stage: Stage, seconds: number) => void
  onDeviceUse?: (use: DeviceUse) => void
  onOutOfMemory?: (event: OutOfMemory) => void
}

export type Measurer = {
  schedule: { steps: number[]; fingerprint: string }
  device: ChosenDevice
  plan: WorkerPlan
  /** One result a record, in order; equal content is scored once. Throws where scoring as such is broken. */
  measure(values: readonly Uint8Array[]): Promise<Measured[]>
  /** How busy the workers of each stage are. */
  loads(): Record<Stage, Load>
  close(): Promise<void>
}

type MeasuringConfig = Pick<Config, 'images' | 'proxy' | 'score'>

/** Resolves once all workers are warm. Throws what the proxy, its template or its tokenizer lack. */
export async function startMeasuring(
  config: MeasuringConfig,
  hooks: MeasuringHooks = {},
): Promise<Measurer> {
  const { path, metric, mode, engine, device, precision, workers, threads } = config.proxy
  const { tokensMax, memoryMax } = config.proxy
  const scoring = await startScoring({
    proxyDir: path,
    metric,
    mode,
    engine,
    device,
    precision,
    workers,
    threads,
    limits: { tokensMax, examplesMax: 64 },
    memoryMax,
    batchExamplesMax: config.score.batchExamplesMax,
    onWorkerReplaced: hooks.onWorkerReplaced,
    onDeviceUse: hooks.onDeviceUse,
    onOutOfMemory: hooks.onOutOfMemory,
  })
  let ingest: Pool<IngestJob, Ingested[]> | undefined
  try {
    const preparer = preparerOptions(config, scoring.schedule)
    const folders = scoring.schedule.checkpoints.map(({ dir }) => dir)
    checkSamePreparation(folders, preparer)
    ingest = await startIngest(config, preparer, hooks)
  } catch (error) {
    await scoring.close()
    throw error
  }
  const pool = ingest
  const { checkpoints, fingerprint } = scoring.schedule
  return {
    schedule: { steps: checkpoints.map(({ step }) => step), fingerprint },
    device: scoring.device,
    plan: scoring.plan,
    measure: values => measure(pool, scoring, values, hooks),
    loads: () => ({ ingest: pool.load(), score: scoring.load() }),
    close: async () => {
      await pool.close()
      await scoring.close()
    },
  }
}

export type Identifier = {
  /** The key of each example, undefined where it can't be used. */
  identify(values: readonly Uint8Array[]): Promise<(string | undefined)[]>
  close(): Promise<void>
}

/** Keys without scores: images are decoded, no proxy is needed. */
export async function startIdentifying(
  config: Pick<Config, 'images' | 'score'>,
): Promise<Identifier> {
  const pool = await startIngest(config, undefined, {})
  return {
    identify: async values => {
      const found = await ingestAll(pool, 'key', values)
      return found.map(one => (one.kind === 'key' ? one.key : undefined))
    },
    close: () => pool.close(),
  }
}

/** Where images come from, as the configuration says. */
export function imageSource({ images }: Pick<Config, 'images'>): ImageSource {
  const { root, hosts, addressesAllowed, ...limits } = images
  return { root, limits, hosts, addressesAllowed }
}

function preparerOptions(config: MeasuringConfig, schedule: Schedule): PreparerOptions {
  const { root, limits, hosts, addressesAllowed } = imageSource(config)
  const first = schedule.checkpoints[0]!
  const { imageTokens, imageTokenId, lengthMax, aspect, vision } = schedule.config
  return {
    imageRoot: root,
    limits,
    hosts,
    addressesAllowed,
    checkpointDir: first.dir,
    template: resolveTemplate(config.proxy.template, config.proxy.path, schedule.config),
    imageTokens,
    imageTokenId,
    lengthMax,
    answers: config.proxy.metric === 'loss',
    imageSize: vision.imageSize,
    patchSize: vision.patchSize,
    aspect,
  }
}

async function startIngest(
  config: Pick<Config, 'images' | 'score'>,
  preparer: PreparerOptions | undefined,
  hooks: MeasuringHooks,
): Promise<Pool<IngestJob, Ingested[]>> {
  const workerData: IngestWorkerData = { source: imageSource(config), preparer }
  const pool = createPool<IngestJob, Ingested[]>({
    script: new URL('./ingest-worker.js', import.meta.url),
    workerData: () => workerData,
    size: config.score.ingestWorkers ?? availableParallelism(),
    onReplaced: hooks.onWorkerReplaced,
  })
  await pool.ready().catch(async error => {
    await pool.close()
    throw error
  })
  return pool
}

/** Records that one ingest job holds: few, so that all workers get their share of a batch. */
const INGEST_RECORDS = 8

async function ingestAll(
  pool: Pool<IngestJob, Ingested[]>,
  want: IngestJob['want'],
  values: readonly Uint8Array[],
): Promise<Ingested[]> {
  const groups: Uint8Array[][] = []
  for (let at = 0; at < values.length; at += INGEST_RECORDS) {
    groups.push(values.slice(at, at + INGEST_RECORDS))
  }
  const done = groups.map(group =>
    runSurviving(group, part => pool.run({ want, values: part.map(alone) }), failed),
  )
  return (await Promise.all(done)).flat()
}

/** A view is sent with all the memory that it is a view of, and records are views of whole fetches. */
function alone(value: Uint8Array): Uint8Array {
  return value.byteLength === value.buffer.byteLength ? value : new Uint8Array(value)
}

function failed(error: Failure): Ingested {
  return { kind: 'failed', error }
}

async function measure(
  pool: Pool<IngestJob, Ingested[]>,
  scoring: Scoring,
  values: readonly Uint8Array[],
  hooks: MeasuringHooks,
): Promise<Measured[]> {
  const started = performance.now()
  const ingested = await ingestAll(pool, 'prepared', values)
  const prepared = performance.now()
  hooks.onStage?.('ingest', (prepared - started) / 1000)
  const { sequences, indexOf } = distinctSequences(ingested)
  const scored = await scoring.score(sequences)
  hooks.onStage?.('score', (performance.now() - prepared) / 1000)
  return ingested.map((one, i) => measuredOf(one, scored, indexOf, values[i]!))
}

/** Equal content gives equal scores: each is scored once in a batch. */
function distinctSequences(ingested: readonly Ingested[]): {
  sequences: Sequence[]
  indexOf: Map<string, number>
} {
  const sequences: Sequence[] = []
  const indexOf = new Map<string, number>()
  for (const one of ingested) {
    if (one.kind !== 'prepared' || one.prepared.sequence === null) continue
    const { content, sequence } = one.prepared
    if (indexOf.has(content)) continue
    indexOf.set(content, sequences.length)
    sequences.push(sequence)
  }
  return { sequences, indexOf }
}

function measuredOf(
  ingested: Ingested,
  scored: readonly Scored[],
  indexOf: ReadonlyMap<string, number>,
  value: Uint8Array,
): Measured {
  if (ingested.kind === 'failed') return failedOf(idOf(value), ingested.error)
  if (ingested.kind !== 'prepared') throw new RangeError('a key was asked for, not a sequence')
  const { id, key, content, words, layout, truncated, sequence } = ingested.prepared
  const identity = { kind: 'measured' as const, id, key, content, words, layout, truncated }
  if (sequence === null) {
    const none = { singularValues: null, trajectory: null, instability: null, embedding: null }
    return { ...identity, tokens: 0, ...none }
  }
  const result = scored[indexOf.get(content)!]!
  if ('error' in result) return failedOf(id, result.error)
  const trajectory = 'losses' in result ? result.losses : trajectoryOf(result.singularValues)
  const { singularValues, embedding } =
    'losses' in result ? { singularValues: null, embedding: null } : result
  const scores = { singularValues, trajectory, instability: instabilityOf(trajectory), embedding }
  return { ...identity, tokens: sequence.ids.length, ...scores }
}

function failedOf(id: string | null, { code, message, hint }: Failure): Measured {
  return { kind: 'failed', id, error: new XmasdError(code, message, hint) }
}

/** The id of a record that could not be used, where it can be read at all. */
function idOf(value: Uint8Array): string | null {
  try {
    const id: unknown = JSON.parse(Buffer.from(value).toString()).id
    return typeof id === 'string' || typeof id === 'number' ? String(id) : null
  } catch {
    return null
  }
}
