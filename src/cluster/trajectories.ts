/**
 * Reads what `score` writes: one JSON line an example, in input order, into flat columns.
 */
import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import type { Bundle } from '../bundle/bundle.ts'
import { rawSignature, type Signature, spectrumOf, standardised } from '../bundle/signature.ts'
import { readLayouts } from '../bundle/similarity.ts'
import { PRECISIONS } from '../engine/engine.ts'
import { messageOf, XmasdError } from '../errors.ts'
import { grown, type Points } from '../math/vectors.ts'
import { type ComparedFields, Size } from '../record.ts'
import { Preparation } from '../score/identity.ts'
import { instabilityOf, METRICS } from '../score/metric.ts'

export type Trajectories = {
  /** One entry for each line that holds an example, as in the columns below. */
  ids: string[]
  keys: string[]
  /** Index in `points`; -1 for text-only ones. */
  rows: number[]
  /** NaN for text-only ones. */
  instability: number[]
  /** The image gain; NaN where there is none, of all where it was not asked for. */
  gain: number[]
  /** [scored examples, T]; T is 0 where there are none. */
  points: Points
  /** The wanted raw signatures that every scored example has, rows as in `points`. */
  signatures: Map<Signature, Points>
  /** The first line that lacks the values of a wanted signature. */
  lacking: Map<Signature, number>
  /** The compared fields of near-duplicates; undefined where an example lacks one. */
  compared: (Compared | undefined)[]
  /** Undefined where the line says none. */
  sizes: (Size | undefined)[]
  /** Index of the example's line in the file, from 0, without blank lines. */
  lines: number[]
  /** Ids of all lines, also of those with an error, which may have none. */
  lineIds: (string | undefined)[]
  /** Lines with an `error`. */
  failed: number
}

/** See the fields of that name of an assignment. Text-only examples have words alone. */
export type Compared = { words: string; layout: string | null; embedding: string | null }

/** The sidecar of a file of trajectories, `<file>.meta.json`. */
const Meta = z.looseObject({
  v: z.literal(1),
  /** The fingerprint is null where the scores are not xmasd's. */
  schedule: z.looseObject({ fingerprint: z.string().nullable(), steps: z.array(z.int().min(0)) }),
  mode: z.enum(['reference', 'paper']).nullable(),
  metric: z.enum(METRICS).default('attention'),
  precision: z.enum(PRECISIONS).default('float32'),
  gain: z.boolean().optional(),
  head: z.string().optional(),
  preparation: Preparation.optional(),
})
export type TrajectoriesMeta = z.infer<typeof Meta>

/** No score comes near it. Squares of larger values, and sums of them, are not finite in float32. */
const VALUE_MAX = 1e15
const Value = z
  .number()
  .refine(value => Math.abs(value) <= VALUE_MAX, `a value beyond ±${VALUE_MAX} is not a score`)

const Id = z.union([z.string(), z.number()])
const Line = z.looseObject({
  id: Id,
  key: z.string().nullish(),
  content: z.string().nullish(),
  trajectory: z.array(Value).min(1).nullish(),
  singularValues: z.array(z.array(Value)).nullish(),
  embedding: z.string().nullish(),
  question: z.string().nullish(),
  words: z.string().nullish(),
  layout: z.string().nullish(),
  instability: Value.nullish(),
  gain: Value.nullish(),
  size: Size.nullish(),
  gains: z.array(Value).nullish(),
})

/**
 * Reads a file of trajectories. A line without a key has its id as the key; without an instability it is
 * computed; without a trajectory and an error it is text-only.
 *
 * @throws XmasdError FILE_UNREADABLE; DATA_INVALID, naming the line, where one is not of this form
 */
export function readTrajectories(file: string, options: ReadOptions = {}): Promise<Trajectories> {
  return readTrajectoryLines(linesOf(file), file, options)
}

export type ReadOptions = {
  /** Which raw signatures to read. */
  signatures?: readonly Signature[]
  onProgress?: (lines: number) => void
}

/** The same from `lines`, which come from what is called `name`. Throws DATA_INVALID, naming the line. */
export async function readTrajectoryLines(
  lines: AsyncIterable<string>,
  name: string,
  options: ReadOptions = {},
): Promise<Trajectories> {
  const reader = new Reader(options.signatures ?? [])
  let number = 0
  for await (const text of lines) {
    number++
    if (text.trim() === '') continue
    try {
      reader.take(text, number)
    } catch (error) {
      throw invalidLine(`${name}, line ${number}: ${messageOf(error)}`)
    }
    options.onProgress?.(reader.read.lineIds.length)
  }
  return reader.finish()
}

class Reader {
  readonly read: Trajectories = {
    ids: [],
    keys: [],
    rows: [],
    instability: [],
    gain: [],
    points: { data: new Float64Array(0), count: 0, dimensions: 0 },
    signatures: new Map(),
    lacking: new Map(),
    compared: [],
    sizes: [],
    lines: [],
    lineIds: [],
    failed: 0,
  }
  readonly #trajectories = new Rows('scores')
  readonly #signatures: Map<Signature, Rows>

  constructor(signatures: readonly Signature[]) {
    this.#signatures = new Map(signatures.map(name => [name, new Rows(`values of ${name}`)]))
  }

  /** Throws where the line is not of the form. */
  take(text: string, line: number): void {
    const { read } = this
    const json: unknown = JSON.parse(text)
    if (isFailed(json)) {
      const id = z.looseObject({ id: Id }).safeParse(json).data?.id
      read.lineIds.push(id === undefined ? undefined : String(id))
      read.failed++
      return
    }
    const parsed = parsedLine(json)
    const { id, key, trajectory, instability, gain } = parsed
    read.compared.push(comparedOf(parsed))
    read.sizes.push(parsed.size ?? undefined)
    read.rows.push(trajectory == null ? -1 : this.#trajectories.count)
    if (trajectory != null) this.#takeScored(parsed, trajectory, line)
    read.lines.push(read.lineIds.length)
    read.lineIds.push(String(id))
    read.ids.push(String(id))
    read.keys.push(key ?? String(id))
    read.gain.push(gain ?? Number.NaN)
    read.instability.push(
      trajectory == null ? Number.NaN : (instability ?? instabilityOf(trajectory)),
    )
  }

  #takeScored(parsed: z.infer<typeof Line>, trajectory: readonly number[], line: number): void {
    this.#trajectories.push(trajectory)
    for (const [signature, rows] of this.#signatures) {
      const values = rawSignature(signature, parsed)
      if (values !== undefined) rows.push(values)
      else if (!this.read.lacking.has(signature)) this.read.lacking.set(signature, line)
    }
  }

  finish(): Trajectories {
    const { read } = this
    read.points = this.#trajectories.points()
    for (const [signature, rows] of this.#signatures) {
      if (read.lacking.has(signature)) continue
      const first = spectrumOf(signature, read.points.dimensions)
      read.signatures.set(signature, { ...rows.points(), first })
    }
    return read
  }
}

function isFailed(json: unknown): boolean {
  return (z.looseObject({ error: z.unknown() }).safeParse(json).data?.error ?? null) !== null
}

function parsedLine(json: unknown): z.infer<typeof Line> {
  const parsed = Line.safeParse(json)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new Error(`${issue?.path.join('.')}: ${issue?.message}`)
}

/** One line as it is; undefined for one with an error. Throws where it is not of the form. */
export function readLine(text: string): z.infer<typeof Line> | undefined {
  const json: unknown = JSON.parse(text)
  return isFailed(json) ? undefined : parsedLine(json)
}

function comparedOf(line: z.infer<typeof Line>): Compared | undefined {
  const { words, layout = null, embedding = null, trajectory = null } = line
  if (readLayouts(layout) === undefined) throw new Error('layout: it holds no whole layouts')
  const isWhole = trajectory === null || (layout !== null && embedding !== null)
  return words != null && isWhole ? { words, layout, embedding } : undefined
}

/** The compared fields of the example `index`, its trajectory included. */
export function comparedAt(
  { points, rows, compared }: Trajectories,
  index: number,
): ComparedFields {
  const at = rows[index]! * points.dimensions
  const trajectory = at < 0 ? null : [...points.data.subarray(at, at + points.dimensions)]
  return { ...compared[index], trajectory }
}

/** The sidecar of a file of trajectories; undefined where there is none. */
export async function readTrajectoriesMeta(file: string): Promise<TrajectoriesMeta | undefined> {
  const sidecar = `${file}.meta.json`
  let text: string
  try {
    text = await readFile(sidecar, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw unreadable(sidecar, error)
  }
  try {
    return Meta.parse(JSON.parse(text))
  } catch (error) {
    throw invalidLine(`${sidecar}: ${messageOf(error)}`)
  }
}

/** Lines end at \n alone: JSON texts may hold the other line separators of Unicode. */
export async function* linesOf(file: string): AsyncGenerator<string> {
  let rest = ''
  try {
    for await (const chunk of createReadStream(file, {
      encoding: 'utf8',
      highWaterMark: 1 << 18,
    })) {
      const lines = (rest + chunk).split('\n')
      rest = lines.pop()!
      yield* lines
    }
  } catch (error) {
    if (error instanceof XmasdError) throw error
    throw unreadable(file, error)
  }
  if (rest !== '') yield rest
}

/** Rows of equal length, end to end; doubles. */
class Rows {
  readonly #what: string
  #data = new Float64Array(1024)
  #length = 0
  count = 0

  constructor(what: string) {
    this.#what = what
  }

  push(values: ArrayLike<number>): void {
    const dimensions = this.#length / this.count
    if (this.count > 0 && values.length !== dimensions) {
      throw new Error(`${values.length} ${this.#what} where lines before have ${dimensions}`)
    }
    const end = this.#length + values.length
    if (end > this.#data.length) {
      this.#data = grown(this.#data, Math.max(end, 2 * this.#data.length))
    }
    this.#data.set(values, this.#length)
    this.#length = end
    this.count++
  }

  points(): Points {
    const dimensions = this.count === 0 ? 0 : this.#length / this.count
    return { data: this.#data.slice(0, this.#length), count: this.count, dimensions }
  }
}

function unreadable(file: string, error: unknown): XmasdError {
  const hint = 'Give a file that `xmasd score` wrote.'
  return new XmasdError('FILE_UNREADABLE', `cannot read ${file}: ${messageOf(error)}`, hint)
}

export function invalidLine(message: string): XmasdError {
  const hint =
    'Trajectories are JSON lines {"id", "key"?, "trajectory": [T] | null, "instability"?, "singularValues"?, "embedding"?}.'
  return new XmasdError('DATA_INVALID', message, hint)
}

/**
 * The nearest cluster of each example [read.ids.length]; null for text-only ones. `read` must hold the
 * bundle's signature.
 */
export function nearestClusters(
  read: Trajectories,
  { manifest, index }: Pick<Bundle, 'manifest' | 'index'>,
): (number | null)[] {
  const { data, dimensions } = read.signatures.get(manifest.signature)!
  return read.rows.map(row => {
    if (row < 0) return null
    const raw = data.subarray(row * dimensions, (row + 1) * dimensions)
    return index.nearest(standardised(raw, manifest.standardisation)).cluster
  })
}
