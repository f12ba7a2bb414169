/** What k-means fits of a log: the trajectories of all its assignments, each example once. */
import { contentOfKey, type ProtectedExample } from '../bundle/protected.ts'
import { fetchBundle, recordedPreparation } from '../bundle/publication.ts'
import type { Signature } from '../bundle/signature.ts'
import {
  comparedAt,
  type ReadOptions,
  readTrajectoryLines,
  type Trajectories,
  type TrajectoriesMeta,
} from '../cluster/trajectories.ts'
import type { Config } from '../config.ts'
import { XmasdError } from '../errors.ts'
import type { Log } from '../log/log.ts'
import { type Points, rowsOf } from '../math/vectors.ts'
import { contentOf } from '../select/columns/hash-table.ts'
import { type CountedOnce, countOnce } from '../select/dedup/duplicates.ts'
import type { FindProtected } from '../select/dedup/protected.ts'
import { assignmentTexts } from './assignments.ts'
import { readBundleEpochs } from './bundle-epochs.ts'

export type Source = {
  name: string
  read: Trajectories
  /** The proxy that the trajectories were scored with, where that is known. */
  meta: TrajectoriesMeta | undefined
  /** What the log's active bundle protects. */
  protectedSet: readonly ProtectedExample[]
}

/** All assignments of the log. */
export async function readAssigned(
  log: Log,
  config: Config,
  options: ReadOptions,
): Promise<Source> {
  const { assignments: name, bundles } = config.log.topics
  const read = await readTrajectoryLines(assignmentTexts(log, config), name, options)
  const active = (await readBundleEpochs(log, config)).at(-1)?.bundle
  if (active === undefined) return { name, read, meta: undefined, protectedSet: [] }
  const { manifest, protectedSet } = await fetchBundle(log, bundles, active)
  const { fingerprint, steps } = manifest.schedule
  if (steps === null) return { name, read, meta: undefined, protectedSet }
  const { mode, metric = 'attention', precision = 'float32', gain, head } = manifest
  const preparation = await recordedPreparation(log, bundles, { id: active, manifest })
  const schedule = { fingerprint, steps }
  const meta = { v: 1 as const, schedule, mode, metric, precision, gain, head, preparation }
  return { name, read, meta, protectedSet }
}

/** Those of `indices` that are copies of nothing protected. */
export function withoutProtected(
  read: Trajectories,
  indices: readonly number[],
  findProtected: FindProtected | undefined,
): number[] {
  return indices.filter(index => {
    const content = contentOf(contentOfKey(read.keys[index]!) ?? '') ?? NO_CONTENT
    return findProtected?.(comparedAt(read, index), content) === undefined
  })
}

/** Of a line without a content hash: no content has it but by chance. */
const NO_CONTENT = { high: 0, low: 0 }

/** The counted examples with a trajectory, each once, in order; `scored` holds their indices. */
export type History = {
  signatures: Map<Signature, Points>
  keys: string[]
  scored: number[]
  instability: Float32Array
  /** NaN where there is none. */
  gain: Float32Array
  counts: CountedOnce
  /** Copies of what is protected, which do not count. */
  copies: number
}

/** Throws DATA_INVALID where `source` lacks what `signature` clusters. */
export function historyOf(
  source: Source,
  signature: Signature,
  findProtected?: FindProtected,
): History {
  checkInput(source, signature)
  const { read } = source
  const once = countOnce(read.ids, read.keys)
  const counts = { ...once, counted: withoutProtected(read, once.counted, findProtected) }
  const scored = counts.counted.filter(index => read.rows[index]! >= 0)
  const rows = scored.map(index => read.rows[index]!)
  return {
    signatures: new Map([...read.signatures].map(([name, points]) => [name, rowsOf(points, rows)])),
    keys: scored.map(index => read.keys[index]!),
    instability: Float32Array.from(scored, index => read.instability[index]!),
    gain: Float32Array.from(scored, index => read.gain[index]!),
    scored,
    counts,
    copies: once.counted.length - counts.counted.length,
  }
}

function checkInput({ name, read, meta }: Source, signature: Signature): void {
  const { count, dimensions } = read.points
  if (count === 0) {
    throw new XmasdError(
      'DATA_INVALID',
      `${name} holds no trajectory (${read.ids.length} text-only, ${read.failed} failed)`,
      'score examples with images first: xmasd score',
    )
  }
  const lacking = read.lacking.get(signature)
  if (lacking !== undefined) {
    throw new XmasdError(
      'DATA_INVALID',
      `${name}: line ${lacking} lacks the values of signature ${signature}`,
      'score again with this xmasd, or fit another --signature',
    )
  }
  if (meta === undefined || meta.schedule.steps.length === dimensions) return
  throw new XmasdError(
    'DATA_INVALID',
    `${name} has ${dimensions} scores a line, its .meta.json ${meta.schedule.steps.length} checkpoints`,
    'score again, or remove the .meta.json, which belongs to another file',
  )
}
