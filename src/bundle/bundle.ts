/**
 * A bundle: an immutable, checksummed folder that says which schedule and scoring a set of clusters
 * belongs to. The same input gives the same bytes: there are no timestamps.
 *
 *     bundle.json             the manifest
 *     centroids.safetensors   `centroids` [K, D] F32, D dimensions of the signature
 *     baseline.safetensors    `cluster` [N] I32, `instability` [N] F32, and `gain` [N] F32 (NaN where an
 *                             example has none) where the scores have it; may be absent
 *     protected.jsonl         the protected set; absent where nothing is protected
 *     index.hnsw              in bundles of 0.1.0 only: checked, but never read
 */
import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { PRECISIONS } from '../engine/engine.ts'
import { messageOf, XmasdError } from '../errors.ts'
import {
  readHeader,
  readTensor,
  readTensorFloat64,
  writeSafetensors,
} from '../proxy/checkpoint/safetensors.ts'
import { Preparation } from '../score/identity.ts'
import { METRICS } from '../score/metric.ts'
import { type Centroids, ClusterIndex } from './hnsw.ts'
import { decodeProtected, encodeProtected, type ProtectedExample } from './protected.ts'
import { SIGNATURES, signatureDimensions } from './signature.ts'
import { SimilarityModel } from './similarity.ts'

export const MANIFEST = 'bundle.json'
const CENTROIDS = 'centroids.safetensors'
const INDEX = 'index.hnsw'
const BASELINE = 'baseline.safetensors'
const PROTECTED = 'protected.jsonl'
/** All files but the manifest. */
export const BUNDLE_FILES = [CENTROIDS, INDEX, BASELINE, PROTECTED] as const
const FORMAT = 'xmasd-bundle'
const VERSION = 1
const ID_DIGITS = 12

const Checksum = z.strictObject({ sha256: z.string(), bytes: z.int().min(0) })

export const Manifest = z.strictObject({
  format: z.literal(FORMAT),
  v: z.literal(VERSION),
  /** The first 12 hex digits of SHA-256 over the rest of the manifest. */
  id: z.string(),
  /** The schedule whose scores were clustered; null where the trajectories did not say. */
  schedule: z.strictObject({
    fingerprint: z.string().nullable(),
    steps: z.array(z.int().min(0)).nullable(),
    T: z.int().min(1),
  }),
  mode: z.enum(['reference', 'paper']).nullable(),
  /** Absent: attention. */
  metric: z.enum(METRICS).optional(),
  /** Absent: float32. */
  precision: z.enum(PRECISIONS).optional(),
  /** Whether the scores have the image gain. Absent: no. */
  gain: z.literal(true).optional(),
  /** The fingerprint of the language head, where the metric or the image gain reads it. */
  head: z.string().optional(),
  /** What becomes of a record before the proxy runs; absent in bundles of releases up to 0.1.0. */
  preparation: Preparation.optional(),
  topk: z.literal(5),
  signature: z.enum(SIGNATURES),
  /** Mean and deviation of each dimension of a standardised signature, [D]. */
  standardisation: z
    .strictObject({ mean: z.array(z.number()), deviation: z.array(z.number()) })
    .optional(),
  /** K. */
  clusters: z.int().min(1),
  /** The data that it was fitted to: N, how many are text-only, sizes of the clusters [K]. */
  baseline: z.strictObject({
    examples: z.int().min(0),
    textOnly: z.int().min(0),
    sizes: z.array(z.int().min(0)),
  }),
  /** Squared distance to the centroid within which 99 % of a cluster's examples lie [K]; may be absent. */
  radii: z.array(z.number()).optional(),
  /** The similarity model of near-duplicates; absent where the data lacked the compared fields. */
  nearness: SimilarityModel.optional(),
  files: z.strictObject({
    [CENTROIDS]: Checksum,
    [INDEX]: Checksum.optional(),
    [BASELINE]: Checksum.optional(),
    [PROTECTED]: Checksum.optional(),
  }),
})
export type Manifest = z.infer<typeof Manifest>

/** The fields that a caller gives a new bundle; the rest follows. */
export type NewBundle = Omit<Manifest, 'format' | 'v' | 'id' | 'topk' | 'clusters' | 'files'> & {
  centroids: Centroids
  members?: Members
  protectedSet?: readonly ProtectedExample[]
}

export type Bundle = {
  id: string
  dir: string
  manifest: Manifest
  index: ClusterIndex
  /** Undefined where the bundle does not hold them. */
  members: Members | undefined
  /** Empty where nothing is protected. */
  protectedSet: readonly ProtectedExample[]
}

/**
 * Writes a bundle into the folder `dir`, made where it is missing. The manifest comes last, so that a
 * bundle cut short is refused.
 *
 * @throws XmasdError FILE_UNWRITABLE where it can't be written
 */
export async function writeBundle(dir: string, bundle: NewBundle): Promise<Manifest> {
  const { centroids, members, protectedSet = [], ...given } = bundle
  const { data, count, dimensions } = centroids
  if (!fits(centroids, given) || !membersFit(members, given.baseline.sizes)) {
    throw new RangeError(`centroids [${count}, ${dimensions}] do not fit the rest of the bundle`)
  }
  try {
    await mkdir(dir, { recursive: true })
    const before = [MANIFEST, INDEX, BASELINE, PROTECTED]
    for (const name of before) await rm(join(dir, name), { force: true })
    writeSafetensors(join(dir, CENTROIDS), { centroids: { shape: [count, dimensions], data } })
    if (members !== undefined) writeMembers(join(dir, BASELINE), members)
    const isGuarding = protectedSet.length > 0
    if (isGuarding) await writeFile(join(dir, PROTECTED), encodeProtected(protectedSet))
    const files = {
      [CENTROIDS]: await checksumOf(join(dir, CENTROIDS)),
      ...(members && { [BASELINE]: await checksumOf(join(dir, BASELINE)) }),
      ...(isGuarding && { [PROTECTED]: await checksumOf(join(dir, PROTECTED)) }),
    }
    const fixed = { format: FORMAT, v: VERSION, topk: 5 } as const
    const content = { ...fixed, ...given, clusters: count, files }
    const manifest = Manifest.parse({ ...content, id: idOf(content) })
    const temporary = join(dir, `${MANIFEST}.tmp`)
    await writeFile(temporary, textOf(manifest))
    await rename(temporary, join(dir, MANIFEST))
    return manifest
  } catch (error) {
    if (error instanceof XmasdError) throw error
    const hint = 'Check that the folder is writable and has room.'
    throw new XmasdError('FILE_UNWRITABLE', `cannot write ${dir}: ${messageOf(error)}`, hint)
  }
}

/**
 * Opens a bundle after checking every byte of it.
 *
 * @throws XmasdError BUNDLE_ALTERED, with file and both checksums, where a file is not as it was written;
 * BUNDLE_INVALID where one is missing, or the bundle is of another version
 */
export async function openBundle(dir: string): Promise<Bundle> {
  const manifest = parseManifest(dir, await read(dir, MANIFEST))
  for (const name of BUNDLE_FILES) {
    const expected = manifest.files[name]
    if (expected === undefined) continue
    const bytes = await read(dir, name)
    const found = sha256(bytes)
    if (found !== expected.sha256) throw altered(dir, name, expected.sha256, found)
  }
  try {
    const centroids = readCentroids(join(dir, CENTROIDS))
    const { count, dimensions } = centroids
    if (count !== manifest.clusters || !fits(centroids, manifest)) {
      throw new Error(`centroids [${count}, ${dimensions}] do not fit the manifest`)
    }
    const hasMembers = manifest.files[BASELINE] !== undefined
    const members = hasMembers ? readMembers(join(dir, BASELINE)) : undefined
    if (!membersFit(members, manifest.baseline.sizes)) {
      throw new Error(`${BASELINE} does not fit the manifest`)
    }
    const protectedSet =
      manifest.files[PROTECTED] === undefined
        ? []
        : decodeProtected((await read(dir, PROTECTED)).toString())
    const index = new ClusterIndex(centroids)
    return { id: manifest.id, dir, manifest, index, members, protectedSet }
  } catch (error) {
    throw invalid(dir, messageOf(error))
  }
}

/** Whether centroids, standardisation, sizes and radii have the lengths that belong together. */
function fits(
  { count, dimensions }: Centroids,
  { signature, schedule, standardisation, baseline, radii }: Omit<NewBundle, 'centroids'>,
): boolean {
  const { mean, deviation } = standardisation ?? {}
  const isOf = (expected: number, found: number | undefined): boolean =>
    found === undefined || found === expected
  const isStandardised = standardisation !== undefined
  return (
    isOf(dimensions, signatureDimensions(signature, schedule.T)) &&
    isStandardised === (signature !== 'sum') &&
    [mean, deviation].every(values => isOf(dimensions, values?.length)) &&
    [baseline.sizes, radii].every(values => isOf(count, values?.length))
  )
}

/**
 * The tensor `centroids` [K, D] of a safetensors file, as float32.
 *
 * @throws XmasdError DATA_INVALID where there is none or it holds what is not finite; CHECKPOINT_INVALID and
 * FILE_UNREADABLE as `readHeader`
 */
export function readCentroids(file: string): Centroids {
  const entry = readHeader(file).tensors.get('centroids')
  const [count = 0, dimensions = 0] = entry?.shape ?? []
  if (entry === undefined || entry.shape.length !== 2 || count === 0 || dimensions === 0) {
    const found = entry === undefined ? 'no tensor "centroids"' : `centroids [${entry.shape}]`
    throw dataInvalid(`${file} holds ${found} where centroids [K, D] are expected`)
  }
  const data = readTensor(file, entry)
  const bad = data.findIndex(value => !Number.isFinite(value))
  if (bad >= 0) {
    throw dataInvalid(`${file}: centroid ${Math.floor(bad / dimensions)} holds ${data[bad]}`)
  }
  return { data, count, dimensions }
}

function parseManifest(dir: string, bytes: Buffer): Manifest {
  let json: unknown
  try {
    json = JSON.parse(bytes.toString())
  } catch (error) {
    throw invalid(dir, `${MANIFEST} is not JSON: ${messageOf(error)}`)
  }
  const { format, v } =
    z.looseObject({ format: z.unknown(), v: z.unknown() }).safeParse(json).data ?? {}
  if (format !== FORMAT) throw invalid(dir, `${MANIFEST} has format ${JSON.stringify(format)}`)
  if (v !== VERSION)
    throw invalid(dir, `it is of version ${v}, this xmasd reads version ${VERSION}`)
  const parsed = Manifest.safeParse(json)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw invalid(dir, `${MANIFEST}: ${issue?.path.join('.')} ${issue?.message}`)
  }
  const { id, ...content } = parsed.data
  const found = idOf(content)
  if (found !== id) throw altered(dir, MANIFEST, id, found)
  const rewritten = textOf(parsed.data)
  if (rewritten === bytes.toString()) return parsed.data
  throw altered(dir, MANIFEST, sha256(rewritten), sha256(bytes))
}

/** Keys stand in the schema's order, so that equal content gives equal bytes. */
function textOf(manifest: Manifest): string {
  return `${JSON.stringify(Manifest.parse(manifest), null, 2)}\n`
}

function idOf(content: Omit<Manifest, 'id'>): string {
  return sha256(textOf({ ...content, id: '' })).slice(0, ID_DIGITS)
}

async function checksumOf(file: string): Promise<z.infer<typeof Checksum>> {
  const bytes = await readFile(file)
  return { sha256: sha256(bytes), bytes: bytes.length }
}

function sha256(bytes: Uint8Array | string): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function read(dir: string, name: string): Promise<Buffer> {
  try {
    return await readFile(join(dir, name))
  } catch (error) {
    throw invalid(dir, `cannot read ${name}: ${messageOf(error)}`)
  }
}

function altered(dir: string, name: string, expected: string, found: string): XmasdError {
  return new XmasdError(
    'BUNDLE_ALTERED',
    `${join(dir, name)} is not as it was written: checksum ${expected} expected, ${found} found`,
    'A bundle never changes: copy it again from where it was made, or fit a new one.',
  )
}

function invalid(dir: string, reason: string): XmasdError {
  const hint = 'Give the folder that `xmasd fit --out` wrote, whole; or fit a new one.'
  return new XmasdError('BUNDLE_INVALID', `${dir} is not a bundle: ${reason}`, hint)
}

function dataInvalid(message: string): XmasdError {
  const hint = 'Centroids are a safetensors file with one finite tensor named centroids, [K, D].'
  return new XmasdError('DATA_INVALID', message, hint)
}

/**
 * The examples with a trajectory that a bundle was fitted to: cluster, instability, image gain and random number
 * (`drawOf`) of each, [N]. A gain is NaN where an example has none; absent where the scores have none.
 */
export type Members = {
  cluster: Int32Array
  instability: Float32Array
  gain?: Float32Array | undefined
  /** Absent in bundles of earlier releases. */
  draw?: Float32Array | undefined
}

/** Whether the members are as many of each cluster as the baseline says. */
export function membersFit(members: Members | undefined, sizes: readonly number[]): boolean {
  if (members === undefined) return true
  const counts = new Array<number>(sizes.length).fill(0)
  for (const cluster of members.cluster) {
    if (!(cluster >= 0 && cluster < counts.length)) return false
    counts[cluster]!++
  }
  const { cluster, instability, gain = cluster, draw = cluster } = members
  const isWhole = [instability, gain, draw].every(values => values.length === cluster.length)
  return isWhole && counts.every((count, cluster) => count === sizes[cluster])
}

export function writeMembers(file: string, { cluster, instability, gain, draw }: Members): void {
  const shape = [cluster.length]
  writeSafetensors(file, {
    cluster: { shape, data: cluster },
    ...(gain && { gain: { shape, data: gain } }),
    ...(draw && { draw: { shape, data: draw } }),
    instability: { shape, data: instability },
  })
}

/** @throws Error where the file is not of this form */
export function readMembers(file: string): Members {
  const { tensors } = readHeader(file)
  const [cluster, instability] = [tensors.get('cluster'), tensors.get('instability')]
  const [gain, draw] = [tensors.get('gain'), tensors.get('draw')]
  if (cluster === undefined || instability === undefined) {
    throw new Error(`${file} lacks cluster or instability`)
  }
  return {
    cluster: Int32Array.from(readTensorFloat64(file, cluster)),
    instability: Float32Array.from(readTensorFloat64(file, instability)),
    ...(gain && { gain: Float32Array.from(readTensorFloat64(file, gain)) }),
    ...(draw && { draw: Float32Array.from(readTensorFloat64(file, draw)) }),
  }
}

/** @throws XmasdError BUNDLE_MISMATCH where the bundle has no similarity model */
export function similarityModelOf({
  id,
  nearness,
}: Pick<Manifest, 'id' | 'nearness'>): SimilarityModel {
  if (nearness !== undefined) return nearness
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `near-duplicates are enabled, but bundle ${id} has no similarity model`,
    'Score again, fit a new bundle and start a new log with it: a log keeps the model of its first bundle. Or turn near-duplicates off (select.nearDuplicates.enabled, --near-duplicates).',
  )
}
