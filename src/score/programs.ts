/**
 * The compiled programs of a schedule: the vision tower and the score, checkpoint by checkpoint.
 */
import type { Engine } from '../engine/engine.ts'
import { XmasdError } from '../errors.ts'
import {
  type Checkpoint,
  checkUnchanged,
  type FileStamps,
  type Schedule,
} from '../proxy/checkpoint/schedule.ts'
import { type CheckpointScore, compileVision, type VisionProgram } from './checkpoint-score.ts'
import { deviceFailed } from './failure.ts'

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
    const known = resident.get(name) as P | undefined
    if (known !== undefined && isReadAgain(checkpoint)) checkUnchanged(checkpoint, stamps)
    const program = known ?? (await load())
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

/** Programs that share a session take turns in the place of their own weights. */
function isReadAgain({ tensors }: Checkpoint): boolean {
  return [...tensors.values()].some(
    ({ lora, isReplaced }) => lora !== undefined || isReplaced === true,
  )
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
