/** What a process shows of itself over HTTP: /metrics, /healthz, /readyz. */
import type { Bundle } from './cluster/bundle.ts'
import type { Config } from './config.ts'
import { messageOf } from './errors.ts'
import { ANSWER_MS_MAX, createGauges, type Gauges, type Role, within } from './gauges.ts'
import type { Log } from './log/log.ts'
import { type Check, type HttpServer, serveHttp } from './observe/http.ts'
import type { Metrics } from './observe/metrics.ts'
import type { SelectRole } from './role/select-role.ts'
import type { RoleStatus } from './role/status.ts'
import type { Measurer } from './score/measure.ts'

/** What `/readyz` looks at, filled in as the parts come up. */
export type Loaded = {
  log: Log | undefined
  bundle: Bundle | undefined
  engine: Measurer | undefined
  select: SelectRole | undefined
}

export type ProbeParts = {
  config: Config
  roles: readonly Role[]
  metrics: Metrics
  statuses: RoleStatus[]
  loaded: Loaded
}

/** Starts first, so that probes see `not ready` while the engine warms up. */
export async function startProbes(parts: ProbeParts): Promise<HttpServer | undefined> {
  const { config, metrics, statuses } = parts
  if (!config.http.enabled) return undefined
  const gauges = createGauges()
  return serveHttp({
    host: config.http.host,
    port: config.http.port,
    registry: metrics.registry,
    refresh: () => refresh(parts, gauges),
    health: () => statuses.map(status => healthOf(status, config.http.stallMsMax)),
    readiness: () => readinessOf(parts),
  })
}

/** A log that does not answer is no reason to show nothing: what it would have said is left out. */
async function refresh({ loaded, ...parts }: ProbeParts, gauges: Gauges): Promise<void> {
  const { config, metrics, statuses } = parts
  const checks = await readinessOf({ loaded, ...parts })
  for (const { name, ok } of checks) metrics.checks.set({ check: name }, ok ? 1 : 0)
  const { log, bundle, engine, select } = loaded
  if (log === undefined || bundle === undefined) return
  const isReached = checks.every(({ name, ok }) => name !== 'log' || ok)
  const clusters = bundle.manifest.clusters
  await gauges({ config, metrics, log, isReached, statuses, clusters, select, engine })
}

function healthOf({ role, movedAt }: RoleStatus, stallMsMax: number): Check {
  const stillMs = Math.round(performance.now() - movedAt)
  return { name: `${role} loop`, ok: stillMs < stallMsMax, detail: `moved ${stillMs} ms ago` }
}

async function readinessOf({ loaded, config, roles }: ProbeParts): Promise<Check[]> {
  const checks: Check[] = [
    { name: 'bundle', ok: loaded.bundle !== undefined, detail: loaded.bundle?.id ?? 'not loaded' },
    await reach(loaded.log, config),
  ]
  if (!roles.includes('score')) return checks
  const steps = loaded.engine?.schedule.steps
  const detail = steps === undefined ? 'warming up' : `${steps.length} checkpoints`
  return [...checks, { name: 'engine', ok: steps !== undefined, detail }]
}

async function reach(log: Log | undefined, config: Config): Promise<Check> {
  if (log === undefined) return { name: 'log', ok: false, detail: 'not open' }
  return within(ANSWER_MS_MAX, log.ends(config.log.topics.examples)).then(
    ends => ({ name: 'log', ok: true, detail: `examples end at ${ends.join(', ')}` }),
    error => ({ name: 'log', ok: false, detail: messageOf(error) }),
  )
}
