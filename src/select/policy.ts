/**
 * What the fold drives: a policy takes examples one by one and says which are kept. It knows them by sequence
 * number; their keys and ids lie with the fold.
 */

import type { Part } from '../observe/parts.ts'
import type { Action, Cluster, Reason } from '../record.ts'
import type { Content } from './duplicates.ts'
import { TEXT_SLOT } from './level.ts'
import type { Numbers } from './numbers.ts'

export const POLICIES = ['revisable', 'final', 'naive'] as const
export type PolicyName = (typeof POLICIES)[number]

export type SettledEvent = {
  sequence: number
  action: Action
  reason: Reason
  cluster: Cluster
  /** How many of the cluster are kept after the settlement. */
  quota: number
}

/** An example as it was stored. `instability` is NaN and `id` there where it is text-only. */
export type PastExample = { cluster: Cluster; instability: number; id: string; content: Content }

/** What a bundle knows before the first example. */
export type Beginning = {
  /** K */
  clusters: number
  /** How many of the data that it was fitted to are text-only. */
  textOnly: number
  /** All others: cluster and instability of each; undefined where the bundle does not hold them. */
  members: { cluster: Int32Array; instability: Float32Array } | undefined
}

/**
 * What the bundle's data is to decisions for good: `continue`: the beginning of the history, and the batch
 * rule's subset of it is kept; `learn`: only what popularity and instability are learned from; `ignore`: nothing.
 */
export const BASELINES = ['continue', 'learn', 'ignore'] as const
export type BaselineUse = (typeof BASELINES)[number]

/** How the subset compares with the batch rule's over the same history. */
export type Regret = {
  /** (kept - n) / n */
  budgetError: number
  /** Total variation between the clusters' shares in the subset and in the batch rule's, 0..1. */
  totalVariation: number
  /** What the subset saves of the mean instability that the batch rule saves over random members; 1 is all. */
  recovered: number
}

export interface Policy {
  /** N: all examples, pending ones included. */
  readonly examples: number
  /** How many examples have been decided: sequence numbers below it. */
  readonly settled: number
  readonly kept: number
  /** Of both, what came from the bundle's data. */
  readonly baseline: Part
  /** Bytes held for the examples. */
  readonly bytes: number
  /** Whether `begin` is to come before the first example. */
  readonly wantsBeginning: boolean
  begin(beginning: Beginning): void
  /** A new example, pending until the next settlement. Returns its sequence number: 0, 1, 2, … */
  add(cluster: Cluster, instability: number | null, id: string, content: Content): number
  /** Passes over a sequence number: an example that takes no part. */
  skip(): void
  /** Decides every pending example, in log order, and may revise others, in log order after them. */
  settle(): SettledEvent[]
  /** How many of a cluster are kept now. */
  quota(cluster: Cluster): number
  /** Size and kept count of every cluster that has settled examples. */
  clusters(): Iterable<{ cluster: Cluster; size: number; quota: number }>
  /** Sequence numbers of the subset, in no particular order. */
  subset(): Iterable<number>
  /** Undefined where the subset equals the batch rule's by construction. */
  regret(): Regret | undefined
  /** What `resume` wants back; undefined where nothing is due. Asked once a commit. */
  save(): Uint8Array | undefined
  /**
   * From here on what is kept is what `isKept` says, until it is undefined again: decisions for good were made
   * under other clusters. Only policies that decide for good have it.
   */
  follow?(isKept: ((sequence: number) => boolean) | undefined): void
  /** Takes what `save` gave last; before `refill`. */
  resume(saved: Uint8Array | undefined): void
  /** The whole history, of which those below `settled` are decided, as if each came anew. */
  refill(history: Iterable<Numbers>, settled: number): void
}

export function slotOf(cluster: Cluster): number {
  return cluster === 'text' ? TEXT_SLOT : cluster + 1
}

export function clusterOf(slot: number): Cluster {
  return slot === TEXT_SLOT ? 'text' : slot - 1
}
