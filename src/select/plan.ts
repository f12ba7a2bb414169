/**
 * The batch rule's quotas at a horizon that is still to come, from what is kept and what is expected: water
 * filled over what can still be. A cluster that keeps k and expects a more can end between k and k + a; the
 * level is where these ends, each as near to it as it can be, add up to the budget.
 *
 * Clusters never seen are taken to be like those seen. Where clusters go on, one of them may yet become as popular:
 * that is only guarded against (`ceiling`). Where clusters end one after the other, what comes is theirs, each as
 * large as those that are gone.
 */
import { splitAt } from './heap.ts'
import { SMALL_CLUSTER_SIZE_MAX } from './quotas.ts'

export type Outlook = {
  /** Clusters: slots 0..slots-1 of the arrays. */
  slots: number
  sizes: Int32Array
  kept: Int32Array
  /** Arrivals expected of each until the horizon. */
  coming: Float64Array
  /** Arrivals in all until the horizon. */
  ahead: number
  /** n at the horizon. */
  budget: number
  /** The share of the clusters seen that are gone. */
  gone: number
  /** Whether quotas are given at the horizon, to clusters as large as they are then. */
  hasEnd: boolean
}

export type Plan = {
  /** Where quotas will end; a fraction is the share of clusters that give one more. */
  level: number
  /** The final size from which a cluster gives one more than the whole part of the level. */
  extraFrom: number
  /** None is filled above it before the clusters never seen have had their chance. */
  ceiling: number
}

const STEPS = 30
/** A cluster that will hardly come again stays too small to give any. */
const HARDLY = 0.5
const EPSILON = 1e-6

export function planFor(outlook: Outlook): Plan {
  const { ahead, gone } = outlook
  const { unseen, part } = countUnseen(outlook)
  const level = levelIf(outlook, unseen, ahead * gone)
  const cautious = levelIf(outlook, unseen, ahead * (gone + (1 - gone) * part))
  const ceiling = unseen === 0 ? Infinity : Math.max(1, Math.ceil(cautious + EPSILON))
  return { level, extraFrom: extraFrom(outlook, level), ceiling }
}

/** The level if clusters never seen had `mass` of the arrivals to come. */
function levelIf(outlook: Outlook, unseen: number, mass: number): number {
  const have = unseen === 0 ? 0 : mass
  return levelOf(have === 0 ? outlook : displaced(outlook, have), unseen, have)
}

/** The largest level that spends no more than the budget, if `unseen` clusters took `mass` between them. */
function levelOf(outlook: Outlook, unseen: number, mass: number): number {
  let low = 0
  let high = outlook.budget + 1
  for (let step = 0; step < STEPS; step++) {
    const middle = (low + high) / 2
    const taken = mass === 0 ? 0 : Math.min(unseen * takenByUnseen(outlook, middle), mass)
    const spent = spentAt(outlook, middle) + taken
    if (spent < outlook.budget) low = middle
    else high = middle
  }
  return low
}

function spentAt({ slots, sizes, kept, coming, hasEnd }: Outlook, level: number): number {
  let spent = 0
  for (let slot = 0; slot < slots; slot++) {
    const k = kept[slot]!
    const more = coming[slot]!
    spent += k
    if (level <= k || (hasEnd && staysSmall(sizes[slot]!, more))) continue
    spent += Math.min(level - k, more)
  }
  return spent
}

/** The outlook of the clusters seen if others had `mass` of the arrivals. */
function displaced(outlook: Outlook, mass: number): Outlook {
  const expected = outlook.coming.reduce((a, b) => a + b, 0)
  const left = expected === 0 ? 0 : Math.min(1, (outlook.ahead - mass) / expected)
  return { ...outlook, coming: outlook.coming.map(more => left * more) }
}

/** What a cluster never seen would give if it became what those seen were, or what they go on to be. */
function takenByUnseen({ slots, sizes, coming, gone }: Outlook, level: number): number {
  let [seen, taken] = [0, 0]
  for (let slot = 1; slot < slots; slot++) {
    if (sizes[slot] === 0) continue
    seen++
    taken += Math.min(level, gone * sizes[slot]! + (1 - gone) * coming[slot]!)
  }
  return seen === 0 ? level : taken / seen
}

/** Whether the cluster will give nothing to the batch rule. */
export function staysSmall(size: number, coming: number): boolean {
  return size <= SMALL_CLUSTER_SIZE_MAX && coming < HARDLY
}

/** Clusters never seen, and which part they are of all. */
function countUnseen({ slots, sizes }: Outlook): { unseen: number; part: number } {
  let unseen = 0
  for (let slot = 1; slot < slots; slot++) if (sizes[slot] === 0) unseen++
  return { unseen, part: unseen / Math.max(1, slots - 1) }
}

/** The batch rule gives what is over to its largest clusters. */
function extraFrom({ slots, sizes, coming }: Outlook, level: number): number {
  const whole = Math.floor(level)
  const sizeOf = (slot: number): number => sizes[slot]! + coming[slot]!
  const capped: number[] = []
  for (let slot = 0; slot < slots; slot++) if (sizeOf(slot) > whole + 0.5) capped.push(slot)
  const extra = Math.round((level - whole) * capped.length)
  if (extra === 0) return Infinity
  const items = Int32Array.from(capped)
  splitAt(items, extra, (a, b) => sizeOf(a) > sizeOf(b))
  let least = Infinity
  for (const slot of items.subarray(0, extra)) least = Math.min(least, sizeOf(slot))
  return least
}
