/**
 * What flows through the log. Every value is JSON with `v: 1`; `docs/schemas/` holds the same as
 * JSON Schema, held by a test.
 */
import { z } from 'zod'
import type { ErrorCode } from './errors.ts'

/** Topics, by the names that DESIGN gives them. A configuration may rename them. */
export const TOPICS = {
  examples: 'examples',
  assignments: 'assignments',
  decisions: 'decisions',
  subset: 'subset',
  deadLetters: 'dead-letters',
  bundles: 'bundles',
  shadow: 'shadow',
} as const

/** Where a record came from. `offset` is its position in the partition. */
export const Source = z.strictObject({
  topic: z.string(),
  partition: z.int().min(0),
  offset: z.int().min(0),
})
export type Source = z.infer<typeof Source>

export const Turn = z.looseObject({
  from: z.string(),
  value: z.string(),
})
export type Turn = z.infer<typeof Turn>

/**
 * One instruction example in LLaVA form. `image`: a path under the image root, a data: or an http(s)
 * URL; or a list of them, as many as there are `<image>` in the questions.
 */
export const Example = z.looseObject({
  id: z.union([z.string(), z.number()]),
  image: z.union([z.string(), z.array(z.string())]).optional(),
  conversations: z.array(Turn).min(1),
})
export type Example = z.infer<typeof Example>

/** A cluster number, or the one cluster of all text-only examples. */
export const Cluster = z.union([z.int().min(0), z.literal('text')])
export type Cluster = z.infer<typeof Cluster>

/** An example's trajectory, its cluster and where it came from. Text-only examples have nulls. */
export const Assignment = z.strictObject({
  v: z.literal(1),
  key: z.string(),
  id: z.string(),
  cluster: Cluster,
  /** T rows of the 5 largest singular values, descending; null under the metric `loss`, too. */
  singularValues: z.array(z.array(z.number()).length(5)).nullable(),
  /** T scores: the sums of the rows above, or the losses. */
  trajectory: z.array(z.number()).nullable(),
  /** Sum of absolute differences of neighbouring scores; lower is steadier is better. */
  instability: z.number().nullable(),
  /** Squared Euclidean distance of the bundle's signature to the centroid of `cluster`. */
  distance: z.number().nullable(),
  /** SHA-256 over the normalised conversation and the decoded RGB pixels, hex. */
  content: z.string(),
  bundle: z.string(),
  source: Source,
  // What near-duplicates share (docs/duplicates.md); older records lack it.
  /** 16 hex digits of SHA-256 over the words of the conversation that count. */
  words: z.string().optional(),
  /** Each image's colour layout, directions in base64; null for text-only examples, as is the next. */
  layout: z.string().nullable().optional(),
  /** The mean hidden state of the text rows at the last checkpoint, a direction in base64. */
  embedding: z.string().nullable().optional(),
})
export type Assignment = z.infer<typeof Assignment>

/**
 * A record of the `assignments` topic that is no example, so that what it does is a function of the log:
 * - `settle` makes the select role settle there (a flush on idle)
 * - `swap`   puts another bundle in force from there on; its bytes lie in the topic `bundles`
 * - `shadow` lets another bundle decide beside it from there on, for comparison; null ends that
 */
export const Control = z.discriminatedUnion('control', [
  z.strictObject({ v: z.literal(1), control: z.literal('settle') }),
  z.strictObject({ v: z.literal(1), control: z.literal('swap'), bundle: z.string() }),
  z.strictObject({
    v: z.literal(1),
    control: z.literal('shadow'),
    bundle: z.string().nullable(),
  }),
])
export type Control = z.infer<typeof Control>

export const ACTIONS = ['keep', 'drop', 'evict', 'restore'] as const
export type Action = (typeof ACTIONS)[number]

/**
 * Why a decision is as it is:
 * - `within_quota`     kept: among the steadiest of its cluster, as many as its quota
 * - `below_level`      kept for good: its cluster has too few to choose from
 * - `over_quota`       dropped or evicted: steadier ones fill its cluster's quota
 * - `cluster_too_small` dropped or evicted: a cluster of at most two examples gives nothing
 * - `quota_grew`       restored: its cluster's quota grew
 * - `quota_shrank`     evicted: its cluster's quota shrank
 * - `bundle_swapped`   evicted or restored: other clusters are in force
 * - `drawn`            kept by lot: the naive policy, or the control arm
 * - `not_drawn`        dropped by lot
 * - `duplicate`        dropped: the same content stands under another id (`duplicateOf`)
 * - `near_duplicate`   dropped: an example that came before is too near to it (`duplicateOf`)
 */
export const REASONS = [
  'within_quota',
  'over_quota',
  'cluster_too_small',
  'quota_grew',
  'quota_shrank',
  'bundle_swapped',
  'below_level',
  'drawn',
  'not_drawn',
  'duplicate',
  'near_duplicate',
] as const
export type Reason = (typeof REASONS)[number]

/** Which reasons an action can have. */
export const REASONS_OF: Record<Action, readonly Reason[]> = {
  keep: ['within_quota', 'below_level', 'drawn'],
  drop: ['over_quota', 'cluster_too_small', 'not_drawn', 'duplicate', 'near_duplicate'],
  evict: ['over_quota', 'quota_shrank', 'bundle_swapped'],
  restore: ['quota_grew', 'bundle_swapped'],
}

/**
 * What a near-duplicate is near by (docs/duplicates.md): `words` (text-only: the same words), `layout` (the
 * same words, and pictures that look alike) or `state` (seen alike by the proxy, and pictures that look alike).
 */
export const MEASURES = ['words', 'layout', 'state'] as const
export type Measure = (typeof MEASURES)[number]

/** Who decided where `select.controlPercent` sets a part of the stream aside: the policy, or a draw. */
export const ARMS = ['policy', 'random'] as const

export const Decision = z.strictObject({
  v: z.literal(1),
  key: z.string(),
  id: z.string(),
  action: z.enum(ACTIONS),
  reason: z.enum(REASONS),
  cluster: Cluster,
  instability: z.number().nullable(),
  /** How many examples of the cluster the subset held after this decision's settling. */
  quota: z.int().min(0),
  bundle: z.string(),
  /** The key that it lost to. Only where the reason is `duplicate` or `near_duplicate`. */
  duplicateOf: z.string().optional(),
  /** How far it is from that one, and by which measure. Only where the reason is `near_duplicate`. */
  distance: z.number().optional(),
  measure: z.enum(MEASURES).optional(),
  /** Only where there is a control arm. */
  arm: z.enum(ARMS).optional(),
})
export type Decision = z.infer<typeof Decision>

/** The value of a record of the compacted `subset` topic; a tombstone when the example leaves. */
export const SubsetEntry = z.strictObject({
  v: z.literal(1),
  key: z.string(),
  id: z.string(),
  cluster: Cluster,
  instability: z.number().nullable(),
  bundle: z.string(),
})
export type SubsetEntry = z.infer<typeof SubsetEntry>

/** An input that could not be used. On the log: value = the original bytes, headers = the rest. */
export type DeadLetter = {
  value: Uint8Array
  code: ErrorCode
  hint: string
  message: string
  source: Source
}

/** The key of an example: its id + `@` + the first 16 hex digits of its content hash. */
export function keyOf(id: string, content: string): string {
  return `${id}@${content.slice(0, 16)}`
}
