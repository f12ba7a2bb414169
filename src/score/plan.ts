/** Which sequences run together. */
import { prefixKey, prefixLength, type Sequence } from './batch.ts'

export type BatchLimits = {
  /** Distinct tokens of a batch. A sequence that has more runs alone. */
  tokensMax: number
  examplesMax: number
}

export const LIMITS: BatchLimits = { tokensMax: 2048, examplesMax: 64 }

/**
 * Index lists that together hold every sequence once. Sequences of one prefix run together, so that
 * it is computed once, and are parted only where they do not fit one batch; neighbours in length come
 * next to each other.
 */
export function planBatches(sequences: readonly Sequence[], limits: BatchLimits): number[][] {
  const { tokensMax, examplesMax } = limits
  if (!(tokensMax >= 1 && examplesMax >= 1)) throw new RangeError('limits are at least 1')
  const batches: number[][] = []
  let batch: number[] = []
  let tokens = 0
  const flush = (): void => {
    if (batch.length > 0) batches.push(batch)
    batch = []
    tokens = 0
  }
  const fits = (more: number, examples: number): boolean =>
    tokens + more <= tokensMax && batch.length + examples <= examplesMax
  for (const { prefix, members } of prefixGroups(sequences)) {
    const own = (i: number): number => sequences[i]!.ids.length - prefix
    const whole = members.reduce((sum, i) => sum + own(i), prefix)
    if (!fits(whole, members.length)) flush()
    let isNew = true
    for (const i of members) {
      if (!fits(own(i) + (isNew ? prefix : 0), 1)) {
        flush()
        isNew = true
      }
      tokens += own(i) + (isNew ? prefix : 0)
      batch.push(i)
      isNew = false
    }
  }
  flush()
  return batches
}

type PrefixGroup = { prefix: number; members: number[] }

/** Sequences by prefix, shortest first, in and among the groups. */
function prefixGroups(sequences: readonly Sequence[]): PrefixGroup[] {
  const groups = new Map<string, PrefixGroup>()
  for (const [i, sequence] of sequences.entries()) {
    const key = prefixKey(sequence)
    const group = groups.get(key) ?? { prefix: prefixLength(sequence), members: [] }
    group.members.push(i)
    groups.set(key, group)
  }
  const length = (i: number): number => sequences[i]!.ids.length
  for (const { members } of groups.values()) members.sort((a, b) => length(a) - length(b) || a - b)
  const longest = ({ members }: PrefixGroup): number => length(members.at(-1)!)
  return [...groups.values()].sort(
    (a, b) => longest(a) - longest(b) || a.members[0]! - b.members[0]!,
  )
}
