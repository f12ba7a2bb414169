/** `run`: the daemon. */
import { Command } from 'commander'
import { loadConfig } from '../config.ts'
import { type Daemon, startDaemon } from '../daemon.ts'
import type { Role } from '../gauges.ts'
import { createLogger } from '../observe/logger.ts'
import { scoreSummaryOf, summaryOf, summaryText } from '../observe/summary.ts'
import { endThreads } from '../score/host.ts'
import { rolesOption } from './options.ts'

type Options = { config?: string; roles: Role[]; untilIdle?: boolean; json?: boolean }

export function runCommand(): Command {
  return new Command('run')
    .description('Read examples, score, assign, decide; until SIGTERM. Logs go to stderr.')
    .option('--config <file>', 'configuration file (default: $XMASD_CONFIG, else all defaults)')
    .addOption(rolesOption())
    .option('--until-idle', 'exit once every topic is read to its end')
    .option('--json', 'at the end, one JSON document with the counters on stdout')
    .action(run)
}

async function run(options: Options): Promise<void> {
  const config = loadConfig(options.config)
  const logger = createLogger(config.logging.level)
  const early = exitOnEarlySignals(() => logger.info('stopped before anything was read'))
  logger.info({ roles: options.roles }, 'starting')
  const daemon = await startDaemon({
    config,
    roles: options.roles,
    logger,
    untilIdle: options.untilIdle === true,
  }).catch(error => (early.isLeaving() ? NEVER : Promise.reject(error)))
  early.release()
  const signals = stopOnSignals(daemon, signal =>
    logger.info({ signal }, 'finishing the batch in hand'),
  )
  try {
    await daemon.done
    const summary = options.roles.includes('select')
      ? await summaryOf(daemon.metrics)
      : await scoreSummaryOf(daemon.metrics)
    logger.info(summary, 'stopped')
    if (options.json === true) process.stdout.write(`${JSON.stringify(summary)}\n`)
    else if (options.untilIdle === true) process.stdout.write(summaryText(summary))
  } finally {
    signals.release()
    await daemon.close()
  }
}

/** What fails because the process is ending is not told. */
const NEVER = new Promise<never>(() => {})

/** While the engine warms up nothing is in hand: a signal ends the process at once, orderly. */
function exitOnEarlySignals(onSignal: () => void): { isLeaving(): boolean; release(): void } {
  let isLeaving = false
  const handle = (): void => {
    if (!isLeaving) onSignal()
    isLeaving = true
    exit(0)
  }
  process.on('SIGTERM', handle)
  process.on('SIGINT', handle)
  return {
    isLeaving: () => isLeaving,
    release: () => {
      process.off('SIGTERM', handle)
      process.off('SIGINT', handle)
    },
  }
}

/** SIGTERM and SIGINT stop orderly; a second one exits at once. */
export function stopOnSignals(
  daemon: Pick<Daemon, 'stop'>,
  onSignal: (signal: NodeJS.Signals) => void,
): { release(): void } {
  let isStopping = false
  const handle = (signal: NodeJS.Signals): void => {
    if (isStopping) {
      exit(signal === 'SIGINT' ? 130 : 143)
      return
    }
    isStopping = true
    onSignal(signal)
    daemon.stop()
  }
  process.on('SIGTERM', handle)
  process.on('SIGINT', handle)
  return {
    release: () => {
      process.off('SIGTERM', handle)
      process.off('SIGINT', handle)
    },
  }
}

function exit(code: number): void {
  void endThreads().finally(() => process.exit(code))
}
