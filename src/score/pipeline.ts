/**
 * From the bytes of records to trajectories, off the event loop: ingest workers prepare, scoring
 * workers run the proxy. The score role and the offline commands share it.
 */
import { availableParallelism } from 'node:os'
import type { EngineName, Precision } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import { type ChatTemplate, type ChosenPrompt, choosePrompt } from '../ingest/chat-template.ts'
import type { HostLimits } from '../ingest/fetch/gate.ts'
import { idIn } from '../ingest/form/decode.ts'
import type { TextLimits } from '../ingest/form/example.ts'
import type { Fields } from '../ingest/form/fields.ts'
import type { RegistryOptions } from '../ingest/form/framing.ts'
import type { PixelBudget } from '../ingest/image/picture.ts'
import type { ImageLimits } from '../ingest/image/pixels.ts'
import type { ExampleSource, Prepared } from '../ingest/prepare.ts'
import {
  checkSamePreparation,
  processorFolder,
  tokenizerFolder,
} from '../ingest/same-preparation.ts'
import type { Template } from '../ingest/template.ts'
import { familyOf } from '../proxy/checkpoint/config.ts'
import { checkLength, openSchedule, type Schedule } from '../proxy/checkpoint/schedule.ts'
import type { Size } from '../record.ts'
import { scriptAt } from '../version.ts'
import type { Mode } from './attention.ts'
import { LIMITS, type Sequence, sequenceKey } from './batch.ts'
import type { ChosenDevice, DeviceWish } from './device/choice.ts'
import { errorOf, type Failure, withRetry } from './failure.ts'
import { preparationOf, type RecordedScores, scoresOf } from './identity.ts'
import { type Gain, instabilityOf, type Metric, reachOf, trajectoryOf } from './metric.ts'
import type { WorkerPlan } from './residency.ts'
import type { DeviceUse, Scored } from './scorer.ts'
import { type OutOfMemory, type Scoring, startScoring } from './scoring.ts'
import { ByteBudget } from './workers/budget.ts'
import type {
  Ingested,
  IngestJob,
  IngestWorkerData,
  KeyedValue,
  ModelPreparer,
} from './workers/ingest-worker.ts'
import { type Load, Pool } from './workers/pool.ts'
import { ReplaceablePool } from './workers/replaceable.ts'

/** Where images come from, and the limits of each. */
export type ImageOptions = ImageLimits & {
  root: string
  hosts: readonly string[]
  addressesAllowed: readonly string[]
  buckets: readonly string[]
  headersFile?: string | undefined
  /** At one host, by all workers together. Default: no limit. */
  requestsPerSecondMax?: number | undefined
}

/** The parts of the configuration that scoring takes. */
export type PipelineOptions = {
  log?: { schemaRegistry?: RegistryOptions | undefined }
  images: ImageOptions
  text: TextLimits
  /** Names of fields other than the forms' own. */
  data?: { fields: Fields } | undefined
  proxy: {
    path: string
    base?: string | undefined
    template?: string | undefined
    imagePixels?: PixelBudget
    metric: Metric
    mode: Mode
    /** Default: none. */
    gain?: Gain
    engine: EngineName
    device: DeviceWish
    precision: Precision
    workers?: number | undefined
    threads?: number | undefined
    tokensMax: number
    memoryMax?: number | undefined
  }
  score: {
    batchExamplesMax: number
    /** Default: one a core. */
    ingestWorkers?: number | undefined
    /** What ingest may take for one example, alone; see `Clock`. */
    ingestMsMax: number
    /** Of decoded images in all workers. Default: a share of the available memory. */
    decodedBytesMax?: number | undefined
  }
}

/** What became of one record. Text-only examples have nulls. */
export type ScoredRecord =
  | {
      kind: 'scored'
      id: string
      key: string
      content: string
      truncated: boolean
      /** Positions of the sequence; 0 for text-only. */
      tokens: number
      /** Null under the loss, too, as are the embeddings. */
      singularValues: number[][] | null
      trajectory: number[] | null
      instability: number | null
      /** What near-duplicates share; `layout` and `embedding` as directions in base64. */
      words: string
      layout: string | null
      embedding: string | null
      /** See `embedding`; of the user turns' text alone. */
      question: string | null
      size: Size | null
      /** At the last checkpoint; null where there are no pictures or no answers, absent where not asked for. */
      gain?: number | null
      /** [T], where each was asked for. */
      gains?: number[] | null
    }
  | { kind: 'failed'; id: string | null; error: XmasdError }

export type Stage = 'ingest' | 'score'

export type PipelineHooks = {
  onWorkerReplaced?: () => void
  onStage?: (stage: Stage, seconds: number) => void
  onDeviceUse?: (use: DeviceUse) => void
  onOutOfMemory?: (event: OutOfMemory) => void
  /** Told whenever an example, an image or a job is done. */
  onProgress?: () => void
  /** Told once of examples that are read although something is not as they say, with the first of them. */
  onNote?: (note: string) => void
  /** The script of ingest workers. Tests give their own. */
  ingestScript?: URL
}

export type ScoringPipeline = {
  /** What the scores are: see `ScoreIdentity`. */
  scores: RecordedScores & { schedule: { steps: number[]; fingerprint: string } }
  prompt: Pick<ChosenPrompt, 'origin' | 'formerly'>
  /** What of the schedule is suspect, a sentence each. */
  warnings: readonly string[]
  device: ChosenDevice
  plan: WorkerPlan
  /**
   * One result a record, in order. `keys` are those of the records on the log, ids of records that
   * have none. Throws where scoring as such is broken.
   */
  score(values: readonly Uint8Array[], keys?: readonly (string | null)[]): Promise<ScoredRecord[]>
  /**
   * Prepares by other limits once it resolves: new ingest workers have started, the old ones finish their
   * jobs. One call at a time.
   */
  reload(limits: Pick<PipelineOptions, 'images' | 'text'>): Promise<void>
  /** How busy the workers of each stage are. */
  loads(): Record<Stage, Load>
  close(): Promise<void>
}

/** Resolves once all workers are warm. Throws what the proxy, its template or its tokenizer lack. */
export async function startPipeline(
  config: PipelineOptions,
  hooks: PipelineHooks = {},
): Promise<ScoringPipeline> {
  const { path: proxyDir, tokensMax, template: _, imagePixels: __, ...proxy } = config.proxy
  const schedule = openSchedule(proxyDir, reachOf(proxy.metric, proxy.gain), proxy.base)
  checkLength(schedule)
  const scoring = await startScoring({
    ...proxy,
    ...hooks,
    proxyDir,
    schedule,
    limits: { ...LIMITS, tokensMax },
    batchExamplesMax: config.score.batchExamplesMax,
  })
  let ingest: IngestPool | undefined
  let said: ReturnType<typeof describeScores>
  try {
    said = describeScores(config.proxy, schedule)
    ingest = await startIngest(config, preparerOptions(config, schedule, said.template), hooks)
  } catch (error) {
    await scoring.close()
    throw error
  }
  const { template } = said
  const pool = new ReplaceablePool(ingest)
  const noting = { ...hooks, onNote: once(hooks.onNote) }
  const { gain = false } = config.proxy
  const { ingestMsMax: msMax } = config.score
  const source = { pool, workers: ingestWorkers(config), msMax, gain }
  return {
    scores: said.scores,
    prompt: said.prompt,
    warnings: schedule.warnings,
    device: scoring.device,
    plan: scoring.plan,
    score: (values, keys) => score(source, scoring, keyed(values, keys), noting),
    loads: () => ({ ingest: pool.load(), score: scoring.load() }),
    reload: async ({ images, text }) => {
      const next = { ...config, images, text }
      await pool.replace(() => startIngest(next, preparerOptions(next, schedule, template), hooks))
    },
    close: async () => {
      await pool.close()
      await scoring.close()
    },
  }
}

function once(tell: PipelineHooks['onNote']): (note: string) => void {
  let isTold = false
  return note => {
    if (!isTold) tell?.(note)
    isTold = true
  }
}

type IngestPool = Pool<IngestJob, Ingested[]>

/**
 * What the scores of a schedule are, before any engine is loaded. Throws what the template, tokenizer or
 * image processor lack, and CHECKPOINT_INVALID where checkpoints prepare examples differently.
 */
export function describeScores(proxy: PipelineOptions['proxy'], schedule: Schedule) {
  const { checkpoints, config } = schedule
  const folders = checkpoints.map(({ dir }) => dir)
  const first = checkpoints[0]!
  const { template, ...prompt } = choosePrompt(proxy.template, {
    proxyDir: proxy.path,
    checkpointDir: first.dir,
    baseDir: first.base,
    tokenizerDir: tokenizerFolder(first),
    imageTokenId: config.imageTokenId,
    config,
  })
  const of = (folder: string) => familyOf(config).pictures(config, folder, proxy.imagePixels)
  const describe = (folder: string) => of(folder).described
  checkSamePreparation(folders, { describe, hasChat: 'chat' in template })
  const pictures = of(processorFolder(first))
  const scores = scoresOf(schedule, proxy, preparationOf(schedule, template, pictures))
  return { scores, prompt, template, pictures }
}

export type Identifier = {
  /** The key of each example, undefined where it can't be used. */
  identify(values: readonly Uint8Array[]): Promise<(string | undefined)[]>
  close(): Promise<void>
}

/** Keys without scores: images are decoded, no proxy is needed. */
export async function startIdentifying(
  config: Pick<PipelineOptions, 'images' | 'text' | 'data' | 'score' | 'log'>,
  hooks: PipelineHooks = {},
): Promise<Identifier> {
  const pool = await startIngest(config, undefined, hooks)
  const source = { pool, workers: ingestWorkers(config), msMax: config.score.ingestMsMax }
  return {
    identify: async values => {
      const found = await ingestAll(source, 'key', keyed(values))
      return found.map(one => (one.kind === 'key' ? one.key : undefined))
    },
    close: () => pool.close(),
  }
}

function keyed(values: readonly Uint8Array[], keys: readonly (string | null)[] = []): KeyedValue[] {
  return values.map((value, i) => ({ value, key: keys[i] }))
}

/** Where images come from and how records are read, as the configuration says. */
export function imageSource({
  images,
  text,
  data,
  score,
  log,
}: Pick<PipelineOptions, 'images' | 'text' | 'data' | 'log'> &
  Partial<Pick<PipelineOptions, 'score'>>): ExampleSource {
  const { root, hosts, addressesAllowed, buckets, headersFile, ...others } = images
  const { requestsPerSecondMax, ...limits } = others
  const remote = { hosts, addressesAllowed, buckets, headersFile }
  const hostLimits = shareOf(ingestWorkers({ score }), requestsPerSecondMax)
  const form = { text, fields: data?.fields }
  return { root, limits, ...remote, hostLimits, form, registry: log?.schemaRegistry }
}

/** Each worker process has its own connections. */
const REQUESTS_A_HOST = 32

function shareOf(workers: number, requestsPerSecondMax: number | undefined): HostLimits {
  const requestsMax = Math.max(1, Math.floor(REQUESTS_A_HOST / workers))
  return requestsPerSecondMax === undefined
    ? { requestsMax }
    : { requestsMax, requestsPerSecondMax: requestsPerSecondMax / workers }
}

function ingestWorkers({ score }: { score?: PipelineOptions['score'] | undefined }): number {
  return score?.ingestWorkers ?? availableParallelism()
}

export function preparerOptions(
  config: PipelineOptions,
  schedule: Schedule,
  template: Template | ChatTemplate,
): ModelPreparer {
  const { root, ...source } = imageSource(config)
  const { imageTokens, imageTokenId, lengthMax } = schedule.config
  const { dir, base } = schedule.checkpoints[0]!
  return {
    ...source,
    imageRoot: root,
    checkpointDir: dir,
    baseDir: base,
    template,
    imageTokens,
    imageTokenId,
    lengthMax,
    answers: config.proxy.metric === 'loss',
    questions: config.proxy.metric !== 'loss',
    gain: (config.proxy.gain ?? false) !== false,
    model: schedule.config,
    imagePixels: config.proxy.imagePixels,
  }
}

async function startIngest(
  config: Pick<PipelineOptions, 'images' | 'text' | 'data' | 'score' | 'log'>,
  preparer: ModelPreparer | undefined,
  hooks: PipelineHooks,
): Promise<IngestPool> {
  const workerData: IngestWorkerData = { source: imageSource(config), preparer }
  const pool = new Pool<IngestJob, Ingested[]>({
    script: hooks.ingestScript ?? scriptAt('score/workers/ingest-worker.js'),
    workerData,
    size: ingestWorkers(config),
    isolation: 'process', // native code of a hostile example can't be interrupted in a thread
    late: lateIngest,
    budget: new ByteBudget(config.score.decodedBytesMax ?? decodedBytesDefault()),
    onReplaced: hooks.onWorkerReplaced,
    onProgress: hooks.onProgress,
  })
  await pool.ready().catch(async error => {
    await pool.close()
    throw error
  })
  return pool
}

/** Decoded images take up to this share of the memory that is available at the start. */
const DECODED_SHARE = 1 / 4

function decodedBytesDefault(): number {
  return Math.floor(DECODED_SHARE * process.availableMemory())
}

function lateIngest(msMax: number): XmasdError {
  return new XmasdError(
    'INGEST_TIMEOUT',
    `the example was not ready within ${msMax / 1000} s`,
    'shorten its text or split it; for slow image servers raise score.ingestMsMax',
  )
}

/** Records of one ingest job at most: a message costs as much as preparing a small example. */
const INGEST_RECORDS = 32
/** Where no example of a shared job is done for this share of the limit, each is tried alone. */
const SHARED_PATIENCE = 3 / 4

/** `msMax`: what one example may take, alone. */
type Ingest = { pool: Pick<IngestPool, 'run'>; workers: number; msMax: number }

async function ingestAll(
  { pool, workers, msMax }: Ingest,
  want: IngestJob['want'],
  keyedValues: readonly KeyedValue[],
): Promise<Ingested[]> {
  const size = Math.min(INGEST_RECORDS, Math.ceil(keyedValues.length / workers))
  const jobs: Promise<Ingested[]>[] = []
  for (let at = 0; at < keyedValues.length; at += size) {
    const job = withRetry(keyedValues.slice(at, at + size), {
      parts: INGEST_RECORDS,
      attempt: async (records, isAlone) => {
        const limit = { msMax: isAlone ? msMax : SHARED_PATIENCE * msMax }
        const done: Ingested[] = []
        while (done.length < records.length) {
          const rest = records.slice(done.length).map(alone)
          done.push(...(await pool.run({ want, records: rest }, limit)))
        }
        return done
      },
      blame: (error): Ingested => ({ kind: 'failed', error }),
      failureIn: one => (one.kind === 'failed' ? one.error : undefined),
    })
    jobs.push(job)
  }
  return (await Promise.all(jobs)).flat()
}

/** A view is sent with all the memory that it is a view of, and records are views of whole fetches. */
function alone({ value, key }: KeyedValue): KeyedValue {
  const isWhole = value.byteLength === value.buffer.byteLength
  return { value: isWhole ? value : new Uint8Array(value), key }
}

async function score(
  ingest: Ingest & { gain: Gain },
  scoring: Scoring,
  records: readonly KeyedValue[],
  hooks: PipelineHooks,
): Promise<ScoredRecord[]> {
  const started = performance.now()
  const ingested = await ingestAll(ingest, 'prepared', records)
  const prepared = performance.now()
  hooks.onStage?.('ingest', (prepared - started) / 1000)
  const noted = ingested.find(one => one.kind === 'prepared' && one.prepared.notes.length > 0)
  if (noted?.kind === 'prepared')
    hooks.onNote?.(`example ${noted.prepared.id}: ${noted.prepared.notes[0]}`)
  const { sequences, indexOf } = distinctSequences(ingested)
  const scored = await scoring.score(sequences)
  hooks.onStage?.('score', (performance.now() - prepared) / 1000)
  const { gain } = ingest
  return ingested.map((one, i) => {
    return recordOf(one, scored[indexOf[i] ?? -1], { value: records[i]!.value, gain })
  })
}

/** Equal sequences give equal scores: each is scored once in a batch. `indexOf` is by record. */
function distinctSequences(ingested: readonly Ingested[]): {
  sequences: Sequence[]
  indexOf: (number | undefined)[]
} {
  const sequences: Sequence[] = []
  const known = new Map<string, number>()
  const indexOf = ingested.map(one => {
    if (one.kind !== 'prepared' || one.prepared.sequence === null) return undefined
    const { sequence } = one.prepared
    const key = sequenceKey(sequence)
    const index = known.get(key) ?? sequences.push(owned(sequence)) - 1
    known.set(key, index)
    return index
  })
  return { sequences, indexOf }
}

/** What a process answers is a view of its whole message, all of which would be sent on. */
function owned(sequence: Sequence): Sequence {
  const { ids, columns, rows, answers, questions, images, bare } = sequence
  return {
    ids: ids.slice(),
    columns: columns.slice(),
    rows: rows.slice(),
    answers: answers.slice(),
    questions: questions?.slice(),
    ...(bare && { bare: { ids: bare.ids.slice(), answers: bare.answers.slice() } }),
    images: images.map(({ patches, ...image }) => ({ ...image, patches: patches.slice() })),
  }
}

function recordOf(
  ingested: Ingested,
  scored: Scored | undefined,
  { value, gain }: { value: Uint8Array; gain: Gain },
): ScoredRecord {
  if (ingested.kind === 'failed') return failedOf(idIn(value) ?? null, ingested.error)
  if (ingested.kind !== 'prepared') throw new RangeError('a key was asked for, not a sequence')
  const { id, key, content, words, layout, truncated, sequence } = ingested.prepared
  const identity = { kind: 'scored' as const, id, key, content, words, layout, truncated }
  if (sequence === null || scored === undefined) {
    return {
      ...{ ...identity, tokens: 0, size: null, trajectory: null, instability: null },
      ...{ singularValues: null, embedding: null, question: null },
      ...(gain === false ? {} : gainsOf(gain, null)),
    }
  }
  if ('error' in scored) return failedOf(id, scored.error)
  const trajectory = 'losses' in scored ? scored.losses : trajectoryOf(scored.singularValues)
  const { singularValues, embedding, question } =
    'losses' in scored ? { singularValues: null, embedding: null, question: null } : scored
  const instability = instabilityOf(trajectory)
  const scores = { singularValues, trajectory, instability, embedding, question }
  const size = sizeOf(sequence, ingested.prepared)
  const gained = gain === false ? {} : gainsOf(gain, scored.gains ?? null)
  return { ...identity, tokens: sequence.ids.length, size, ...scores, ...gained }
}

/** The loss asks for no rows; those that the score would have are counted all the same. */
function sizeOf({ ids, columns }: Sequence, { pixels }: Pick<Prepared, 'pixels'>): Size {
  return { imageTokens: columns.length, textRows: ids.length - columns.at(-1)! - 2, pixels }
}

function gainsOf(gain: Gain, gains: number[] | null) {
  return { gain: gains?.at(-1) ?? null, ...(gain === 'each' ? { gains } : {}) }
}

function failedOf(id: string | null, failure: Failure): ScoredRecord {
  return { kind: 'failed', id, error: errorOf(failure) }
}
