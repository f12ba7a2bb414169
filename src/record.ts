/**
 * The records of the log. Every value is JSON with `v: 1`; `docs/schemas/` publishes the same schemas
 * as JSON Schema.
 */
import { z } from 'zod'
import { type ErrorCode, messageOf, XmasdError } from './errors.ts'

/** The default names of the topics. */
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

/** In place of a topic: the file of trajectories that an assignment comes from; `offset` counts its examples. */
export const FILE_SOURCE = 'file:'

export const Turn = z.looseObject({
  from: z.string(),
  value: z.string(),
})
export type Turn = z.infer<typeof Turn>

/**
 * One instruction example in LLaVA form; docs/data.md lists the other forms. `image`: a path under the
 * image root, a data: or an http(s) URL; or a list of them, as many as there are `<image>`.
 */
export const Example = z.looseObject({
  id: z.union([z.string(), z.number()]).optional(),
  image: z.union([z.string(), z.array(z.string())]).optional(),
  conversations: z.array(Turn).min(1),
})
export type Example = z.infer<typeof Example>

/** A cluster number, or the one cluster of all text-only examples. */
export const Cluster = z.union([z.int().min(0), z.literal('text')])
export type Cluster = z.infer<typeof Cluster>

/** How much of an example the score sees. */
export const Size = z.strictObject({
  /** Columns and rows of the score's matrix. */
  imageTokens: z.int().min(0),
  textRows: z.int().min(0),
  /** Of all pictures as they came, before they are resized. */
  pixels: z.int().min(0),
})
export type Size = z.infer<typeof Size>

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
  // The fields that near-duplicates are found by (docs/duplicates.md); older records lack them.
  /** 16 hex digits of SHA-256 over the content words of the conversation. */
  words: z.string().optional(),
  /** The colour layout of each image, unit vectors in base64; null for text-only examples. */
  layout: z.string().nullable().optional(),
  /**
   * The mean hidden state of the text rows at the last checkpoint, a unit vector in base64; null for
   * text-only examples.
   */
  embedding: z.string().nullable().optional(),
  /**
   * The same mean over the text tokens of the user turns alone, zeros where they have none; null for
   * text-only examples, absent in older records.
   */
  question: z.string().nullable().optional(),
  /** Null for text-only examples; older records lack it. */
  size: Size.nullable().optional(),
  /**
   * The image gain at the last checkpoint, in nats; null where there are no pictures or no answers. Absent without
   * `proxy.gain`.
   */
  gain: z.number().nullable().optional(),
  /** The image gain at each checkpoint [T]; present with `proxy.gain: each`. */
  gains: z.array(z.number()).nullable().optional(),
  /** It is one of the examples that `bundle` was fitted to; `source` is then a file. */
  baseline: z.literal(true).optional(),
})
export type Assignment = z.infer<typeof Assignment>

/**
 * A command to the select role in the topic `assignments`. It stands among the examples so that decisions
 * stay a function of the log:
 * - `settle` settles pending examples (a flush on idle)
 * - `swap`   makes another bundle the active one; its bytes lie in the topic `bundles`
 * - `shadow` starts a shadow bundle, whose decisions go to the topic `shadow`; null ends it
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

/** Why an example is kept or not; docs/selection.md explains each. */
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
  'protected',
  'misaligned',
] as const
export type Reason = (typeof REASONS)[number]

/** Which reasons an action can have. */
export const REASONS_OF: Record<Action, readonly Reason[]> = {
  keep: ['within_quota', 'below_level', 'drawn'],
  drop: [
    'over_quota',
    'cluster_too_small',
    'not_drawn',
    'duplicate',
    'near_duplicate',
    'protected',
    'misaligned',
  ],
  evict: ['over_quota', 'quota_shrank', 'bundle_swapped', 'protected'],
  restore: ['quota_grew', 'bundle_swapped'],
}

/**
 * How a near-duplicate was found (docs/duplicates.md): `words` (text-only examples with the same words),
 * `layout` (the same words, similar pictures) or `state` (similar proxy states, similar pictures).
 */
export const MEASURES = ['words', 'layout', 'state'] as const
export type Measure = (typeof MEASURES)[number]

/** What decided an example where `select.controlPercent` sets up a random holdout. */
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
  /** The key of the example that it is a copy of; for dropped copies (`duplicate`, `near_duplicate`, `protected`). */
  duplicateOf: z.string().optional(),
  /** The distance to that example, and its measure; where the copy is not exact. */
  distance: z.number().optional(),
  measure: z.enum(MEASURES).optional(),
  /** The image gain that is too low; of a `misaligned` one. */
  gain: z.number().optional(),
  /** Present where there is a random holdout. */
  arm: z.enum(ARMS).optional(),
})
export type Decision = z.infer<typeof Decision>

/** A value of the compacted topic `subset`; a tombstone where the example leaves it. */
export const SubsetEntry = z.strictObject({
  v: z.literal(1),
  key: z.string(),
  id: z.string(),
  cluster: Cluster,
  instability: z.number().nullable(),
  bundle: z.string(),
})
export type SubsetEntry = z.infer<typeof SubsetEntry>

/** An input that could not be used. On the log the value is the original bytes, the rest headers. */
export type DeadLetter = {
  value: Uint8Array
  code: ErrorCode
  hint: string
  message: string
  source: Source
}

/** Headers of a record that was redriven: where it first came from, and how often it was redriven. */
export const REDRIVE_HEADERS = ['origin', 'tries'] as const
/** The header of a mark in `dead-letters`, which says what was redriven and is no dead letter. */
export const REDRIVE_MARK = 'redriven'

export function isRedriveMark({ headers }: { headers: Readonly<Record<string, string>> }): boolean {
  return REDRIVE_MARK in headers
}

/** The fields of an assignment that near-duplicates are found by. */
export type ComparedFields = Partial<
  Pick<Assignment, 'trajectory' | 'words' | 'layout' | 'embedding'>
>

/**
 * The bytes of a record, and where its two arrays of numbers lie: [from, to) of their JSON, -1 where they
 * are not left out of the parsed text.
 */
type Deferred = {
  bytes: Buffer
  spectrumFrom: number
  spectrumTo: number
  trajectoryFrom: number
  trajectoryTo: number
  singularValues: number[][] | null
  trajectory: number[] | null
}

/**
 * An assignment read from the log. The spectrum and the trajectory are most of its bytes, and the select
 * role hardly ever needs them: they are parsed when they are first asked for.
 */
export class RecordedAssignment implements Readonly<Assignment> {
  readonly v = 1
  readonly key: string
  readonly id: string
  readonly cluster: Cluster
  readonly instability: number | null
  readonly distance: number | null
  readonly content: string
  readonly bundle: string
  readonly source: Source
  readonly words: string | undefined
  readonly layout: string | null | undefined
  readonly embedding: string | null | undefined
  readonly question: string | null | undefined
  readonly size: Size | null | undefined
  readonly gain: number | null | undefined
  readonly gains: number[] | null | undefined
  readonly baseline: true | undefined
  readonly #deferred: Deferred

  constructor(fields: Omit<Assignment, 'singularValues' | 'trajectory'>, deferred: Deferred) {
    this.key = fields.key
    this.id = fields.id
    this.cluster = fields.cluster
    this.instability = fields.instability
    this.distance = fields.distance
    this.content = fields.content
    this.bundle = fields.bundle
    this.source = fields.source
    this.words = fields.words
    this.layout = fields.layout
    this.embedding = fields.embedding
    this.question = fields.question
    this.size = fields.size
    this.gain = fields.gain
    this.gains = fields.gains
    this.baseline = fields.baseline
    this.#deferred = deferred
  }

  get singularValues(): number[][] | null {
    const { bytes, spectrumFrom, spectrumTo } = this.#deferred
    this.#deferred.singularValues ??= parseSpan(bytes, spectrumFrom, spectrumTo)
    return this.#deferred.singularValues
  }

  get trajectory(): number[] | null {
    const { bytes, trajectoryFrom, trajectoryTo } = this.#deferred
    this.#deferred.trajectory ??= parseSpan(bytes, trajectoryFrom, trajectoryTo)
    return this.#deferred.trajectory
  }

  /** The same example in a cluster of another bundle. */
  reassigned(to: Pick<Assignment, 'cluster' | 'distance' | 'bundle'>): RecordedAssignment {
    const { cluster, distance, bundle } = to
    return new RecordedAssignment({ ...this, cluster, distance, bundle }, this.#deferred)
  }

  toJSON(): Assignment {
    const { key, id, cluster, instability, distance, content, bundle, source } = this
    const { singularValues, trajectory, words, layout, embedding, question } = this
    const { size, gain, gains } = this
    const scores = { singularValues, trajectory, instability, distance }
    const compared = { words, layout, embedding, question, size, gain, gains }
    const rest = { content, bundle, source, ...compared }
    const baseline = this.baseline === undefined ? {} : { baseline: this.baseline }
    return { v: 1, key, id, cluster, ...scores, ...rest, ...baseline }
  }
}

/**
 * Reads a record of `assignments`, whatever the order of its keys.
 *
 * @throws XmasdError RECORD_INVALID where it is neither an assignment nor a control record
 */
export function readAssignment(
  record: Source & { value: Uint8Array | null },
): RecordedAssignment | Control {
  try {
    return parseAssignment(bufferOf(record.value!))
  } catch (error) {
    const { topic, partition, offset } = record
    throw new XmasdError(
      'RECORD_INVALID',
      `${topic}/${partition}@${offset} is not an assignment: ${messageOf(error)}`,
      'Only the score role may write to this topic: find out which other producer does.',
      { cause: error },
    )
  }
}

function parseAssignment(bytes: Buffer): RecordedAssignment | Control {
  const deferred = defer(bytes)
  let value: unknown
  try {
    value = JSON.parse(textWithout(deferred))
  } catch {
    value = JSON.parse(bytes.toString())
    deferred.spectrumFrom = -1
    deferred.trajectoryFrom = -1
  }
  if (typeof value !== 'object' || value === null) throw new Error('it is not an object')
  if ('control' in value) return Control.parse(value)
  const fields = value as Assignment
  checkString(fields.key, 'key')
  checkString(fields.id, 'id')
  checkString(fields.content, 'content')
  checkString(fields.bundle, 'bundle')
  deferred.singularValues = fields.singularValues
  deferred.trajectory = fields.trajectory
  return new RecordedAssignment(fields, deferred)
}

function checkString(value: unknown, name: string): void {
  if (typeof value !== 'string') throw new Error(`${name} is not a string`)
}

const SPECTRUM = Buffer.from('"singularValues":[[')
const SPECTRUM_END = Buffer.from(']]')
const TRAJECTORY = Buffer.from('"trajectory":[')
const BRACKET = 0x5d // ]
const BETWEEN = ',"trajectory":'
const BOTH_NULL = `null${BETWEEN}null`

/**
 * Finds the arrays of numbers. A quote within a JSON string is escaped, so a name with its colon stands
 * nowhere but at the field, and arrays of numbers hold no brackets but their own.
 */
function defer(bytes: Buffer): Deferred {
  const spectrum = bytes.indexOf(SPECTRUM)
  const spectrumTo = spectrum < 0 ? -1 : bytes.indexOf(SPECTRUM_END, spectrum) + 2
  const trajectory = isNext(bytes, spectrumTo) ? spectrumTo + 1 : bytes.indexOf(TRAJECTORY)
  const trajectoryTo = trajectory < 0 ? -1 : bytes.indexOf(BRACKET, trajectory) + 1
  return {
    bytes,
    spectrumFrom: spectrumTo > 2 ? spectrum + SPECTRUM.length - 2 : -1,
    spectrumTo,
    trajectoryFrom: trajectoryTo > 0 ? trajectory + TRAJECTORY.length - 1 : -1,
    trajectoryTo,
    singularValues: null,
    trajectory: null,
  }
}

/** Whether the trajectory stands right behind the spectrum. A search of the bytes costs ten times this. */
function isNext(bytes: Buffer, spectrumTo: number): boolean {
  if (spectrumTo < 2) return false
  for (let i = 0; i < TRAJECTORY.length; i++) {
    if (bytes[spectrumTo + 1 + i] !== TRAJECTORY[i]) return false
  }
  return true
}

/** The JSON text with null in place of the arrays, which the score role writes side by side. */
function textWithout(deferred: Deferred): string {
  const { bytes, spectrumFrom, spectrumTo, trajectoryFrom, trajectoryTo } = deferred
  if (spectrumFrom > 0 && trajectoryFrom === spectrumTo + BETWEEN.length) {
    const head = bytes.toString('utf8', 0, spectrumFrom)
    return head + BOTH_NULL + bytes.toString('utf8', trajectoryTo)
  }
  const spans = [[spectrumFrom, spectrumTo] as const, [trajectoryFrom, trajectoryTo] as const]
  let text = ''
  let at = 0
  for (const [from, to] of spans.sort(([a], [b]) => a - b)) {
    if (from < 0) continue
    text += `${bytes.toString('utf8', at, from)}null`
    at = to
  }
  return text + bytes.toString('utf8', at)
}

function parseSpan(bytes: Buffer, from: number, to: number) {
  return from < 0 ? null : JSON.parse(bytes.toString('latin1', from, to))
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** The key of an example: its id + `@` + the first 16 hex digits of its content hash. */
export function keyOf(id: string, content: string): string {
  return `${id}@${content.slice(0, 16)}`
}
