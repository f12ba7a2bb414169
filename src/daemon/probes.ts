/** What /metrics, /healthz and /readyz report. */
import type { Bundle } from '../bundle/bundle.ts'
import type { Config } from '../config.ts'
import { createDashboard } from '../dashboard/serve.ts'
import { messageOf } from '../errors.ts'
import type { Log } from '../log/log.ts'
import { type Check, type HttpServer, serveHttp } from '../observe/http.ts'
import type { Logger } from '../observe/logger.ts'
import type { Metrics } from '../observe/metrics.ts'
import type { SelectRole } from '../role/select-role.ts'
import type { RoleStatus } from '../role/status.ts'
import type { ScoringPipeline } from '../score/pipeline.ts'
import { ANSWER_MS_MAX, createGauges, type Gauges, type Role, within } from './gauges.ts'

/** What `/readyz` checks, filled in as the daemon starts. */
export type Loaded = {
  log: Log | undefined
  bundle: Bundle | undefined
  engine: ScoringPipeline | undefined
  select: SelectRole | undefined
}

export type ProbeParts = {
  config: Config
  /** The configuration as it is after a reload. */
  current: () => Config
  roles: readonly Role[]
  metrics: Metrics
  logger: Logger
  statuses: RoleStatus[]
  loaded: Loaded
}

/** Starts before the engine, so that probes see `not ready` while it warms up. */
export async function startProbes(
  parts: ProbeParts,
): Promise<(HttpServer & { hasDashboard: boolean }) | undefined> {
  const { config, current, metrics, logger, roles, statuses, loaded } = parts
  const http = (): Config['http'] => current().http
  if (!config.http.enabled) return undefined
  const gauges = createGauges()
  const probes = {
    refresh: () => refresh(parts, gauges),
    health: () => statuses.map(status => healthOf(status, http().stallMsMax)),
    readiness: () => readinessOf(parts),
  }
  const dashboard = roles.includes('select')
    ? createDashboard({
        ...probes,
        config: current,
        metrics,
        logger,
        statuses,
        select: () => loaded.select,
        engine: () => loaded.engine,
      })
    : undefined
  const server = await serveHttp({
    host: config.http.host,
    port: config.http.port,
    hosts: () => http().hosts,
    registry: metrics.registry,
    ...probes,
    ...(dashboard === undefined ? {} : { pages: dashboard.handle }),
  })
  const close = async (): Promise<void> => {
    dashboard?.close()
    await server.close()
  }
  return { url: server.url, close, hasDashboard: dashboard !== undefined }
}

/** Where the log does not answer its gauges are left out, and the others are still shown. */
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
  if (roles.includes('select')) {
    const isOpen = loaded.select !== undefined
    checks.push({ name: 'state', ok: isOpen, detail: isOpen ? 'open' : 'being folded' })
  }
  if (!roles.includes('score')) return checks
  const steps = loaded.engine?.scores.schedule.steps
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
