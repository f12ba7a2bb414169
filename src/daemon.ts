/**
 * Assembly: the only place that builds things. Starts the roles over one log, serves HTTP, stops
 * in reverse order.
 */
import { type Bundle, openBundle } from './cluster/bundle.ts'
import { DriftWindow } from './cluster/drift.ts'
import { publishBundle, publishedIds } from './cluster/published.ts'
import type { Config } from './config.ts'
import { XmasdError } from './errors.ts'
import { backlogOf, createGauges, type Role } from './gauges.ts'
import type { Log } from './log/log.ts'
import { type Check, type HttpServer, serveHttp } from './observe/http.ts'
import { countLogEvents } from './observe/log-events.ts'
import type { Logger } from './observe/logger.ts'
import { createMetrics, type Metrics } from './observe/metrics.ts'
import { groupsOf, logPlace, openLog, topicSpecs } from './open-log.ts'
import { checkedNearest } from './role/nearest.ts'
import { runScoreRole } from './role/score-role.ts'
import { openSelectRole, type SelectRole } from './role/select-role.ts'
import { newStatus, type RoleStatus } from './role/status.ts'
import { type Measurer, startMeasuring } from './score/measure.ts'

export type DaemonOptions = {
  config: Config
  roles: readonly Role[]
  logger: Logger
  /** Stop by itself once every topic is read to its end and nothing is pending. */
  untilIdle: boolean
}

export type Daemon = {
  metrics: Metrics
  log: Log
  /** Undefined where http is disabled. */
  url: string | undefined
  /** Undefined where this process has no select role. */
  select: SelectRole | undefined
  statuses: RoleStatus[]
  /** Settles when all roles have ended; rejects with what ended one early. */
  done: Promise<void>
  /** Finish the batch in hand, commit, end. */
  stop(): void
  /** Releases everything, in reverse order; after `done`. */
  close(): Promise<void>
}

type Releasers = (() => Promise<void>)[]

/** What `/readyz` looks at, filled in as the parts come up. */
type Loaded = {
  log: Log | undefined
  bundle: Bundle | undefined
  engine: Measurer | undefined
  select: SelectRole | undefined
}

export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  const releasers: Releasers = []
  const close = async (): Promise<void> => {
    for (const release of releasers.splice(0).reverse()) await release()
  }
  try {
    return await assemble(options, releasers, close)
  } catch (error) {
    await close()
    throw error
  }
}

async function assemble(
  options: DaemonOptions,
  releasers: Releasers,
  close: () => Promise<void>,
): Promise<Daemon> {
  const { config, roles, logger } = options
  const metrics = createMetrics()
  const statuses = roles.map(newStatus)
  for (const role of roles) metrics.lastCommit.set({ role }, Date.now() / 1000)
  const loaded: Loaded = { log: undefined, bundle: undefined, engine: undefined, select: undefined }
  const http = await startHttp(options, metrics, statuses, loaded)
  if (http !== undefined) releasers.push(() => http.close())

  const bundle = await openBundle(config.bundle)
  loaded.bundle = bundle
  const log = await openLog(config, { events: countLogEvents(metrics, roleIn(config)), logger })
  releasers.push(() => log.close())
  await log.ensureTopics(topicSpecs(config))
  await checkBundleContinues(log, config, bundle)
  loaded.log = log
  metrics.bundleInfo.set(
    {
      bundle: bundle.id,
      mode: bundle.manifest.mode ?? 'unknown',
      signature: bundle.manifest.signature,
    },
    1,
  )

  const controller = new AbortController()
  const parts = { options, releasers, metrics, statuses, loaded, log, bundle }
  const select = roles.includes('select') ? await openSelect(parts) : undefined
  const runScore = roles.includes('score') ? await openScore(parts) : undefined
  const running: Promise<void>[] = []
  if (runScore !== undefined) running.push(runScore(controller.signal))
  if (select !== undefined) running.push(select.run(controller.signal))
  for (const role of running) role.catch(() => controller.abort())
  if (options.untilIdle) running.push(stopWhenIdle(options, log, statuses, controller))
  logger.info({ roles, bundle: bundle.id, log: logPlace(config), http: http?.url }, 'started')
  const done = Promise.all(running).then(() => {})
  return {
    metrics,
    log,
    url: http?.url,
    select,
    statuses,
    done,
    stop: () => controller.abort(),
    close,
  }
}

/** The role that a consumer group is of. */
function roleIn(config: Config): (group: string) => Role {
  return group => (group === groupsOf(config).select ? 'select' : 'score')
}

type Parts = {
  options: DaemonOptions
  releasers: Releasers
  metrics: Metrics
  statuses: RoleStatus[]
  loaded: Loaded
  log: Log
  bundle: Bundle
}

async function openScore(parts: Parts): Promise<(signal: AbortSignal) => Promise<void>> {
  const { options, releasers, metrics, log, bundle } = parts
  const { config, logger } = options
  const measurer = await startMeasuring(config, {
    onWorkerReplaced: () => metrics.workersReplaced.inc(),
    onDeviceUse: ({ device, seconds }) => metrics.deviceSeconds.inc({ device }, seconds),
    onStage: (stage, seconds) => metrics[`${stage}Seconds`].observe(seconds),
  })
  releasers.push(() => measurer.close())
  const { device, why } = measurer.device
  logger.info({ engine: config.proxy.engine, device, why }, `scoring on ${device}`)
  checkBundleFits(bundle, measurer, config)
  parts.loaded.engine = measurer
  const { topics } = config.log
  const group = groupsOf(config).score
  const consumer = await log.consume({ group, topics: [topics.examples], isStateless: true })
  releasers.push(() => consumer.close())
  const nearest = checkedNearest(bundle, metrics)
  const status = parts.statuses.find(({ role }) => role === 'score')!
  const role = { config, consumer, measurer, nearest, bundle: bundle.id, metrics, logger, status }
  return signal => runScoreRole(role, signal)
}

async function openSelect(parts: Parts): Promise<SelectRole> {
  const { options, releasers, metrics, log, bundle } = parts
  const status = parts.statuses.find(({ role }) => role === 'select')!
  const { config, logger } = options
  const drift = new DriftWindow(bundle.manifest)
  const role = await openSelectRole({ config, log, metrics, logger, status, drift })
  releasers.push(() => role.close())
  parts.loaded.select = role
  return role
}

/** A bundle holds the trajectories of one schedule in one mode and precision; others are nonsense to it. */
function checkBundleFits(bundle: Bundle, measurer: Measurer, config: Config): void {
  const { schedule, mode, metric = 'attention', precision = 'float32' } = bundle.manifest
  const { steps, fingerprint } = measurer.schedule
  const mismatch =
    schedule.T !== steps.length
      ? `the bundle is for ${schedule.T} checkpoints, the proxy has ${steps.length} (${steps.join(', ')})`
      : schedule.fingerprint !== null && schedule.fingerprint !== fingerprint
        ? `the bundle is for schedule ${schedule.fingerprint}, the proxy is ${fingerprint}`
        : metric !== 'attention'
          ? `the bundle is for metric ${metric}, the daemon scores by attention`
          : mode !== null && mode !== config.proxy.mode
            ? `the bundle is for mode ${mode}, proxy.mode is ${config.proxy.mode}`
            : precision !== config.proxy.precision
              ? `the bundle is for precision ${precision}, proxy.precision is ${config.proxy.precision}`
              : undefined
  if (mismatch === undefined) return
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `${config.bundle} does not fit ${config.proxy.path}: ${mismatch}`,
    'score and fit with this proxy, mode and precision, or point proxy.path and bundle at a pair that belongs together',
  )
}

/**
 * The configuration's bundle must be known to the log, and is put there: the first one begins it, every
 * later one comes by `xmasd bundle swap`. Which one is in force is the log's to say.
 */
async function checkBundleContinues(log: Log, config: Config, bundle: Bundle): Promise<void> {
  const { assignments, bundles } = config.log.topics
  if ((await publishedIds(log, bundles)).has(bundle.id)) return
  const begun = await lastBundle(log, assignments)
  if (begun === undefined || begun === bundle.id) {
    await publishBundle(log, bundles, bundle)
    return
  }
  throw new XmasdError(
    'BUNDLE_MISMATCH',
    `${assignments} holds assignments of bundle ${begun}, ${config.bundle} is ${bundle.id}`,
    `put the old bundle back and swap: xmasd bundle swap --bundle ${config.bundle}; or start over in a new log.path, or with new log.topics and groups`,
  )
}

/** The bundle of the last assignment; undefined where there is none. */
async function lastBundle(log: Log, topic: string): Promise<string | undefined> {
  const [end = 0] = await log.ends(topic)
  for (let offset = end - 1; offset >= 0; offset--) {
    const value = (await log.get(topic, 0, offset))?.value
    if (value === undefined || value === null) continue
    const { bundle, control } = JSON.parse(Buffer.from(value).toString()) as {
      bundle?: string
      control?: string
    }
    if (control === undefined) return bundle
  }
  return undefined
}

/** HTTP comes first, so that probes see `not ready` while the engine warms up. */
async function startHttp(
  { config, roles }: DaemonOptions,
  metrics: Metrics,
  statuses: RoleStatus[],
  loaded: Loaded,
): Promise<HttpServer | undefined> {
  if (!config.http.enabled) return undefined
  const refresh = createGauges()
  return serveHttp({
    host: config.http.host,
    port: config.http.port,
    registry: metrics.registry,
    refresh: async () => {
      for (const { name, ok } of await readinessOf(loaded, config, roles)) {
        metrics.checks.set({ check: name }, ok ? 1 : 0)
      }
      const { log, bundle, engine, select } = loaded
      if (log === undefined || bundle === undefined) return
      const clusters = bundle.manifest.clusters
      await refresh({ config, metrics, log, statuses, clusters, select, engine })
    },
    health: () => statuses.map(status => healthOf(status, config.http.stallMsMax)),
    readiness: () => readinessOf(loaded, config, roles),
  })
}

function healthOf({ role, movedAt }: RoleStatus, stallMsMax: number): Check {
  const stillMs = Math.round(performance.now() - movedAt)
  return { name: `${role} loop`, ok: stillMs < stallMsMax, detail: `moved ${stillMs} ms ago` }
}

async function readinessOf(
  loaded: Loaded,
  config: Config,
  roles: readonly Role[],
): Promise<Check[]> {
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
  return log.ends(config.log.topics.examples).then(
    ends => ({ name: 'log', ok: true, detail: `examples end at ${ends.join(', ')}` }),
    error => ({ name: 'log', ok: false, detail: String(error) }),
  )
}

const IDLE_CHECK_MS = 100

async function stopWhenIdle(
  { config, roles }: DaemonOptions,
  log: Log,
  statuses: RoleStatus[],
  controller: AbortController,
): Promise<void> {
  while (!controller.signal.aborted) {
    await new Promise(resolve => setTimeout(resolve, IDLE_CHECK_MS))
    if (!statuses.every(status => status.idle)) continue
    // In the order of the flow: what score commits is backlog of select.
    const backlogs = await Promise.all(roles.map(role => backlogOf(log, config, role)))
    if (backlogs.every(backlog => backlog === 0) && statuses.every(({ idle }) => idle)) {
      controller.abort()
    }
  }
}
