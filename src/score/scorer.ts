/**
 * Scores sequences in this thread: the vision tower once per distinct image, for all checkpoints
 * where its weights are equal, then checkpoint by checkpoint.
 */
import type { Device, EngineChoice, HostTensor } from '../engine/engine.ts'
import { isOutOfMemory } from '../engine/failure.ts'
import { openEngine } from '../engine/open.ts'
import { timed } from '../engine/timed.ts'
import { type ErrorCode, XmasdError } from '../errors.ts'
import { patchesPerImage } from '../proxy/config.ts'
import type { Schedule } from '../proxy/schedule.ts'
import { type FileStamps, stampFiles } from '../proxy/unchanged.ts'
import type { Mode } from './attention.ts'
import { type PackedBatch, packBatch, type Sequence } from './batch.ts'
import { attentionScore, lossScore, type Row } from './checkpoint-score.ts'
import { createFeatureCache, type FeatureCache } from './features.ts'
import { type Image, stackPatches } from './images.ts'
import type { Metric } from './metric.ts'
import { type BatchLimits, LIMITS, planBatches } from './plan.ts'
import { openPrograms, type Programs } from './programs.ts'
import { FEATURE_BYTES_MAX, type Residency } from './residency.ts'

/** An example's T rows of 5 singular values and its embedding, or its T losses; or why it has none. */
export type Scored =
  | { singularValues: number[][]; embedding: string }
  | { losses: number[] }
  | { error: { code: ErrorCode; message: string; hint: string } }

/** Plain data. */
export type ScorerOptions = EngineChoice & {
  schedule: Schedule
  /** Default: attention. The schedule must have been opened as far as it reaches: see `reachOf`. */
  metric?: Metric | undefined
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
  /**
   * One result a sequence, in order. `tokensMax` of a run, where it is not that of the limits. Throws
   * ENGINE_FAILED, OUT_OF_MEMORY where the batch failed; DEVICE_FAILED, CHECKPOINT_INVALID where all would.
   */
  scoreBatch(sequences: readonly Sequence[], tokensMax?: number): Promise<Scored[]>
  /** Seconds in forward passes since it was last asked. */
  takeDeviceUse(): DeviceUse
  close(): Promise<void>
}

/** Loads the schedule. Throws DEVICE_FAILED, OUT_OF_MEMORY, CHECKPOINT_INVALID, ENGINE_UNAVAILABLE. */
export async function loadScorer(options: ScorerOptions): Promise<Scorer> {
  const { schedule, metric = 'attention', mode, limits = LIMITS, residency } = options
  const bare = await openEngine({ ...options, positionsMax: schedule.config.lengthMax })
  let seconds = 0
  const engine = timed(bare, more => {
    seconds += more
  })
  const { config, checkpoints } = schedule
  const programs = await openPrograms(engine, {
    schedule,
    score: (checkpoint, t) => {
      if (metric === 'loss') return lossScore(engine, config, checkpoint)
      const withStates = t === checkpoints.length - 1
      return attentionScore(engine, config, mode, checkpoint, { withStates })
    },
    residents: residency?.residents ?? checkpoints.length,
    stamps: options.stamps ?? stampFiles(checkpoints),
  })
  const features = createFeatureCache(residency?.featureBytesMax ?? FEATURE_BYTES_MAX)
  const parts = { schedule, metric, limits, programs, features }
  return {
    scoreBatch: async (sequences, tokensMax = limits.tokensMax) => {
      try {
        return await scoreBatch({ ...parts, limits: { ...limits, tokensMax } }, sequences)
      } catch (error) {
        if (isOutOfMemory(error)) await programs.release() // each keeps what its largest run took
        throw error
      }
    },
    takeDeviceUse: () => {
      const use = { device: engine.device, seconds }
      seconds = 0
      return use
    },
    close: () => programs.release(),
  }
}

type Parts = {
  schedule: Schedule
  metric: Metric
  limits: BatchLimits
  programs: Programs
  features: FeatureCache
}

async function scoreBatch(parts: Parts, sequences: readonly Sequence[]): Promise<Scored[]> {
  const results = sequences.map(sequence => refusalOf(parts, sequence))
  const indices = results.flatMap((refusal, i) => (refusal === undefined ? [i] : []))
  if (indices.length > 0) {
    const sound = indices.map(i => sequences[i]!)
    const scored = await scoreSound(parts, sound)
    for (const [at, i] of indices.entries()) results[i] = scored[at]
  }
  return results as Scored[]
}

/** Why a sequence can't go into a batch; undefined where it can. */
function refusalOf(
  { schedule: { config }, metric }: Parts,
  { ids, columns, rows, answers }: Sequence,
): Scored | undefined {
  if (columns.length === 0) throw new RangeError('a sequence without an image has no score')
  if ((metric === 'loss' ? answers : rows).length === 0) {
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
  const rows: (Row | XmasdError)[][] = sequences.map(() => [])
  const shared = visionShared ? await featuresOfAll(parts, runs, 0) : undefined
  for (const t of checkpoints.keys()) {
    const features = shared ?? (await featuresOfAll(parts, runs, t))
    await parts.programs.withScore(t, async score => {
      for (const [r, { indices, packed }] of runs.entries()) {
        const batch = { packed, sequences: indices.map(i => sequences[i]!) }
        for (const [at, row] of (await score.rows(batch, features[r]!)).entries()) {
          rows[indices[at]!]!.push(row)
        }
      }
    })
  }
  return rows.map(own => scoredOf(parts, own))
}

/** What its checkpoints gave; an operating error at one of them is the example's end, and names it. */
function scoredOf({ metric, schedule }: Parts, given: readonly (Row | XmasdError)[]): Scored {
  const rows: Row[] = []
  for (const [t, row] of given.entries()) {
    if (row instanceof XmasdError) {
      return failed(row.code, `${row.message}, with ${schedule.checkpoints[t]!.dir}`, row.hint)
    }
    rows.push(row)
  }
  if (metric === 'loss') return { losses: rows.map(({ values: [loss] }) => loss!) }
  const singularValues = rows.map(({ values }) => values)
  return { singularValues, embedding: rows.at(-1)?.embedding ?? '' }
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

function failed(code: ErrorCode, message: string, hint: string): Scored {
  return { error: { code, message, hint } }
}
