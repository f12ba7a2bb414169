/**
 * What orders the examples of a cluster (`select.rank`), and which belong to none (`select.gainMin`). The order
 * of two examples follows from the two alone, so that it never changes while a cluster grows.
 */
import { createHash } from 'node:crypto'
import type { Members } from '../../bundle/bundle.ts'
import { XmasdError } from '../../errors.ts'
import type { Assignment } from '../../record.ts'

/**
 * `instability`: the steadiest first, the paper's. `gain`: those whose answers the pictures help most. `both`:
 * instability over exp(gain), which is how many times likelier the pictures make each token of the answers.
 * `random`: the lowest `drawOf` first.
 */
export const RANKS = ['instability', 'gain', 'both', 'random'] as const
export type Rank = (typeof RANKS)[number]

/** What an example is first by. */
export const RANK_WORDS: Record<Rank, string> = {
  instability: 'steadiness',
  gain: 'image gain',
  both: 'steadiness and image gain',
  random: 'a random draw',
}

export type Ranking = {
  /** Default: instability. */
  rank?: Rank | undefined
  /** Examples of a lower image gain are misaligned. Default: none is. */
  gainMin?: number | undefined
}

/** What orders an example: its key under `random`. NaN, null and undefined: there is no gain. */
export type Gained = Partial<Pick<Assignment, 'instability' | 'gain' | 'key'>>

/** Stands for an instability of 0, which leaves the gain no say. */
const INSTABILITY_MIN = 1e-12

/** The lowest is kept first. Above 0; an example without a gain is one whose pictures neither help nor mislead. */
export function orderOf({ rank = 'instability' }: Ranking, example: Gained): number {
  const instability = example.instability!
  if (rank === 'instability') return instability
  if (rank === 'random') return drawOf(example.key!)
  const over = Math.exp(-gainOf(example))
  const order = rank === 'gain' ? over : Math.max(INSTABILITY_MIN, instability) * over
  return Math.min(Number.MAX_VALUE, order)
}

/** Hex digits that are drawn from: exact in float32. */
const DRAW_DIGITS = 6

/** From the content hash in a key: above 0, at most 1, uniform over contents, the same for copies of one. */
export function drawOf(key: string): number {
  const [, content] = /@([0-9a-f]{16})$/.exec(key) ?? []
  const digits = content ?? createHash('sha256').update(key).digest('hex') // files of others have ids alone
  return (Number.parseInt(digits.slice(0, DRAW_DIGITS), 16) + 1) / 16 ** DRAW_DIGITS
}

export function isMisaligned({ gainMin }: Ranking, example: Gained): boolean {
  return gainMin !== undefined && has(example) && gainOf(example) < gainMin
}

export function wantsGain({ rank = 'instability', gainMin }: Ranking): boolean {
  return rank === 'gain' || rank === 'both' || gainMin !== undefined
}

function has({ gain }: Gained): boolean {
  return gain != null && !Number.isNaN(gain)
}

function gainOf(example: Gained): number {
  return has(example) ? example.gain! : 0
}

/** As a bundle holds it, in float32: an example of its data that arrives has its place among them. */
export function asMember({ instability, gain, key }: Gained): Gained {
  const rounded = (value: number | null | undefined) => (value == null ? value : Math.fround(value))
  return { instability: rounded(instability), gain: rounded(gain), key } as Gained
}

/** Throws BUNDLE_MISMATCH where the rank is random and a bundle's members have no draws. */
export function checkDraws({ rank }: Ranking, draw: Members['draw']): void {
  if (rank !== 'random' || draw !== undefined) return
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    'select.rank is random, and the bundle was fitted by an earlier release, without the random numbers of its examples',
    'fit the data again for new log.topics; or set select.baseline: ignore, policy: revisable or another rank',
  )
}

/**
 * Without the misaligned ones, with what orders them in the place of instability. Throws
 * BUNDLE_MISMATCH where the rank is random and the members have no draws.
 */
export function ranked(
  ranking: Ranking,
  { cluster, instability, gain, draw }: Members,
): { members: { cluster: Int32Array; instability: Float32Array }; misaligned: number } {
  const isRandom = ranking.rank === 'random'
  checkDraws(ranking, draw)
  if (!isRandom && !wantsGain(ranking)) return { members: { cluster, instability }, misaligned: 0 }
  const of = (i: number): Gained => ({ instability: instability[i]!, gain: gain?.[i] })
  const kept = [...cluster.keys()].filter(i => !isMisaligned(ranking, of(i)))
  const members = {
    cluster: Int32Array.from(kept, i => cluster[i]!),
    instability: Float32Array.from(kept, i => (isRandom ? draw![i]! : orderOf(ranking, of(i)))),
  }
  return { members, misaligned: cluster.length - kept.length }
}
