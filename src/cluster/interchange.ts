/**
 * The files of the published code (arXiv 2510.01454, github.com/BigML-CS-UCLA/XMAS), all of them JSON
 * objects by *unique id*: `checkpoint-N_attn_svd_….json` (singular values), `checkpoint-N_loss.json`,
 * `…_cluster_idxs.json`, `…_stability_vals_….json` and `unique2orig.json` (index in the data file).
 * Where several processes scored, each wrote its own file: `checkpoint-N_attn_svd_…_<rank>.json`.
 */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { messageOf, XmasdError } from '../errors.ts'
import { isNothing, parsePythonJson } from '../ingest/form/json.ts'
import { VALUES } from '../math/singular-values.ts'
import type { Metric } from '../score/metric.ts'

/** N examples, T checkpoints. A value that is not finite makes that example's scores NaN. */
export type MetricFiles = {
  metric: Metric
  /** [T], ascending. */
  steps: number[]
  /** [N] unique ids, in the order of the first checkpoint's file. */
  ids: string[]
  /** [T][N]: the scores. */
  scores: Float64Array[]
  /** [T][N * 5], descending; null for the loss, or where the files hold fewer than 5. */
  singularValues: Float64Array[] | null
}

const NAMES: Readonly<Record<Metric, RegExp>> = {
  attention: /checkpoint-(\d+)_attn_svd_.*\.json$/,
  loss: /checkpoint-(\d+)_loss(_\d+)?\.json$/,
}
/** Singular vectors, projected at random: not what a score is the sum of. */
const VECTORS = /_attn_svd_[a-z]+_vecs/

const Scalar = z.number().nullable()
type Scalar = z.infer<typeof Scalar>
const Values = z.record(z.string(), z.array(Scalar).min(1))
const Scalars = z.record(z.string(), Scalar)
const Indices = z.record(z.string(), z.int().min(0))

/**
 * Reads a folder of metric files. `metric` may be left out where the folder holds one kind. Throws
 * FILE_UNREADABLE, or DATA_INVALID, naming file and id, where a file is malformed or a checkpoint lacks an id:
 * T never shrinks silently.
 */
export function readMetricFiles(dir: string, metric?: Metric): MetricFiles {
  const { kind, files } = listFiles(dir, metric)
  const steps = [...files.keys()].sort((a, b) => a - b)
  let ids: string[] | undefined
  const scores: Float64Array[] = []
  const spectra: (Float64Array | null)[] = []
  for (const step of steps) {
    const parts = files.get(step)!
    const values = readParts(parts, kind)
    ids ??= [...values.keys()]
    const rows = ids.map(id => {
      const row = values.get(id)
      if (row === undefined) throw invalid(`${parts.join(', ')} lacks ${JSON.stringify(id)}`)
      return row
    })
    scores.push(Float64Array.from(rows, row => largest(row).reduce((sum, value) => sum + value, 0)))
    spectra.push(kind === 'loss' ? null : spectrumOf(rows))
  }
  if (ids === undefined || ids.length === 0) throw invalid(`${dir} holds no example`)
  const singularValues = spectra.filter(spectrum => spectrum !== null)
  const isWhole = singularValues.length === steps.length
  return { metric: kind, steps, ids, scores, singularValues: isWhole ? singularValues : null }
}

function listFiles(dir: string, metric?: Metric): { kind: Metric; files: Map<number, string[]> } {
  const names = listNames(dir).sort()
  const kinds = (['attention', 'loss'] as const).filter(
    kind => (metric ?? kind) === kind && names.some(name => NAMES[kind].test(name)),
  )
  const [kind, other] = kinds
  if (kind === undefined) {
    throw invalid(`${dir} holds no checkpoint-N_attn_svd_….json and no checkpoint-N_loss.json`)
  }
  if (other !== undefined) throw invalid(`${dir} holds two metrics: name one with --metric`)
  const files = new Map<number, string[]>()
  for (const name of names) {
    const step = NAMES[kind].exec(name)?.[1]
    if (step === undefined) continue
    if (VECTORS.test(name)) throw invalid(`${join(dir, name)} holds singular vectors, not values`)
    files.set(Number(step), [...(files.get(Number(step)) ?? []), join(dir, name)])
  }
  return { kind, files }
}

function listNames(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch (error) {
    throw unreadable(dir, error)
  }
}

function readParts(files: readonly string[], kind: Metric): Map<string, number[]> {
  const values = new Map<string, number[]>()
  for (const file of files) {
    const part = readPython<Record<string, Scalar | Scalar[]>>(
      file,
      kind === 'loss' ? Scalars : Values,
    )
    for (const [id, value] of Object.entries(part)) {
      if (values.has(id)) throw invalid(`${files.join(', ')} have ${JSON.stringify(id)} twice`)
      const row = Array.isArray(value) ? value : [value]
      values.set(
        id,
        row.map(one => one ?? Number.NaN),
      )
    }
  }
  return values
}

function largest(row: readonly number[]): number[] {
  if (row.some(Number.isNaN)) return [Number.NaN]
  return row.toSorted((a, b) => b - a).slice(0, VALUES)
}

/** Null where a row has fewer values than a score is the sum of. */
function spectrumOf(rows: readonly number[][]): Float64Array | null {
  if (rows.some(row => row.length < VALUES)) return null
  const spectrum = new Float64Array(rows.length * VALUES).fill(Number.NaN)
  for (const [i, row] of rows.entries()) spectrum.set(largest(row), i * VALUES)
  return spectrum
}

/** `…_stability_vals_….json`: instability by unique id; NaN where it is not finite. */
export function readStability(file: string): Map<string, number> {
  const entries = Object.entries(readPython(file, Scalars))
  return new Map(entries.map(([id, value]) => [id, value ?? Number.NaN]))
}

/** `…_cluster_idxs.json`: cluster by unique id. */
export function readClusterIndices(file: string): Map<string, number> {
  return new Map(Object.entries(readPython(file, Indices)))
}

/** JSON as Python writes it: what is not finite is null here. */
function readPython<T>(file: string, schema: z.ZodType<T>): T {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw unreadable(file, error)
  }
  try {
    return schema.parse(parsePythonJson(text))
  } catch (error) {
    const reason = error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error)
    throw invalid(`${file} is not a file of this kind: ${reason}`)
  }
}

/**
 * Writes an object laid out as by Python's json.dump(indent=4), its entries in their order; the folder
 * is made where it is missing.
 */
export function writeById(file: string, entries: readonly (readonly [string, unknown])[]): void {
  const lines = entries.map(([id, value]) => {
    const text = JSON.stringify(value, null, 4).replaceAll('\n', '\n    ')
    return `    ${JSON.stringify(id)}: ${text}`
  })
  try {
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, `{\n${lines.join(',\n')}\n}`)
  } catch (error) {
    const hint = 'Check that the folder is writable and has room.'
    throw new XmasdError('FILE_UNWRITABLE', `cannot write ${file}: ${messageOf(error)}`, hint)
  }
}

function unreadable(path: string, error: unknown): XmasdError {
  const hint = 'Give what the published code wrote: a folder of checkpoint-N_….json, or a file.'
  return new XmasdError('FILE_UNREADABLE', `cannot read ${path}: ${messageOf(error)}`, hint)
}

function invalid(message: string): XmasdError {
  const hint =
    'The published code writes JSON objects by unique id, one for each checkpoint: values for attn_svd, a number for loss.'
  return new XmasdError('DATA_INVALID', message, hint)
}

/** The fields that make the published code's unique id of an example. */
export type Named = { id: unknown; image?: unknown; unique_idx?: unknown }

/** Of the bytes of an example; all undefined where they are no JSON object. */
export function namesOf(value: Uint8Array): Named {
  try {
    const { id, image, unique_idx } = JSON.parse(Buffer.from(value).toString())
    return { id, image, unique_idx }
  } catch {
    return { id: undefined }
  }
}

/** No image: as the published code's selection and this one's ingest take it. */
export function isTextOnly({ image }: Named): boolean {
  return isNothing(image)
}

/**
 * The published code's unique ids: `unique_idx` where the data has it, else id::image, or id alone for
 * text-only; where that stands several times, with #0, #1, … Several images, which it does not
 * know, are joined by commas.
 */
export function uniqueIds(examples: readonly Named[]): string[] {
  if (examples[0]?.unique_idx !== undefined) return examples.map(one => String(one.unique_idx))
  const bases = examples.map(one => {
    const images = Array.isArray(one.image) ? one.image.join(',') : String(one.image)
    return isTextOnly(one) ? String(one.id) : `${one.id}::${images}`
  })
  const counts = new Map<string, number>()
  for (const base of bases) counts.set(base, (counts.get(base) ?? 0) + 1)
  const seen = new Map<string, number>()
  return bases.map(base => {
    if (counts.get(base) === 1) return base
    const index = seen.get(base) ?? 0
    seen.set(base, index + 1)
    return `${base}#${index}`
  })
}
