/** The figures of the header and the pipeline, from what the roles and their metrics already hold. */
import type { Config } from '../config.ts'
import type { Check } from '../observe/http.ts'
import type { Metrics } from '../observe/metrics.ts'
import { type Readable, type Summary, single, summaryOf } from '../observe/segments.ts'
import type { SelectRole } from '../role/select-role.ts'
import type { RoleStatus } from '../role/status.ts'
import type { ScoringPipeline } from '../score/pipeline.ts'
import { budgetOf } from '../select/rule/quotas.ts'
import { version } from '../version.ts'
import type { Figures } from './schemas.ts'

export type FigureParts = {
  config: () => Config
  metrics: Metrics
  statuses: readonly RoleStatus[]
  select: () => SelectRole | undefined
  engine: () => ScoringPipeline | undefined
  health: () => Check[]
  readiness: () => Promise<Check[]>
  /** Sets the gauges of backlog and subset. */
  refresh: () => Promise<void>
}

type Backlog = NonNullable<Figures['backlog']['score']>

/** An example that waits longer makes the daemon `behind`. */
const OLD_SECONDS = 60
const RATE_WINDOW_MS = 4_000
/** Gauges that ask the log are set at most this often. */
const REFRESH_MS = 1_000

type Counts = { at: number; assigned: number; decided: number; dead: number }

/** Returns what makes the figures of now. */
export function createFigures(parts: FigureParts): () => Promise<Figures> {
  const history: Counts[] = []
  let refreshedAt = Number.NEGATIVE_INFINITY
  return async () => {
    if (performance.now() - refreshedAt >= REFRESH_MS) {
      refreshedAt = performance.now()
      await parts.refresh()
    }
    const summary = await summaryOf(parts.metrics)
    const rates = ratesOf(history, summary)
    const oldest = await Promise.all([backlogOf(parts, 'score'), backlogOf(parts, 'select')])
    const oldestSeconds = Math.max(0, ...oldest.map(one => one?.oldestSeconds ?? 0))
    return {
      ...identityOf(parts),
      health: await healthOf(parts, oldestSeconds),
      kept: summary.subset,
      history: summary.history,
      budget: budgetOf(parts.config().select)(summary.history),
      examplesPerSecond: rates.decided,
      oldestSeconds,
      ...(await bundlesOf(parts)),
      examples: summary.examples,
      decisions: summary.decisions,
      deadLetters: summary.deadLetters,
      rates,
      backlog: { score: oldest[0]!, select: oldest[1]! },
      workers: parts.engine()?.loads() ?? null,
      batchesInFlight: await single(parts.metrics.batchesInFlight),
      ...(await driftOf(parts.metrics)),
    }
  }
}

function identityOf({ config }: FigureParts) {
  const { select, log } = config()
  return {
    v: 1 as const,
    version: version(),
    at: Date.now(),
    policy: select.policy,
    percent: select.budgetExamples === undefined ? select.percent : null,
    topics: { ...log.topics },
  }
}

function ratesOf(history: Counts[], { examples }: Summary): Figures['rates'] {
  const {
    assigned = 0,
    duplicate = 0,
    near_duplicate = 0,
    misaligned = 0,
    dead_letter = 0,
  } = examples
  const decided = assigned + duplicate + near_duplicate + misaligned
  history.push({ at: performance.now(), assigned, decided, dead: dead_letter })
  while (history.length > 2 && history.at(-1)!.at - history[0]!.at > RATE_WINDOW_MS) history.shift()
  const [first, last] = [history[0]!, history.at(-1)!]
  const seconds = (last.at - first.at) / 1000
  const of = (key: 'assigned' | 'decided' | 'dead'): number =>
    seconds === 0 ? 0 : (last[key] - first[key]) / seconds
  return { assigned: of('assigned'), decided: of('decided'), deadLetters: of('dead') }
}

async function healthOf(parts: FigureParts, oldest: number): Promise<Figures['health']> {
  const failed = parts.health().find(({ ok }) => !ok)
  if (failed !== undefined) return { word: 'not ready', reason: `${failed.name}: ${failed.detail}` }
  const missing = (await parts.readiness()).find(({ ok }) => !ok)
  if (missing !== undefined) {
    const isStarting = parts.select() === undefined
    const reason = `${missing.name}: ${missing.detail}`
    return { word: isStarting ? 'starting' : 'not ready', reason }
  }
  const select = parts.select()
  if (select?.isDeciding === false) {
    return { word: 'standing by', reason: 'another member of the group decides' }
  }
  if (oldest > OLD_SECONDS) {
    return { word: 'behind', reason: `the oldest example waits for ${Math.round(oldest)} s` }
  }
  return { word: 'ready', reason: 'every check passes' }
}

async function backlogOf({ metrics }: FigureParts, role: string): Promise<Backlog | null> {
  const of = async (gauge: Readable): Promise<number | undefined> =>
    (await gauge.get()).values.find(({ labels }) => labels.role === role)?.value
  const records = await of(metrics.backlogRecords)
  if (records === undefined) return null
  const [seconds = 0, oldestSeconds = 0] = [
    await of(metrics.backlogSeconds),
    await of(metrics.backlogAge),
  ]
  return { records, seconds, oldestSeconds }
}

async function bundlesOf({ metrics, config }: FigureParts) {
  const [active] = (await metrics.bundleInForce.get()).values
  const { bundle: inForce, shadow } = active?.labels ?? { bundle: '', shadow: '' }
  const configured = (await metrics.bundleInfo.get()).values[0]?.labels.bundle
  const bundle = String(inForce || configured || config().bundle)
  return { bundle, shadow: shadow ? String(shadow) : null }
}

async function driftOf(metrics: Metrics) {
  const drift = {
    index: await single(metrics.driftStability),
    noise: await single(metrics.driftNoise),
    beyond: await single(metrics.driftBeyond),
    examples: await single(metrics.driftWindow),
  }
  return { drift, shadowDifference: await single(metrics.shadowDifference) }
}
