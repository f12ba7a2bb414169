/** The answers of the API, version 1; docs/schemas/api.schema.json publishes the same as JSON Schema. */
import { z } from 'zod'
import { SIGNATURES } from '../bundle/signature.ts'
import { Explanation } from '../history/explanation.ts'
import type { Parts } from '../observe/segments.ts'
import { ACTIONS, type Action, Cluster, REASONS, type Reason } from '../record.ts'
import { POLICIES } from '../select/rule/policy.ts'
import { RANKS } from '../select/rule/rank.ts'

const V = z.literal(1)
const Count = z.int().min(0)
const Instability = z.number().nullable()

/** An example in lists. */
export const ExampleRow = z.strictObject({
  key: z.string(),
  id: z.string(),
  cluster: Cluster,
  kept: z.boolean(),
  /** Of its last decision; null where it waits for one. */
  action: z.enum(ACTIONS).nullable(),
  reason: z.enum(REASONS).nullable(),
  instability: Instability,
  /** Squared distance to the centroid. */
  distance: z.number().nullable(),
  /** When it was assigned, milliseconds since the epoch. */
  at: z.number(),
  /** The first question, cut. */
  question: z.string(),
  /** How many pictures it has. */
  images: Count,
  duplicateOf: z.string().nullable(),
})
export type ExampleRow = z.infer<typeof ExampleRow>

/** `quota`: by the batch rule. `duplicates` count in no size. */
const ClusterCounts = {
  cluster: Cluster,
  size: Count,
  kept: Count,
  quota: Count,
  duplicates: Count,
}

export const Clusters = z.strictObject({
  v: V,
  /** Whether the log is read to its end, and the share that is. */
  isCaughtUp: z.boolean(),
  progress: z.number(),
  /** Largest first; `cover` is the key of an example. */
  clusters: z.array(z.strictObject({ ...ClusterCounts, cover: z.string().nullable() })),
})
export type Clusters = z.infer<typeof Clusters>

export const Gallery = z.strictObject({
  v: V,
  ...ClusterCounts,
  policy: z.enum(POLICIES),
  /** What orders the examples of a cluster; text-only ones stand in the order of their ids. */
  rank: z.enum(RANKS),
  /** `counted` examples in rank order come first, then duplicates and the random holdout. */
  total: Count,
  counted: Count,
  /** How many of them the batch rule would keep: those before the cut-off line. */
  cut: Count,
  from: Count,
  rows: z.array(ExampleRow),
})
export type Gallery = z.infer<typeof Gallery>

export const Examples = z.strictObject({
  v: V,
  rows: z.array(ExampleRow),
  /** Of a search: how many examples were looked through, newest first, of how many. */
  searched: Count.optional(),
  examples: Count.optional(),
})

export const ExampleDocument = z.strictObject({
  v: V,
  /** As `xmasd explain KEY --json`. */
  explanation: Explanation,
  conversation: z.strictObject({
    turns: z.array(z.strictObject({ role: z.string(), text: z.string() })),
    images: Count,
    /** Why there is no conversation. */
    missing: z.string().optional(),
  }),
  /** What it duplicates, else the least steady example that its cluster keeps. */
  lostTo: ExampleRow.nullable(),
  duplicates: z.array(ExampleRow),
  /** Step numbers of the checkpoints; null where the bundle does not say. */
  steps: z.array(z.int()).nullable(),
  /** Quantiles 0.1, 0.5 and 0.9 of its cluster's scores at each checkpoint, over a sample. */
  band: z
    .strictObject({
      low: z.array(z.number()),
      middle: z.array(z.number()),
      high: z.array(z.number()),
      examples: Count,
    })
    .nullable(),
})
export type ExampleDocument = z.infer<typeof ExampleDocument>

const Said = z.strictObject({
  /** In the topic `decisions`. */
  offset: Count,
  at: z.number(),
  key: z.string(),
  id: z.string(),
  action: z.enum(ACTIONS),
  reason: z.enum(REASONS),
  cluster: Cluster,
  instability: Instability,
  quota: Count,
  question: z.string(),
  images: Count,
  lostTo: z.string().nullable(),
})
export type Said = z.infer<typeof Said>

export const Decisions = z.strictObject({ v: V, decisions: z.array(Said) })

export const DeadLetters = z.strictObject({
  v: V,
  topic: z.string(),
  codes: z.array(z.strictObject({ code: z.string(), count: Count })),
  /** Newest first; `value` is the beginning of the record, with acting characters escaped. */
  letters: z.array(
    z.strictObject({
      offset: Count,
      at: z.number(),
      code: z.string(),
      hint: z.string(),
      message: z.string(),
      source: z.string(),
      value: z.string(),
      bytes: Count,
    }),
  ),
})
export type DeadLetters = z.infer<typeof DeadLetters>

export const TrajectoryMap = z.strictObject({
  v: V,
  /** What is clustered and drawn: trajectories, all singular values, or embeddings. */
  signature: z.enum(SIGNATURES),
  examples: Count,
  /** Coordinates of different fits cannot be compared. */
  fit: Count,
  /** The shares of variance along x and y. */
  explained: z.array(z.number()),
  /** Base64 of little-endian Uint32, Uint16, Uint16, Int32, Uint8; coordinates are 0 to 4095. */
  row: z.string(),
  x: z.string(),
  y: z.string(),
  cluster: z.string(),
  /** 0 waits, 1 kept, 2 not kept, 3 duplicate. */
  state: z.string(),
})
export type TrajectoryMap = z.infer<typeof TrajectoryMap>

export const Drift = z.strictObject({
  v: V,
  bundle: z.string().optional(),
  examples: Count,
  stabilityIndex: z.number().optional(),
  stabilityNoise: z.number().optional(),
  /** Left out where the bundle has no radii. */
  beyondShare: z.number().optional(),
  /** Shares of baseline and window, and what the cluster adds to the index; the largest first. */
  clusters: z.array(
    z.strictObject({ cluster: Cluster, before: z.number(), now: z.number(), index: z.number() }),
  ),
  /**
   * Beyond the radius of their cluster, farthest first; `times` is the distance in radii. Of a bundle
   * without radii those farthest out, and null.
   */
  far: z.array(z.strictObject({ ...ExampleRow.shape, times: z.number().nullable() })),
})
export type Drift = z.infer<typeof Drift>

export const Shadow = z.strictObject({
  v: V,
  bundle: z.string().nullable(),
  differing: Count,
  decided: Count,
  examples: z.array(z.strictObject({ ...ExampleRow.shape, shadow: z.enum(ACTIONS) })),
})
export type Shadow = z.infer<typeof Shadow>

const Counts = z.record(z.string(), Count)
const Backlog = z
  .strictObject({ records: Count, seconds: z.number(), oldestSeconds: z.number() })
  .nullable()

export const Figures = z.strictObject({
  v: V,
  version: z.string(),
  at: z.number(),
  health: z.strictObject({
    word: z.enum(['ready', 'starting', 'behind', 'standing by', 'not ready']),
    reason: z.string(),
  }),
  policy: z.string(),
  percent: z.number().nullable(),
  kept: Count,
  history: Count,
  budget: Count,
  /** Examples decided in a second, over the last seconds. */
  examplesPerSecond: z.number(),
  oldestSeconds: z.number(),
  bundle: z.string(),
  shadow: z.string().nullable(),
  /** Since this process started. */
  examples: Counts,
  decisions: Counts,
  deadLetters: Counts,
  rates: z.strictObject({ assigned: z.number(), decided: z.number(), deadLetters: z.number() }),
  backlog: z.strictObject({ score: Backlog, select: Backlog }),
  /** Null in a process without the score role. */
  workers: z.record(z.string(), z.strictObject({ waiting: Count, busy: Count })).nullable(),
  batchesInFlight: Count,
  topics: z.record(z.string(), z.string()),
  drift: z.strictObject({
    index: z.number(),
    noise: z.number(),
    beyond: z.number(),
    examples: Count,
  }),
  shadowDifference: z.number(),
})
export type Figures = z.infer<typeof Figures>

/** An event `frame`: the newest decisions, and how many more there were since the last frame. */
export const Frame = z.strictObject({
  v: V,
  decisions: z.array(Said),
  left: Count,
  progress: z.number(),
  isCaughtUp: z.boolean(),
  /** Grows with every change of what the API answers. */
  version: Count,
})
export type Frame = z.infer<typeof Frame>

const Part = z.strictObject({ examples: Count, kept: Count })

/** The query of a what-if replay: what is left out is as configured. `clusters`: new ones are fitted. */
export const WhatIfQuery = z
  .object({
    percent: z.coerce.number().min(0).max(100),
    clusters: z.coerce.number().int().min(1).max(100_000),
    policy: z.enum(POLICIES),
  })
  .partial()
export type WhatIfOptions = z.infer<typeof WhatIfQuery>

/** The event `done` of a what-if replay. */
export const WhatIfResult = z.strictObject({
  v: V,
  policy: z.string(),
  percent: z.number().nullable(),
  /** As `xmasd replay --json`. */
  comparison: z.strictObject({
    examples: Count,
    kept: Count,
    budget: Count,
    parts: z.strictObject({ stream: Part, baseline: Part, control: Part }),
    duplicates: Count,
    meanInstability: z.number().nullable(),
    balance: z.number(),
    clusters: z.strictObject({
      used: Count,
      largest: z.strictObject({ cluster: Cluster, size: Count, quota: Count }).nullable(),
    }),
    today: z.strictObject({
      kept: Count,
      both: Count,
      onlyToday: Count,
      onlyReplayed: Count,
      jaccard: z.number(),
    }),
  }),
  /** Keys kept now alone, and by the replay alone; the newest 600 of each. */
  leaving: z.array(z.string()),
  coming: z.array(z.string()),
})
export type WhatIfResult = z.infer<typeof WhatIfResult>

export const Failure = z.strictObject({
  v: V,
  error: z.strictObject({ code: z.string(), message: z.string() }),
})

/** How the reader answers the daemon, and the daemon a page. */
export type ApiAnswer = {
  status: number
  type: string
  body: Uint8Array
  isGzip?: boolean
  /** Seconds that a browser may keep it. */
  maxAge?: number
}

export function jsonAnswer(status: number, document: object): ApiAnswer {
  return { status, type: 'application/json', body: Buffer.from(JSON.stringify(document)) }
}

export function failure(status: number, code: string, message: string): ApiAnswer {
  return jsonAnswer(status, { v: 1, error: { code, message } })
}

/** By the path of docs/api.md. */
export const API_SCHEMAS = {
  figures: Figures,
  clusters: Clusters,
  'clusters/CLUSTER': Gallery,
  examples: Examples,
  'examples/KEY': ExampleDocument,
  decisions: Decisions,
  'dead-letters': DeadLetters,
  map: TrajectoryMap,
  drift: Drift,
  shadow: Shadow,
  'events: frame': Frame,
  'what-if: done': WhatIfResult,
  failure: Failure,
}

/* The report: the page with its data in one file. */

/** What `xmasd report --json` prints. */
export type ReportCounts = {
  v: 1
  bundles: string[]
  policy: string
  percent: number
  /** N: counted examples, baseline included, random holdout not. */
  examples: number
  /** How many of them the batch rule keeps. */
  budget: number
  kept: number
  parts: Parts
  duplicates: number
  /** Counted examples that join no cluster: their image gain is below `select.gainMin`. */
  misaligned: number
  /** The image gain of the counted examples that have one; null where none has. */
  gain: { examples: number; mean: number; keptMean: number | null; belowZero: number } | null
  /** Assignments that the select role has not read yet; in none of the other numbers. */
  waiting: number
  deadLetters: { code: string; count: number }[]
  /** Counted examples by cluster, largest first. `quota` is the batch rule's over the whole history. */
  clusters: { cluster: Cluster; size: number; kept: number; quota: number }[]
}

export type FlowCell = { slice: number; action: Action; reason: Reason; count: number }

/** What the charts show beside the counts. */
export type ReportCharts = {
  /** Decisions along the stream, in `slices` slices of equally many. */
  flow: { slices: number; cells: FlowCell[] }
  /** Counted examples with an instability, in bins of `width` from `from` on. */
  instability: { from: number; width: number; kept: number[]; dropped: number[] }
  /** Scores of examples of each cluster, largest first: the steadiest kept, the least steady dropped. */
  trajectories: { cluster: Cluster; kept: number[][]; dropped: number[][] }[]
  steps: number[] | null
}

export type HeldRow = ExampleRow & { row: number; rank: number | null }

/** What a report holds of the API's answers, of the examples that it was made with. */
export type Frozen = {
  v: 1
  version: string
  /** When it was made, milliseconds since the epoch. */
  at: number
  /** In place of the charts, where nothing is decided. */
  says: string | null
  counts: ReportCounts
  charts: ReportCharts
  clusters: Clusters
  galleries: Record<string, Omit<Gallery, 'rows' | 'from'>>
  map: TrajectoryMap
  drift: Drift
  shadow: Shadow
  deadLetters: DeadLetters
  /** By cluster and rank; `rank` counts from 0, null for those that are held for another reason. */
  rows: HeldRow[]
  /** By key; without the band, which `bands` has by cluster. */
  examples: Record<string, Omit<ExampleDocument, 'band'>>
  bands: Record<string, ExampleDocument['band']>
  /** data: URLs of first pictures, by key. */
  pictures: Record<string, string>
}
