/** What the page knows: figures and frames as the daemon sends them, and answers of the API. */
import { useEffect, useRef, useState } from 'preact/hooks'
import type { Figures, Frame, Said } from '../schemas.ts'
import { frozen, frozenAnswer } from './frozen.ts'

export type Live = {
  isConnected: boolean
  figures: Figures | undefined
  /** Newest first. */
  ticker: Said[]
  /** Decisions that came faster than they can be shown. */
  left: number
  progress: number
  isCaughtUp: boolean
  /** Grows as the log is read: what was fetched before is old. */
  version: number
  /** Kept, decided and time of the last minutes, for the curve. */
  rates: { at: number; perSecond: number }[]
}

const TICKER_MAX = 60
const RATES_MAX = 240
const API = '/api/v1/'

let live: Live = {
  ...{
    isConnected: false,
    figures: undefined,
    ticker: [],
    left: 0,
    progress: 0,
    isCaughtUp: false,
  },
  ...{ version: 0, rates: [] },
}
const listeners = new Set<() => void>()
let isDue = false

function update(change: Partial<Live>): void {
  live = { ...live, ...change }
  if (isDue) return
  isDue = true
  // At most one redraw a frame of the screen, however fast events come.
  requestAnimationFrame(() => {
    isDue = false
    for (const listener of listeners) listener()
  })
}

export function useLive(): Live {
  const [, redraw] = useState(0)
  useEffect(() => {
    const listener = (): void => redraw(count => count + 1)
    listeners.add(listener)
    return () => void listeners.delete(listener)
  }, [])
  return live
}

const RECONNECT_MS = 700
/** After a restart the daemon counts its versions anew. */
const VERSIONS = 1e9
let connections = 0

/** Connects, and connects again whenever the daemon is back. */
export function connect(): void {
  const source = new EventSource(`${API}events`)
  source.addEventListener('open', () => {
    connections++
    update({ isConnected: true, version: connections * VERSIONS })
    void fetchTicker()
  })
  source.addEventListener('figures', event => {
    const figures = JSON.parse(event.data) as Figures
    const rates = [...live.rates, { at: figures.at, perSecond: figures.examplesPerSecond }]
    update({ figures, rates: rates.slice(-RATES_MAX), isConnected: true })
  })
  source.addEventListener('frame', event => {
    const { decisions, left, progress, isCaughtUp, version } = JSON.parse(event.data) as Frame
    const known = new Set(live.ticker.map(({ offset }) => offset))
    const fresh = decisions.filter(({ offset }) => !known.has(offset)).reverse()
    const ticker = [...fresh, ...live.ticker].slice(0, TICKER_MAX)
    update({
      ...{ ticker, left: live.left + left, progress, isCaughtUp },
      version: connections * VERSIONS + version,
    })
  })
  source.addEventListener('error', () => {
    source.close()
    update({ isConnected: false })
    setTimeout(connect, RECONNECT_MS)
  })
}

async function fetchTicker(): Promise<void> {
  const found = await get<{ decisions: Said[] }>('decisions?count=40').catch(() => undefined)
  // The process that reads the log may have just been started.
  if (found === undefined) setTimeout(fetchTicker, RECONNECT_MS)
  else if (found.decisions.length > 0) update({ ticker: found.decisions })
}

/** Throws Error with what the daemon says. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  if (frozen !== undefined) return frozenAnswer(frozen, path) as T
  const response = await fetch(`${API}${path}`, signal === undefined ? {} : { signal })
  const document = await response.json()
  if (!response.ok)
    throw new Error(document.error?.message ?? `the daemon answers ${response.status}`)
  return document as T
}

export type Fetched<T> = { value: T | undefined; problem: string | undefined }

const POLL_MS = 500

/**
 * The answer to `path`, asked again when `version` changes, at most every `everyMs`, and until there is
 * one. The last answer stays while a new one comes.
 */
export function useApi<T>(path: string, version = 0, everyMs = POLL_MS): Fetched<T> {
  const [found, setFound] = useState<Fetched<T> & { path: string }>({
    ...{ value: undefined, problem: undefined, path },
  })
  const newest = useRef(version)
  newest.current = version
  useEffect(() => {
    const stopping = new AbortController()
    const { signal } = stopping
    const follow = async (): Promise<void> => {
      while (!signal.aborted) {
        const asked = newest.current
        const isThere = await get<T>(path, signal).then(
          value => {
            if (!signal.aborted) setFound({ value, problem: undefined, path })
            return true
          },
          error => {
            if (!signal.aborted) setFound(old => ({ ...old, problem: String(error.message), path }))
            return false
          },
        )
        if (frozen !== undefined) return
        do await new Promise(resolve => setTimeout(resolve, everyMs))
        while (!signal.aborted && isThere && newest.current === asked)
      }
    }
    void follow()
    return () => stopping.abort()
  }, [path])
  return found.path === path ? found : { value: undefined, problem: undefined }
}

/** Undefined where a report does not hold it. */
export function pictureUrl(key: string, n: number, side: number): string | undefined {
  if (frozen !== undefined) return n === 0 ? frozen.pictures[key] : undefined
  return `${API}pictures/${encodeURIComponent(key)}?n=${n}&side=${side}`
}

/** The part of the address after #, as a path. */
export function useRoute(): string {
  const [route, setRoute] = useState(location.hash.slice(1) || '/')
  useEffect(() => {
    const listener = (): void => setRoute(location.hash.slice(1) || '/')
    addEventListener('hashchange', listener)
    return () => removeEventListener('hashchange', listener)
  }, [])
  return route
}
