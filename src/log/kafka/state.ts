/**
 * A group's state on this machine's disk, beside a log that lives elsewhere: the local log's state in an
 * LMDB folder. It is written after the transaction, so it may lag behind the positions; a version keeps
 * out whoever was overtaken in between.
 */
import {
  acquireEnvironment,
  type Environment,
  type MetaKey,
  releaseEnvironment,
} from '../local/environment.ts'
import { collectState, stateReader, writeState } from '../local/state.ts'
import { readCount } from '../local/topics.ts'
import { settled, write } from '../local/transaction.ts'
import type { StateReader, StateWriter } from '../log.ts'

export type StateChanges = ReturnType<typeof collectState>

export class GroupState {
  readonly reader: StateReader
  readonly #environment: Environment
  readonly #name: string
  /** What we saw last; whoever writes raises it. */
  #version = 0

  private constructor(environment: Environment, name: string) {
    this.#environment = environment
    this.#name = name
    this.reader = stateReader(environment, name)
  }

  /** `cluster` keeps the state of two clusters apart. Throws LOG_UNAVAILABLE where the folder can't be used. */
  static async open(path: string, cluster: string, group: string): Promise<GroupState> {
    const state = new GroupState(await acquireEnvironment(path, false), `${cluster} ${group}`)
    await state.refresh()
    return state
  }

  /** Sees what others have written meanwhile, and may write on from there. */
  async refresh(): Promise<void> {
    await settled(this.#environment)
    this.#version = readCount(this.#environment, this.#versionKey)
  }

  collect(state: ((writer: StateWriter) => void) | undefined): StateChanges {
    return collectState(this.#name, state)
  }

  /** False, and nothing is written, where somebody else has written since `refresh`. */
  async write(changes: StateChanges): Promise<boolean> {
    const isMine = await write(this.#environment, () => {
      if (readCount(this.#environment, this.#versionKey) !== this.#version) return false
      this.#environment.meta.put(this.#versionKey, this.#version + 1)
      writeState(this.#environment, changes)
      return true
    })
    if (isMine) this.#version++
    return isMine
  }

  close(): Promise<void> {
    return releaseEnvironment(this.#environment)
  }

  get #versionKey(): MetaKey {
    return ['state-version', this.#name]
  }
}
