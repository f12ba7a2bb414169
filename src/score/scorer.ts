/**
 * Scores batches in this thread: the vision tower once per distinct image, for all checkpoints
 * where its weights are equal, then checkpoint by checkpoint.
 */
import type { Device, Engine, EngineChoice, Program } from '../engine/engine.ts'
import { openEngine } from '../engine/open.ts'
import { timed } from '../engine/timed.ts'
import { type ErrorCode, XmasdError } from '../errors.ts'
import { type ProxyConfig, patchesPerImage } from '../proxy/config.ts'
import type { Checkpoint, Schedule } from '../proxy/schedule.ts'
import { visionTower } from '../proxy/vision.ts'
import { crossModalAttention, type Mode, type ScoreInputs } from './attention.ts'
import { ownPart, packBatch, type Sequence } from './batch.ts'
import { stackPatches } from './images.ts'
import { largestSingularValues } from './singular.ts'

/** An example's T rows of 5 singular values, or why it has none. Plain data. */
export type Scored =
  | { singularValues: number[][] }
  | { error: { code: ErrorCode; message: string; hint: string } }

export type ScorerOptions = EngineChoice & {
  schedule: Schedule
  mode: Mode
  /** Threads of one run. */
  threads: number
}

export type DeviceUse = { device: Device; seconds: number }

export interface Scorer {
  /** One result a sequence, in order. Throws ENGINE_FAILED where the whole batch failed. */
  scoreBatch(sequences: readonly Sequence[]): Promise<Scored[]>
  /** Seconds in forward passes since it was last asked. */
  takeDeviceUse(): DeviceUse
  close(): Promise<void>
}

type VisionProgram = Program<'patches'>
type ScoreProgram = Program<keyof ScoreInputs<never>>

/** Loads every checkpoint of the schedule. Throws ENGINE_FAILED, ENGINE_UNAVAILABLE. */
export async function loadScorer(options: ScorerOptions): Promise<Scorer> {
  const { schedule, mode } = options
  const { config, checkpoints, visionShared } = schedule
  const bare = await openEngine({ ...options, positionsMax: config.lengthMax })
  let seconds = 0
  const engine = timed(bare, more => {
    seconds += more
  })
  const towers: VisionProgram[] = []
  const scores: ScoreProgram[] = []
  for (const [t, checkpoint] of checkpoints.entries()) {
    if (t === 0 || !visionShared) towers.push(await compileVision(engine, config, checkpoint))
    scores.push(await compileScore(engine, config, mode, checkpoint))
  }
  return {
    scoreBatch: sequences => scoreBatch(config, towers, scores, sequences),
    takeDeviceUse: () => {
      const use = { device: engine.device, seconds }
      seconds = 0
      return use
    },
    close: async () => {
      for (const program of [...towers, ...scores]) await program.release()
    },
  }
}

export function compileVision(
  engine: Engine,
  config: ProxyConfig,
  checkpoint: Checkpoint,
): Promise<VisionProgram> {
  const { patchSize } = config.vision
  const patches = {
    type: 'float32' as const,
    shape: ['M', patchesPerImage(config.vision), 3 * patchSize ** 2],
  }
  return engine.compile(checkpoint, { patches }, (ops, inputs) =>
    visionTower(ops, config.vision, inputs.patches),
  )
}

export function compileScore(
  engine: Engine,
  config: ProxyConfig,
  mode: Mode,
  checkpoint: Checkpoint,
): Promise<ScoreProgram> {
  const int32 = (...shape: (string | number)[]) => ({ type: 'int32' as const, shape })
  const float32 = (...shape: (string | number)[]) => ({ type: 'float32' as const, shape })
  const inputs = {
    ids: int32(1, 'U'),
    positions: int32(1, 'U'),
    features: float32('M', config.imageTokens, config.vision.width),
    imageRows: int32(1, 'U'),
    isImage: float32(1, 'U', 1),
    prefixes: int32('F', 'P'),
    suffixes: int32('B', 'S'),
    origin: int32(1, 'U'),
    sequences: int32('B', 'T'),
    seen: float32('B', 1, 'S', 'T'),
    padding: float32('B', 1, 'T'),
    rows: int32('B', 'R'),
    columns: int32('B', 'I'),
  }
  return engine.compile(checkpoint, inputs, (ops, values) =>
    crossModalAttention(ops, config, mode, values),
  )
}

async function scoreBatch(
  config: ProxyConfig,
  towers: readonly VisionProgram[],
  scores: readonly ScoreProgram[],
  sequences: readonly Sequence[],
): Promise<Scored[]> {
  const results = sequences.map(sequence => refusalOf(config, sequence))
  const indices = results.flatMap((refusal, i) => (refusal === undefined ? [i] : []))
  if (indices.length > 0) {
    const sound = indices.map(i => sequences[i]!)
    const scored = await scoreSound(config, towers, scores, sound)
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

/** Vision features and scores, checkpoint by checkpoint. */
async function scoreSound(
  config: ProxyConfig,
  towers: readonly VisionProgram[],
  scores: readonly ScoreProgram[],
  sequences: readonly Sequence[],
): Promise<Scored[]> {
  const packed = packBatch(sequences, config)
  const patches = stackPatches(packed.images, patchesPerImage(config.vision))
  const results: Scored[] = sequences.map(() => ({ singularValues: [] }))
  let features: Awaited<ReturnType<VisionProgram['run']>> | undefined
  for (const [t, score] of scores.entries()) {
    const tower = towers[t]
    if (tower !== undefined) features = await tower.run({ patches })
    const attention = await score.run({ ...packed.inputs, features: features! })
    for (const [i, sequence] of sequences.entries()) {
      results[i] = extended(results[i]!, () =>
        largestSingularValues(
          ownPart(attention, i, sequence),
          sequence.columns.length,
          sequence.rows.length,
        ),
      )
    }
  }
  return results
}

/** `scored` with one more row; an operating error makes it that example's end. */
function extended(scored: Scored, row: () => number[]): Scored {
  if ('error' in scored) return scored
  try {
    return { singularValues: [...scored.singularValues, row()] }
  } catch (error) {
    if (error instanceof XmasdError) return failed(error.code, error.message, error.hint)
    throw error
  }
}

function failed(code: ErrorCode, message: string, hint: string): Scored {
  return { error: { code, message, hint } }
}
