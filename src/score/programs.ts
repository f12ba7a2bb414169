/**
 * The compiled programs of a schedule: the vision tower and the score, checkpoint by checkpoint.
 */
import type { Engine, InputSpec, Program } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import { type ProxyConfig, patchesPerImage } from '../proxy/config.ts'
import type { Checkpoint, Schedule } from '../proxy/schedule.ts'
import { checkUnchanged, type FileStamps } from '../proxy/unchanged.ts'
import { visionTower } from '../proxy/vision.ts'
import { crossModalAttention, type Mode, type ScoreInputs, type TokenInputs } from './attention.ts'
import type { CheckpointScore } from './checkpoint-score.ts'
import { deviceFailed } from './failures.ts'
import { type HeadInputs, type HiddenInputs, predictorStates, tokenLosses } from './loss.ts'

export type VisionProgram = Program<'patches'>
export type ScoreProgram = Program<keyof ScoreInputs<never>>
export type HiddenProgram = Program<keyof HiddenInputs<never>>
export type HeadProgram = Program<keyof HeadInputs<never>>

export interface Programs {
  /** Does `work` with checkpoint `t`'s program. Throws OUT_OF_MEMORY, CHECKPOINT_INVALID, DEVICE_FAILED. */
  withTower<Result>(t: number, work: (tower: VisionProgram) => Promise<Result>): Promise<Result>
  withScore<Result>(t: number, work: (score: CheckpointScore) => Promise<Result>): Promise<Result>
  /** Lets go of everything; what is wanted again is compiled again. */
  release(): Promise<void>
}

export type ProgramsOptions = {
  schedule: Schedule
  /** Makes the score of checkpoint number `t`. */
  score: (checkpoint: Checkpoint, t: number) => Promise<CheckpointScore>
  /** The first so many checkpoints stay in memory. */
  residents: number
  /** The schedule's files as they were opened. */
  stamps: FileStamps
}

/**
 * Compiles the checkpoints that stay, and the one tower where all share it. Of the others one program at
 * a time is in memory, until another is asked for. Throws OUT_OF_MEMORY; DEVICE_FAILED where a checkpoint
 * can't be loaded; CHECKPOINT_INVALID where a file is no longer the one that was opened.
 */
export async function openPrograms(engine: Engine, options: ProgramsOptions): Promise<Programs> {
  const { schedule, residents, stamps } = options
  const { config, checkpoints, visionShared } = schedule
  const streamed = new Slot()
  const resident = new Map<string, Releasable>()
  const hold = async <P extends Releasable>(
    name: string,
    stays: boolean,
    checkpoint: Checkpoint,
    compile: () => Promise<P>,
  ): Promise<P> => {
    const load = (): Promise<P> => loading(checkpoint, stamps, compile)
    if (!stays) return streamed.hold(name, load)
    const program = (resident.get(name) as P | undefined) ?? (await load())
    resident.set(name, program)
    return program
  }
  const tower = (t: number): Promise<VisionProgram> => {
    const at = visionShared ? 0 : t
    const checkpoint = checkpoints[at]!
    return hold(`tower ${at}`, visionShared || t < residents, checkpoint, () =>
      compileVision(engine, config, checkpoint),
    )
  }
  const score = (t: number): Promise<CheckpointScore> =>
    hold(`score ${t}`, t < residents, checkpoints[t]!, () => options.score(checkpoints[t]!, t))
  for (let t = 0; t < (visionShared ? 1 : residents); t++) await tower(t)
  for (let t = 0; t < residents; t++) await score(t)
  return {
    withTower: async (t, work) => work(await tower(t)),
    withScore: async (t, work) => work(await score(t)),
    release: async () => {
      await streamed.empty()
      for (const program of resident.values()) await program.release()
      resident.clear()
    },
  }
}

/** A checkpoint that can't be loaded is no example's fault. */
async function loading<P>(
  checkpoint: Checkpoint,
  stamps: FileStamps,
  compile: () => Promise<P>,
): Promise<P> {
  checkUnchanged(checkpoint, stamps)
  try {
    return await compile()
  } catch (error) {
    checkUnchanged(checkpoint, stamps) // changed while it was read: that is why
    if (!(error instanceof XmasdError && error.code === 'ENGINE_FAILED')) throw error
    throw deviceFailed(`${checkpoint.dir} cannot be loaded: ${error.message}`)
  }
}

type Releasable = { release(): Promise<void> }

/** Holds one program; the one before is released first, so that both are never in memory. */
class Slot {
  #key: string | undefined
  #program: Releasable | undefined

  async hold<P extends Releasable>(key: string, load: () => Promise<P>): Promise<P> {
    if (this.#key === key) return this.#program as P
    await this.empty()
    const program = await load()
    this.#program = program
    this.#key = key
    return program
  }

  async empty(): Promise<void> {
    const program = this.#program
    this.#program = undefined
    this.#key = undefined
    await program?.release()
  }
}

const int32 = (...shape: (string | number)[]): InputSpec => ({ type: 'int32', shape })
const float32 = (...shape: (string | number)[]): InputSpec => ({ type: 'float32', shape })

export function compileVision(
  engine: Engine,
  config: ProxyConfig,
  checkpoint: Checkpoint,
): Promise<VisionProgram> {
  const { patchSize } = config.vision
  const patches = float32('M', patchesPerImage(config.vision), 3 * patchSize ** 2)
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
  const inputs = {
    ...tokenInputs(config),
    padding: float32('B', 1, 'T'),
    rows: int32('B', 'R'),
    columns: int32('B', 'I'),
  }
  return engine.compile(checkpoint, inputs, (ops, values) => {
    const { attention, states } = crossModalAttention(ops, config, mode, values)
    return withStates ? [attention, ops.gatherFlatRows(states, values.rows)] : attention
  })
}

export function compileHidden(
  engine: Engine,
  config: ProxyConfig,
  checkpoint: Checkpoint,
): Promise<HiddenProgram> {
  const inputs = { ...tokenInputs(config), predictors: int32(1, 'Q') }
  return engine.compile(checkpoint, inputs, (ops, values) => predictorStates(ops, config, values))
}

export function compileHead(
  engine: Engine,
  config: ProxyConfig,
  checkpoint: Checkpoint,
): Promise<HeadProgram> {
  const inputs = { hidden: float32(1, 'Q', config.text.width), targets: int32(1, 'Q') }
  return engine.compile(checkpoint, inputs, (ops, values) => tokenLosses(ops, config, values))
}

function tokenInputs(config: ProxyConfig): Record<keyof TokenInputs<never>, InputSpec> {
  return {
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
  }
}
