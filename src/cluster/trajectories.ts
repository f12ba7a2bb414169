/**
 * Reads what `score` writes: one JSON line an example, in input order, into flat columns.
 */
import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { z } from 'zod'
import { PRECISIONS } from '../engine/engine.ts'
import { messageOf, XmasdError } from '../errors.ts'
import { METRICS } from '../score/metric.ts'
import { instabilityOf } from '../score/trajectory.ts'
import type { Points } from './kmeans.ts'
import { readLayouts } from './nearness.ts'
import { rawSignature, type Signature } from './signature.ts'

export type Trajectories = {
  /** Of the lines that hold an example; the columns below have one entry for each. */
  ids: string[]
  keys: string[]
  /** Which of `points` it is; -1 for text-only ones. */
  rows: number[]
  /** NaN for text-only ones. */
  instability: number[]
  /** [scored examples, T]; T is 0 where there are none. */
  points: Points
  /** The raw signatures that were asked for and that every scored example has, rows as in `points`. */
  signatures: Map<Signature, Points>
  /** The first line that lacks what a signature that was asked for is made of. */
  lacking: Map<Signature, number>
  /** What near-duplicates are found by; undefined where an example lacks some of it. */
  likeness: (Likeness | undefined)[]
  /** Which line of the file it stands in, from 0, blank lines left out. */
  lines: number[]
  /** Ids of all lines, those with an error too: undefined where such a line has none. */
  lineIds: (string | undefined)[]
  /** Lines with an `error`. */
  failed: number
}

/** See the fields of that name of an assignment. Text-only examples have words alone. */
export type Likeness = { words: string; layout: string | null; embedding: string | null }

/** What stands beside a file of trajectories, as `<file>.meta.json`. */
const Meta = z.looseObject({
  v: z.literal(1),
  /** The fingerprint is null where the scores are not xmasd's. */
  schedule: z.looseObject({ fingerprint: z.string().nullable(), steps: z.array(z.int().min(0)) }),
  mode: z.enum(['reference', 'paper']).nullable(),
  metric: z.enum(METRICS).default('attention'),
  precision: z.enum(PRECISIONS).default('float32'),
})
export type TrajectoriesMeta = z.infer<typeof Meta>

const Id = z.union([z.string(), z.number()])
const Line = z.looseObject({
  id: Id,
  key: z.string().nullish(),
  trajectory: z.array(z.number()).min(1).nullish(),
  singularValues: z.array(z.array(z.number())).nullish(),
  embedding: z.string().nullish(),
  words: z.string().nullish(),
  layout: z.string().nullish(),
  instability: z.number().nullish(),
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
      throw invalid(`${name}, line ${number}: ${messageOf(error)}`)
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
    points: { data: new Float64Array(0), count: 0, dimensions: 0 },
    signatures: new Map(),
    lacking: new Map(),
    likeness: [],
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
    const isFailed = z.looseObject({ error: z.unknown() }).safeParse(json).data?.error ?? null
    if (isFailed !== null) {
      const id = z.looseObject({ id: Id }).safeParse(json).data?.id
      read.lineIds.push(id === undefined ? undefined : String(id))
      read.failed++
      return
    }
    const parsed = Line.safeParse(json)
    if (!parsed.success) {
      const issue = parsed.error.issues[0]
      throw new Error(`${issue?.path.join('.')}: ${issue?.message}`)
    }
    const { id, key, trajectory, instability } = parsed.data
    read.likeness.push(likenessOf(parsed.data))
    read.rows.push(trajectory == null ? -1 : this.#trajectories.count)
    if (trajectory != null) this.#takeScored(parsed.data, trajectory, line)
    read.lines.push(read.lineIds.length)
    read.lineIds.push(String(id))
    read.ids.push(String(id))
    read.keys.push(key ?? String(id))
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
      if (!read.lacking.has(signature)) read.signatures.set(signature, rows.points())
    }
    return read
  }
}

function likenessOf(line: z.infer<typeof Line>): Likeness | undefined {
  const { words, layout = null, embedding = null, trajectory = null } = line
  if (readLayouts(layout) === undefined) throw new Error('layout: it holds no whole layouts')
  const isWhole = trajectory === null || (layout !== null && embedding !== null)
  return words != null && isWhole ? { words, layout, embedding } : undefined
}

/** The sidecar of a file of trajectories; undefined where there is none. */
export async function readTrajectoriesMeta(file: string): Promise<TrajectoriesMeta | undefined> {
  const beside = `${file}.meta.json`
  let text: string
  try {
    text = await readFile(beside, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw unreadable(beside, error)
  }
  try {
    return Meta.parse(JSON.parse(text))
  } catch (error) {
    throw invalid(`${beside}: ${messageOf(error)}`)
  }
}

/** Lines end at \n alone: JSON texts may hold the other line separators of Unicode. */
async function* linesOf(file: string): AsyncGenerator<string> {
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
      const grown = new Float64Array(Math.max(end, 2 * this.#data.length))
      grown.set(this.#data)
      this.#data = grown
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

function invalid(message: string): XmasdError {
  const hint =
    'Trajectories are JSON lines {"id", "key"?, "trajectory": [T] | null, "instability"?, "singularValues"?, "embedding"?}.'
  return new XmasdError('DATA_INVALID', message, hint)
}
