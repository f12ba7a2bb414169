/** What `fit` clusters: the trajectories of a file, or all assignments of a log; and what it protects. */
import { contentOfKey, type ProtectedExample, unitedProtected } from '../../bundle/protected.ts'
import type { Signature } from '../../bundle/signature.ts'
import {
  comparedAt,
  readTrajectories,
  readTrajectoriesMeta,
  type Trajectories,
  type TrajectoriesMeta,
} from '../../cluster/trajectories.ts'
import { loadConfig } from '../../config.ts'
import { XmasdError } from '../../errors.ts'
import { readAssigned, type Source } from '../../history/trajectories.ts'
import { differenceOf, recordedIdentity } from '../../score/identity.ts'
import { warn, withLog } from './options.ts'

export async function readSource(
  options: { trajectories?: string; config?: string },
  signatures: readonly Signature[],
  onProgress: (lines: number) => void,
): Promise<Source> {
  const { trajectories: name } = options
  if (name === undefined) {
    const config = loadConfig(options.config)
    return withLog(config, log => readAssigned(log, config, { signatures, onProgress }))
  }
  const read = await readTrajectories(name, { signatures, onProgress })
  return { name, read, meta: await readTrajectoriesMeta(name), protectedSet: [] }
}

/**
 * The evaluation data to protect: what `source` does already, and the examples of `files`, which `score`
 * wrote with the same proxy. Throws DATA_INVALID where a line was not scored; BUNDLE_MISMATCH where
 * another proxy scored it.
 */
export async function readProtected(
  files: readonly string[],
  source: Source,
): Promise<ProtectedExample[]> {
  const sets: ProtectedExample[][] = []
  for (const file of files) {
    const read = await readTrajectories(file)
    checkSameProxy(file, read, await readTrajectoriesMeta(file), source)
    if (read.failed > 0)
      warn(`${file}: ${read.failed} examples have no score and are not protected`)
    sets.push(read.keys.map((key, i) => protectedAt(file, read, key, i)))
  }
  return unitedProtected(source.protectedSet, ...sets)
}

function protectedAt(file: string, read: Trajectories, key: string, i: number): ProtectedExample {
  const { words = null, layout = null, embedding = null } = read.compared[i] ?? {}
  const { trajectory = null } = comparedAt(read, i)
  if (contentOfKey(key) !== undefined) return { key, words, layout, trajectory, embedding }
  throw new XmasdError(
    'DATA_INVALID',
    `${file}: example ${read.lines[i]! + 1} (${read.ids[i]}) has no key with a content hash, so its copies can't be found`,
    'Score the evaluation data with the same proxy and give the result: xmasd score --proxy DIR --data FILE --out SCORED.',
  )
}

function checkSameProxy(
  file: string,
  { points }: Trajectories,
  meta: TrajectoriesMeta | undefined,
  source: Source,
): void {
  const wanted = source.read.points.dimensions
  const difference =
    meta && source.meta && differenceOf(recordedIdentity(source.meta), recordedIdentity(meta))
  const mismatch =
    points.count > 0 && points.dimensions !== wanted
      ? `${points.dimensions} scores an example, ${source.name} has ${wanted}`
      : difference && `${difference.other}, ${source.name} has ${difference.one}`
  if (mismatch === undefined) return
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `${file} can't be protected: it has ${mismatch}`,
    'Score evaluation data and history with the same proxy and settings.',
  )
}
