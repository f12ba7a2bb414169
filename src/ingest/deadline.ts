/** Bounds a wait on something foreign: a server, a disk, a native library; and a job of a worker. */
import { readdirSync, readFileSync } from 'node:fs'
import type { XmasdError } from '../errors.ts'

const STEP_MS = 100

/**
 * The result of `work`, or a rejection with `late()` after `msMax` of `Clock`, whether `work` ever
 * settles or not; its signal is aborted then.
 */
export async function withDeadline<T>(
  msMax: number,
  late: () => XmasdError,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const controller = new AbortController()
  let timer: NodeJS.Timeout | undefined
  const expired = new Promise<never>((_, reject) => {
    const starvation = own()
    const clock = new Clock(msMax, performance.now())
    let seen = starvation.totalMs()
    const isLate = (starved: number): boolean => {
      const starvedMs = starved - seen
      seen = starved
      return clock.look({ nowMs: performance.now(), starvedMs, isHeld: false })
    }
    timer = setInterval(
      () => {
        // The last look at the cores may be half a second old.
        if (!isLate(starvation.totalMs()) || !isLate(starvation.look())) return
        reject(late())
        controller.abort()
      },
      Math.max(1, Math.min(STEP_MS, msMax)),
    )
  })
  try {
    return await Promise.race([work(controller.signal), expired])
  } finally {
    clearInterval(timer)
  }
}

let ownStarvation: Starvation | undefined

/** Of this process: looked at twice a second, because many wait at once. */
function own(): Starvation {
  if (ownStarvation !== undefined) return ownStarvation
  const starvation = new Starvation('self')
  setInterval(() => starvation.look(), TICK_MS).unref()
  ownStarvation = starvation
  return starvation
}

/** How often the clocks of jobs are looked at. */
export const TICK_MS = 500
/** A longer stretch between two looks means that this process was stopped: the job may have been, too. */
const STRETCH_MS_MAX = 2 * TICK_MS
/** However starved it is, after so many times its limit it is late. */
export const STARVED_MAX = 8

export type Look = {
  nowMs: number
  /** How long there was no core since the last look. */
  starvedMs: number
  /** Does the job wait for memory that others hold. */
  isHeld: boolean
}

/**
 * The time that a wait or a job has had, so that load and pauses are not held against it.
 *
 *   time in which this process was stopped, or the job waited for memory   does not count
 *   time in which a thread was ready to run and had no core                does not count
 *   any other time: it computes or waits                                   counts
 */
export class Clock {
  readonly #limitMs: number
  #lastMs: number
  #ownMs = 0
  #wallMs = 0

  constructor(limitMs: number, nowMs: number) {
    this.#limitMs = limitMs
    this.#lastMs = nowMs
  }

  /** One part of the job is done: the next has the whole time again. */
  restart(): void {
    this.#ownMs = 0
    this.#wallMs = 0
  }

  /** Adds the time since the last look. Returns whether the time is up. */
  look({ nowMs, starvedMs, isHeld }: Look): boolean {
    const passed = Math.min(nowMs - this.#lastMs, STRETCH_MS_MAX)
    this.#lastMs = nowMs
    if (isHeld) return false
    this.#wallMs += passed
    // A wait for a core is known when it ends: it may be longer than this stretch.
    this.#ownMs = Math.max(0, this.#ownMs + passed - starvedMs)
    return this.#ownMs >= this.#limitMs || this.#wallMs >= STARVED_MAX * this.#limitMs
  }
}

/**
 * How long a process was kept from the cores, by the load of the machine: of its threads, the one that was
 * ready to run and waited longest for a core, look by look. Always 0 where the system does not say (Linux
 * does, in /proc/PID/task/TID/schedstat).
 */
export class Starvation {
  readonly #folder: string
  #waited = new Map<string, number>()
  #totalMs = 0

  constructor(pid: number | 'self') {
    this.#folder = `/proc/${pid}/task`
    this.#waited = this.#read()
  }

  /** At the last look. */
  totalMs(): number {
    return this.#totalMs
  }

  look(): number {
    const waited = this.#read()
    const each = [...waited].map(([thread, ms]) => ms - (this.#waited.get(thread) ?? 0))
    this.#waited = waited
    this.#totalMs += Math.max(0, ...each)
    return this.#totalMs
  }

  #read(): Map<string, number> {
    const waited = new Map<string, number>()
    for (const thread of readOr([], () => readdirSync(this.#folder))) {
      const file = `${this.#folder}/${thread}/schedstat`
      // nanoseconds on a core, nanoseconds ready without one, turns
      const [, ns] = readOr('0 0 0', () => readFileSync(file, 'latin1')).split(' ')
      waited.set(thread, Number(ns) / 1e6)
    }
    return waited
  }
}

/** A thread, or the whole process, may just have ended. */
function readOr<T>(otherwise: T, read: () => T): T {
  try {
    return read()
  } catch {
    return otherwise
  }
}
