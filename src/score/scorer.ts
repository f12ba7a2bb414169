/**
 * Scores sequences in this thread: the vision tower once per distinct image, for all checkpoints
 * where its weights are equal, then checkpoint by checkpoint.
 */
import type { Device, EngineChoice, HostTensor, Output } from '../engine/engine.ts'
import { openEngine } from '../engine/open.ts'
import { timed } from '../engine/timed.ts'
import { type ErrorCode, XmasdError } from '../errors.ts'
import { type ProxyConfig, patchesPerImage } from '../proxy/config.ts'
import type { Schedule } from '../proxy/schedule.ts'
import { type FileStamps, stampFiles } from '../proxy/unchanged.ts'
import type { Mode } from './attention.ts'
import { ownPart, type PackedBatch, packBatch, type Sequence } from './batch.ts'
import { embeddingOf } from './embedding.ts'
import { createFeatureCache, type FeatureCache } from './features.ts'
import { type Image, stackPatches } from './images.ts'
import { type BatchLimits, LIMITS, planBatches } from './plan.ts'
import { openPrograms, type Programs } from './programs.ts'
import { FEATURE_BYTES_MAX, type Residency } from './residency.ts'
import { largestSingularValues } from './singular.ts'

/** An example's T rows of 5 singular values and its embedding, or why it has none. Plain data. */
export type Scored =
  | { singularValues: number[][]; embedding: string }
  | { error: { code: ErrorCode; message: string; hint: string } }

export type ScorerOptions = EngineChoice & {
  schedule: Schedule
  mode: Mode
  /** Threads of one run. */
  threads: number
  /** Of one run. */
  limits?: BatchLimits | undefined
  /** Default: every checkpoint stays in memory. */
  residency?: Residency | undefined
  /** The schedule's files as they were opened. */
  stamps?: FileStamps | undefined
}

export type DeviceUse = { device: Device; seconds: number }

export interface Scorer {
  /** One result a sequence, in order. Throws ENGINE_FAILED where the whole batch failed. */
  scoreBatch(sequences: readonly Sequence[]): Promise<Scored[]>
  /** Seconds in forward passes since it was last asked. */
  takeDeviceUse(): DeviceUse
  close(): Promise<void>
}

/** Loads the schedule. Throws ENGINE_FAILED, ENGINE_UNAVAILABLE. */
export async function loadScorer(options: ScorerOptions): Promise<Scorer> {
  const { schedule, mode, limits = LIMITS, residency } = options
  const bare = await openEngine({ ...options, positionsMax: schedule.config.lengthMax })
  let seconds = 0
  const engine = timed(bare, more => {
    seconds += more
  })
  const { checkpoints } = schedule
  const programs = await openPrograms(engine, {
    schedule,
    mode,
    residents: residency?.residents ?? checkpoints.length,
    stamps: options.stamps ?? stampFiles(checkpoints),
  })
  const features = createFeatureCache(residency?.featureBytesMax ?? FEATURE_BYTES_MAX)
  const parts = { schedule, limits, programs, features }
  return {
    scoreBatch: sequences => scoreBatch(parts, sequences),
    takeDeviceUse: () => {
      const use = { device: engine.device, seconds }
      seconds = 0
      return use
    },
    close: () => programs.close(),
  }
}

type Parts = {
  schedule: Schedule
  limits: BatchLimits
  programs: Programs
  features: FeatureCache
}

async function scoreBatch(parts: Parts, sequences: readonly Sequence[]): Promise<Scored[]> {
  const results = sequences.map(sequence => refusalOf(parts.schedule.config, sequence))
  const indices = results.flatMap((refusal, i) => (refusal === undefined ? [i] : []))
  if (indices.length > 0) {
    const sound = indices.map(i => sequences[i]!)
    const scored = await scoreSound(parts, sound)
    for (const [at, i] of indices.entries()) results[i] = scored[at]
  }
  return results as Scored[]
}

/** Why a sequence can't go into a batch; undefined where it can. */
function refusalOf(config: ProxyConfig, { ids, columns, rows }: Sequence): Scored | undefined {
  if (columns.length === 0) throw new RangeError('a sequence without an image has no score')
  if (rows.length === 0) {
    const hint =
      'No text follows the image within the longest length; shorten what stands before it.'
    return failed('NO_TEXT_ROWS', 'no text row is left after the image', hint)
  }
  if (ids.length > config.lengthMax) throw new RangeError(`${ids.length} positions are too many`)
  const isImage = new Set(columns)
  const { vocab } = config.text
  const stray = ids.findIndex((id, i) => !isImage.has(i) && (id < 0 || id >= vocab))
  if (stray < 0) return undefined
  const message = `token id ${ids[stray]} at position ${stray} is outside the vocabulary of ${vocab}`
  return failed('PROXY_INVALID', message, 'The tokenizer does not belong to this proxy.')
}

type Run = { indices: number[]; packed: PackedBatch }

/** Checkpoint by checkpoint, and at each run by run, so that a checkpoint is needed once. */
async function scoreSound(parts: Parts, sequences: readonly Sequence[]): Promise<Scored[]> {
  const { config, checkpoints, visionShared } = parts.schedule
  const runs: Run[] = planBatches(sequences, parts.limits).map(indices => {
    const batch = indices.map(i => sequences[i]!)
    return { indices, packed: packBatch(batch, config) }
  })
  const results: Scored[] = sequences.map(() => ({ singularValues: [], embedding: '' }))
  const shared = visionShared ? await featuresOfAll(parts, runs, 0) : undefined
  for (const t of checkpoints.keys()) {
    const features = shared ?? (await featuresOfAll(parts, runs, t))
    await parts.programs.withScore(t, async score => {
      for (const [r, { indices, packed }] of runs.entries()) {
        const outputs = await score.run({ ...packed.inputs, features: features[r]! })
        for (const [at, i] of indices.entries()) {
          results[i] = extended(results[i]!, outputs, at, sequences[i]!)
        }
      }
    })
  }
  return results
}

/** The features of each run's images, by checkpoint `t`'s tower. */
async function featuresOfAll(
  { schedule, programs, features }: Parts,
  runs: readonly Run[],
  t: number,
): Promise<HostTensor[]> {
  const patchCount = patchesPerImage(schedule.config.vision)
  const compute = (images: readonly Image[]): Promise<HostTensor> =>
    programs.withTower(t, tower => tower.run({ patches: stackPatches(images, patchCount) }))
  const stacked: HostTensor[] = []
  for (const { packed } of runs) stacked.push(await features.stacked(t, packed.images, compute))
  return stacked
}

/** `scored` with what one checkpoint gave; an operating error makes it that example's end. */
function extended(
  scored: Scored,
  outputs: Output & { others: readonly Output[] },
  index: number,
  sequence: Sequence,
): Scored {
  if ('error' in scored) return scored
  const { columns, rows } = sequence
  const [states] = outputs.others
  try {
    const own = ownPart(outputs, index, sequence)
    const values = largestSingularValues(own, columns.length, rows.length)
    const embedding = states === undefined ? '' : embeddingOf(states, index, rows.length)
    return { singularValues: [...scored.singularValues, values], embedding }
  } catch (error) {
    if (error instanceof XmasdError) return failed(error.code, error.message, error.hint)
    throw error
  }
}

function failed(code: ErrorCode, message: string, hint: string): Scored {
  return { error: { code, message, hint } }
}
