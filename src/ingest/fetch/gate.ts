/**
 * Turns at one host: so many requests at a time, so many a second, and none while it asks for a pause.
 * A worker process has its own gates, with its share of the limits.
 */
import { LRUCache } from 'lru-cache'
import { XmasdError } from '../../errors.ts'

export type HostLimits = {
  /** Requests under way at one host. */
  requestsMax: number
  /** Requests begun in a second. Default: no limit. */
  requestsPerSecondMax?: number | undefined
}

export const HOST_LIMITS: HostLimits = { requestsMax: 16 }

/** A host may ask for no longer pause: records behind its images wait too. */
export const RETRY_AFTER_MS_MAX = 10_000
/** Who waits says so this often. */
const TELL_MS = 500
const GATES_MAX = 1024

class Gate {
  #running = 0
  #nextAt = 0
  #last: Promise<void> = Promise.resolve()
  #onFreed: (() => void) | undefined

  /** Resolves in the order of the calls. */
  enter(limits: HostLimits): Promise<void> {
    const turn = this.#last.then(() => this.#wait(limits))
    this.#last = turn
    return turn
  }

  async #wait({ requestsMax, requestsPerSecondMax }: HostLimits): Promise<void> {
    for (;;) {
      const pauseMs = this.#nextAt - performance.now()
      if (pauseMs > 0) await new Promise(resolve => setTimeout(resolve, pauseMs))
      else if (this.#running < requestsMax) break
      else await new Promise<void>(resolve => (this.#onFreed = resolve))
    }
    this.#running++
    if (requestsPerSecondMax !== undefined) this.pause(1000 / requestsPerSecondMax)
  }

  leave(): void {
    this.#running--
    this.#onFreed?.()
  }

  pause(ms: number): void {
    this.#nextAt = Math.max(this.#nextAt, performance.now() + ms)
  }
}

const gates = new LRUCache<string, Gate>({ max: GATES_MAX })

/**
 * What `work` gives, in turn at `host`. `onWait` is called now and then until it begins. A failure that
 * names a pause holds the others back, too.
 */
export async function inTurn<T>(
  host: string,
  limits: HostLimits,
  onWait: () => void,
  work: () => Promise<T>,
): Promise<T> {
  const gate = gates.get(host) ?? new Gate()
  gates.set(host, gate)
  const telling = setInterval(onWait, TELL_MS)
  try {
    await gate.enter(limits)
  } finally {
    clearInterval(telling)
  }
  try {
    return await work()
  } catch (error) {
    if (error instanceof XmasdError && error.retryAfterMs !== undefined) {
      gate.pause(error.retryAfterMs)
    }
    throw error
  } finally {
    gate.leave()
  }
}
