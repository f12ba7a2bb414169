/** `demo` (= `npm start`): the daemon on a local log, the bundled proxy, a generated stream, a live view. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import { type Config, loadConfig } from '../config.ts'
import { type Daemon, startDaemon } from '../daemon.ts'
import { demoStream } from '../demo/stream.ts'
import { messageOf } from '../errors.ts'
import { backlogOf, ROLES } from '../gauges.ts'
import type { OutRecord } from '../log/log.ts'
import { createLogger } from '../observe/logger.ts'
import { type Summary, summaryOf, summaryText } from '../observe/summary.ts'
import { type Snapshot, startView } from '../observe/view.ts'
import { packageRoot } from '../version.ts'
import { integer, percent, positiveInteger } from './options.ts'
import { stopOnSignals } from './run.ts'

type Options = { examples?: number; percent: number; seed: number; path?: string; json?: boolean }

export function demoCommand(): Command {
  return new Command('demo')
    .description(
      'Watch decisions arrive: a generated, skewed, partly duplicated stream, scored for real.',
    )
    .option('--examples <n>', 'end after that many, with a summary', positiveInteger)
    .option('--percent <p>', 'share of the examples to keep', percent, 20)
    .option('--seed <n>', 'seed of the stream', integer, 1)
    .option('--path <dir>', 'keep the log there (default: a temporary folder that goes away)')
    .option('--json', 'at the end, one JSON document on stdout')
    .action(demo)
}

async function demo(options: Options): Promise<void> {
  const folder = options.path ?? mkdtempSync(join(tmpdir(), 'xmasd-demo-'))
  try {
    const summary = await runDemo(options, folder)
    process.stdout.write(
      options.json === true ? `${JSON.stringify(summary)}\n` : summaryText(summary),
    )
  } finally {
    if (options.path === undefined) rmSync(folder, { recursive: true, force: true })
  }
}

async function runDemo(options: Options, folder: string): Promise<Summary> {
  const config = demoConfig(options, folder)
  const started = performance.now()
  process.stderr.write('xmasd demo: loading the proxy …\n')
  let forward = (line: string): void => void process.stderr.write(line)
  const logger = createLogger('warn', line => forward(line))
  const daemon = await startDaemon({ config, roles: ROLES, logger, untilIdle: false })
  const tracker = trackRate(daemon, config)
  const view = startView(process.stderr, tracker.snapshot)
  forward = view.log
  const producing = new AbortController()
  const signals = stopOnSignals(daemon, () => producing.abort())
  daemon.done.catch(() => producing.abort())
  try {
    view.log(`ready after ${((performance.now() - started) / 1000).toFixed(1)} s; Ctrl-C ends`)
    await produceStream(options, config, daemon, producing.signal)
    if (!producing.signal.aborted) await untilDecided(daemon, config, producing.signal)
    daemon.stop()
    await daemon.done
    await tracker.refresh()
    return await summaryOf(daemon.metrics)
  } finally {
    signals.release()
    tracker.stop()
    view.stop()
    await daemon.close()
  }
}

/** The defaults on a local log in `folder`, with the bundled proxy and bundle. */
export function demoConfig(options: Pick<Options, 'percent'>, folder: string): Config {
  const demo = join(packageRoot(), 'config/demo')
  return loadConfig(
    undefined,
    {},
    {
      'log.path': join(folder, 'log'),
      'images.root': demo,
      'proxy.path': join(demo, 'proxy'),
      bundle: join(demo, 'bundle'),
      'select.percent': options.percent,
      'http.port': 0,
    },
  )
}

const BATCH_RECORDS = 16
/** The generator waits while more than this is unread, as a broker would let it run ahead. */
const BACKLOG_RECORDS_MAX = 512
const WAIT_MS = 50

async function produceStream(
  options: Options,
  config: Config,
  daemon: Daemon,
  signal: AbortSignal,
): Promise<void> {
  const topic = config.log.topics.examples
  let left = options.examples ?? Number.POSITIVE_INFINITY
  let batch: OutRecord[] = []
  for await (const { key, value } of demoStream({ seed: options.seed })) {
    if (signal.aborted || left === 0) break
    batch.push({ topic, key, value })
    left--
    if (batch.length < BATCH_RECORDS && left > 0) continue
    await daemon.log.append(batch)
    batch = []
    while (
      !signal.aborted &&
      (await backlogOf(daemon.log, config, 'score')) > BACKLOG_RECORDS_MAX
    ) {
      await sleep(WAIT_MS)
    }
  }
}

async function untilDecided(daemon: Daemon, config: Config, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const score = await backlogOf(daemon.log, config, 'score')
    const select = await backlogOf(daemon.log, config, 'select')
    if (score === 0 && select === 0) return
    await sleep(WAIT_MS)
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, ms))
}

const RATE_WINDOW_MS = 3_000
const REFRESH_MS = 200

/** Reads the counters on a timer, so that a view can be drawn at any moment. */
function trackRate(daemon: Daemon, config: Config) {
  const history: { at: number; examples: number }[] = []
  let summary: Summary | undefined
  const refresh = async (): Promise<void> => {
    summary = await summaryOf(daemon.metrics)
    const now = performance.now()
    history.push({ at: now, examples: decidedOf(summary) })
    while (history.length > 2 && now - history[0]!.at > RATE_WINDOW_MS) history.shift()
  }
  const timer = setInterval(() => {
    refresh().catch(error => process.stderr.write(`${messageOf(error)}\n`))
  }, REFRESH_MS)
  const snapshot = (): Snapshot => {
    const [first, last] = [history[0], history.at(-1)]
    const ms = first === undefined || last === undefined ? 0 : last.at - first.at
    const ratePerSecond = ms > 0 ? (1000 * (last!.examples - first!.examples)) / ms : 0
    const examples = summary?.examples ?? {}
    return {
      title: `xmasd demo · ${daemon.url ?? ''}/metrics`,
      examples: summary === undefined ? 0 : decidedOf(summary),
      ratePerSecond,
      deadLetters: examples.dead_letter ?? 0,
      duplicates: (examples.duplicate ?? 0) + (examples.near_duplicate ?? 0),
      redelivered: examples.redelivered ?? 0,
      kept: summary?.subset ?? 0,
      history: summary?.history ?? 0,
      percent: config.select.percent,
      decisions: summary?.decisions ?? {},
      clusters: daemon.select?.clusters() ?? [],
    }
  }
  return { snapshot, refresh, stop: () => clearInterval(timer) }
}

/** Examples that have their decision: assigned, duplicates, redeliveries. */
function decidedOf(summary: Summary): number {
  const {
    assigned = 0,
    duplicate = 0,
    near_duplicate: near = 0,
    redelivered = 0,
  } = summary.examples
  return assigned + duplicate + near + redelivered
}
