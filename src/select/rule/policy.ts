/**
 * The contract between the fold (`../fold.ts`) and a selection policy. A policy takes examples one by one and
 * decides which are kept: `revisable.ts`, `../online/final.ts`, and `../online/random.ts` for `naive`. It knows
 * examples by sequence number; their keys and ids stay with the fold.
 */
import type { Members } from '../../bundle/bundle.ts'
import type { Part } from '../../observe/segments.ts'
import type { Action, Cluster, Reason } from '../../record.ts'
import type { Content } from '../columns/hash-table.ts'
import type { Chunk } from '../columns/stored.ts'

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

/** What a bundle says of the data that it was fitted to. */
export type Beginning = {
  /** K */
  clusters: number
  /** How many examples are text-only. */
  textOnly: number
  /** Cluster, instability and image gain of all others; undefined where the bundle does not hold them. */
  members: Members | undefined
}

/**
 * How an online policy uses the bundle's data. `continue`: it is the beginning of the history, and the
 * batch rule's subset of it is kept; `learn`: arrival rates and instabilities are learned from it;
 * `ignore`: not at all.
 */
export const BASELINES = ['continue', 'learn', 'ignore'] as const
export type BaselineUse = (typeof BASELINES)[number]

/** How the subset compares with the batch rule's over the same history. */
export type Regret = {
  /** (kept - n) / n */
  budgetError: number
  /** Total variation between the clusters' shares in the subset and in the batch rule's, 0..1. */
  totalVariation: number
  /** Fraction of the batch rule's reduction in mean instability that the subset achieves; 1 is all. */
  recovered: number
}

export type ClusterCount = { cluster: Cluster; size: number; quota: number }

export interface Policy {
  /** N: all examples, pending ones included. */
  readonly examples: number
  /** How many examples have been decided: sequence numbers below it. */
  readonly settled: number
  readonly kept: number
  /** The part of `examples` and `kept` that came from the bundle's data. */
  readonly baseline: Part
  /** Whether `begin` must come before the first example. */
  readonly wantsBeginning: boolean
  begin(beginning: Beginning): void
  /**
   * `instability`, here and below, is what orders examples of a cluster: see `orderOf`. Adds an example, which is
   * pending until the next settlement. Returns its sequence number: 0, 1, …
   */
  add(cluster: Cluster, instability: number | null, id: string, content: Content): number
  /**
   * Online policies whose history begins with a baseline: adds an example of that baseline, which counts
   * already, and decides it as the batch rule does over the baseline alone.
   * Only where `claims` is true.
   */
  claim?(cluster: Cluster, instability: number | null): void
  readonly claims?: boolean
  /** Uses up a sequence number for an example that takes no part. */
  skip(): void
  /** Adds an example that counts in N and joins no cluster; it is never kept. */
  addMisaligned(): void
  /** Decides all pending examples, in log order, and may revise others, in log order after them. */
  settle(): SettledEvent[]
  /** How many of a cluster are kept now. */
  quota(cluster: Cluster): number
  /** Size and kept count of every cluster that has settled examples. */
  clusters(): Iterable<ClusterCount>
  /** Sequence numbers of the subset, in no particular order. */
  subset(): Iterable<number>
  /** Undefined where the subset equals the batch rule's by construction. */
  regret(): Regret | undefined
  /** A snapshot for `resume`; undefined where none is due. Called once a commit. */
  save(): Uint8Array | undefined
  /**
   * Online policies only: keep what `isKept` says in place of their own admissions, until it is undefined.
   * The decisions were made under another bundle.
   */
  follow?(isKept: ((sequence: number) => boolean) | undefined): void
  /** Takes the last snapshot; before `refill`. */
  resume(saved: Uint8Array | undefined): void
  /** Fills an empty policy with a history of which those below `settled` are decided. */
  refill(history: Iterable<Chunk>, settled: number): void
}

/** A cluster's place in arrays: 0 is the text cluster, c + 1 the numbered cluster c. */
export const TEXT_SLOT = 0

export function slotOf(cluster: Cluster): number {
  return cluster === 'text' ? TEXT_SLOT : cluster + 1
}

export function clusterOf(slot: number): Cluster {
  return slot === TEXT_SLOT ? 'text' : slot - 1
}
