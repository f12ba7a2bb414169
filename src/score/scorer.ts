/**
 * Scores passes of sequences in this thread: the vision tower once per distinct image, for all
 * checkpoints where its weights are equal, then checkpoint by checkpoint.
 */
import { type Device, type EngineChoice, type HostTensor, isOutOfMemory } from '../engine/engine.ts'
import { openEngine, timed } from '../engine/open.ts'
import { XmasdError } from '../errors.ts'
import { type FileStamps, type Schedule, stampFiles } from '../proxy/checkpoint/schedule.ts'
import type { Mode } from './attention.ts'
import {
  type Image,
  type Packing,
  packBatch,
  packingOf,
  type Sequence,
  withoutImages,
} from './batch.ts'
import {
  attentionScore,
  type Batch,
  type CheckpointScore,
  finite,
  lossScore,
  orError,
  type Row,
} from './checkpoint-score.ts'
import { type Failure, failureOf } from './failure.ts'
import { createFeatureCache, type FeatureCache, imageFeatures } from './features.ts'
import type { Gain, Metric } from './metric.ts'
import { openPrograms, type Programs } from './programs.ts'
import { FEATURE_BYTES_MAX, type Residency } from './residency.ts'

/**
 * An example's T rows of 5 singular values and its embeddings, of the text and of the question; or its T
 * losses; or why it has none. `gains`: those asked for, of the last checkpoint or of each; null where the
 * example has no answers.
 */
export type Scored =
  | { singularValues: number[][]; embedding: string; question: string; gains?: number[] | null }
  | { losses: number[]; gains?: number[] | null }
  | { error: Failure }

/** Plain data. */
export type ScorerOptions = EngineChoice & {
  schedule: Schedule
  /** Default: attention. The schedule must have been opened as far as it reaches: see `reachOf`. */
  metric?: Metric | undefined
  mode: Mode
  /** Default: none. Sequences must hold their conversation without pictures. */
  gain?: Gain | undefined
  /** Threads of one run. */
  threads: number
  /** Default: every checkpoint stays in memory. */
  residency?: Residency | undefined
  /** The schedule's files as they were opened. */
  stamps?: FileStamps | undefined
}

/** Sequences that run together. */
export type Pass = readonly Sequence[]

/** What a scoring worker is sent. */
export type ScoreJob = { passes: readonly Pass[] }

export type DeviceUse = { device: Device; seconds: number }

export interface Scorer {
  /**
   * One result a sequence, pass by pass. Throws ENGINE_FAILED, OUT_OF_MEMORY where a pass failed;
   * DEVICE_FAILED, CHECKPOINT_INVALID where all would.
   */
  score(passes: readonly Pass[]): Promise<Scored[]>
  /** Seconds in forward passes since it was last asked. */
  takeDeviceUse(): DeviceUse
  close(): Promise<void>
}

/** Loads the schedule. Throws DEVICE_FAILED, OUT_OF_MEMORY, CHECKPOINT_INVALID, ENGINE_UNAVAILABLE. */
export async function loadScorer(options: ScorerOptions): Promise<Scorer> {
  const { schedule, metric = 'attention', mode, gain = false, residency } = options
  const bare = await openEngine(options)
  let seconds = 0
  const engine = timed(bare, more => {
    seconds += more
  })
  const { config, checkpoints } = schedule
  const programs = await openPrograms(engine, {
    schedule,
    score: (checkpoint, t) => {
      if (metric === 'loss') return lossScore(engine, config, checkpoint)
      // Checkpoints of one base share a session where their programs are equal.
      const withStates = t === checkpoints.length - 1 || checkpoint.base !== undefined
      const withLosses = hasGain({ gain, schedule }, t)
      return attentionScore(engine, config, mode, checkpoint, { withStates, withLosses })
    },
    residents: residency?.residents ?? checkpoints.length,
    stamps: options.stamps ?? stampFiles(checkpoints),
  })
  const features = createFeatureCache(residency?.featureBytesMax ?? FEATURE_BYTES_MAX)
  const packing = packingOf(config)
  const parts = { schedule, packing, metric, gain, programs, features }
  return {
    score: async passes => {
      try {
        return await scorePasses(parts, passes)
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

type ScorerParts = {
  schedule: Schedule
  packing: Packing
  metric: Metric
  gain: Gain
  programs: Programs
  features: FeatureCache
}

/** Whether checkpoint `t` gives a gain. */
function hasGain({ gain, schedule }: Pick<ScorerParts, 'gain' | 'schedule'>, t: number): boolean {
  return gain === 'each' || (gain && t === schedule.checkpoints.length - 1)
}

async function scorePasses(parts: ScorerParts, passes: readonly Pass[]): Promise<Scored[]> {
  const sequences = passes.flat()
  const results = sequences.map(sequence => refusalOf(parts, sequence))
  let at = 0
  const runs: Run[] = passes.flatMap(pass => {
    const indices = pass.map(() => at++).filter(i => results[i] === undefined)
    if (indices.length === 0) return []
    const own = indices.map(i => sequences[i]!)
    const run = { indices, sequences: own, packed: packBatch(own, parts.packing) }
    return [{ ...run, bare: parts.gain === false ? undefined : bareOf(own, parts.packing) }]
  })
  if (runs.length > 0) {
    for (const [i, scored] of await scoreRuns(parts, runs)) results[i] = scored
  }
  return results as Scored[]
}

/** Why a sequence can't go into a batch; undefined where it can. */
function refusalOf(
  { schedule: { config }, metric }: ScorerParts,
  { ids, columns, rows, answers }: Sequence,
): Scored | undefined {
  if (columns.length === 0) throw new RangeError('a sequence without an image has no score')
  if ((metric === 'loss' ? answers : rows).length === 0) {
    const hint =
      'No text follows the image within the longest length; shorten what stands before it.'
    return { error: { code: 'NO_TEXT_ROWS', message: 'no text row is left after the image', hint } }
  }
  if (ids.length > config.lengthMax) throw new RangeError(`${ids.length} positions are too many`)
  const isImage = new Set(columns)
  const { vocab } = config.text
  const stray = ids.findIndex((id, i) => !isImage.has(i) && (id < 0 || id >= vocab))
  if (stray < 0) return undefined
  const message = `token id ${ids[stray]} at position ${stray} is outside the vocabulary of ${vocab}`
  const hint = 'The tokenizer does not belong to this proxy.'
  return { error: { code: 'PROXY_INVALID', message, hint } }
}

/** Sequences of one pass, and where their results belong; `bare` is the pass without pictures. */
type Run = Batch & { indices: number[]; bare: Bare | undefined }

/** `at`: the place in its run of each sequence that has answers. */
type Bare = Batch & { at: number[] }

function bareOf(sequences: readonly Sequence[], packing: Packing): Bare | undefined {
  const at: number[] = []
  const bare = sequences.flatMap((sequence, i) => {
    const without = withoutImages(sequence)
    if (without !== undefined) at.push(i)
    return without ?? []
  })
  return bare.length === 0 ? undefined : { at, sequences: bare, packed: packBatch(bare, packing) }
}

type GainRow = Row & { gain?: number }

/** Checkpoint by checkpoint, and at each run by run, so that a checkpoint is needed once. */
async function scoreRuns(parts: ScorerParts, runs: readonly Run[]): Promise<Map<number, Scored>> {
  const { checkpoints, visionShared } = parts.schedule
  const rows = new Map<number, (GainRow | XmasdError)[]>()
  for (const { indices } of runs) for (const i of indices) rows.set(i, [])
  const shared = visionShared ? await featuresOfAll(parts, runs, 0) : undefined
  for (const t of checkpoints.keys()) {
    const features = shared ?? (await featuresOfAll(parts, runs, t))
    await parts.programs.withScore(t, async score => {
      for (const [r, run] of runs.entries()) {
        const found = await score.rows(run, features[r]!)
        if (hasGain(parts, t)) await addGains(score, run, features[r]!, found)
        for (const [at, row] of found.entries()) rows.get(run.indices[at]!)!.push(row)
      }
    })
  }
  return new Map([...rows].map(([i, own]) => [i, scoredOf(parts, own)]))
}

/** The same features again, which no token of the pass without pictures reads. */
async function addGains(
  score: CheckpointScore,
  { bare }: Run,
  features: HostTensor,
  rows: (GainRow | XmasdError)[],
): Promise<void> {
  if (bare === undefined) return
  const losses = await score.losses(bare, features)
  for (const [b, at] of bare.at.entries()) {
    const row = rows[at]!
    if (row instanceof XmasdError || row.loss == null) continue
    rows[at] = orError(() => ({ ...row, gain: finite(losses[b]! - row.loss!)! }))
  }
}

/** What its checkpoints gave; an operating error at one of them is the example's end, and names it. */
function scoredOf(
  { metric, gain, schedule }: ScorerParts,
  given: readonly (GainRow | XmasdError)[],
): Scored {
  const rows: GainRow[] = []
  for (const [t, row] of given.entries()) {
    if (row instanceof XmasdError) {
      const message = `${row.message}, with ${schedule.checkpoints[t]!.dir}`
      return { error: { ...failureOf(row), message } }
    }
    rows.push(row)
  }
  const gains = rows.flatMap(row => row.gain ?? [])
  const gained = gain === false ? {} : { gains: gains.length === 0 ? null : gains }
  if (metric === 'loss') return { losses: rows.map(({ values: [loss] }) => loss!), ...gained }
  const singularValues = rows.map(({ values }) => values)
  const { embedding = '', question = '' } = rows.at(-1) ?? {}
  return { singularValues, embedding, question, ...gained }
}

/** The features of each run's images, by checkpoint `t`'s tower. */
async function featuresOfAll(
  { schedule, programs, features }: ScorerParts,
  runs: readonly Run[],
  t: number,
): Promise<HostTensor[]> {
  const stacked: HostTensor[] = []
  for (const { packed } of runs) {
    const compute = (images: readonly Image[]): Promise<HostTensor[]> =>
      programs.withTower(t, tower => imageFeatures(tower, schedule.config, images))
    stacked.push(await features.stacked(t, packed.images, compute))
  }
  return stacked
}
