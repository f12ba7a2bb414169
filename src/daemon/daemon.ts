/** Assembly: builds the parts, starts the roles over one log, serves HTTP, releases in reverse order. */

import { setTimeout as sleep } from 'node:timers/promises'
import { type Bundle, openBundle } from '../bundle/bundle.ts'
import type { Config } from '../config.ts'
import { headersFor } from '../ingest/fetch/headers.ts'
import { checkImageRoot } from '../ingest/fetch/image.ts'
import { checkRegistry } from '../ingest/form/framing.ts'
import type { Log } from '../log/log.ts'
import { logPlace, openLog, topicSpecs } from '../log/open.ts'
import type { Logger } from '../observe/logger.ts'
import { countLogEvents, type Metrics } from '../observe/metrics.ts'
import {
  checkBundleContinues,
  checkBundleFits,
  checkScoresContinue,
} from '../role/bundle-checks.ts'
import { checkedNearest } from '../role/outcome.ts'
import { runScoreRole } from '../role/score-role.ts'
import { openSelectRole, type SelectRole } from '../role/select-role.ts'
import { newStatus, type RoleStatus } from '../role/status.ts'
import { type ScoringPipeline, startPipeline } from '../score/pipeline.ts'
import { backlogOf, type Role } from './gauges.ts'
import { holdFolder } from './local-folder.ts'
import { type Loaded, startProbes } from './probes.ts'
import { changesBetween, type Reloaded, withChanges } from './reload.ts'

export type DaemonOptions = {
  config: Config
  roles: readonly Role[]
  logger: Logger
  metrics: Metrics
  /** Stop once every topic is read to its end and nothing is pending. */
  untilIdle: boolean
}

export type Daemon = {
  metrics: Metrics
  log: Log
  /** Undefined with http.enabled: false. */
  url: string | undefined
  /** Undefined without the select role. */
  select: SelectRole | undefined
  statuses: RoleStatus[]
  /** Settles when all roles have ended; rejects with the error that ended one early. */
  done: Promise<void>
  /** Finishes the batches in flight, commits, ends the roles. */
  stop(): void
  /** Applies what can change in a running process; says which other changes need a restart. */
  reload(next: Config): Promise<Reloaded>
  /** Releases everything; call it after `done`. */
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
  const { config, roles, logger, metrics } = options
  if (roles.includes('score')) {
    checkImageRoot(config.images.root)
    headersFor(config.images.headersFile)
    checkRegistry(config.log.schemaRegistry)
  }
  const statuses = roles.map(newStatus)
  for (const role of roles) metrics.lastCommit.set({ role }, Date.now() / 1000)
  const loaded: Loaded = { log: undefined, bundle: undefined, engine: undefined, select: undefined }
  let current = config
  const probes = { config, current: () => current, roles, metrics, logger, statuses, loaded }
  const http = await startProbes(probes)
  if (http !== undefined) releasers.push(() => http.close())

  const bundle = await openBundle(config.bundle)
  loaded.bundle = bundle
  const log = await openLog(config.log, { events: countLogEvents(metrics, roleIn(config)), logger })
  releasers.push(() => log.close())
  await log.ensureTopics(topicSpecs(config.log))
  const folder = config.log.kind === 'local' ? await holdFolder(config.log) : undefined
  if (folder !== undefined) releasers.push(async () => folder.release())
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
  const base = { options, releasers, statuses, loaded, log, bundle }
  const select = roles.includes('select') ? await openSelect(base) : undefined
  const runScore = roles.includes('score') ? await openScore(base) : undefined
  const running: Promise<void>[] = []
  if (runScore !== undefined) running.push(runScore(controller.signal))
  if (select !== undefined) running.push(select.run(controller.signal))
  for (const role of running) role.catch(() => controller.abort())
  if (options.untilIdle) running.push(stopWhenIdle(options, log, statuses, controller))
  logger.info({ roles, bundle: bundle.id, log: logPlace(config.log), http: http?.url }, 'started')
  const finished = Promise.all(running).then(() => {})
  const done = folder === undefined ? finished : Promise.race([finished, folder.lost])
  done.catch(() => controller.abort())
  const stop = (): void => controller.abort()
  const apply = async (next: Config): Promise<Reloaded> => {
    const changes = changesBetween(current, next)
    const changed = withChanges(current, next, changes.applied)
    if (changes.applied.some(key => /^(images|text)\./.test(key))) {
      if (loaded.engine !== undefined) headersFor(changed.images.headersFile)
      await loaded.engine?.reload(changed)
    }
    current = changed
    logger.level = changed.logging.level
    return changes
  }
  let reloading: Promise<unknown> = Promise.resolve()
  const reload = (next: Config): Promise<Reloaded> => {
    const reloaded = reloading.then(() => apply(next))
    reloading = reloaded.catch(() => {})
    return reloaded
  }
  return { metrics, log, url: http?.url, select, statuses, done, stop, reload, close }
}

/** The role of a consumer group. */
function roleIn(config: Config): (group: string) => Role {
  return group => (group === config.select.group ? 'select' : 'score')
}

/** What the roles are built on. */
type Base = {
  options: DaemonOptions
  releasers: Releasers
  statuses: RoleStatus[]
  loaded: Loaded
  log: Log
  bundle: Bundle
}

/** The share of `shutdownMsMax` in which batches in flight are scored; the rest is for commits and closing. */
const FINISH_SHARE = 0.7

async function openScore(base: Base): Promise<(signal: AbortSignal) => Promise<void>> {
  const { options, releasers, statuses, loaded, log, bundle } = base
  const { config, logger, metrics } = options
  const status = statuses.find(({ role }) => role === 'score')!
  const pipeline = await startPipeline(config, {
    onWorkerReplaced: () => metrics.workersReplaced.inc(),
    onProgress: () => {
      status.movedAt = performance.now()
    },
    onDeviceUse: ({ device, seconds }) => metrics.deviceSeconds.inc({ device }, seconds),
    onStage: (stage, seconds) => metrics[`${stage}Seconds`].observe(seconds),
    onNote: note => logger.warn({ role: 'score' }, `${note}; more of the kind are not logged`),
    onOutOfMemory: ({ message, tokensMax, isLowered }) => {
      metrics.outOfMemory.inc()
      metrics.passTokens.set(tokensMax)
      if (isLowered)
        logger.warn({ tokensMax, cause: message }, 'out of memory: passes get fewer tokens')
    },
  })
  metrics.passTokens.set(config.proxy.tokensMax)
  releasers.push(() => pipeline.close())
  logger.info(scoringOn(pipeline, config), 'scoring')
  for (const warning of pipeline.warnings) logger.warn(warning)
  checkBundleFits(bundle, pipeline, config)
  const unknown = await checkScoresContinue(log, config, bundle, pipeline)
  if (unknown !== undefined) logger.warn(unknown)
  loaded.engine = pipeline
  const { topics } = config.log
  const group = config.score.group
  const consumer = await log.consume({ group, topics: [topics.examples], isStateless: true })
  releasers.push(() => consumer.close())
  const nearest = checkedNearest(bundle, metrics)
  const { recordBytesMax } = log
  const common = { config, consumer, pipeline, nearest, metrics, logger, status }
  const role = { ...common, bundle: bundle.id, recordBytesMax }
  return signal => {
    const abandon = (): void => void pipeline.close()
    const ms = FINISH_SHARE * config.shutdownMsMax
    signal.addEventListener('abort', () => setTimeout(abandon, ms).unref())
    return runScoreRole(role, signal)
  }
}

/** Engine, device and the reason for it, and how many checkpoints stay in memory. */
function scoringOn(
  { device: { device, why }, plan, scores, prompt }: ScoringPipeline,
  config: Config,
): object {
  const { workers, threads, residency } = plan
  const { length } = scores.schedule.steps
  const inMemory = `${residency.residents} of ${length} checkpoints`
  return {
    engine: config.proxy.engine,
    device,
    why,
    workers,
    threads,
    inMemory,
    template: prompt.origin,
  }
}

async function openSelect(base: Base): Promise<SelectRole> {
  const { options, releasers, statuses, loaded, log, bundle } = base
  const status = statuses.find(({ role }) => role === 'select')!
  const { config, logger, metrics } = options
  const { manifest } = bundle
  const role = await openSelectRole({ config, log, metrics, logger, status, bundle: manifest })
  releasers.push(() => role.close())
  loaded.select = role
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
    await sleep(IDLE_CHECK_MS)
    if (!statuses.every(status => status.idle)) continue
    // In the order of the flow: what score commits adds to the backlog of select.
    const backlogs = await Promise.all(roles.map(role => backlogOf(log, config, role)))
    if (backlogs.every(backlog => backlog === 0) && statuses.every(({ idle }) => idle)) {
      controller.abort()
    }
  }
}
