/** What `fit` reads: a file that `score` wrote, or all that a log has assigned. And what of it is clustered. */
import type { Points } from '../cluster/kmeans.ts'
import { fetchBundle } from '../cluster/published.ts'
import type { Signature } from '../cluster/signature.ts'
import {
  type ReadOptions,
  readTrajectories,
  readTrajectoriesMeta,
  readTrajectoryLines,
  type Trajectories,
  type TrajectoriesMeta,
} from '../cluster/trajectories.ts'
import { type Config, loadConfig } from '../config.ts'
import { XmasdError } from '../errors.ts'
import type { Log } from '../log/log.ts'
import { openLogToRead } from '../open-log.ts'
import { assignmentTexts } from '../report/history.ts'
import { readReigns } from '../report/reigns.ts'
import { type CountedOnce, countOnce } from '../select/duplicates.ts'
import { rowsOf } from './fit-report.ts'

/** Where the trajectories come from, and what is known of the proxy that they were scored with. */
export type Source = {
  name: string
  read: Trajectories
  meta: TrajectoriesMeta | undefined
}

export async function readSource(
  options: { trajectories?: string; config?: string },
  signatures: readonly Signature[],
  onProgress: (lines: number) => void,
): Promise<Source> {
  const { trajectories: name } = options
  if (name === undefined) {
    const config = loadConfig(options.config)
    const log = await openLogToRead(config)
    try {
      return await readAssigned(log, config, { signatures, onProgress })
    } finally {
      await log.close()
    }
  }
  const read = await readTrajectories(name, { signatures, onProgress })
  return { name, read, meta: await readTrajectoriesMeta(name) }
}

/** All that the log has assigned. */
export async function readAssigned(
  log: Log,
  config: Config,
  options: ReadOptions,
): Promise<Source> {
  const { assignments: name, bundles } = config.log.topics
  const read = await readTrajectoryLines(assignmentTexts(log, config), name, options)
  const inForce = (await readReigns(log, config)).at(-1)?.bundle
  if (inForce === undefined) return { name, read, meta: undefined }
  const {
    schedule,
    mode,
    metric = 'attention',
    precision = 'float32',
  } = (await fetchBundle(log, bundles, inForce)).manifest
  const { fingerprint, steps } = schedule
  if (steps === null) return { name, read, meta: undefined }
  const meta = { v: 1 as const, schedule: { fingerprint, steps }, mode, metric, precision }
  return { name, read, meta }
}

/** Of the examples that count and have a trajectory, each once, in order; `scored` says which they are. */
export type History = {
  signatures: Map<Signature, Points>
  keys: string[]
  scored: number[]
  instability: Float32Array
  counts: CountedOnce
}

/** @throws XmasdError DATA_INVALID where there is nothing to cluster by `signature` */
export function historyOf(source: Source, signature: Signature): History {
  checkInput(source, signature)
  const { read } = source
  const counts = countOnce(read.ids, read.keys)
  const scored = counts.counted.filter(index => read.rows[index]! >= 0)
  const rows = scored.map(index => read.rows[index]!)
  return {
    signatures: new Map([...read.signatures].map(([name, points]) => [name, rowsOf(points, rows)])),
    keys: scored.map(index => read.keys[index]!),
    instability: Float32Array.from(scored, index => read.instability[index]!),
    scored,
    counts,
  }
}

function checkInput({ name, read, meta }: Source, signature: Signature): void {
  const { count, dimensions } = read.points
  if (count === 0) {
    throw new XmasdError(
      'DATA_INVALID',
      `${name} holds no trajectory (${read.ids.length} text-only, ${read.failed} failed)`,
      'Score examples with images first: xmasd score.',
    )
  }
  const lacking = read.lacking.get(signature)
  if (lacking !== undefined) {
    throw new XmasdError(
      'DATA_INVALID',
      `${name}, line ${lacking} lacks what signature ${signature} is made of`,
      'Score again with this xmasd, or fit another --signature.',
    )
  }
  if (meta === undefined || meta.schedule.steps.length === dimensions) return
  throw new XmasdError(
    'DATA_INVALID',
    `${name} has ${dimensions} scores a line, its .meta.json ${meta.schedule.steps.length} checkpoints`,
    'Score again, or remove the .meta.json that belongs to another file.',
  )
}
