/** What `fit` reads: a file that `score` wrote, or all that a log has assigned. */
import { fetchBundle } from '../cluster/published.ts'
import type { Signature } from '../cluster/signature.ts'
import {
  readTrajectories,
  readTrajectoriesMeta,
  readTrajectoryLines,
  type Trajectories,
  type TrajectoriesMeta,
} from '../cluster/trajectories.ts'
import { type Config, loadConfig } from '../config.ts'
import { openLogToRead } from '../open-log.ts'
import { assignmentTexts } from '../report/history.ts'
import { readReigns } from '../report/reigns.ts'

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
  if (name === undefined) return readAssignments(loadConfig(options.config), signatures, onProgress)
  const read = await readTrajectories(name, { signatures, onProgress })
  return { name, read, meta: await readTrajectoriesMeta(name) }
}

async function readAssignments(
  config: Config,
  signatures: readonly Signature[],
  onProgress: (lines: number) => void,
): Promise<Source> {
  const log = await openLogToRead(config)
  try {
    const { assignments: name, bundles } = config.log.topics
    const texts = assignmentTexts(log, config)
    const read = await readTrajectoryLines(texts, name, { signatures, onProgress })
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
  } finally {
    await log.close()
  }
}
