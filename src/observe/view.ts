/**
 * The live view: a small window redrawn a few times a second with logs forwarded above it on a
 * terminal; plain lines now and then elsewhere.
 */
import { stripVTControlCharacters, styleText } from 'node:util'
import { createLogUpdate } from 'log-update'
import type { Cluster } from '../record.ts'

export type ClusterRow = { cluster: Cluster; size: number; quota: number }

export type Snapshot = {
  title: string
  /** Examples decided since the start. */
  examples: number
  ratePerSecond: number
  deadLetters: number
  duplicates: number
  redelivered: number
  kept: number
  history: number
  percent: number
  decisions: Record<string, number>
  clusters: ClusterRow[]
}

export type View = {
  /** Prints a line above the window. */
  log(line: string): void
  stop(): void
}

const REDRAW_MS = 200
const LINE_EVERY_MS = 2_000
const CLUSTERS_SHOWN = 12
const BAR_WIDTH = 28

export function startView(stream: NodeJS.WriteStream, snapshot: () => Snapshot): View {
  const isTerminal = stream.isTTY === true && process.env.TERM !== 'dumb'
  return isTerminal ? windowed(stream, snapshot) : lined(stream, snapshot)
}

function windowed(stream: NodeJS.WriteStream, snapshot: () => Snapshot): View {
  const update = createLogUpdate(stream)
  const isPlain = process.env.NO_COLOR !== undefined
  const draw = (): void => {
    const text = renderWindow(snapshot(), stream.columns ?? 80)
    update(isPlain ? stripVTControlCharacters(text) : text)
  }
  const timer = setInterval(draw, REDRAW_MS)
  return {
    log: line => {
      update.clear()
      stream.write(line.endsWith('\n') ? line : `${line}\n`)
      draw()
    },
    stop: () => {
      clearInterval(timer)
      draw()
      update.done()
    },
  }
}

function lined(stream: NodeJS.WriteStream, snapshot: () => Snapshot): View {
  let shown = -1
  const print = (): void => {
    const now = snapshot()
    if (now.examples === shown) return
    shown = now.examples
    stream.write(`${renderLine(now)}\n`)
  }
  // Look often until the first decision shows, then print now and then.
  let printedAt = 0
  const timer = setInterval(() => {
    const isDue = performance.now() - printedAt >= LINE_EVERY_MS
    if (!isDue || snapshot().examples === 0) return
    printedAt = performance.now()
    print()
  }, REDRAW_MS)
  return {
    log: line => {
      stream.write(line.endsWith('\n') ? line : `${line}\n`)
    },
    stop: () => {
      clearInterval(timer)
      print()
    },
  }
}

/** One line of what matters, for pipes and files. */
export function renderLine(now: Snapshot): string {
  const { over, capped } = quotaSummary(now.clusters)
  return (
    `${now.examples} examples · ${now.ratePerSecond.toFixed(0)}/s · ` +
    `${now.kept} of ${now.history} kept (${percentOf(now).toFixed(1)}%, want ${now.percent}%) · ` +
    `${capped} of ${now.clusters.length} clusters capped at ${over} · ` +
    `${now.duplicates} duplicates · ${now.redelivered} redelivered · ${now.deadLetters} dead letters`
  )
}

/** The window, at most `columns` wide. */
export function renderWindow(now: Snapshot, columns: number): string {
  const bold = (text: string): string => styleText('bold', text)
  const list = Object.entries(now.decisions).map(([action, count]) => `${action} ${count}`)
  const rows = [
    bold(now.title),
    '',
    `  examples   ${now.examples} decided · ${now.ratePerSecond.toFixed(0)}/s · ${now.deadLetters} dead letters`,
    `  subset     ${now.kept} of ${now.history} kept · ${percentOf(now).toFixed(1)}% of ${now.percent}% wanted`,
    `  caught     ${now.duplicates} duplicates · ${now.redelivered} redelivered`,
    `  decisions  ${list.join(' · ')}`,
    '',
    ...clusterRows(now.clusters),
  ]
  return rows.map(row => cut(row, columns)).join('\n')
}

function clusterRows(clusters: ClusterRow[]): string[] {
  const bySize = [...clusters].sort((a, b) => b.size - a.size)
  const largest = bySize[0]?.size ?? 0
  const shown = bySize.slice(0, CLUSTERS_SHOWN)
  const rows = shown.map(({ cluster, size, quota }) => {
    const full = Math.round((BAR_WIDTH * size) / Math.max(1, largest))
    const kept = Math.min(
      full,
      Math.max(quota > 0 ? 1 : 0, Math.round((full * quota) / Math.max(1, size))),
    )
    const bar = styleText('green', '█'.repeat(kept)) + styleText('gray', '░'.repeat(full - kept))
    const padding = ' '.repeat(BAR_WIDTH - full)
    return `  ${String(cluster).padStart(7)}    ${bar}${padding} ${String(quota).padStart(5)} of ${size}`
  })
  const rest = bySize.length - shown.length
  const head = '  cluster    kept █ of size ░, the quota and the size'
  return rest > 0 ? [head, ...rows, `           … and ${rest} smaller clusters`] : [head, ...rows]
}

function quotaSummary(clusters: ClusterRow[]): { over: number; capped: number } {
  const over = clusters.reduce((most, { quota }) => Math.max(most, quota), 0)
  return { over, capped: clusters.filter(({ size, quota }) => quota < size && quota > 0).length }
}

function percentOf(now: Snapshot): number {
  return now.history === 0 ? 0 : (100 * now.kept) / now.history
}

/** Cuts by visible characters; styles stay closed because only plain rows can be too long. */
function cut(row: string, columns: number): string {
  const plain = stripVTControlCharacters(row)
  return plain.length <= columns ? row : plain.slice(0, Math.max(0, columns - 1))
}
