/**
 * Scores batch by batch so that an example is lost only where it is at fault itself.
 *
 *   job ──► out of memory? ──► passes of half as many tokens, from then on ──► the job again
 *    └──► fails ──► again in parts, down to one example ──► is the device sound? the example that
 *                   was scored last is scored again ──► yes: the one is to blame; no: DEVICE_FAILED
 */
import { isOutOfMemory } from '../engine/failure.ts'
import { messageOf } from '../errors.ts'
import { type ProxyConfig, patchesPerImage } from '../proxy/config.ts'
import type { Sequence } from './batch.ts'
import { deviceFailed, type Failure, runSurviving, survived } from './failures.ts'
import type { Pool } from './pool.ts'
import type { Scored } from './scorer.ts'

/** `tokensMax` of one pass. */
export type ScoreJob = { sequences: readonly Sequence[]; tokensMax: number }

/** Memory ran out: how, and how many tokens a pass has from now on. */
export type OutOfMemory = { message: string; tokensMax: number; isLowered: boolean }

export type GuardOptions = {
  pool: Pick<Pool<ScoreJob, Scored[]>, 'run'>
  config: ProxyConfig
  tokensMax: number
  onOutOfMemory?: ((event: OutOfMemory) => void) | undefined
}

/** So many in a row are not their own fault, though the last good one still passes. */
export const BLAMED_IN_A_ROW_MAX = 32

/** One job's results, in order. Throws DEVICE_FAILED, and whatever is no example's fault. */
export type Guard = (sequences: readonly Sequence[]) => Promise<Scored[]>

export function createGuard({ pool, config, tokensMax, onOutOfMemory }: GuardOptions): Guard {
  let limit = tokensMax
  const simplest = builtInSequence(config)
  let good = simplest
  let blamed = 0

  /** Passes stay short: memory that was short once will be again, and on a CPU they cost next to nothing. */
  const lower = (tried: number, sequences: readonly Sequence[]): boolean => {
    if (limit < tried) return true
    const longest = Math.max(...sequences.map(({ ids }) => ids.length))
    if (tried <= longest) return false // a pass of that one alone is the largest already
    limit = Math.ceil(tried / 2)
    return true
  }
  const withinMemory = async (sequences: readonly Sequence[]): Promise<Scored[]> => {
    for (;;) {
      const tried = limit
      try {
        return await pool.run({ sequences, tokensMax: tried })
      } catch (error) {
        if (!isOutOfMemory(error)) throw error
        const before = limit
        const mayFit = lower(tried, sequences)
        onOutOfMemory?.({
          message: messageOf(error),
          tokensMax: limit,
          isLowered: limit < before,
        })
        if (!mayFit) throw error
      }
    }
  }
  const blame = async ({ code, message, hint }: Failure): Promise<Scored> => {
    const again = await survived(pool.run({ sequences: [good], tokensMax: limit }))
    const trouble = 'failure' in again ? again.failure : errorOf(again.result[0]!)
    if (trouble !== undefined) {
      const other =
        good === simplest ? 'the simplest example fails alike' : 'what scored before fails now'
      throw deviceFailed(`${message}; and ${other}: ${trouble.message}`, trouble.code)
    }
    blamed++
    if (blamed >= BLAMED_IN_A_ROW_MAX) {
      throw deviceFailed(`${blamed} examples in a row failed; the last: ${message}`, code)
    }
    return { error: { code, message, hint } }
  }
  const run = async (sequences: readonly Sequence[]): Promise<Scored[]> => {
    const results = await withinMemory(sequences)
    const sound = results.findLastIndex(scored => errorOf(scored) === undefined)
    if (sound >= 0) good = sequences[sound]!
    for (const scored of results) {
      const error = errorOf(scored)
      if (error === undefined) blamed = 0
      else if (error.code === 'SCORE_NOT_FINITE') await blame(error)
    }
    return results
  }
  return sequences => runSurviving(sequences, run, blame)
}

function errorOf(scored: Scored): Failure | undefined {
  return 'error' in scored ? scored.error : undefined
}

/** A small example that any proxy can score: an image of a grey ramp, and a few tokens after it. */
function builtInSequence({ imageTokens, vision }: ProxyConfig): Sequence {
  const values = patchesPerImage(vision) * 3 * vision.patchSize ** 2
  const patches = Float32Array.from({ length: values }, (_, i) => (2 * i) / values - 1)
  const length = 1 + imageTokens + TEXT_TOKENS
  const last = (count: number): Int32Array =>
    Int32Array.from({ length: count }, (_, i) => length - count + i)
  return {
    ids: new Int32Array(length),
    columns: Int32Array.from({ length: imageTokens }, (_, i) => 1 + i),
    rows: last(TEXT_TOKENS - 1),
    answers: last(2),
    images: [{ hash: 'built-in', patches }],
  }
}

const TEXT_TOKENS = 8
