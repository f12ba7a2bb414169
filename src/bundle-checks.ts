/** May this bundle be used with this proxy, and on this log: what `run`, `bundle` and `replay` refuse and `doctor` foretells. */
import type { Bundle } from './cluster/bundle.ts'
import { publishBundle, publishedIds } from './cluster/published.ts'
import type { Config } from './config.ts'
import { XmasdError } from './errors.ts'
import type { Log } from './log/log.ts'
import { nearnessOf } from './role/clusters-in-force.ts'
import { parseAssignment } from './role/decision-outputs.ts'
import { shellWord } from './shell.ts'

/** A bundle holds the trajectories of one schedule in one metric, mode and precision; others are nonsense to it. */
export function checkBundleFits(
  bundle: Bundle,
  { steps, fingerprint }: { steps: readonly number[]; fingerprint: string },
  config: Config,
): void {
  const { schedule, mode, metric = 'attention', precision = 'float32' } = bundle.manifest
  const mismatch =
    schedule.T !== steps.length
      ? `the bundle is for ${schedule.T} checkpoints, the proxy has ${steps.length} (${steps.join(', ')})`
      : schedule.fingerprint !== null && schedule.fingerprint !== fingerprint
        ? `the bundle is for schedule ${schedule.fingerprint}, the proxy is ${fingerprint}`
        : metric !== config.proxy.metric
          ? `the bundle is for metric ${metric}, proxy.metric is ${config.proxy.metric}`
          : mode !== null && mode !== config.proxy.mode
            ? `the bundle is for mode ${mode}, proxy.mode is ${config.proxy.mode}`
            : precision !== config.proxy.precision
              ? `the bundle is for precision ${precision}, proxy.precision is ${config.proxy.precision}`
              : undefined
  if (mismatch === undefined) return
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `${config.bundle} does not fit ${config.proxy.path}: ${mismatch}`,
    'score and fit with this proxy, metric, mode and precision, or point proxy.path and bundle at a pair that belongs together',
  )
}

/**
 * Clusters of other scores mean nothing to a log: another schedule, metric or mode is another family of topics.
 *
 * @throws XmasdError BUNDLE_MISMATCH
 */
export function checkSameScores(current: Bundle, next: Bundle): void {
  const [a, b] = [current.manifest, next.manifest]
  const mismatch =
    a.schedule.T !== b.schedule.T
      ? `${b.schedule.T} checkpoints, not ${a.schedule.T}`
      : differs(a.schedule.fingerprint, b.schedule.fingerprint)
        ? `schedule ${b.schedule.fingerprint}, not ${a.schedule.fingerprint}`
        : differs(a.mode, b.mode)
          ? `mode ${b.mode}, not ${a.mode}`
          : (a.metric ?? 'attention') !== (b.metric ?? 'attention')
            ? `metric ${b.metric ?? 'attention'}, not ${a.metric ?? 'attention'}`
            : a.precision !== b.precision
              ? `precision ${b.precision ?? 'float32'}, not ${a.precision ?? 'float32'}`
              : undefined
  if (mismatch === undefined) return
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `bundle ${next.id} is for ${mismatch} of bundle ${current.id}, which is in force`,
    'fit it to the assignments of this log (xmasd fit --assignments); a new schedule starts new topics',
  )
}

function differs(a: string | null, b: string | null): boolean {
  return a !== null && b !== null && a !== b
}

/**
 * The configuration's bundle must be known to the log, and is put there: the first one begins it, every
 * later one comes by `xmasd bundle swap`. Which one is in force is the log's to say. `readonly` only looks.
 * Throws XmasdError BUNDLE_MISMATCH.
 */
export async function checkBundleContinues(
  log: Log,
  config: Config,
  bundle: Bundle,
  options: { readonly?: boolean } = {},
): Promise<void> {
  const { assignments, bundles } = config.log.topics
  if ((await publishedIds(log, bundles)).has(bundle.id)) return
  const begun = await lastBundle(log, assignments)
  if (begun === undefined || begun === bundle.id) {
    if (config.select.nearDuplicates.enabled) nearnessOf(bundle.manifest)
    if (options.readonly !== true) await publishBundle(log, bundles, bundle)
    return
  }
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `${assignments} holds assignments of bundle ${begun}, ${config.bundle} is ${bundle.id}`,
    `put the old bundle back and swap: xmasd bundle swap --bundle ${shellWord(config.bundle)}; or start over in a new log.path, or with new log.topics and groups`,
  )
}

/** The bundle of the last assignment; undefined where there is none. */
async function lastBundle(log: Log, topic: string): Promise<string | undefined> {
  const [end = 0] = await log.ends(topic)
  for (let offset = end - 1; offset >= 0; offset--) {
    const record = await log.get(topic, 0, offset)
    if (record === undefined || record.value === null) continue
    const value = parseAssignment(record, { withTrajectory: false })
    if (!('control' in value)) return value.bundle
  }
  return undefined
}
