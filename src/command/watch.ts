/** `watch`: the live view of any running daemon, through its API. */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Command, Option } from 'commander'
import { type Config, loadConfig } from '../config.ts'
import type { Clusters, Figures } from '../dashboard/schemas.ts'
import { messageOf, XmasdError } from '../errors.ts'
import { type ClusterRow, type RecentRow, type Snapshot, startView } from '../observe/view.ts'

type Options = { config?: string; url?: string }

export function command(): Command {
  return new Command('watch')
    .description('Watch a running daemon on the terminal: decisions, clusters, backlog.')
    .option('--config <file>', "the daemon's configuration file: its http.host and http.port")
    .addOption(
      new Option('--url <url>', "the daemon's address, as its log names it").conflicts('config'),
    )
    .action(watch)
}

const FIGURES_MS = 500
const CLUSTERS_MS = 1_000
const RETRY_MS = 1_000
const RECENT_MAX = 60

/** What has been read of the daemon; `problem` while it does not answer. */
type Seen = {
  figures?: Figures
  clusters: ClusterRow[]
  recent: RecentRow[]
  problem?: string
}

async function watch(options: Options): Promise<void> {
  const daemon = addressOf(options)
  const seen: Seen = { clusters: [], recent: [] }
  // The first answer decides: an address that nobody listens on is an error, a later silence is not.
  await refresh(daemon, seen)
  const stopping = new AbortController()
  const stop = (): void => stopping.abort()
  process.once('SIGINT', stop).once('SIGTERM', stop)
  const view = startView(process.stdout, () => snapshotOf(daemon, seen))
  const holding = hold(daemon, stopping.signal)
  while (!stopping.signal.aborted) {
    await sleep(FIGURES_MS, undefined, { signal: stopping.signal }).catch(() => {})
    await refresh(daemon, seen, stopping.signal).catch(error => {
      seen.problem = messageOf(error)
    })
  }
  view.stop()
  await holding
}

type Address = { url: string; headers: Record<string, string> }

/** Throws CONFIG_INVALID. */
function addressOf({ url, config }: Options): Address {
  if (url === undefined) {
    const { http } = loadConfig(config)
    const host = isAny(http.host) ? 'localhost' : http.host
    const name = host.includes(':') ? `[${host}]` : host
    return { url: `http://${name}:${http.port}`, headers: headersOf(tokenIn(http)) }
  }
  if (!URL.canParse(url) || !/^https?:/i.test(url)) {
    throw new XmasdError('CONFIG_INVALID', `--url is ${url}`, 'give http://HOST:PORT')
  }
  const parsed = new URL(url)
  return { url: parsed.origin, headers: headersOf(parsed.searchParams.get('token') ?? undefined) }
}

function isAny(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}

function tokenIn({ token, tokenFile }: Config['http']): string | undefined {
  return token ?? (tokenFile === undefined ? undefined : readFileSync(tokenFile, 'utf8').trim())
}

function headersOf(token: string | undefined): Record<string, string> {
  return token === undefined ? {} : { authorization: `Bearer ${token}` }
}

let clustersAt = Number.NEGATIVE_INFINITY

async function refresh(daemon: Address, seen: Seen, signal?: AbortSignal): Promise<void> {
  seen.figures = await ask<Figures>(daemon, 'figures', signal)
  delete seen.problem
  if (performance.now() - clustersAt < CLUSTERS_MS) return
  clustersAt = performance.now()
  const { clusters } = await ask<Clusters>(daemon, 'clusters', signal)
  seen.clusters = clusters.map(({ cluster, size, kept }) => ({ cluster, size, quota: kept }))
  const path = `decisions?count=${RECENT_MAX}`
  seen.recent = (await ask<{ decisions: RecentRow[] }>(daemon, path, signal)).decisions
}

async function ask<T>({ url, headers }: Address, path: string, signal?: AbortSignal): Promise<T> {
  const options = signal === undefined ? { headers } : { headers, signal }
  const response = await fetch(`${url}/api/v1/${path}`, options).catch(error => {
    const why = messageOf(error instanceof Error && error.cause ? error.cause : error)
    throw unreachable(url, why, 'start the daemon, or give its address with --url')
  })
  if (response.ok) return (await response.json()) as T
  const hint =
    response.status === 401
      ? 'give the token: --url http://HOST:PORT/?token=TOKEN, or --config with http.tokenFile'
      : 'the process needs the select role, http.dashboard: true and the same version'
  throw unreachable(url, `HTTP ${response.status}`, hint)
}

function unreachable(url: string, why: string, hint: string): XmasdError {
  return new XmasdError('HTTP_UNAVAILABLE', `${url} does not answer: ${why}`, hint)
}

/** An open stream of events makes the daemon follow its log. */
async function hold({ url, headers }: Address, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      const { body } = await fetch(`${url}/api/v1/events`, { headers, signal })
      for await (const _ of body ?? []) if (signal.aborted) return
    } catch {
      await sleep(RETRY_MS, undefined, { signal }).catch(() => {})
    }
  }
}

function snapshotOf(daemon: Address, { figures, clusters, recent, problem }: Seen): Snapshot {
  const { examples = {}, decisions = {}, health } = figures ?? {}
  const { dead_letter = 0, duplicate = 0, near_duplicate = 0, redelivered = 0 } = examples
  const decided = Object.values(examples).reduce((sum, count) => sum + count, 0) - dead_letter
  return {
    title: `xmasd watch · ${daemon.url} · ${figures?.policy ?? ''} · bundle ${figures?.bundle ?? ''}`,
    health: problem ?? `${health?.word}: ${health?.reason}`,
    examples: decided,
    ratePerSecond: figures?.examplesPerSecond ?? 0,
    deadLetters: dead_letter,
    duplicates: duplicate + near_duplicate,
    redelivered,
    kept: figures?.kept ?? 0,
    history: figures?.history ?? 0,
    percent: figures?.percent ?? undefined,
    decisions,
    clusters,
    recent,
  }
}
