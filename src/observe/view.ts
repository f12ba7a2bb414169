/**
 * The live view of `demo` and `watch`. On a terminal: the whole window, redrawn five times a second, with
 * logs above it. Elsewhere: a line every 2 s.
 */
import { stripVTControlCharacters, styleText } from 'node:util'
import { createLogUpdate } from 'log-update'
import type { Cluster } from '../record.ts'
import { COLOURS, meaningOf, REASON_TEXTS } from './colours.ts'
import { printable } from './text.ts'

export type ClusterRow = { cluster: Cluster; size: number; quota: number }
/** A decision of the last moments. */
export type RecentRow = { action: string; reason: string; id: string; question: string }

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
  /** Undefined where the budget is a number of examples. */
  percent: number | undefined
  decisions: Record<string, number>
  clusters: ClusterRow[]
  /** Newest first. */
  recent?: RecentRow[]
  /** A word and its reason, where the view does not know it from being here. */
  health?: string
}

export type View = {
  /** Prints a line above the window. */
  log(line: string): void
  stop(): void
}

const REDRAW_MS = 200
const LINE_EVERY_MS = 2_000
const BAR_WIDTH = 28
/** From here on decisions stand beside the clusters, not below them. */
const WIDE_COLUMNS = 110
const CLUSTER_COLUMNS = 58
const ROWS_DEFAULT = 24

export function startView(stream: NodeJS.WriteStream, snapshot: () => Snapshot): View {
  const isTerminal = stream.isTTY === true && process.env.TERM !== 'dumb'
  return isTerminal ? windowed(stream, snapshot) : lined(stream, snapshot)
}

function windowed(stream: NodeJS.WriteStream, snapshot: () => Snapshot): View {
  const update = createLogUpdate(stream)
  const isPlain = process.env.NO_COLOR !== undefined
  const draw = (): void => {
    // The last row is the cursor's: a text of all rows would scroll.
    const rows = (stream.rows ?? ROWS_DEFAULT) - 1
    const text = renderWindow(snapshot(), stream.columns ?? 80, rows)
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
  let shown = ''
  const print = (): void => {
    const line = renderLine(snapshot())
    if (line === shown) return
    shown = line
    stream.write(`${line}\n`)
  }
  // Checks often, so that the first decision shows at once.
  let printedAt = 0
  const timer = setInterval(() => {
    const isDue = performance.now() - printedAt >= LINE_EVERY_MS
    const { examples, history } = snapshot()
    if (!isDue || examples + history === 0) return
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

/** The line for pipes and files. */
export function renderLine(now: Snapshot): string {
  const { over, capped } = quotaSummary(now.clusters)
  const want = now.percent === undefined ? '' : `, want ${now.percent}%`
  return (
    `${now.examples} examples · ${now.ratePerSecond.toFixed(0)}/s · ` +
    `${now.kept} of ${now.history} kept (${percentOf(now).toFixed(1)}%${want}) · ` +
    `${capped} of ${now.clusters.length} clusters capped at ${over} · ` +
    `${now.duplicates} duplicates · ${now.redelivered} redelivered · ${now.deadLetters} dead letters`
  )
}

/**
 * The window, at most `columns` wide and `rows` high. A tall one holds more clusters; a wide one holds
 * decisions beside them, a narrow one below.
 */
export function renderWindow(now: Snapshot, columns: number, rows: number): string {
  const head = headRows(now, rows)
  const left = Math.max(0, rows - head.length)
  const recent = now.recent ?? []
  const body =
    columns >= WIDE_COLUMNS && recent.length > 0
      ? beside(clusterRows(now.clusters, left), recentRows(recent, left), columns)
      : below(now, left)
  return [...head, ...body].map(row => cut(row, columns)).join('\n')
}

/** Rows at which there is room for empty ones. */
const ROOMY_ROWS = 20

function headRows(now: Snapshot, rows: number): string[] {
  const list = Object.entries(now.decisions).map(([action, count]) => `${action} ${count}`)
  const wanted = now.percent === undefined ? '' : ` of ${now.percent}% wanted`
  const empty = rows >= ROOMY_ROWS ? [''] : []
  return [
    styleText('bold', printable(now.title)),
    ...(now.health === undefined ? [] : [`  health     ${printable(now.health)}`]),
    ...empty,
    `  examples   ${now.examples} decided · ${now.ratePerSecond.toFixed(0)}/s · ${now.deadLetters} dead letters`,
    `  subset     ${now.kept} of ${now.history} kept · ${percentOf(now).toFixed(1)}%${wanted}`,
    `  caught     ${now.duplicates} duplicates · ${now.redelivered} redelivered`,
    `  decisions  ${list.join(', ')}`,
    ...empty,
  ]
}

/** Decisions have a third of the rows below the head. */
const RECENT_SHARE = 3
const RECENT_ROWS_MIN = 4

function below({ clusters, recent = [] }: Snapshot, rows: number): string[] {
  const forRecent = Math.floor(rows / RECENT_SHARE)
  if (recent.length === 0 || forRecent < RECENT_ROWS_MIN) return clusterRows(clusters, rows)
  return [...clusterRows(clusters, rows - forRecent), ...recentRows(recent, forRecent)]
}

function beside(left: string[], right: string[], columns: number): string[] {
  return Array.from({ length: Math.max(left.length, right.length) }, (_, i) => {
    const row = left[i] ?? ''
    const padding = ' '.repeat(Math.max(0, CLUSTER_COLUMNS - widthOf(row)))
    return `${row}${padding}${cut(right[i] ?? '', columns - CLUSTER_COLUMNS)}`
  })
}

function clusterRows(clusters: readonly ClusterRow[], rows: number): string[] {
  if (rows < 2) return []
  const bySize = [...clusters].sort((a, b) => b.size - a.size)
  const largest = bySize[0]?.size ?? 0
  // A row for the head, and one for what does not fit.
  const shown = bySize.slice(0, bySize.length < rows ? rows - 1 : rows - 2)
  const bars = shown.map(({ cluster, size, quota }) => {
    const full = Math.round((BAR_WIDTH * size) / Math.max(1, largest))
    const kept = Math.min(
      full,
      Math.max(quota > 0 ? 1 : 0, Math.round((full * quota) / Math.max(1, size))),
    )
    const { keep, drop } = COLOURS
    const bar =
      styleText(keep.terminal, '█'.repeat(kept)) + styleText(drop.terminal, '░'.repeat(full - kept))
    const padding = ' '.repeat(BAR_WIDTH - full)
    return `  ${String(cluster).padStart(7)}    ${bar}${padding} ${String(quota).padStart(5)} of ${size}`
  })
  const rest = bySize.length - shown.length
  const head = '  cluster    kept █ of size ░, the quota and the size'
  return rest > 0 ? [head, ...bars, `           … and ${rest} smaller clusters`] : [head, ...bars]
}

function recentRows(recent: readonly RecentRow[], rows: number): string[] {
  const lines = recent.slice(0, Math.max(0, rows - 1)).map(({ action, reason, id, question }) => {
    const meaning = meaningOf(action, reason)
    const word = meaning === 'duplicate' ? meaning : action
    const said = question.replaceAll(/\s+/g, ' ')
    const why = REASON_TEXTS[reason] ?? reason
    const text = styleText(COLOURS[meaning].terminal, word.padEnd(9))
    return `  ${text} ${printable(id).slice(0, 16).padEnd(16)} ${printable(said).slice(0, 36).padEnd(36)} ${why}`
  })
  return ['  the newest decisions', ...lines]
}

function quotaSummary(clusters: readonly ClusterRow[]): { over: number; capped: number } {
  const over = clusters.reduce((most, { quota }) => Math.max(most, quota), 0)
  return { over, capped: clusters.filter(({ size, quota }) => quota < size && quota > 0).length }
}

function percentOf(now: Snapshot): number {
  return now.history === 0 ? 0 : (100 * now.kept) / now.history
}

function widthOf(row: string): number {
  return stripVTControlCharacters(row).length
}

/** A style of a terminal, or one character. */
const ESCAPE = String.fromCharCode(27)
const PIECES = new RegExp(`${ESCAPE}\\[[\\d;]*m|[\\s\\S]`, 'gu')

/** Cuts by visible characters; styles stay, so that they are closed. */
function cut(row: string, columns: number): string {
  if (widthOf(row) <= columns) return row
  let left = Math.max(0, columns - 1)
  return row.replaceAll(PIECES, piece => (piece.startsWith(ESCAPE) || left-- > 0 ? piece : ''))
}
