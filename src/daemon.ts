/**
 * Assembly: the only place that builds things. Starts the roles over one log, serves HTTP, stops
 * in reverse order.
 */
import { checkBundleContinues, checkBundleFits } from './bundle-checks.ts'
import { type Bundle, openBundle } from './cluster/bundle.ts'
import type { Config } from './config.ts'
import { backlogOf, type Role } from './gauges.ts'
import { checkImageRoot } from './ingest/fetch-image.ts'
import type { Log } from './log/log.ts'
import { countLogEvents } from './observe/log-events.ts'
import type { Logger } from './observe/logger.ts'
import { createMetrics, type Metrics } from './observe/metrics.ts'
import { groupsOf, logPlace, openLog, topicSpecs } from './open-log.ts'
import { type Loaded, startProbes } from './probes.ts'
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
  if (roles.includes('score')) checkImageRoot(config.images.root)
  const metrics = createMetrics()
  const statuses = roles.map(newStatus)
  for (const role of roles) metrics.lastCommit.set({ role }, Date.now() / 1000)
  const loaded: Loaded = { log: undefined, bundle: undefined, engine: undefined, select: undefined }
  const http = await startProbes({ config, roles, metrics, statuses, loaded })
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
    onOutOfMemory: ({ message, tokensMax, isLowered }) => {
      metrics.outOfMemory.inc()
      metrics.passTokens.set(tokensMax)
      if (isLowered) logger.warn({ tokensMax, cause: message }, 'out of memory: shorter passes')
    },
  })
  metrics.passTokens.set(config.proxy.tokensMax)
  releasers.push(() => measurer.close())
  logger.info(scoringOn(measurer, config), 'scoring')
  checkBundleFits(bundle, measurer.schedule, config)
  parts.loaded.engine = measurer
  const { topics } = config.log
  const group = groupsOf(config).score
  const consumer = await log.consume({ group, topics: [topics.examples], isStateless: true })
  releasers.push(() => consumer.close())
  const nearest = checkedNearest(bundle, metrics)
  const status = parts.statuses.find(({ role }) => role === 'score')!
  const { recordBytesMax } = log
  const common = { config, consumer, measurer, nearest, metrics, logger, status }
  const role = { ...common, bundle: bundle.id, recordBytesMax }
  return signal => runScoreRole(role, signal)
}

/** What scores, where, why there, and how much of it stays in memory. */
function scoringOn({ device: { device, why }, plan, schedule }: Measurer, config: Config): object {
  const { workers, threads, residency } = plan
  const { length } = schedule.steps
  const inMemory = `${residency.residents} of ${length} checkpoints`
  return { engine: config.proxy.engine, device, why, workers, threads, inMemory }
}

async function openSelect(parts: Parts): Promise<SelectRole> {
  const { options, releasers, metrics, log, bundle } = parts
  const status = parts.statuses.find(({ role }) => role === 'select')!
  const { config, logger } = options
  const { manifest } = bundle
  const role = await openSelectRole({ config, log, metrics, logger, status, bundle: manifest })
  releasers.push(() => role.close())
  parts.loaded.select = role
  return role
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
