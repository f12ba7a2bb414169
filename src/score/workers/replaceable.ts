/** A pool whose workers can be replaced by others while it has jobs. */
import type { Load, Pool, RunOptions } from './pool.ts'

const DRAIN_CHECK_MS = 20

export class ReplaceablePool<Job, Result> {
  #current: Pool<Job, Result>
  /** The current one, and former ones that have jobs. */
  readonly #open = new Set<Pool<Job, Result>>()
  #isClosed = false

  constructor(first: Pool<Job, Result>) {
    this.#current = first
    this.#open.add(first)
  }

  run(job: Job, options?: RunOptions): Promise<Result> {
    return this.#current.run(job, options)
  }

  load(): Load {
    return this.#current.load()
  }

  /**
   * Jobs go to the pool that `start` gives once this resolves; the one before finishes its own. Throws what
   * `start` does, and nothing has changed then. One call at a time.
   */
  async replace(start: () => Promise<Pool<Job, Result>>): Promise<void> {
    const started = await start()
    this.#open.add(started)
    if (this.#isClosed) return this.#end(started)
    const former = this.#current
    this.#current = started
    void drained(former).then(() => this.#end(former))
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all([...this.#open].map(pool => this.#end(pool)))
  }

  async #end(pool: Pool<Job, Result>): Promise<void> {
    await pool.close()
    this.#open.delete(pool)
  }
}

/** Resolves once the pool has no job. */
async function drained(pool: Pick<Pool<unknown, unknown>, 'load'>): Promise<void> {
  for (let load = pool.load(); load.waiting + load.busy > 0; load = pool.load()) {
    await new Promise(resolve => setTimeout(resolve, DRAIN_CHECK_MS))
  }
}
