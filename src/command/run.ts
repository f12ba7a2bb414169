/** `run`: the daemon. */
import { Command } from 'commander'
import { loadConfig } from '../config.ts'
import { type Daemon, startDaemon } from '../daemon/daemon.ts'
import type { Role } from '../daemon/gauges.ts'
import { messageOf, XmasdError } from '../errors.ts'
import { exitAfterWrites } from '../log/local/environment.ts'
import { createLogger, type Logger } from '../observe/logger.ts'
import { createMetrics } from '../observe/metrics.ts'
import { scoreSummaryOf, summaryLines, summaryOf, summaryText } from '../observe/segments.ts'
import { endThreads } from '../score/workers/host.ts'
import { print, rolesOption } from './helpers/options.ts'

type Options = { config?: string; roles: Role[]; untilIdle?: boolean; json?: boolean }

export function command(): Command {
  return new Command('run')
    .description(
      'Read examples, score, assign, decide, until SIGTERM. SIGHUP reloads what can change.',
    )
    .option('--config <file>', 'configuration file (default: $XMASD_CONFIG, else all defaults)')
    .addOption(rolesOption())
    .option('--until-idle', 'stop once every topic is read to its end')
    .option('--json', 'one JSON document with the counters on stdout at the end')
    .action(run)
}

async function run(options: Options): Promise<void> {
  const { roles, untilIdle = false } = options
  const config = loadConfig(options.config)
  const metrics = createMetrics()
  const onDropped = (): void => metrics.logLinesDropped.inc()
  const logger = createLogger({ ...config.logging, onDropped })
  const early = exitOnEarlySignals(config.shutdownMsMax, () =>
    logger.info('stopped before anything was read'),
  )
  let started: Daemon | undefined
  const reload = (): void => {
    if (started === undefined) logger.warn('reload: still starting, nothing changed')
    else void reloaded(started, options, logger)
  }
  process.on('SIGHUP', reload)
  logger.info({ roles }, 'starting')
  const daemon = await startDaemon({ config, roles, logger, metrics, untilIdle }).catch(error =>
    early.isLeaving() ? NEVER : Promise.reject(error),
  )
  started = daemon
  const signals = stopOnSignals(daemon, signal => {
    logger.info({ signal }, 'stopping: finishing the batches in flight')
    setTimeout(() => {
      logger.warn({ shutdownMsMax: config.shutdownMsMax }, 'stopping takes too long: exiting now')
      exit(0)
    }, config.shutdownMsMax - EXIT_MS_MAX).unref()
  })
  early.release() // only now: a signal that is caught while nobody listens is lost
  try {
    await daemon.done
    const summary = roles.includes('select')
      ? await summaryOf(daemon.metrics)
      : await scoreSummaryOf(daemon.metrics)
    logger.info(summary, `stopped: ${summaryText(summary)}`)
    if (options.json === true || untilIdle) print(options, summary, summaryLines(summary))
  } finally {
    process.off('SIGHUP', reload)
    signals.release()
    await daemon.close()
  }
}

/** SIGHUP: reads the configuration again. A configuration with mistakes changes nothing. */
async function reloaded(daemon: Daemon, options: Options, logger: Logger): Promise<void> {
  try {
    const { applied, needRestart } = await daemon.reload(loadConfig(options.config))
    if (needRestart.length > 0) {
      logger.warn({ needRestart }, `reload: a restart is needed for ${needRestart.join(', ')}`)
    }
    logger.info({ applied }, `reload: ${applied.join(', ') || 'nothing'} changed`)
  } catch (error) {
    const { code, hint } = error instanceof XmasdError ? error : { code: 'INTERNAL', hint: '' }
    logger.error({ code, hint }, `reload failed, nothing changed: ${messageOf(error)}`)
  }
}

/** Errors of a process that is ending are not reported. */
const NEVER = new Promise<never>(() => {})

/** While the engine warms up no batch is in flight: a signal ends the process at once. */
function exitOnEarlySignals(
  msMax: number,
  onSignal: () => void,
): { isLeaving(): boolean; release(): void } {
  let isLeaving = false
  const release = onStopSignals(() => {
    if (!isLeaving) onSignal()
    isLeaving = true
    exit(0, msMax)
  })
  return { isLeaving: () => isLeaving, release }
}

/** The first SIGTERM or SIGINT stops the daemon in order; a second one exits at once. */
export function stopOnSignals(
  daemon: Pick<Daemon, 'stop'>,
  onSignal: (signal: NodeJS.Signals) => void,
): { release(): void } {
  let isStopping = false
  const release = onStopSignals(signal => {
    if (isStopping) return exit(signal === 'SIGINT' ? 130 : 143)
    isStopping = true
    onSignal(signal)
    daemon.stop()
  })
  return { release }
}

/** Returns what takes the listener off again. */
function onStopSignals(listener: (signal: NodeJS.Signals) => void): () => void {
  const signals = ['SIGTERM', 'SIGINT'] as const
  for (const signal of signals) process.on(signal, listener)
  return () => {
    for (const signal of signals) process.off(signal, listener)
  }
}

/** What threads and writes get to end. */
const EXIT_MS_MAX = 800

function exit(code: number, msMax = EXIT_MS_MAX): void {
  exitAfterWrites(code, msMax, endThreads())
}
