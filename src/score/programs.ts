/**
 * The compiled programs of a schedule: the vision tower and the score, checkpoint by checkpoint.
 */
import type { Engine, Program } from '../engine/engine.ts'
import { type ProxyConfig, patchesPerImage } from '../proxy/config.ts'
import type { Checkpoint, Schedule } from '../proxy/schedule.ts'
import { visionTower } from '../proxy/vision.ts'
import { crossModalAttention, type Mode, type ScoreInputs } from './attention.ts'

export type VisionProgram = Program<'patches'>
export type ScoreProgram = Program<keyof ScoreInputs<never>>

export interface Programs {
  /** Does `work` with checkpoint `t`'s program. Throws ENGINE_FAILED. */
  withTower<Result>(t: number, work: (tower: VisionProgram) => Promise<Result>): Promise<Result>
  withScore<Result>(t: number, work: (score: ScoreProgram) => Promise<Result>): Promise<Result>
  close(): Promise<void>
}

/** Compiles all and keeps them; one tower where all checkpoints share it. Throws ENGINE_FAILED. */
export async function residentPrograms(
  engine: Engine,
  { config, checkpoints, visionShared }: Schedule,
  mode: Mode,
): Promise<Programs> {
  const towers: VisionProgram[] = []
  const scores: ScoreProgram[] = []
  for (const [t, checkpoint] of checkpoints.entries()) {
    if (t === 0 || !visionShared) towers.push(await compileVision(engine, config, checkpoint))
    const withStates = t === checkpoints.length - 1
    scores.push(await compileScore(engine, config, mode, checkpoint, { withStates }))
  }
  return {
    withTower: (t, work) => work(towers[visionShared ? 0 : t]!),
    withScore: (t, work) => work(scores[t]!),
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

/** The attention [B, I, R]; `withStates` also the states of the text rows [B, R, C]. */
export function compileScore(
  engine: Engine,
  config: ProxyConfig,
  mode: Mode,
  checkpoint: Checkpoint,
  { withStates = false } = {},
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
  return engine.compile(checkpoint, inputs, (ops, values) => {
    const { attention, states } = crossModalAttention(ops, config, mode, values)
    return withStates ? [attention, ops.gatherFlatRows(states, values.rows)] : attention
  })
}
