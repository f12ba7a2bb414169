/**
 * The batch rule's quotas at a horizon that is still to come, from what is kept and what is expected: water
 * filled over what can still be. A cluster that keeps k and expects a more can end between k and k + a; the
 * level is where these ends, each as near to it as it can be, add up to the budget.
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
  /** n at the horizon. */
  budget: number
  /** Arrivals that clusters never seen may take at most, against all expectation. */
  unforeseen: number
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
  const level = levelOf(outlook, 0, 0)
  const unseen = countUnseen(outlook)
  const cautious = unseen === 0 ? level : levelOf(displaced(outlook), unseen, outlook.unforeseen)
  const ceiling = unseen === 0 ? Infinity : Math.max(1, Math.ceil(cautious + EPSILON))
  return { level, extraFrom: extraFrom(outlook, level), ceiling }
}

/** The largest level that spends no more than the budget, if `unseen` clusters took `mass` between them. */
function levelOf(outlook: Outlook, unseen: number, mass: number): number {
  let low = 0
  let high = outlook.budget + 1
  for (let step = 0; step < STEPS; step++) {
    const middle = (low + high) / 2
    const taken = unseen === 0 ? 0 : Math.min(unseen * takenByUnseen(outlook, middle), mass)
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

/** The outlook of the clusters seen if others took the unforeseen arrivals. */
function displaced(outlook: Outlook): Outlook {
  const expected = outlook.coming.reduce((a, b) => a + b, 0)
  const left = expected === 0 ? 0 : Math.max(0, 1 - outlook.unforeseen / expected)
  return { ...outlook, coming: outlook.coming.map(more => left * more) }
}

/** What a cluster never seen would give if it became as large as those seen. */
function takenByUnseen({ slots, sizes, coming }: Outlook, level: number): number {
  let [seen, taken] = [0, 0]
  for (let slot = 1; slot < slots; slot++) {
    if (sizes[slot] === 0) continue
    seen++
    taken += Math.min(level, sizes[slot]! + coming[slot]!)
  }
  return seen === 0 ? level : taken / seen
}

/** Whether the cluster will give nothing to the batch rule. */
export function staysSmall(size: number, coming: number): boolean {
  return size <= SMALL_CLUSTER_SIZE_MAX && coming < HARDLY
}

function countUnseen({ slots, sizes }: Outlook): number {
  let unseen = 0
  for (let slot = 1; slot < slots; slot++) if (sizes[slot] === 0) unseen++
  return unseen
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
