/** `demo` (`npm start`): the daemon on a local log with the bundled proxy, a generated stream, a live view. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Command } from 'commander'
import { stringify } from 'yaml'
import { type Config, loadConfig } from '../config.ts'
import { type Daemon, startDaemon } from '../daemon/daemon.ts'
import { backlogOf, ROLES } from '../daemon/gauges.ts'
import { demoStream } from '../demo/stream.ts'
import { messageOf } from '../errors.ts'
import type { OutRecord } from '../log/log.ts'
import { createLogger } from '../observe/logger.ts'
import { createMetrics } from '../observe/metrics.ts'
import { type Summary, summaryLines, summaryOf } from '../observe/segments.ts'
import { type RecentRow, type Snapshot, startView } from '../observe/view.ts'
import type { Decision } from '../record.ts'
import { packageRoot } from '../version.ts'
import { integer, percent, positiveInteger, print } from './helpers/options.ts'
import { stopOnSignals } from './run.ts'

type Options = { examples?: number; percent: number; seed: number; path?: string; json?: boolean }

export function command(): Command {
  return new Command('demo')
    .description('Score a generated stream for real and watch the decisions arrive.')
    .option(
      '--examples <n>',
      'stop after n examples and print a summary; an open page is waited for',
      positiveInteger,
    )
    .option('--percent <p>', 'share of the examples to keep', percent, 20)
    .option('--seed <n>', 'seed of the stream', integer, 1)
    .option(
      '--path <dir>',
      'folder for the log and its demo.yaml, the --config of other commands (default: a temporary folder, removed at the end)',
    )
    .option('--json', 'one JSON document on stdout at the end')
    .action(demo)
}

async function demo(options: Options): Promise<void> {
  const folder = options.path ?? mkdtempSync(join(tmpdir(), 'xmasd-demo-'))
  try {
    if (options.path !== undefined) writeConfig(options, folder)
    const summary = await runDemo(options, folder)
    print(options, summary, summaryLines(summary))
    if (options.path !== undefined) process.stderr.write(`${leftText(options.path)}\n`)
  } finally {
    if (options.path === undefined) rmSync(folder, { recursive: true, force: true })
  }
}

const CONFIG_FILE = 'demo.yaml'

/** A configuration beside the log, with which other commands read it. */
function writeConfig(options: Options, folder: string): void {
  const { images, proxy, bundle, select } = demoConfig(options, folder)
  const config = {
    log: { path: 'log' },
    images: { root: images.root },
    proxy: { path: proxy.path },
    bundle,
    select: { percent: select.percent },
  }
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, CONFIG_FILE), stringify(config))
}

function leftText(folder: string): string {
  const config = join(folder, CONFIG_FILE)
  return `the log stays in ${folder}; \`xmasd explain ID --config ${config}\` reads it, as do export, replay and report`
}

async function runDemo(options: Options, folder: string): Promise<Summary> {
  const config = demoConfig(options, folder)
  const started = performance.now()
  process.stderr.write('xmasd demo: loading the proxy …\n')
  let forward = (line: string): void => void process.stderr.write(line)
  const metrics = createMetrics()
  const logger = createLogger({ level: 'warn', forward: line => forward(line) })
  const daemon = await startDaemon({ config, roles: ROLES, logger, metrics, untilIdle: false })
  const tracker = trackRate(daemon, config)
  const view = startView(process.stderr, tracker.snapshot)
  forward = view.log
  const producing = new AbortController()
  const signals = stopOnSignals(daemon, () => producing.abort())
  daemon.done.catch(() => producing.abort())
  try {
    view.log(
      `ready after ${((performance.now() - started) / 1000).toFixed(1)} s; see it at ${daemon.url}; Ctrl-C stops`,
    )
    await produceStream(options, config, daemon, producing.signal)
    await untilDecided(daemon, config, producing.signal)
    await untilUnwatched(daemon, view.log, producing.signal)
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

/** The defaults, with the bundled proxy and bundle and a local log in `folder`. */
export function demoConfig(options: Pick<Options, 'percent'>, folder: string): Config {
  const demo = join(packageRoot(), 'config/demo')
  const overrides = {
    'log.path': join(folder, 'log'),
    'images.root': demo,
    'proxy.path': join(demo, 'proxy'),
    bundle: join(demo, 'bundle'),
    'select.percent': options.percent,
    'http.port': 0,
  }
  return loadConfig(undefined, {}, overrides)
}

const BATCH_RECORDS = 16
/** The generator waits while the backlog is longer. */
const BACKLOG_RECORDS_MAX = 512
const WAIT_MS = 50

async function produceStream(
  options: Options,
  config: Config,
  { log }: Daemon,
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
    await log.append(batch)
    batch = []
    while (!signal.aborted && (await backlogOf(log, config, 'score')) > BACKLOG_RECORDS_MAX) {
      await sleep(WAIT_MS)
    }
  }
}

async function untilDecided({ log }: Daemon, config: Config, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const score = await backlogOf(log, config, 'score')
    const select = await backlogOf(log, config, 'select')
    if (score === 0 && select === 0) return
    await sleep(WAIT_MS)
  }
}

/** A page that is loaded again is closed for a moment. */
const RELOAD_MS = 3_000

/** Somebody who reads the page is not left without a daemon. */
async function untilUnwatched(
  { metrics }: Daemon,
  log: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const isWatched = async (): Promise<boolean> =>
    ((await metrics.dashboards.get()).values[0]?.value ?? 0) > 0
  if (!(await isWatched())) return
  log('every example is decided; the page stays until it is closed; Ctrl-C stops')
  for (let at = performance.now(); performance.now() - at < RELOAD_MS; ) {
    if (signal.aborted) return
    if (await isWatched()) at = performance.now()
    await sleep(WAIT_MS)
  }
}

const RATE_WINDOW_MS = 3_000
const REFRESH_MS = 200

/** Reads the counters on a timer, so that the view can be drawn at any moment. */
function trackRate(daemon: Daemon, config: Config) {
  const history: { at: number; examples: number }[] = []
  let summary: Summary | undefined
  const recent = recentOf(daemon.log, config.log.topics.decisions)
  const refresh = async (): Promise<void> => {
    summary = await summaryOf(daemon.metrics)
    await recent.refresh()
    const now = performance.now()
    history.push({ at: now, examples: decidedIn(summary) })
    while (history.length > 2 && now - history[0]!.at > RATE_WINDOW_MS) history.shift()
  }
  const timer = setInterval(() => {
    refresh().catch(error => process.stderr.write(`${messageOf(error)}\n`))
  }, REFRESH_MS)
  const snapshot = (): Snapshot => {
    const [first, last] = [history[0], history.at(-1)]
    const ms = first === undefined || last === undefined ? 0 : last.at - first.at
    const examples = summary?.examples ?? {}
    return {
      title: `xmasd demo · ${daemon.url ?? ''}`,
      examples: summary === undefined ? 0 : decidedIn(summary),
      ratePerSecond: ms > 0 ? (1000 * (last!.examples - first!.examples)) / ms : 0,
      deadLetters: examples.dead_letter ?? 0,
      duplicates: (examples.duplicate ?? 0) + (examples.near_duplicate ?? 0),
      redelivered: examples.redelivered ?? 0,
      kept: summary?.subset ?? 0,
      history: summary?.history ?? 0,
      percent: config.select.percent,
      decisions: summary?.decisions ?? {},
      clusters: daemon.select?.clusters() ?? [],
      recent: recent.rows,
    }
  }
  return { snapshot, refresh, stop: () => clearInterval(timer) }
}

/** Examples with a decision: all but dead letters. */
function decidedIn({ examples: { dead_letter: _, ...decided } }: Summary): number {
  return Object.values(decided).reduce((sum, count) => sum + count, 0)
}

const RECENT_MAX = 60

/** The newest decisions of the log, which `refresh` reads; the newest first. */
function recentOf(log: Daemon['log'], topic: string) {
  let next = 0
  const recent = {
    rows: [] as RecentRow[],
    async refresh(): Promise<void> {
      const [end = 0] = await log.ends(topic)
      const from = Math.max(next, end - RECENT_MAX)
      next = Math.max(next, end)
      const fresh: RecentRow[] = []
      for await (const { value } of log.read(topic, { from, to: end })) {
        if (value === null) continue
        const { action, reason, id, cluster }: Decision = JSON.parse(Buffer.from(value).toString())
        const question = cluster === 'text' ? 'text-only' : `cluster ${cluster}`
        fresh.unshift({ action, reason, id, question })
      }
      recent.rows = [...fresh, ...recent.rows].slice(0, RECENT_MAX)
    },
  }
  return recent
}
